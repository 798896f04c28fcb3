"""Rounding by integers: a significand, what was cut off below it, and the direction.

A number is `high + low`, two binary64 numbers of which the second is at most half a unit of the first: an exact sum of two
numbers (Knuth's TwoSum), or `low` = 0.
"""

from __future__ import annotations

import numpy as np

from precalign.jit import Array, inline, reinterpret

U64 = np.uint64
SIGN, FRACTION = np.uint64(1 << 63), np.uint64((1 << 52) - 1)
NEAREST, TO_ZERO, DOWN, UP = 0, 1, 2, 3


@inline
def two_sum(p: Array, c: Array) -> Array:
    """Return (p + c rounded, its error)."""
    total = p + c
    rest = total - p
    return total, (p - (total - rest)) + (c - rest)


@inline
def pack(
    kept: Array,
    quantum: Array,
    inexact_above: Array,
    mode: Array,
    negative: Array,
    precision: Array,
    smallest_quantum: Array,
    infinity: Array,
) -> Array:
    """Return the code of kept * 2^quantum, rounded away from zero by one where `inexact_above` and the mode say so.

    Parameters
    ----------
    kept : uint64
        The significand, cut; below 2^precision.
    quantum : int64
        Exponent of its last place.
    inexact_above : int64
        What was cut off: 0 nothing, 1 less than half, 2 half, 3 more.
    mode : int64
    negative : bool
    precision, smallest_quantum : int64
        Of the format.
    infinity : uint64
        Its code.
    """
    up = False
    if mode == NEAREST:
        up = inexact_above == 3 or (inexact_above == 2 and (kept & U64(1)) == U64(1))
    elif (mode == UP and not negative) or (mode == DOWN and negative):
        up = inexact_above > 0
    if up:
        kept = kept + U64(1)
    code = (U64(quantum - smallest_quantum) << U64(precision - 1)) + kept
    if code >= infinity:
        toward_zero = mode == TO_ZERO or (mode == UP and negative) or (mode == DOWN and not negative)
        code = infinity - U64(1) if toward_zero else infinity
    return code


@inline
def round_sum(  # noqa: C901, PLR0912
    high: Array, low: Array, mode: Array, precision: Array, smallest_quantum: Array, infinity: Array, sign_bit: Array
) -> Array:
    """Round high + low to a format; return its code. `sign_bit` is the code of -0."""
    bits = U64(reinterpret(high))
    negative = (bits & SIGN) != U64(0)
    sign = sign_bit if negative else U64(0)
    magnitude = bits & ~SIGN
    if magnitude > U64(0x7FF0000000000000):
        return sign_bit - U64(1)  # the canonical NaN has all bits but the sign
    if magnitude == U64(0x7FF0000000000000):
        return sign | infinity
    if magnitude == U64(0):
        return sign
    field: Array = np.int64(magnitude >> U64(52))
    significand = magnitude & FRACTION
    if field > 0:
        significand |= U64(1 << 52)
    else:
        field = 1
        while significand < U64(1 << 52):  # a subnormal binary64 number, normalised
            significand <<= U64(1)
            field -= 1
    tail = 0  # what `low` adds to the magnitude: -1, 0, 1
    if low != 0:
        tail = 1 if (low > 0) != negative else -1
    quantum = max(field - 1023 - (precision - 1), smallest_quantum)
    shift = quantum - (field - 1075)  # at least 29: every format here has at most 24 bits
    if shift > 60:
        return sign | pack(U64(0), quantum, 1, mode, negative, precision, smallest_quantum, infinity)
    kept = significand >> U64(shift)
    rest = significand & ((U64(1) << U64(shift)) - U64(1))
    half = U64(1) << U64(shift - 1)
    if rest == U64(0) and tail < 0:  # just below a number of the format
        if kept == U64(1) << U64(precision - 1) and quantum > smallest_quantum:
            kept, quantum = (kept << U64(1)) - U64(1), quantum - 1
        else:
            kept = kept - U64(1)
        return sign | pack(kept, quantum, 3, mode, negative, precision, smallest_quantum, infinity)
    if rest == U64(0):
        cut = 1 if tail > 0 else 0
    elif rest == half:
        cut = 2 + tail
    else:
        cut = 3 if rest > half else 1
    return sign | pack(kept, quantum, cut, mode, negative, precision, smallest_quantum, infinity)


@inline
def round_integer(
    magnitude: Array,
    negative: Array,
    mode: Array,
    precision: Array,
    smallest_quantum: Array,
    infinity: Array,
    sign_bit: Array,
) -> Array:
    """Round an integer to a format; return its code."""
    sign = sign_bit if negative else U64(0)
    if magnitude == U64(0):
        return U64(0)
    length = 0
    while length < 64 and (magnitude >> U64(length)) != U64(0):
        length += 1
    quantum = max(length - precision, smallest_quantum)
    if quantum <= 0:
        # Whole numbers shorter than the significand: shift up to it.
        up = min(precision - length, -smallest_quantum)
        return sign | pack(magnitude << U64(up), -up, 0, mode, negative, precision, smallest_quantum, infinity)
    kept = magnitude >> U64(quantum)
    rest = magnitude & ((U64(1) << U64(quantum)) - U64(1))
    half = U64(1) << U64(quantum - 1)
    cut = 0
    if rest != U64(0):
        cut = 2 if rest == half else 3 if rest > half else 1
    return sign | pack(kept, quantum, cut, mode, negative, precision, smallest_quantum, infinity)
