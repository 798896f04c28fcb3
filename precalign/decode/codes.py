"""What a code means to the arithmetic: its binary32 value and its exponent."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import UnavailableError
from precalign.formats import BFLOAT16, BINARY16, E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ, Format, Specials
from precalign.formats.codes import Kind, is_ieee, kinds, value_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTE_FORMATS = (E4M3FN, E5M2, E4M3FNUZ, E5M2FNUZ)
"""8-bit formats in which a cache may be stored."""


@lru_cache(maxsize=16)
def _binary32_of_bytes(fmt: Format) -> NDArray[np.float32]:
    """Return what the fields of every 8-bit code say, (256,), with no regard to infinities and NaNs.

    A read of e4m3fn that fills in its midpoint may end on the code of NaN: 448 read to one bit less is 480, which binary32 holds.
    """
    by_fields = Format("", fmt.exponent_bits, fmt.trailing_significand_bits, fmt.bias, Specials.FINITE)
    table = value_table(by_fields).astype(np.float32)
    table.flags.writeable = False
    return table


def to_binary32(codes: NDArray[np.unsignedinteger[Any]], fmt: Format) -> NDArray[np.float32]:
    """Return the exact binary32 values of binary16, bfloat16 or 8-bit codes, same shape.

    8-bit codes are taken for the finite numbers that their fields describe: who reads a cache has looked for NaNs (`all_finite`) before.

    Raises
    ------
    UnavailableError
        For any other format.
    """
    if fmt == BINARY16:
        return codes.view(np.float16).astype(np.float32)
    if fmt == BFLOAT16:
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if fmt in BYTE_FORMATS:
        values: NDArray[np.float32] = _binary32_of_bytes(fmt)[codes]
        return values
    supported = ", ".join(f.name for f in (BINARY16, BFLOAT16, *BYTE_FORMATS))
    raise UnavailableError(f"decode steps over {fmt.name} are not supported", hint=f"supported: {supported}")


def exponent_dtype(fmt: Format) -> np.dtype[np.int8] | np.dtype[np.int16]:
    """Return int8 where twice the range of the exponents fits, int16 otherwise."""
    return np.dtype(np.int8) if fmt.bias < 32 else np.dtype(np.int16)


def exponents(codes: NDArray[np.unsignedinteger[Any]], fmt: Format) -> NDArray[np.int8] | NDArray[np.int16]:
    """Return E(x) of codes: the binade of a normal number, emin for subnormals and zeros.

    Of `exponent_dtype`; same shape as `codes`. Infinities and NaNs are not looked for.
    """
    field = (codes >> fmt.trailing_significand_bits) & ((1 << fmt.exponent_bits) - 1)
    dtype = exponent_dtype(fmt)
    result: NDArray[np.int8] | NDArray[np.int16] = np.maximum(field, 1).astype(dtype) - dtype.type(fmt.bias)
    return result


def all_finite(codes: NDArray[np.unsignedinteger[Any]], fmt: Format) -> bool:
    """Whether no code is an infinity or NaN."""
    if is_ieee(fmt):
        special = ((1 << fmt.exponent_bits) - 1) << fmt.trailing_significand_bits
        return bool(((codes & special) != special).all())
    return not count_nonfinite(codes, fmt)


def count_nonfinite(codes: NDArray[np.unsignedinteger[Any]], fmt: Format) -> int:
    """Return how many codes are infinities or NaNs, for formats of at most 16 bits."""
    special = kinds(np.arange(1 << fmt.total_bits), fmt) >= Kind.INFINITY
    return int(np.bincount(codes.reshape(-1), minlength=len(special))[special].sum())


def round_to_format(values: NDArray[np.float64], fmt: Format) -> NDArray[np.float64]:
    """Round binary64 values to the nearest values of a format, ties to even, once.

    Notes
    -----
    Through binary32 some values would round twice. What rounds beyond the largest number gives infinity, also where the format has none;
    exact for every binary64 input.
    """
    _, after_point = np.frexp(values)
    ulp_exponent = np.maximum(after_point - 1, fmt.emin) - fmt.trailing_significand_bits
    rounded: NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(values, -ulp_exponent)), ulp_exponent)
    return np.where(np.abs(rounded) > fmt.largest, np.copysign(np.inf, rounded), rounded)
