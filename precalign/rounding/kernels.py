"""Rounding as integer arithmetic on codes, vectorised by the compiler.

For a source code with magnitude bits a = [field | fraction], target with t trailing significand bits and emin:

    E           = max(field, 1) - source bias              binade of the source
    significand = fraction, with the hidden bit if field > 0
    shift       = (source t - t) + max(0, emin - E)         bits that do not fit; grows below the target's normal range
    quotient    = significand >> shift, plus 1 where the mode rounds up
    code        = quotient + (max(E, emin) - emin) * 2^t

The hidden bit of `quotient` carries into the exponent field, and so does a significand rounded up to the next power of two: the code
is right in both cases without a branch. One rounding from the source, so no double rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from precalign.jit import Array, inline, kernel
from precalign.rounding.modes import RoundingMode

if TYPE_CHECKING:
    from precalign.formats import Format

RNE, RNA, RTZ, RUP, RDN, RTO, SR = (int(mode) for mode in RoundingMode)


class Rounding(NamedTuple):
    """A target format as the kernels take it: integers of the width they work in."""

    trailing: Any
    least_exponent: Any
    """emin of the target as a biased exponent of the source."""
    sign: Any
    """The sign bit of the target's codes; 0 without one."""
    largest: Any
    overflow: Any
    """Code of a number too large that is rounded away from zero."""
    negative_overflow: Any
    """The same for negative numbers, its sign in it."""
    nan: Any
    minus_zero: Any
    """What a negative result of zero becomes."""
    negative: Any
    """What negative results have in common: the sign, or 0 where they become NaN."""
    offset: Any
    """1 where the smallest code is no zero but the smallest number."""
    least_normal: Any
    """Results below this code become zero; 0 keeps subnormals."""


def rounding_of(fmt: Format, source_bits: int, *, saturate: bool, flush_subnormals: bool) -> Rounding:
    """Return the kernel parameters of a format for sources of 32 or 64 bits."""
    integer, source_bias = (np.int32, 127) if source_bits == 32 else (np.int64, 1023)
    nan = fmt.nan_code
    beyond = fmt.infinity_code if fmt.infinity_code is not None else nan
    if saturate or beyond is None:
        beyond = fmt.largest_code
    sign = 1 << fmt.magnitude_bits if fmt.signed else 0
    # One NaN that stands where minus zero would be has no sign to add.
    negative_beyond = beyond if beyond == nan and not fmt.has_minus_zero else beyond | sign
    parameters = (
        fmt.trailing_significand_bits,
        fmt.emin + source_bias,
        sign,
        fmt.largest_code,
        beyond,
        negative_beyond if fmt.signed else nan,
        0 if nan is None else nan,
        sign if fmt.has_minus_zero else 0,
        sign,
        0 if fmt.has_zero else 1,
        fmt.smallest_normal_code if flush_subnormals else 0,
    )
    # Codes of 32 bits have their sign in the sign bit of the integer.
    unsigned = np.uint32 if source_bits == 32 else np.uint64
    return Rounding(*(unsigned(p).astype(integer) if p is not None and p >= 0 else integer(p or 0) for p in parameters))


@inline
def _random(index: Array, seed: Array) -> Array:
    """64 random bits of an index: splitmix64 (Steele, Lea and Flood 2014), so that the result does not depend on threads."""
    z = np.uint64(index) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inline
def _stochastic(significand: Array, shift: Array, random: Array, random_bits: Array) -> Array:
    """Return significand >> shift, one more with probability of the discarded fraction cut to `random_bits` bits."""
    if shift < 64:
        quotient, rest = significand >> shift, significand & ((np.int64(1) << shift) - 1)
        fraction = (rest << (random_bits - shift)) if random_bits >= shift else (rest >> (shift - random_bits))
    else:
        quotient, fraction = np.int64(0), np.int64(0)
    draw = np.int64(random >> np.uint64(64 - random_bits))
    return quotient + (1 if draw < fraction else 0)


