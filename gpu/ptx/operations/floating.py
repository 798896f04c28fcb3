"""Arithmetic of binary32 and binary64: IEEE, every rounding mode, subnormals kept unless .ftz."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.ptx.operations import rounding
from precalign.gpu.ptx.operations.registry import Modifiers, Operation, operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.scalars import Scalar

Array = Any
MODES = ("rn", "rz", "rm", "rp")


def finished(m: Modifiers, scalar: Scalar, n_sources: int, function: Callable[..., Array]) -> Operation:
    """Wrap a function with .ftz, .sat and the canonical NaN, as the modifiers say."""
    ftz, sat = m.flag("ftz"), m.flag("sat")
    if (ftz or sat) and scalar.bits == 64:
        raise m.refuse(".ftz or .sat of f64")

    def whole(*sources: Array) -> Array:
        given = tuple(rounding.flush(s) for s in sources) if ftz else sources
        result = rounding.canonical(function(*given))
        if ftz:
            result = rounding.flush(result)
        return rounding.saturate(result) if sat else result

    return Operation((scalar,), (scalar,) * n_sources, whole)


def _with_modes(m: Modifiers, nearest: Callable[..., Array], directed: Callable[..., Array], n: int) -> Operation:
    mode = m.take(*MODES, default="rn")
    scalar = m.scalar("f32", "f64")
    if mode == "rn":
        return finished(m, scalar, n, nearest)
    if scalar.bits == 64:
        raise m.refuse(f".{mode} of f64")
    return finished(m, scalar, n, lambda *s: directed(*(x.astype(np.float64) for x in s), mode))


@operation("add", "f")
def _add(m: Modifiers) -> Operation:
    if m.rest[-1] in ("f16", "bf16"):
        return _half_of(m)
    return _with_modes(m, np.add, lambda a, b, mode: rounding.fma(a, np.float64(1), b, np.float32, mode), 2)


@operation("sub", "f")
def _sub(m: Modifiers) -> Operation:
    if m.rest[-1] in ("f16", "bf16"):
        return _half_of(m)
    return _with_modes(m, np.subtract, lambda a, b, mode: rounding.fma(a, np.float64(1), -b, np.float32, mode), 2)


@operation("mul", "f")
def _mul(m: Modifiers) -> Operation:
    if m.rest[-1] in ("f16", "bf16"):
        return _half_of(m)
    return _with_modes(m, np.multiply, lambda a, b, mode: rounding.round_odd(a * b, np.float32, mode), 2)


def _half_of(m: Modifiers) -> Operation:
    from precalign.gpu.ptx.operations import half

    return half.resolve_half(m)


@operation("fma", "f")
@operation("mad", "f")
def _fma(m: Modifiers) -> Operation:
    if m.rest[-1] in ("f16", "bf16"):
        return _half_of(m)
    mode = m.take(*MODES)
    if not mode:
        raise m.refuse("a fused multiply-add without rounding")
    scalar = m.scalar("f32", "f64")
    if scalar.bits == 64:
        if mode != "rn":
            raise m.refuse(f".{mode} of f64")
        return finished(m, scalar, 3, _fma64)
    return finished(m, scalar, 3, lambda a, b, c: _fma32(a, b, c, mode))


def _fma32(a: Array, b: Array, c: Array, mode: str) -> Array:
    if mode == "rn":
        result = np.empty(max(a.size, b.size, c.size), np.float32)
        rounding.fma32(a, b, c, result)
        return result
    wide = np.float64
    return rounding.fma(a.astype(wide), b.astype(wide), c.astype(wide), np.float32, mode)


def _fma_exact(a: float, b: float, c: float) -> float:
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):  # a product that overflows is finite all the same
        return c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if not exact:
        return a * b + c
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


_fma64_objects = np.frompyfunc(_fma_exact, 3, 1)


def _fma64(a: Array, b: Array, c: Array) -> Array:
    return np.asarray(_fma64_objects(a, b, c), np.float64)


def _nearest_only(m: Modifiers, n_sources: int, function: Callable[..., Array]) -> Operation:
    mode = m.take(*MODES)
    if mode != "rn":
        raise m.refuse(f".{mode or 'no rounding'}")
    return finished(m, m.scalar("f32", "f64"), n_sources, function)


@operation("div", "f")
def _div(m: Modifiers) -> Operation:
    if approximate := m.take("approx", "full"):
        from precalign.gpu.ptx.operations.approximate import division

        return division(m, approximate)
    return _nearest_only(m, 2, np.divide)


@operation("sqrt", "f")
def _sqrt(m: Modifiers) -> Operation:
    if m.flag("approx"):
        from precalign.gpu.ptx.operations.approximate import unary

        return unary(m, "sqrt")
    return _nearest_only(m, 1, np.sqrt)


@operation("rcp", "f")
def _rcp(m: Modifiers) -> Operation:
    if m.flag("approx"):
        from precalign.gpu.ptx.operations.approximate import unary

        return unary(m, "rcp")
    return _nearest_only(m, 1, lambda a: a.dtype.type(1) / a)


def _sign_operation(name: str, function: Callable[[Array, Array], Array]) -> None:
    @operation(name, "f")
    def resolver(m: Modifiers) -> Operation:
        if m.rest[-1] in ("f16", "bf16"):
            return _half_of(m)
        ftz, scalar = m.flag("ftz"), m.scalar("f32", "f64")
        sign = scalar.storage.type(1 << (scalar.bits - 1))

        def apply(a: Array) -> Array:
            given = rounding.flush(a) if ftz else a
            return function(given.view(scalar.storage), sign).view(scalar.dtype)

        return Operation((scalar,), (scalar,), apply)


_sign_operation("abs", lambda word, sign: word & ~sign)
_sign_operation("neg", lambda word, sign: word ^ sign)


def maximum(a: Array, b: Array) -> Array:
    """Return the larger; a NaN gives the other operand, and +0 is larger than -0."""
    return _with_specials(np.fmax(a, b), a, b, np.bitwise_and)


def minimum(a: Array, b: Array) -> Array:
    """Return the smaller; a NaN gives the other operand, and -0 is smaller than +0."""
    return _with_specials(np.fmin(a, b), a, b, np.bitwise_or)


def _with_specials(result: Array, a: Array, b: Array, combine: Callable[..., Array]) -> Array:
    zeros = (a == 0) & (b == 0)
    if zeros.any():
        word = f"u{result.itemsize}"
        result = np.where(zeros, combine(a.view(word), b.view(word)).view(result.dtype), result)
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    if nan_a.any() or nan_b.any():  # of a signalling NaN, NumPy makes NaN whatever the other operand
        result = np.where(nan_a, b, np.where(nan_b, a, result))
    return result


def _extreme(name: str, function: Callable[[Array, Array], Array]) -> None:
    @operation(name, "f")
    def resolver(m: Modifiers) -> Operation:
        if m.rest[-1] in ("f16", "bf16"):
            return _half_of(m)
        propagate = m.flag("NaN")
        scalar = m.scalar("f32", "f64")

        def extreme(a: Array, b: Array) -> Array:
            result = function(a, b)
            return np.where(np.isnan(a) | np.isnan(b), result.dtype.type(np.nan), result) if propagate else result

        return finished(m, scalar, 2, extreme)


_extreme("max", maximum)
_extreme("min", minimum)


@operation("copysign", "f")
def _copysign(m: Modifiers) -> Operation:
    scalar = m.scalar("f32", "f64")
    return Operation((scalar,), (scalar, scalar), lambda a, b: np.copysign(b, a))
