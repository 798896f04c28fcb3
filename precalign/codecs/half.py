"""Rounding binary32 to the 16-bit format of a cache inside a kernel, and pairs of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.formats import BFLOAT16
from precalign.jit import Array, inline, reinterpret

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format


@inline
def round_binary16(x: Array) -> Array:
    """Round a binary32 to the nearest binary16 value, ties to even; from 65520 on to infinity."""
    magnitude = abs(x)
    if magnitude < np.float32(2.0**-14):
        return np.float32(np.copysign(np.float32(magnitude + np.float32(0.5)) - np.float32(0.5), x))
    bits = reinterpret(x)
    rounded = reinterpret(
        np.int32((bits + np.int32(0xFFF) + ((bits >> np.int32(13)) & np.int32(1))) & np.int32(~0x1FFF))
    )
    if abs(rounded) > np.float32(65504):
        return np.float32(np.copysign(np.float32(np.inf), x))
    return rounded


@inline
def round_bfloat16(x: Array) -> Array:
    """Round a finite binary32 to the nearest bfloat16 value, ties to even."""
    bits = reinterpret(x)
    return reinterpret(np.int32((bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) & np.int32(~0xFFFF)))


@inline
def round_half(x: Array, is_bfloat16: Array) -> Array:
    """Round a binary32 to the cache's format."""
    return round_bfloat16(x) if is_bfloat16 else round_binary16(x)


@inline
def get_half_value(octets: Array, is_bfloat16: Array) -> Array:
    """Read a finite number of the cache's format, low byte first."""
    code = np.int32(octets[0]) | (np.int32(octets[1]) << np.int32(8))
    if is_bfloat16:
        return reinterpret(np.int32(code << 16))
    field, trailing = (code >> 10) & 31, code & 1023
    if field == 0:
        size = np.float32(trailing) * np.float32(2.0**-24)
    else:
        size = reinterpret(np.int32(((field + 112) << 23) | (trailing << 13)))
    return -size if code & 0x8000 else size


def is_bfloat16(fmt: Format) -> bool:
    """Whether a 16-bit format is bfloat16."""
    return fmt == BFLOAT16


def half_codes(values: NDArray[np.float32], fmt: Format) -> NDArray[np.uint16]:
    """Return the codes of values that the 16-bit format holds exactly."""
    if fmt == BFLOAT16:
        return (values.view(np.uint32) >> np.uint32(16)).astype("<u2")
    return values.astype("<f2").view("<u2")


def half_values(codes: NDArray[Any], fmt: Format) -> NDArray[np.float32]:
    """Return the values of codes of the 16-bit format."""
    if fmt == BFLOAT16:
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return codes.astype("<u2").view("<f2").astype(np.float32)
