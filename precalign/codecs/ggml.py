"""What the block formats of ggml share: blocks of 32 along head_dim, a binary16 scale, nibbles of element j and j + 16 in one byte."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec, require_multiple
from precalign.codecs.half import get_half_value
from precalign.jit import Array, inline, kernel, reinterpret

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 32
HALF = BLOCK // 2
SOURCE = "llama.cpp (ggml block formats)"


class GgmlCodec(RowCodec):
    """Rows of whole blocks; `block_bytes` each."""

    source = SOURCE
    block_bytes: ClassVar[int]

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError unless head_dim is whole blocks."""
        require_multiple(self, shape, BLOCK, "the block of a scale")

    def row_bytes(self, head_dim: int) -> int:
        """Return the bytes of the row's blocks."""
        return head_dim // BLOCK * self.block_bytes

    @abstractmethod
    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write (n, block_bytes) of (n, 32)."""

    @abstractmethod
    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write (n, 32) of (n, block_bytes)."""

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the blocks of each row."""
        del header
        out = np.empty((rows.size // BLOCK, self.block_bytes), np.uint8)
        self.encode_blocks(rows.reshape(-1, BLOCK), out)
        return out.reshape(len(rows), self.row_bytes(shape.head_dim))

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return the rows."""
        del header
        out = np.empty((octets.size // self.block_bytes, BLOCK), np.float32)
        self.decode_blocks(np.ascontiguousarray(octets).reshape(-1, self.block_bytes), out)
        return out.reshape(len(octets), shape.head_dim)


@inline
def farthest(block: Array) -> Array:
    """Return the value of largest magnitude, with its sign; the first of equals."""
    best = block[0]
    for i in range(1, BLOCK):
        if abs(block[i]) > abs(best):
            best = block[i]
    return best


@inline
def put_half(x: Array, out: Array) -> None:
    """Write a binary32 as binary16 (round to nearest even), low byte first."""
    bits = reinterpret(x)
    sign, magnitude = (bits >> np.int32(16)) & np.int32(0x8000), abs(x)
    if magnitude < np.float32(2.0**-14):
        code = np.int32(np.rint(magnitude * np.float32(2.0**24)))
    else:
        rounded = (bits & np.int32(0x7FFFFFFF)) + np.int32(0xFFF) + ((bits >> np.int32(13)) & np.int32(1))
        code = min((rounded >> np.int32(13)) - np.int32(112 << 10), np.int32(0x7C00))
    code |= sign
    out[0] = np.uint8(code & 255)
    out[1] = np.uint8((code >> 8) & 255)


@inline
def get_half(octets: Array) -> Array:
    """Read a finite binary16, low byte first."""
    return get_half_value(octets, False)  # noqa: FBT003


@inline
def put_nibbles(codes: Array, out: Array) -> None:
    """Write the low nibbles of 32 codes: j low, j + 16 high."""
    for j in range(HALF):
        out[j] = np.uint8((codes[j] & np.uint8(15)) | ((codes[j + HALF] & np.uint8(15)) << np.uint8(4)))


@inline
def put_fifth_bits(codes: Array, out: Array) -> None:
    """Write bit 4 of 32 codes as 4 bytes, code j at bit j."""
    for j in range(4):
        octet = np.uint8(0)
        for i in range(8):
            octet |= np.uint8(((codes[8 * j + i] >> np.uint8(4)) & np.uint8(1)) << np.uint8(i))
        out[j] = octet


@inline
def put_codes(codes: Array, has_fifth: Array, out: Array) -> None:
    """Write 32 codes of 4 bits, or of 5 with their fifth bits first."""
    if has_fifth:
        put_fifth_bits(codes, out)
        put_nibbles(codes, out[4:])
    else:
        put_nibbles(codes, out)


@kernel
def encode_symmetric(blocks: Array, half: int, has_fifth: Array, out: Array) -> None:
    """Write d = (the x of largest magnitude) / -half as binary16, and code = min(2 half - 1, trunc(x / d + half + 0.5)) with the unrounded d."""
    codes = np.empty(BLOCK, np.uint8)
    top = np.float32(2 * half - 1)
    for b in range(blocks.shape[0]):
        row, block = blocks[b], out[b]
        d = farthest(row) / np.float32(-half)
        inverse = np.float32(1) / d if d != 0 else np.float32(0)
        put_half(d, block)
        for j in range(BLOCK):
            shifted = np.trunc(row[j] * inverse + np.float32(half + 0.5))
            codes[j] = np.uint8(min(max(shifted, np.float32(0)), top))
        put_codes(codes, has_fifth, block[2:])


@kernel
def encode_with_minimum(blocks: Array, top: int, has_fifth: Array, out: Array) -> None:
    """Write d = (max - min) / top and the minimum as binary16, and code = trunc((x - min) / d + 0.5) with the unrounded numbers."""
    codes = np.empty(BLOCK, np.uint8)
    most_code = np.float32(top)
    for b in range(blocks.shape[0]):
        row, block = blocks[b], out[b]
        least, most = row[0], row[0]
        for j in range(BLOCK):
            least, most = min(least, row[j]), max(most, row[j])
        d = (most - least) / most_code
        inverse = np.float32(1) / d if d > 0 else np.float32(0)
        put_half(d, block)
        put_half(least, block[2:])
        for j in range(BLOCK):
            shifted = np.trunc((row[j] - least) * inverse + np.float32(0.5))
            codes[j] = np.uint8(min(max(shifted, np.float32(0)), most_code))
        put_codes(codes, has_fifth, block[4:])


@kernel
def decode_uniform(octets: Array, has_minimum: Array, has_fifth: Array, offset: float, out: Array) -> None:
    """Write d * (code - offset), or d * code + m where the block has a minimum, of blocks of 4 or 5 bits."""
    at = 2 + 2 * has_minimum
    nibbles = at + 4 * has_fifth
    for b in range(octets.shape[0]):
        block, row = octets[b], out[b]
        d = get_half(block)
        m = get_half(block[2:]) if has_minimum else np.float32(0)
        for j in range(BLOCK):
            packed = block[nibbles + j % HALF]
            code = np.int32((packed & 15) if j < HALF else (packed >> 4))
            if has_fifth:
                code |= ((np.int32(block[at + j // 8]) >> np.int32(j % 8)) & np.int32(1)) << np.int32(4)
            row[j] = d * np.float32(code) + m if has_minimum else d * (np.float32(code) - np.float32(offset))
