"""`q4_0`: 4 bits, symmetric, blocks of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.ggml import BLOCK, HALF, GgmlCodec, decode_uniform, farthest, put_half, put_nibbles
from precalign.jit import Array, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def _encode(blocks: Array, out: Array) -> None:
    codes = np.empty(BLOCK, np.uint8)
    for b in range(blocks.shape[0]):
        row, block = blocks[b], out[b]
        d = farthest(row) / np.float32(-8)
        inverse = np.float32(1) / d if d != 0 else np.float32(0)
        put_half(d, block)
        for j in range(BLOCK):
            shifted = np.trunc(row[j] * inverse + np.float32(8.5))
            codes[j] = np.uint8(min(max(shifted, np.float32(0)), np.float32(15)))
        put_nibbles(codes, block[2:])


@dataclass(frozen=True)
class Q4_0(GgmlCodec):  # noqa: N801 - the format's name
    """d = (the x of largest magnitude) / -8 kept as binary16; code = min(15, trunc(x / d + 8.5)) with the unrounded d."""

    name = "q4_0"
    block_bytes = 2 + HALF

    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write scale and codes."""
        _encode(blocks, out)

    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write d * (code - 8)."""
        decode_uniform(octets, False, False, 8, out)  # noqa: FBT003
