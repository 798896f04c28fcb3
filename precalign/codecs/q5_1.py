"""`q5_1`: 5 bits with a minimum, blocks of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.ggml import BLOCK, HALF, GgmlCodec, decode_uniform, put_fifth_bits, put_half, put_nibbles
from precalign.jit import Array, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def _encode(blocks: Array, out: Array) -> None:
    codes = np.empty(BLOCK, np.uint8)
    for b in range(blocks.shape[0]):
        row, block = blocks[b], out[b]
        least, most = row[0], row[0]
        for j in range(BLOCK):
            least, most = min(least, row[j]), max(most, row[j])
        d = (most - least) / np.float32(31)
        inverse = np.float32(1) / d if d > 0 else np.float32(0)
        put_half(d, block)
        put_half(least, block[2:])
        for j in range(BLOCK):
            shifted = np.trunc((row[j] - least) * inverse + np.float32(0.5))
            codes[j] = np.uint8(min(max(shifted, np.float32(0)), np.float32(31)))
        put_fifth_bits(codes, block[4:])
        put_nibbles(codes, block[8:])


@dataclass(frozen=True)
class Q5_1(GgmlCodec):  # noqa: N801 - the format's name
    """d = (max - min) / 31 and the minimum kept as binary16; code = trunc((x - min) / d + 0.5) with the unrounded numbers."""

    name = "q5_1"
    block_bytes = 4 + 4 + HALF

    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write scale, minimum and codes."""
        _encode(blocks, out)

    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write d * code + minimum."""
        decode_uniform(octets, True, True, 0, out)  # noqa: FBT003
