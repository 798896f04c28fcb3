"""`planes`: this project's own: all 16 bits stored in planes, fewer of them read (AlignedKV, arXiv 2409.16546)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec
from precalign.codecs.bits import pack_rows, packed_bytes, unpack_rows
from precalign.codecs.half import half_codes, half_values
from precalign.layouts import default_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Planes(RowCodec):
    """Lossless: what a rule reads of it is another matter, which `precalign analyze` measures. Rows are the planes one after the other."""

    name = "planes"
    source = "AlignedKV (arXiv 2409.16546)"

    def row_bytes(self, head_dim: int) -> int:
        """Return the bytes of the planes of a row; those of 4-bit planes round up."""
        return packed_bytes(head_dim, 8) + 2 * packed_bytes(head_dim, 4)

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the planes."""
        del header
        codes = half_codes(rows, shape.format)
        out = np.empty((len(rows), self.row_bytes(shape.head_dim)), np.uint8)
        for width, shift, columns in _planes(shape):
            part = (codes >> np.uint16(shift)) & np.uint16((1 << width) - 1)
            pack_rows(part, width, out[:, columns])
        return out

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return the rows."""
        del header
        codes = np.zeros((len(octets), shape.head_dim), np.uint16)
        part = np.empty_like(codes)
        for width, shift, columns in _planes(shape):
            unpack_rows(octets[:, columns], width, part)
            codes |= part << np.uint16(shift)
        return half_values(codes, shape.format)


def _planes(shape: CacheShape) -> Iterator[tuple[int, int, slice]]:
    """Yield width, place in the code and columns of a row for each plane, most significant first."""
    layout, begin = default_layout(shape.format), 0
    for width, end in zip(layout.widths, layout.plane_ends, strict=True):
        size = packed_bytes(shape.head_dim, width)
        yield width, layout.total_bits - end, slice(begin, begin + size)
        begin += size
