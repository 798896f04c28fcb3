"""`iq4_nl`: 4 bits on a fixed non-uniform grid, blocks of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.ggml import BLOCK, HALF, GgmlCodec, farthest, get_half, put_half, put_nibbles
from precalign.jit import Array, inline, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
LEAST_MAGNITUDE = np.float32(1e-15)
"""Blocks below it are stored as zeros."""


@inline
def _nearest(x: Array) -> Array:
    """Return the index of the nearest grid point; the upper one of two equally near."""
    index = 0
    for i in range(15):
        index += x - GRID[i] >= GRID[i + 1] - x
    return index


@kernel
def _encode(blocks: Array, out: Array) -> None:
    codes = np.empty(BLOCK, np.uint8)
    for b in range(blocks.shape[0]):
        row, block = blocks[b], out[b]
        largest = farthest(row)
        codes[:] = 0
        d = np.float32(0)
        if abs(largest) >= LEAST_MAGNITUDE:
            inverse = np.float32(1) / (largest / GRID[0])
            above, below = np.float32(0), np.float32(0)
            for j in range(BLOCK):
                codes[j] = _nearest(inverse * row[j])
                point, weight = GRID[codes[j]], row[j] * row[j]
                above += weight * point * row[j]
                below += weight * point * point
            d = above / below
        put_half(d, block)
        put_nibbles(codes, block[2:])


@kernel
def _decode(octets: Array, out: Array) -> None:
    for b in range(octets.shape[0]):
        d = get_half(octets[b])
        for j in range(HALF):
            out[b, j] = d * GRID[octets[b, 2 + j] & 15]
            out[b, j + HALF] = d * GRID[octets[b, 2 + j] >> 4]


@dataclass(frozen=True)
class Iq4Nl(GgmlCodec):
    """Codes are nearest grid points at scale (the x of largest magnitude) / -127; d then is the least-squares scale, weights x^2."""

    name = "iq4_nl"
    block_bytes = 2 + HALF

    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write scale and codes."""
        _encode(blocks, out)

    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write d * grid point."""
        _decode(octets, out)
