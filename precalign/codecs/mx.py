"""`mxfp8`, `mxfp4`: OCP microscaling, blocks of 32 with a power-of-two scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec, require_multiple
from precalign.codecs.bits import pack_rows, packed_bytes, unpack_rows
from precalign.codecs.planed import PlanedRows
from precalign.formats import E2M1, E4M3FN, E8M0
from precalign.formats.codes import value_table
from precalign.interop.mx import BLOCK
from precalign.jit import Array, kernel, reinterpret
from precalign.rounding import encode

if TYPE_CHECKING:
    from typing import ClassVar

    from numpy.typing import NDArray

    from precalign.formats import Format


@kernel
def _scale(blocks: Array, emax: int, scaled: Array, scales: Array) -> None:
    """Divide blocks (n, 32) of finite binary32 numbers by 2^shared, shared = floor(log2(max |x|)) - emax; write the E8M0 codes of 2^shared.

    What the division takes below binary32's range rounds to zero in every element format.
    """
    for b in range(blocks.shape[0]):
        row, to = blocks[b], scaled[b]
        top = np.int32(0)
        for i in range(BLOCK):
            top = max(top, reinterpret(row[i]) & np.int32(0x7FFFFFFF))
        # Of a block whose numbers are all subnormal the exponent field says -127, and any such exponent ends at -127 after the clamp.
        exponent = (top >> np.int32(23)) - np.int32(127)
        shared = min(max(exponent - np.int32(emax), np.int32(-127)), np.int32(127))
        scales[b] = np.uint8(shared + 127)
        # 2^127 ends the binades of normal numbers, 2^-127 is subnormal.
        factor = reinterpret(np.int32((127 - shared) << 23)) if shared < 127 else np.float32(2.0**-127)
        for i in range(BLOCK):
            to[i] = row[i] * factor


class _Mx(RowCodec, PlanedRows):
    """Rows of packed elements, then the scales of their blocks (OCP MX v1.0, section 6.3)."""

    element_format: ClassVar[Format]

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError unless head_dim is whole blocks."""
        require_multiple(self, shape, BLOCK, "the block of a scale")

    def row_bytes(self, head_dim: int) -> int:
        """Return elements and scales."""
        return packed_bytes(head_dim, self.element.total_bits) + head_dim // BLOCK

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return elements, then scales."""
        del header
        out = np.empty((len(rows), self.row_bytes(shape.head_dim)), np.uint8)
        scaled, scales = np.empty_like(rows), np.empty((len(rows), shape.head_dim // BLOCK), np.uint8)
        _scale(rows.reshape(-1, BLOCK), self.element.emax, scaled.reshape(-1, BLOCK), scales.reshape(-1))
        elements = np.asarray(encode(scaled, self.element, saturate=True))
        pack_rows(elements, self.element.total_bits, out[:, : -scales.shape[1]])
        out[:, -scales.shape[1] :] = scales
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

    @property
    def element(self) -> Format:
        """The format of elements."""
        return self.element_format

    def take_apart(self, octets: NDArray[np.uint8], head_dim: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the elements, and the E8M0 scales."""
        codes = np.empty((len(octets), head_dim), np.uint8)
        unpack_rows(octets, self.element.total_bits, codes)
        return codes, octets[:, -(head_dim // BLOCK) :]

    def row_scales(self, beside: NDArray[np.uint8], header: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the scale of each block."""
        del header
        return value_table(E8M0).astype(np.float32)[beside]


@dataclass(frozen=True)
class Mxfp8(_Mx):
    """e4m3fn elements."""

    name = "mxfp8"
    source = "OCP Microscaling v1.0"
    element_format = E4M3FN


@dataclass(frozen=True)
class Mxfp4(_Mx):
    """e2m1 elements."""

    name = "mxfp4"
    source = "OCP Microscaling v1.0"
    element_format = E2M1
