"""`mxfp8`, `mxfp4`: OCP microscaling, blocks of 32 with a power-of-two scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec, require_multiple
from precalign.codecs.bits import pack_rows, packed_bytes, unpack_rows
from precalign.formats import E2M1, E4M3FN, E8M0
from precalign.formats.codes import value_table
from precalign.interop.mx import BLOCK, mx_encode

if TYPE_CHECKING:
    from typing import ClassVar

    from numpy.typing import NDArray

    from precalign.formats import Format


class _Mx(RowCodec):
    """Rows of packed elements, then the scales of their blocks (OCP MX v1.0, section 6.3)."""

    element: ClassVar[Format]

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError unless head_dim is whole blocks."""
        require_multiple(self, shape, BLOCK, "the block of a scale")

    def row_bytes(self, head_dim: int) -> int:
        """Return elements and scales."""
        return packed_bytes(head_dim, self.element.total_bits) + head_dim // BLOCK

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return elements, then scales."""
        del header
        blocks = mx_encode(rows, self.element)
        out = np.empty((len(rows), self.row_bytes(shape.head_dim)), np.uint8)
        n_scales = shape.head_dim // BLOCK
        pack_rows(np.asarray(blocks.elements, np.uint8), self.element.total_bits, out[:, :-n_scales])
        out[:, -n_scales:] = blocks.scales
        return out

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return element times scale."""
        del header
        codes = np.empty((len(octets), shape.head_dim), np.uint8)
        unpack_rows(octets, self.element.total_bits, codes)
        scales = value_table(E8M0).astype(np.float32)[octets[:, -(shape.head_dim // BLOCK) :]]
        elements = value_table(self.element).astype(np.float32)[codes].reshape(len(octets), -1, BLOCK)
        return (elements * scales[..., None]).reshape(len(octets), shape.head_dim)


@dataclass(frozen=True)
class Mxfp8(_Mx):
    """e4m3fn elements."""

    name = "mxfp8"
    source = "OCP Microscaling v1.0"
    element = E4M3FN


@dataclass(frozen=True)
class Mxfp4(_Mx):
    """e2m1 elements."""

    name = "mxfp4"
    source = "OCP Microscaling v1.0"
    element = E2M1
