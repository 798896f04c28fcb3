"""Exact binary16, bfloat16 and binary32 arithmetic by way of binary64 and rounding to odd.

A binary64 product of two of these numbers is exact. Its sum with a third is rounded once; `two_sum` gives the error of
that, and replacing the sum by its odd neighbour where the error is not 0 keeps all that a second rounding needs to
know, because binary64 has more than two bits beyond binary32 (Boldo and Melquiond, 2008).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from precalign.jit import kernel, reinterpret

Array = Any
CANONICAL_NAN = {2: np.uint16(0x7FFF), 4: np.uint32(0x7FFFFFFF), 8: np.uint64(0x7FF8000000000000)}
"""By width. PTX fixes those of 16 and 32 bits; of binary64 it leaves the bits open, here they are the usual ones."""
_SMALLEST_NORMAL = {2: 2.0**-14, 4: 2.0**-126}
_HALFWAY = {2: ((1 << 42) - 1, 1 << 41), 4: ((1 << 29) - 1, 1 << 28)}


def sum_to_odd(p: Array, c: Array) -> Array:
    """Return p + c rounded to odd.

    Parameters
    ----------
    p, c : ndarray[float64]
    """
    total = p + c
    rest = total - p
    error = (p - (total - rest)) + (c - rest)
    move = (error != 0) & np.isfinite(total) & (total.view(np.uint64) & np.uint64(1) == 0)
    if not move.any():
        return total
    step = np.where((error > 0) == (total > 0), 1, -1)
    return (total.view(np.int64) + np.where(move, step, 0)).view(np.float64)


def round_odd(odd: Array, dtype: Any, mode: str = "rn") -> Array:  # noqa: ANN401 - a NumPy dtype
    """Round binary64 numbers that were rounded to odd.

    Parameters
    ----------
    odd : ndarray[float64]
    dtype : numpy.float16 or numpy.float32
    mode : str
        rn, rz, rm or rp.
    """
    rounded = odd.astype(dtype)
    if mode == "rn":
        return rounded
    back, kind = rounded.astype(np.float64), np.dtype(dtype).type
    if mode == "rz":
        return np.where(np.abs(back) > np.abs(odd), np.nextafter(rounded, kind(0)), rounded)
    if mode == "rm":
        return np.where(back > odd, np.nextafter(rounded, kind(-np.inf)), rounded)
    return np.where(back < odd, np.nextafter(rounded, kind(np.inf)), rounded)


def fma(a: Array, b: Array, c: Array, dtype: Any, mode: str = "rn") -> Array:  # noqa: ANN401 - a NumPy dtype
    """Return a * b + c rounded once to `dtype`.

    Parameters
    ----------
    a, b, c : ndarray[float64]
        Values of binary16, bfloat16 or binary32.
    dtype : numpy.float16 or numpy.float32
    mode : str
        rn, rz, rm or rp.

    Notes
    -----
    Rounding the binary64 sum again is wrong only if that sum is halfway between two results, or where results are
    subnormal and halfway lies elsewhere; only those lanes take the slow path. NaN is the canonical one.
    """
    p = a * b
    if mode != "rn":
        return canonical(_directed(p, c, dtype, mode))
    total = p + c
    rounded = total.astype(dtype)
    width = rounded.dtype.itemsize
    mask, half = _HALFWAY[width]
    doubtful = (total.view(np.uint64) & np.uint64(mask)) == np.uint64(half)
    magnitude = np.abs(rounded)
    doubtful |= (magnitude <= _SMALLEST_NORMAL[width]) & (total != 0)
    if doubtful.any():
        at = np.nonzero(doubtful)
        p, c = np.broadcast_to(p, total.shape), np.broadcast_to(c, total.shape)
        rounded[at] = sum_to_odd(p[at], c[at]).astype(dtype)
    return canonical(rounded)


@kernel
def fma32(a: Array, b: Array, c: Array, result: Array) -> Array:
    """Write a * b + c rounded to nearest; the same steps as `sum_to_odd`, in one pass.

    Parameters
    ----------
    a, b, c : ndarray[float32], (n,) or (1,)
    result : ndarray[float32], (n,)
        NaN is left as it comes.
    """
    i, j, k = 0, 0, 0
    for at in range(result.size):
        p, addend = np.float64(a[i]) * np.float64(b[j]), np.float64(c[k])
        total = p + addend
        rest = total - p
        error = (p - (total - rest)) + (addend - rest)
        bits = reinterpret(total)
        if error != 0 and bits & 1 == 0 and np.isfinite(total):
            bits += 1 if (error > 0) == (total > 0) else -1
        result[at] = np.float32(reinterpret(bits))
        i, j, k = i + (a.size > 1), j + (b.size > 1), k + (c.size > 1)


def _directed(p: Array, c: Array, dtype: Any, mode: str) -> Array:  # noqa: ANN401 - a NumPy dtype
    odd = sum_to_odd(p, c)
    if mode == "rm":  # an exact zero of unlike signs is negative when rounding down
        odd = np.where((odd == 0) & (np.signbit(p) != np.signbit(c)), -0.0, odd)
    return round_odd(odd, dtype, mode)


def canonical(values: Array) -> Array:
    """Replace NaN by the canonical one; in place."""
    nan = np.isnan(values)
    if nan.any():
        values.view(f"u{values.itemsize}")[nan] = CANONICAL_NAN[values.itemsize]
    return values


def flush(values: Array) -> Array:
    """Replace subnormal numbers by zeros of their sign (.ftz)."""
    tiny = (np.abs(values) < _SMALLEST_NORMAL[values.itemsize]) & (values != 0)
    return np.where(tiny, np.copysign(values.dtype.type(0), values), values) if tiny.any() else values


def saturate(values: Array) -> Array:
    """Clamp to [+0, 1], NaN to +0 (.sat)."""
    kind = values.dtype.type
    return np.where(values > 0, np.minimum(values, kind(1)), kind(0))


def bf16_values(codes: Array) -> Array:
    """Return the binary32 values of bfloat16 codes."""
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_codes(odd: Array, mode: str = "rn") -> Array:
    """Round binary64 numbers that were rounded to odd to bfloat16 codes (rn or rz)."""
    nan = np.isnan(odd)
    toward_zero = round_odd(odd, np.float32, "rz")
    inexact = (toward_zero.astype(np.float64) != odd) & ~nan
    word = toward_zero.view(np.uint32) | inexact
    if mode == "rn":
        word = word + np.uint32(0x7FFF) + (word >> np.uint32(16) & np.uint32(1))
    return np.where(nan, np.uint16(0x7FFF), (word >> np.uint32(16)).astype(np.uint16))