def _codes(bits: int) -> tuple[Any, Any]:  # noqa: C901, PLR0915 - numba sees helpers as closures only
    """Make what kernels for sources of 32 or 64 bits do with one number.

    numba computes with 64 bits whatever the operands; every step is cut back to the width of the source, so that LLVM sees
    lanes of that width, and shifts are masked, so that it may narrow them.
    """
    unsigned, integer = (np.uint32, np.int32) if bits == 32 else (np.uint64, np.int64)
    source_trailing = 23 if bits == 32 else 52
    trailing, one, zero = integer(source_trailing), integer(1), integer(0)
    fraction_mask = integer((1 << source_trailing) - 1)
    magnitude_mask = integer((1 << (bits - 1)) - 1)
    infinite = integer(((1 << (bits - 1 - source_trailing)) - 1) << source_trailing)
    most_shift, shift_mask, sign_shift = integer(source_trailing + 2), integer(bits - 1), unsigned(bits - 1)

    @inline
    def parts(x: Array, to: Rounding) -> Array:
        magnitude = integer(integer(x) & magnitude_mask)
        field = integer(magnitude >> trailing)
        significand = integer(integer(magnitude & fraction_mask) | (integer(one << trailing) if field > zero else zero))
        exponent = field if field > zero else one
        deep = integer(to.least_exponent - exponent)
        deep = max(zero, deep)
        shift = integer(integer(trailing - to.trailing) + deep)
        above = integer(integer(exponent + deep) - to.least_exponent)
        base = integer(integer(above << integer(to.trailing & shift_mask)) - to.offset)
        return magnitude, significand, shift, base

    @inline
    def finish(code: Array, magnitude: Array, negative: Array, inward: Array, to: Rounding) -> Array:
        code = max(zero, code)
        too_large = code > to.largest
        code = zero if code < to.least_normal else code
        signed = integer(code | to.negative) if code != zero else to.minus_zero
        result = signed if negative else code
        beyond = to.negative_overflow if negative else to.overflow
        kept = integer(to.largest | to.sign) if negative else to.largest
        result = (kept if inward else beyond) if too_large else result
        result = beyond if magnitude == infinite else result
        no_number = magnitude > infinite or (negative and to.sign == zero and magnitude != zero)
        return to.nan if no_number else result

    @inline
    def one_code(x: Array, mode: Array, to: Rounding) -> Array:
        magnitude, significand, shift, base = parts(x, to)
        negative = unsigned(x >> sign_shift) != unsigned(0)
        cut = max(zero, shift)
        cut = integer((min(most_shift, cut)) & shift_mask)
        unit = integer(one << cut)
        half = integer(unit >> one)
        below = integer(unit - one)
        if mode == RNE:
            last = integer(integer(integer(significand >> cut) + base) & one)  # of the code: it decides where t = 0
            increment = integer(integer(half - one) + last) if cut > zero else zero
            quotient = integer(integer(significand + increment) >> cut)
        elif mode == RNA:
            quotient = integer(integer(significand + half) >> cut)
        elif mode == RTZ:
            quotient = integer(significand >> cut)
        elif mode == RUP:
            quotient = integer(integer(significand + (zero if negative else below)) >> cut)
        elif mode == RDN:
            quotient = integer(integer(significand + (below if negative else zero)) >> cut)
        else:  # RTO
            quotient = integer(significand >> cut)
            even = integer(integer(quotient + base) & one) == zero
            quotient = integer(quotient + (one if even and integer(significand & below) != zero else zero))
        wider = integer(significand << integer(integer(zero - shift) & shift_mask))
        quotient = wider if shift < zero else quotient  # a target finer than the source: exact
        inward = mode in (RTZ, RTO) or (mode == RUP and negative) or (mode == RDN and not negative)
        return finish(integer(quotient + base), magnitude, negative, inward, to)

    @inline
    def one_stochastic(x: Array, index: Array, seed: Array, random_bits: Array, to: Rounding) -> Array:
        inward = False  # beyond the largest number SR rounds away from zero
        magnitude, significand, shift, base = parts(x, to)
        negative = unsigned(x >> sign_shift) != unsigned(0)
        quotient = np.int64(significand) << np.int64(max(0, -shift))
        if shift > 0:
            random = _random(index, seed)
            quotient = _stochastic(np.int64(significand), np.int64(shift), random, np.int64(random_bits))
        return finish(integer(integer(quotient) + base), magnitude, negative, inward, to)

    return one_code, one_stochastic


