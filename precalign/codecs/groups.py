"""Groups of numbers with a 16-bit step and minimum each, packed: what `kivi` and `quanto` store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.affine import affine_decode, affine_encode
from precalign.codecs.bits import pack_rows, packed_bytes, unpack_rows
from precalign.codecs.half import half_codes, half_values, is_bfloat16

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format

PARAMETER_BYTES = 4


def group_bytes(size: int, bits: int) -> int:
    """Return the bytes of a group: step, minimum, codes."""
    return PARAMETER_BYTES + packed_bytes(size, bits)


def encode_groups(groups: NDArray[np.float32], bits: int, fmt: Format) -> NDArray[np.uint8]:
    """Return (n_groups, group_bytes) of (n_groups, size); every operation rounds to the cache's format, as tensor code does it."""
    codes = np.empty(groups.shape, np.uint8)
    steps, lows = np.empty(len(groups), np.float32), np.empty(len(groups), np.float32)
    affine_encode(groups, bits, is_bfloat16(fmt), True, codes, steps, lows)  # noqa: FBT003
    out = np.empty((len(groups), group_bytes(groups.shape[1], bits)), np.uint8)
    out[:, :PARAMETER_BYTES] = half_codes(np.stack([steps, lows], axis=1), fmt).view(np.uint8)
    pack_rows(codes, bits, out[:, PARAMETER_BYTES:])
    return out


def decode_groups(octets: NDArray[np.uint8], size: int, bits: int, fmt: Format) -> NDArray[np.float32]:
    """Return (n_groups, size) of (n_groups, group_bytes)."""
    codes = np.empty((len(octets), size), np.uint8)
    unpack_rows(octets[:, PARAMETER_BYTES:], bits, codes)
    parameters = half_values(np.ascontiguousarray(octets[:, :PARAMETER_BYTES]).view("<u2"), fmt)
    steps, lows = (np.ascontiguousarray(column) for column in parameters.T)
    rows = np.empty(codes.shape, np.float32)
    affine_decode(codes, steps, lows, is_bfloat16(fmt), True, rows)  # noqa: FBT003
    return rows
