"""`planes`: this project's own: all 16 bits stored in planes, fewer of them read (AlignedKV, arXiv 2409.16546)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec
from precalign.codecs.half import half_codes, half_values
from precalign.layouts import default_layout
from precalign.planes import join_values, split_values

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Planes(RowCodec):
    """Lossless: what a rule reads of it is another matter, which `precalign analyze` measures. Rows are the planes one after the other."""

    name = "planes"
    source = "AlignedKV (arXiv 2409.16546)"

    def row_bytes(self, head_dim: int) -> int:
        """Return the bytes of the planes of a row; those of 4-bit planes round up."""
        return sum(-(-head_dim * width // 8) for width in (8, 4, 4))

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the planes."""
        del header
        codes = half_codes(rows, shape.format).astype(np.uint16)
        return np.concatenate(split_values(codes, default_layout(shape.format)), axis=1)

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return the rows."""
        del header
        layout = default_layout(shape.format)
        ends = np.cumsum([-(-shape.head_dim * width // 8) for width in layout.widths])
        codes = join_values(np.split(octets, ends[:-1], axis=1), layout, shape.head_dim)
        return half_values(codes, shape.format)