# numba keys a cached kernel by what its closure holds, and a compiled helper is another object in every process: helpers
# that kernels use must be globals, else each process compiles them anew.
_code32, _stochastic32 = _codes(32)
_code64, _stochastic64 = _codes(64)


@kernel
def encode32(source: Array, mode: int, to: Rounding, out: Array) -> None:  # noqa: C901 - one flat loop per mode
    """Write the codes of binary32 codes. With the mode a constant, the body of its loop has no branch and becomes SIMD code."""
    if mode == RNE:
        for i in range(len(source)):
            out[i] = _code32(source[i], RNE, to)
    elif mode == RNA:
        for i in range(len(source)):
            out[i] = _code32(source[i], RNA, to)
    elif mode == RTZ:
        for i in range(len(source)):
            out[i] = _code32(source[i], RTZ, to)
    elif mode == RUP:
        for i in range(len(source)):
            out[i] = _code32(source[i], RUP, to)
    elif mode == RDN:
        for i in range(len(source)):
            out[i] = _code32(source[i], RDN, to)
    else:
        for i in range(len(source)):
            out[i] = _code32(source[i], RTO, to)


@kernel
def encode64(source: Array, mode: int, to: Rounding, out: Array) -> None:  # noqa: C901 - one flat loop per mode
    """Write the codes of binary64 codes. With the mode a constant, the body of its loop has no branch and becomes SIMD code."""
    if mode == RNE:
        for i in range(len(source)):
            out[i] = _code64(source[i], RNE, to)
    elif mode == RNA:
        for i in range(len(source)):
            out[i] = _code64(source[i], RNA, to)
    elif mode == RTZ:
        for i in range(len(source)):
            out[i] = _code64(source[i], RTZ, to)
    elif mode == RUP:
        for i in range(len(source)):
            out[i] = _code64(source[i], RUP, to)
    elif mode == RDN:
        for i in range(len(source)):
            out[i] = _code64(source[i], RDN, to)
    else:
        for i in range(len(source)):
            out[i] = _code64(source[i], RTO, to)


@kernel
def encode32_stochastic(source: Array, first: Array, seed: Array, random_bits: Array, to: Rounding, out: Array) -> None:
    """Write the codes of binary32 codes, rounded stochastically; element i takes draw first + i."""
    for i in range(len(source)):
        out[i] = _stochastic32(source[i], first + i, seed, random_bits, to)


@kernel
def encode64_stochastic(source: Array, first: Array, seed: Array, random_bits: Array, to: Rounding, out: Array) -> None:
    """Write the codes of binary64 codes, rounded stochastically; element i takes draw first + i."""
    for i in range(len(source)):
        out[i] = _stochastic64(source[i], first + i, seed, random_bits, to)


