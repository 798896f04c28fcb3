"""`q5_0`: 5 bits, symmetric, blocks of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.ggml import (
    BLOCK,
    HALF,
    GgmlCodec,
    decode_uniform,
    farthest,
    put_fifth_bits,
    put_half,
    put_nibbles,
)
from precalign.jit import Array, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def _encode(blocks: Array, out: Array) -> None:
    codes = np.empty(BLOCK, np.uint8)
    for b in range(blocks.shape[0]):
        row, block = blocks[b], out[b]
        d = farthest(row) / np.float32(-16)
        inverse = np.float32(1) / d if d != 0 else np.float32(0)
        put_half(d, block)
        for j in range(BLOCK):
            shifted = np.trunc(row[j] * inverse + np.float32(16.5))
            codes[j] = np.uint8(min(max(shifted, np.float32(0)), np.float32(31)))
        put_fifth_bits(codes, block[2:])
        put_nibbles(codes, block[6:])


@dataclass(frozen=True)
class Q5_0(GgmlCodec):  # noqa: N801 - the format's name
    """d = (the x of largest magnitude) / -16 kept as binary16; code = min(31, trunc(x / d + 16.5)) with the unrounded d."""

    name = "q5_0"
    block_bytes = 2 + 4 + HALF

    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write scale and codes."""
        _encode(blocks, out)

    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write d * (code - 16)."""
        decode_uniform(octets, False, True, 16, out)  # noqa: FBT003
