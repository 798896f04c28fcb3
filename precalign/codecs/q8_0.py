"""`q8_0`: 8 bits, blocks of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.ggml import BLOCK, GgmlCodec, farthest, get_half, put_half
from precalign.jit import Array, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


@dataclass(frozen=True)
class Q8_0(GgmlCodec):  # noqa: N801 - the format's name
    """d = max |x| / 127 kept as binary16; code = roundf(x / d) with the unrounded d."""

    name = "q8_0"
    block_bytes = 2 + BLOCK

    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write scale and codes."""
        _encode(blocks, out)

    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write d * code."""
        _decode(octets, out)