@kernel
def encode32_nearest(source: Array, to: Rounding, out: Array) -> None:
    """As `encode32` in RNE, with the shifts of the normal range fixed, for formats with zero and emin >= -126.

    Below the normal range the processor's own addition rounds: the last bit of 2^(emin - t + 23) weighs as much as the target's
    smallest subnormal, so adding that number to |x| leaves the code in the sum's low bits.
    """
    one, sign_bit, magnitude_mask, infinite = np.uint32(1), np.uint32(31), np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
    trailing = np.uint32(to.trailing)
    cut = np.uint32(np.uint32(23) - trailing) & sign_bit
    half = np.uint32(np.uint32(np.uint32(one << cut) >> one) - one)
    least_normal = np.uint32(np.uint32(to.least_exponent) << np.uint32(23))
    rebias = np.uint32(np.uint32(to.least_exponent - np.int32(1)) << trailing)
    magic = np.uint32(np.uint32(np.uint32(to.least_exponent) + cut) << np.uint32(23))
    addend = magic.view(np.float32)
    largest, overflow, negative_overflow = (
        np.uint32(to.largest),
        np.uint32(to.overflow),
        np.uint32(to.negative_overflow),
    )
    nan, negative_zero, sign, smallest = (
        np.uint32(to.nan),
        np.uint32(to.minus_zero),
        np.uint32(to.negative),
        np.uint32(to.least_normal),
    )
    has_sign = to.sign != np.int32(0)
    for i in range(len(source)):
        magnitude = np.uint32(source[i] & magnitude_mask)
        last = np.uint32(np.uint32(magnitude >> cut) & one)
        normal = np.uint32(np.uint32(np.uint32(np.uint32(magnitude + half) + last) >> cut) - rebias)
        below = np.uint32(np.float32(magnitude.view(np.float32) + addend).view(np.uint32) - magic)
        code = normal if magnitude >= least_normal else below
        too_large = code > largest
        code = np.uint32(0) if code < smallest else code
        negative = source[i] > magnitude_mask
        signed = np.uint32(code | sign) if code != np.uint32(0) else negative_zero
        result = signed if negative else code
        beyond = negative_overflow if negative else overflow
        result = beyond if too_large else result
        result = nan if magnitude > infinite or (negative and not has_sign and magnitude != np.uint32(0)) else result
        out[i] = result


@kernel
def encode32_symmetric(source: Array, to: Rounding, out: Array) -> None:
    """As `encode32_nearest` without flushing, for formats whose negative codes are the positive ones with a sign bit."""
    one, sign_bit, magnitude_mask, infinite = np.uint32(1), np.uint32(31), np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
    trailing = np.uint32(to.trailing)
    cut = np.uint32(np.uint32(23) - trailing) & sign_bit
    half = np.uint32(np.uint32(np.uint32(one << cut) >> one) - one)
    least_normal = np.uint32(np.uint32(to.least_exponent) << np.uint32(23))
    rebias = np.uint32(np.uint32(to.least_exponent - np.int32(1)) << trailing)
    magic = np.uint32(np.uint32(np.uint32(to.least_exponent) + cut) << np.uint32(23))
    addend = magic.view(np.float32)
    overflow, nan, sign = np.uint32(to.overflow), np.uint32(to.nan), np.uint32(to.sign)
    for i in range(len(source)):
        magnitude = np.uint32(source[i] & magnitude_mask)
        last = np.uint32(np.uint32(magnitude >> cut) & one)
        normal = np.uint32(np.uint32(np.uint32(np.uint32(magnitude + half) + last) >> cut) - rebias)
        below = np.uint32(np.float32(magnitude.view(np.float32) + addend).view(np.uint32) - magic)
        code = normal if magnitude >= least_normal else below
        code = min(overflow, code)
        code = np.uint32(code | (sign if source[i] > magnitude_mask else np.uint32(0)))
        out[i] = nan if magnitude > infinite else code


@kernel
def gather(codes: Array, table: Array, out: Array) -> None:
    """Look codes up in a table of values."""
    for i in range(len(codes)):
        out[i] = table[codes[i]]


__all__ = [
    "Rounding",
    "encode32",
    "encode32_nearest",
    "encode32_stochastic",
    "encode32_symmetric",
    "encode64",
    "encode64_stochastic",
    "gather",
    "rounding_of",
]
