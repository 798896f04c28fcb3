"""Arithmetic of binary32 and binary64."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import FLOATS, splat
from precalign.gpu.ptx.compiled.translate.table import Translation, same, translation

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.compiled.code import Code
    from precalign.gpu.ptx.operations.registry import Modifiers
    from precalign.gpu.ptx.scalars import Scalar

MODES = {"rn": 0, "rz": 1, "rm": 2, "rp": 3}
NAN = {16: 0x7FFF, 32: 0x7FFFFFFF, 64: 0x7FF8000000000000}
_INFINITY = {16: 0x7C00, 32: 0x7F800000, 64: 0x7FF0000000000000}
_SMALLEST_NORMAL = {16: 0x0400, 32: 0x00800000, 64: 0x0010000000000000}
_ONE = {16: 0x3C00, 32: 0x3F800000, 64: 0x3FF0000000000000}


def magnitude(c: Code, bits: int, code: str) -> str:
    """Clear the sign."""
    return c.binary("and", f"i{bits}", code, splat(f"i{bits}", (1 << (bits - 1)) - 1))


def is_nan(c: Code, bits: int, code: str) -> str:
    """Tell NaN by the code: beyond infinity."""
    return c.compare("ugt", f"i{bits}", magnitude(c, bits, code), splat(f"i{bits}", _INFINITY[bits]))


def canonical(c: Code, bits: int, code: str) -> str:
    """Replace NaN by the canonical one."""
    return c.select(is_nan(c, bits, code), f"i{bits}", splat(f"i{bits}", NAN[bits]), code)


def flush(c: Code, bits: int, code: str) -> str:
    """Replace subnormal numbers by zeros of their sign."""
    word = f"i{bits}"
    tiny = c.compare("ult", word, magnitude(c, bits, code), splat(word, _SMALLEST_NORMAL[bits]))
    sign = c.binary("and", word, code, splat(word, 1 << (bits - 1)))
    return c.select(tiny, word, sign, code)


def saturate(c: Code, bits: int, code: str) -> str:
    """Clamp to [+0, 1]; NaN and what is negative become +0. Positive codes are ordered as their numbers are."""
    word = f"i{bits}"
    low = c.intrinsic("llvm.umin", word, code, splat(word, _ONE[bits]))
    nothing = c.binary("or", "i1", c.compare("slt", word, code, splat(word, 0)), is_nan(c, bits, code))
    return c.select(nothing, word, splat(word, 0), low)


def finished(m: Modifiers, scalar: Scalar, n_sources: int, write: Callable[..., str], model: str = "") -> Translation:
    """Wrap a function of codes with .ftz, .sat and the canonical NaN, as the modifiers say."""
    ftz, sat, bits = m.flag("ftz"), m.flag("sat"), scalar.bits
    if bits == 64 and (ftz or sat):
        raise m.refuse(".ftz or .sat of f64")

    def whole(c: Code, *sources: str) -> str:
        given = [flush(c, bits, s) for s in sources] if ftz else list(sources)
        result = canonical(c, bits, write(c, *given))
        if ftz:
            result = flush(c, bits, result)
        return saturate(c, bits, result) if sat else result

    return Translation((scalar,), (scalar,) * n_sources, whole, model=model)


def on_numbers(bits: int, operation: str) -> Callable[..., str]:
    """Return a function of codes for an IR operation on numbers."""

    def write(c: Code, *sources: str) -> str:
        numbers = [c.number(bits, s) for s in sources]
        if operation.startswith("llvm."):
            return c.codes(bits, c.intrinsic(operation, FLOATS[bits], *numbers))
        return c.codes(bits, c.binary(operation, FLOATS[bits], *numbers))

    return write


def _directed(name: str, mode: str) -> Callable[..., str]:
    return lambda c, *s: c.scalar_call(
        f"f32_{name}", "i32", *(("i32", x) for x in s), ("i32", splat("i32", MODES[mode]))
    )


def _half_of(m: Modifiers) -> Translation:
    from precalign.gpu.ptx.compiled.translate import halves

    return halves.half(m)


@translation("add sub mul", "f")
def _add(m: Modifiers) -> Translation:
    if m.rest[-1] in ("f16", "bf16"):
        return _half_of(m)
    mode, scalar = m.take(*MODES, default="rn"), m.scalar("f32", "f64")
    if mode == "rn":
        return finished(m, scalar, 2, on_numbers(scalar.bits, f"f{m.name}"))
    if scalar.bits == 64:
        raise m.refuse(f".{mode} of f64")
    return finished(m, scalar, 2, _directed(m.name, mode))


@translation("fma mad", "f")
def _fma(m: Modifiers) -> Translation:
    if m.rest[-1] in ("f16", "bf16"):
        return _half_of(m)
    mode, scalar = m.take(*MODES), m.scalar("f32", "f64")
    if not mode:
        raise m.refuse("a fused multiply-add without rounding")
    if mode == "rn":
        return finished(m, scalar, 3, on_numbers(scalar.bits, "llvm.fma"))
    if scalar.bits == 64:
        raise m.refuse(f".{mode} of f64")
    return finished(m, scalar, 3, _directed("fma", mode))


def _nearest(m: Modifiers) -> Scalar:
    mode = m.take(*MODES)
    if mode != "rn":
        raise m.refuse(f".{mode or 'no rounding'}")
    return m.scalar("f32", "f64")


@translation("div", "f")
def _div(m: Modifiers) -> Translation:
    if kind := m.take("approx", "full"):
        model = f"div.{kind}: the correctly rounded quotient"
        return finished(m, m.scalar("f32"), 2, on_numbers(32, "fdiv"), model)
    scalar = _nearest(m)
    return finished(m, scalar, 2, on_numbers(scalar.bits, "fdiv"))


@translation("sqrt", "f")
def _sqrt(m: Modifiers) -> Translation:
    if m.flag("approx"):
        return approximate(m)
    scalar = _nearest(m)
    return finished(m, scalar, 1, on_numbers(scalar.bits, "llvm.sqrt"))


@translation("rcp", "f")
def _rcp(m: Modifiers) -> Translation:
    if m.flag("approx"):
        return approximate(m)
    scalar = _nearest(m)
    one, divide = splat(f"i{scalar.bits}", _ONE[scalar.bits]), on_numbers(scalar.bits, "fdiv")
    return finished(m, scalar, 1, lambda c, a: divide(c, one, a))


def approximate(m: Modifiers) -> Translation:
    """Return the stated model of an approximate function: that of binary64, rounded to nearest."""
    name = m.name
    model = f"{name} of binary64, rounded to nearest"
    return finished(m, m.scalar("f32"), 1, lambda c, a: c.scalar_call(f"f32_{name}", "i32", ("i32", a)), model)


@translation("ex2 lg2 rsqrt sin cos tanh", "f")
def _approximate(m: Modifiers) -> Translation:
    if not m.flag("approx") and m.name != "tanh":
        raise m.refuse("this function without .approx")
    return approximate(m)


@translation("abs neg", "f")
def _sign(m: Modifiers) -> Translation:
    if m.rest[-1] in ("f16", "bf16"):
        return _half_of(m)
    ftz, scalar, name = m.flag("ftz"), m.scalar("f32", "f64"), m.name

    def write(c: Code, a: str) -> str:
        return sign(c, scalar.bits, name, flush(c, scalar.bits, a) if ftz else a)

    return same(scalar, 1, write)


def sign(c: Code, bits: int, name: str, code: str) -> str:
    """Clear the sign bit (abs) or turn it (neg)."""
    if name == "abs":
        return magnitude(c, bits, code)
    return c.binary("xor", f"i{bits}", code, splat(f"i{bits}", 1 << (bits - 1)))


def extreme(c: Code, bits: int, name: str, a: str, b: str, *, propagate: bool) -> str:
    """Return the larger or smaller of two numbers by their codes: made monotonic, -0 is below +0 by itself."""
    word = f"i{bits}"

    def key(code: str) -> str:  # an integer with the numbers' order
        negative = c.binary("ashr", word, code, splat(word, bits - 1))
        return c.binary("xor", word, code, c.binary("lshr", word, negative, splat(word, 1)))

    first_wins = c.compare("sgt" if name == "max" else "slt", word, key(a), key(b))
    result = c.select(first_wins, word, a, b)
    nan_a, nan_b = is_nan(c, bits, a), is_nan(c, bits, b)
    if propagate:
        return c.select(c.binary("or", "i1", nan_a, nan_b), word, splat(word, NAN[bits]), result)
    return c.select(nan_a, word, b, c.select(nan_b, word, a, result))


@translation("max min", "f")
def _extreme(m: Modifiers) -> Translation:
    if m.rest[-1] in ("f16", "bf16"):
        return _half_of(m)
    propagate, scalar, name = m.flag("NaN"), m.scalar("f32", "f64"), m.name
    return finished(m, scalar, 2, lambda c, a, b: extreme(c, scalar.bits, name, a, b, propagate=propagate))


@translation("copysign", "f")
def _copysign(m: Modifiers) -> Translation:
    scalar = m.scalar("f32", "f64")
    word, top = f"i{scalar.bits}", 1 << (scalar.bits - 1)

    def write(c: Code, a: str, b: str) -> str:
        return c.binary("or", word, c.binary("and", word, a, splat(word, top)), magnitude(c, scalar.bits, b))

    return same(scalar, 2, write)
