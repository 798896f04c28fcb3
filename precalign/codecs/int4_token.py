"""`int4-token`: 4 bits, asymmetric, per token and head, after a Hadamard rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.affine import affine_decode, affine_encode
from precalign.codecs.base import CacheShape, RowCodec
from precalign.codecs.bits import pack_rows, packed_bytes, unpack_rows
from precalign.codecs.hadamard import is_power_of_two, rotate, rotate_back, signs
from precalign.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARAMETER_BYTES = 4


@dataclass(frozen=True)
class Int4Token(RowCodec):
    """Rows are rotated by H D, then code = RNE((x - min) / step) with binary16 step and minimum.

    Attributes
    ----------
    bits : int
    seed : int
        Of the signs D; 0 for none.
    """

    name = "int4-token"
    source = "engines (int4 per token and head, Hadamard first)"

    bits: int = 4
    seed: int = 0

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError for widths and head_dims that there are not."""
        if not 1 <= self.bits <= 8 or not is_power_of_two(shape.head_dim):
            raise UsageError(
                f"codec {self}: takes 1 to 8 bits and a head_dim that is a power of two, not {self.bits} and {shape.head_dim}"
            )

    def row_bytes(self, head_dim: int) -> int:
        """Return codes, step and minimum."""
        return packed_bytes(head_dim, self.bits) + PARAMETER_BYTES

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the packed rows."""
        del header
        rotated = rotate(rows, signs(shape.head_dim, self.seed))
        codes = np.empty(rows.shape, np.uint8)
        steps, lows = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
        affine_encode(rotated, self.bits, False, False, codes, steps, lows)  # noqa: FBT003
        out = np.empty((len(rows), self.row_bytes(shape.head_dim)), np.uint8)
        pack_rows(codes, self.bits, out[:, :-PARAMETER_BYTES])
        out[:, -PARAMETER_BYTES:] = np.stack([steps, lows], axis=1).astype("<f2").view(np.uint8)
        return out

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return the rows, rotated back."""
        del header
        codes = np.empty((len(octets), shape.head_dim), np.uint8)
        unpack_rows(octets, self.bits, codes)
        parameters = np.ascontiguousarray(octets[:, -PARAMETER_BYTES:]).view("<f2").astype(np.float32)
        rows = np.empty(codes.shape, np.float32)
        affine_decode(codes, parameters[:, 0], parameters[:, 1], False, False, rows)  # noqa: FBT003
        return rotate_back(rows, signs(shape.head_dim, self.seed))
