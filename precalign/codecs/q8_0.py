"""`q8_0`: 8 bits, blocks of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.ggml import BLOCK, GgmlCodec, farthest, get_half, put_half
from precalign.codecs.packed import LANES, PackedRows, add_scaled, growth, put_dots
from precalign.codecs.planed import PlanedRows, signed_magnitudes
from precalign.jit import Array, inline, kernel
from precalign.layouts import INT8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.codecs.base import CacheShape
    from precalign.formats import Format


BLOCK_BYTES = 2 + BLOCK


@kernel
def _encode(blocks: Array, out: Array) -> None:
    for b in range(blocks.shape[0]):
        row, block = blocks[b], out[b]
        d = abs(farthest(row)) / np.float32(127)
        inverse = np.float32(1) / d if d > 0 else np.float32(0)
        put_half(d, block)
        for j in range(BLOCK):
            x = row[j] * inverse
            away = np.floor(
                abs(x) + np.float32(0.5)
            )  # roundf: halves away from zero; |x| <= 127 leaves the sum exact enough
            if away - abs(x) > np.float32(0.5):
                away -= np.float32(1)
            block[2 + j] = np.uint8(np.int8(np.copysign(away, x)))


@kernel
def _decode(octets: Array, out: Array) -> None:
    for b in range(octets.shape[0]):
        d = get_half(octets[b])
        for j in range(BLOCK):
            out[b, j] = d * np.float32(np.int8(octets[b, 2 + j]))


@inline
def _load(octets: Array, x: Array) -> None:
    for b in range(len(x) // BLOCK):
        d = get_half(octets[b * BLOCK_BYTES :])
        for j in range(BLOCK):
            x[b * BLOCK + j] = d * np.float32(np.int8(octets[b * BLOCK_BYTES + 2 + j]))


@kernel
def _scores(octets: Array, queries: Array, out: Array) -> None:
    x, lanes = np.empty(queries.shape[2], np.float32), np.empty(LANES, np.float32)
    for t in range(octets.shape[0]):
        for h in range(octets.shape[1]):
            _load(octets[t, h], x)
            put_dots(x, np.float32(1), queries[h], lanes, out[h, :, t])


@kernel
def _sum(octets: Array, weights: Array, out: Array) -> None:
    x = np.empty(out.shape[2], np.float32)
    for t in range(octets.shape[0]):
        for h in range(octets.shape[1]):
            _load(octets[t, h], x)
            add_scaled(x, np.float32(1), weights[h, :, t], out[h])


@dataclass(frozen=True)
class Q8_0(GgmlCodec, PackedRows, PlanedRows):  # noqa: N801 - the format's name
    """d = max |x| / 127 kept as binary16; code = roundf(x / d) with the unrounded d."""

    name = "q8_0"
    block_bytes = BLOCK_BYTES

    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write scale and codes."""
        _encode(blocks, out)

    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write d * code."""
        _decode(octets, out)

    def score_rows(
        self, octets: NDArray[np.uint8], queries: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Multiply codes and scales in registers: a product of both is exact."""
        _scores(octets, queries, out)
        return out

    def sum_rows(
        self, octets: NDArray[np.uint8], weights: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Add weighted tokens one after the other."""
        _sum(octets, weights, out)
        return out

    def packed_error(self, shape: CacheShape) -> float:
        """Return what the sum over channels rounds."""
        return growth(shape.head_dim + 8)

    @property
    def element(self) -> Format:
        """Integers."""
        return INT8

    def take_apart(self, octets: NDArray[np.uint8], head_dim: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return codes, and the binary16 scales of the blocks."""
        blocks = octets.reshape(len(octets), -1, BLOCK_BYTES)
        codes = signed_magnitudes(np.ascontiguousarray(blocks[:, :, 2:]))
        return codes.reshape(len(octets), head_dim), blocks[:, :, :2].reshape(len(octets), -1)

    def row_scales(self, beside: NDArray[np.uint8], header: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return d of each block."""
        del header
        return np.ascontiguousarray(beside).view("<f2").astype(np.float32)
