"""Scalar functions that generated code calls once for each lane, compiled when first wanted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.ptx.compiled.runtime.raw import int32, int64, uint16, uint32, uint64
from precalign.gpu.ptx.compiled.runtime.rounding import DOWN, NEAREST, U64, round_integer, round_sum, two_sum
from precalign.jit import Array, inline, reinterpret

if TYPE_CHECKING:
    from collections.abc import Callable

# precision, exponent of the last place of subnormal numbers, codes of infinity and of -0
BINARY32 = (24, -149, U64(0x7F800000), U64(0x80000000))
BINARY16 = (11, -24, U64(0x7C00), U64(0x8000))
BFLOAT16 = (8, -133, U64(0x7F80), U64(0x8000))

FUNCTIONS: dict[str, tuple[Any, Callable[..., Any]]] = {}
"""name -> (numba signature, function)."""
_U16, _U32, _U64, _I32, _I64 = uint16, uint32, uint64, int32, int64


def _function(signature: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - a numba signature
    def register(function: Any) -> Any:  # noqa: ANN401 - returned as it came
        FUNCTIONS[function.__name__] = (signature, function)
        return function

    return register


@inline
def single(code: Array) -> Array:
    """Return the number of a binary32 code as binary64."""
    return np.float64(reinterpret(np.int32(code)))


@inline
def half(code: Array) -> Array:
    """Return the number of a binary16 code as binary64: significand times a power of two."""
    field: Array = np.int64(code >> 10) & 31
    fraction = np.float64(code & 0x3FF)
    if field == 31:
        number = np.inf if fraction == 0 else np.nan
    elif field == 0:
        number = math.ldexp(fraction, -24)
    else:
        number = math.ldexp(fraction + 1024.0, field - 25)
    return -number if code & 0x8000 else number


@inline
def brain(code: Array) -> Array:
    """Return the number of a bfloat16 code as binary64."""
    return single(np.uint32(code) << np.uint32(16))


@inline
def fused(product: Array, addend: Array, mode: Array, form: Array) -> Array:
    """Return the code of product + addend; the product is exact."""
    high, low = two_sum(product, addend)
    if not math.isfinite(high):
        low = 0.0
    if high == 0 and mode == DOWN and math.copysign(1.0, product) != math.copysign(1.0, addend):
        high = -0.0
    return round_sum(high, low, mode, form[0], form[1], form[2], form[3])


@_function(_U32(_U32, _U32, _I32))
def f32_add(a: Array, b: Array, mode: Array) -> Array:  # noqa: D103
    return np.uint32(fused(single(a), single(b), mode, BINARY32))


@_function(_U32(_U32, _U32, _I32))
def f32_sub(a: Array, b: Array, mode: Array) -> Array:  # noqa: D103
    return np.uint32(fused(single(a), -single(b), mode, BINARY32))


@_function(_U32(_U32, _U32, _I32))
def f32_mul(a: Array, b: Array, mode: Array) -> Array:  # noqa: D103
    product = single(a) * single(b)
    return np.uint32(round_sum(product, 0.0, mode, BINARY32[0], BINARY32[1], BINARY32[2], BINARY32[3]))


@_function(_U32(_U32, _U32, _U32, _I32))
def f32_fma(a: Array, b: Array, c: Array, mode: Array) -> Array:  # noqa: D103
    return np.uint32(fused(single(a) * single(b), single(c), mode, BINARY32))


@_function(_U16(_U16, _U16))
def f16_add(a: Array, b: Array) -> Array:  # noqa: D103
    return np.uint16(fused(half(a), half(b), NEAREST, BINARY16))


@_function(_U16(_U16, _U16))
def f16_sub(a: Array, b: Array) -> Array:  # noqa: D103
    return np.uint16(fused(half(a), -half(b), NEAREST, BINARY16))


@_function(_U16(_U16, _U16))
def f16_mul(a: Array, b: Array) -> Array:  # noqa: D103
    return np.uint16(fused(half(a) * half(b), -0.0, NEAREST, BINARY16))


@_function(_U16(_U16, _U16, _U16))
def f16_fma(a: Array, b: Array, c: Array) -> Array:  # noqa: D103
    return np.uint16(fused(half(a) * half(b), half(c), NEAREST, BINARY16))


@_function(_U16(_U16, _U16))
def bf16_add(a: Array, b: Array) -> Array:  # noqa: D103
    return np.uint16(fused(brain(a), brain(b), NEAREST, BFLOAT16))


@_function(_U16(_U16, _U16))
def bf16_sub(a: Array, b: Array) -> Array:  # noqa: D103
    return np.uint16(fused(brain(a), -brain(b), NEAREST, BFLOAT16))


@_function(_U16(_U16, _U16))
def bf16_mul(a: Array, b: Array) -> Array:  # noqa: D103
    return np.uint16(fused(brain(a) * brain(b), -0.0, NEAREST, BFLOAT16))


@_function(_U16(_U16, _U16, _U16))
def bf16_fma(a: Array, b: Array, c: Array) -> Array:  # noqa: D103
    return np.uint16(fused(brain(a) * brain(b), brain(c), NEAREST, BFLOAT16))


@_function(_U32(_U64, _I32))
def f32_of_f64(code: Array, mode: Array) -> Array:  # noqa: D103
    number = reinterpret(np.int64(code))
    return np.uint32(round_sum(number, 0.0, mode, BINARY32[0], BINARY32[1], BINARY32[2], BINARY32[3]))


@_function(_U16(_U64, _I32))
def f16_of_f64(code: Array, mode: Array) -> Array:  # noqa: D103
    number = reinterpret(np.int64(code))
    return np.uint16(round_sum(number, 0.0, mode, BINARY16[0], BINARY16[1], BINARY16[2], BINARY16[3]))


@_function(_U16(_U64, _I32))
def bf16_of_f64(code: Array, mode: Array) -> Array:  # noqa: D103
    number = reinterpret(np.int64(code))
    return np.uint16(round_sum(number, 0.0, mode, BFLOAT16[0], BFLOAT16[1], BFLOAT16[2], BFLOAT16[3]))


@_function(_U32(_U64, _I32))
def f32_of_u64(integer: Array, mode: Array) -> Array:  # noqa: D103
    return np.uint32(round_integer(integer, False, mode, BINARY32[0], BINARY32[1], BINARY32[2], BINARY32[3]))  # noqa: FBT003


@_function(_U32(_I64, _I32))
def f32_of_s64(integer: Array, mode: Array) -> Array:  # noqa: D103
    magnitude = U64(0) - U64(integer) if integer < 0 else U64(integer)
    return np.uint32(round_integer(magnitude, integer < 0, mode, BINARY32[0], BINARY32[1], BINARY32[2], BINARY32[3]))


@_function(_U16(_U64, _I32))
def f16_of_u64(integer: Array, mode: Array) -> Array:  # noqa: D103
    return np.uint16(round_integer(integer, False, mode, BINARY16[0], BINARY16[1], BINARY16[2], BINARY16[3]))  # noqa: FBT003


@_function(_U16(_I64, _I32))
def f16_of_s64(integer: Array, mode: Array) -> Array:  # noqa: D103
    magnitude = U64(0) - U64(integer) if integer < 0 else U64(integer)
    return np.uint16(round_integer(magnitude, integer < 0, mode, BINARY16[0], BINARY16[1], BINARY16[2], BINARY16[3]))


@inline
def to_single(number: Array) -> Array:
    """Return the binary32 code of a binary64 number, rounded to nearest."""
    return np.uint32(reinterpret(np.float32(number)))


@_function(_U32(_U32))
def f32_ex2(a: Array) -> Array:  # noqa: D103
    return to_single(math.pow(2.0, single(a)))


@_function(_U32(_U32))
def f32_lg2(a: Array) -> Array:  # noqa: D103
    number = single(a)
    return to_single(math.log2(number) if number > 0 else -np.inf if number == 0 else np.nan)


@_function(_U32(_U32))
def f32_rcp(a: Array) -> Array:  # noqa: D103
    number = single(a)
    return to_single(1.0 / number if number != 0 else math.copysign(np.inf, number))


@_function(_U32(_U32))
def f32_sqrt(a: Array) -> Array:  # noqa: D103
    number = single(a)
    return to_single(math.sqrt(number) if number >= 0 else np.nan)


@_function(_U32(_U32))
def f32_rsqrt(a: Array) -> Array:  # noqa: D103
    number = single(a)
    if number == 0:
        return to_single(math.copysign(np.inf, number))
    return to_single(1.0 / math.sqrt(number) if number > 0 else np.nan)


@_function(_U32(_U32))
def f32_sin(a: Array) -> Array:  # noqa: D103
    return to_single(math.sin(single(a)))


@_function(_U32(_U32))
def f32_cos(a: Array) -> Array:  # noqa: D103
    return to_single(math.cos(single(a)))


@_function(_U32(_U32))
def f32_tanh(a: Array) -> Array:  # noqa: D103
    return to_single(math.tanh(single(a)))
