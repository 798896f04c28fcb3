"""Integer arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import splat
from precalign.gpu.ptx.compiled.translate.table import Translation, same, translation
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from precalign.gpu.ptx.compiled.code import Code
    from precalign.gpu.ptx.operations.registry import Modifiers
    from precalign.gpu.ptx.scalars import Scalar

_TYPES = ("u16", "u32", "u64", "s16", "s32", "s64")


@translation("add sub", "u s")
def _add(m: Modifiers) -> Translation:
    scalar, name = m.scalar(*_TYPES), m.name
    if not m.flag("sat"):
        return same(scalar, 2, lambda c, a, b: c.binary(name, f"i{scalar.bits}", a, b))
    if scalar.name != "s32":
        raise m.refuse(".sat of this type")
    return same(scalar, 2, lambda c, a, b: c.intrinsic(f"llvm.s{name}.sat", "i32", a, b))


def _extended(c: Code, scalar: Scalar, value: str) -> str:
    return c.cast("sext" if scalar.kind == "s" else "zext", f"i{scalar.bits}", value, f"i{2 * scalar.bits}")


def _product(c: Code, scalar: Scalar, part: str, a: str, b: str) -> str:
    word, double = f"i{scalar.bits}", f"i{2 * scalar.bits}"
    if part == "lo":
        return c.binary("mul", word, a, b)
    product = c.binary("mul", double, _extended(c, scalar, a), _extended(c, scalar, b))
    if part == "wide":
        return product
    return c.cast("trunc", double, c.binary("lshr", double, product, splat(double, scalar.bits)), word)


def _part(m: Modifiers, scalar: Scalar) -> tuple[str, Scalar]:
    part = m.take("lo", "hi", "wide")
    if not part or (part == "wide" and scalar.bits == 64):
        raise m.refuse("a product without .lo, .hi or .wide")
    return part, SCALARS[f"{scalar.kind}{2 * scalar.bits}"] if part == "wide" else scalar


@translation("mul", "u s")
def _mul(m: Modifiers) -> Translation:
    scalar = m.scalar(*_TYPES)
    part, result = _part(m, scalar)
    return Translation((result,), (scalar, scalar), lambda c, a, b: _product(c, scalar, part, a, b))


@translation("mad", "u s")
def _mad(m: Modifiers) -> Translation:
    scalar = m.scalar(*_TYPES)
    part, result = _part(m, scalar)

    def write(c: Code, a: str, b: str, addend: str) -> str:
        return c.binary("add", f"i{result.bits}", _product(c, scalar, part, a, b), addend)

    return Translation((result,), (scalar, scalar, result), write)


@translation("mul24", "u s")
def _mul24(m: Modifiers) -> Translation:
    scalar = m.scalar("u32", "s32")
    if m.take("lo", "hi") != "lo":
        raise m.refuse(".hi")
    shift = "ashr" if scalar.kind == "s" else "lshr"

    def cut(c: Code, value: str) -> str:
        return c.binary(shift, "i32", c.binary("shl", "i32", value, splat("i32", 8)), splat("i32", 8))

    return same(scalar, 2, lambda c, a, b: c.binary("mul", "i32", cut(c, a), cut(c, b)))


@translation("div rem", "u s")
def _div(m: Modifiers) -> Translation:
    """Write a division that is safe in every lane: no divisor 0, and no -2^(n-1) by -1."""
    scalar, name = m.scalar(*_TYPES), m.name
    word, signed = f"i{scalar.bits}", scalar.kind == "s"

    def write(c: Code, a: str, b: str) -> str:
        by_zero = c.compare("eq", word, b, splat(word, 0))
        divisor = c.select(by_zero, word, splat(word, 1), b)
        if not signed:
            result = c.binary(f"u{name}", word, a, divisor)
        else:
            minus = c.compare("eq", word, b, splat(word, -1))
            quotient = c.binary(f"s{name}", word, a, c.select(minus, word, splat(word, 1), divisor))
            negated = c.binary("sub", word, splat(word, 0), a) if name == "div" else splat(word, 0)
            result = c.select(minus, word, negated, quotient)
        return c.select(by_zero, word, splat(word, -1) if name == "div" else a, result)

    return same(scalar, 2, write)


@translation("abs", "s")
def _abs(m: Modifiers) -> Translation:
    scalar = m.scalar("s16", "s32", "s64")
    return same(scalar, 1, lambda c, a: c.intrinsic("llvm.abs", f"i{scalar.bits}", a, flag="false"))


@translation("neg", "s")
def _neg(m: Modifiers) -> Translation:
    scalar = m.scalar("s16", "s32", "s64")
    word = f"i{scalar.bits}"
    return same(scalar, 1, lambda c, a: c.binary("sub", word, splat(word, 0), a))


@translation("min max", "u s")
def _extreme(m: Modifiers) -> Translation:
    scalar, name = m.scalar(*_TYPES), m.name
    full = f"llvm.{scalar.kind}{name}"
    return same(scalar, 2, lambda c, a, b: c.intrinsic(full, f"i{scalar.bits}", a, b))


@translation("sad", "u s")
def _sad(m: Modifiers) -> Translation:
    scalar = m.scalar(*_TYPES)
    word, kind = f"i{scalar.bits}", scalar.kind

    def write(c: Code, a: str, b: str, addend: str) -> str:
        large, small = (c.intrinsic(f"llvm.{kind}{which}", word, a, b) for which in ("max", "min"))
        return c.binary("add", word, c.binary("sub", word, large, small), addend)

    return same(scalar, 3, write)
