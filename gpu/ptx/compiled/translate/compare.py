"""Comparisons: setp, set, slct."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import FLOATS, splat
from precalign.gpu.ptx.compiled.translate import floats
from precalign.gpu.ptx.compiled.translate.halves import widen_bf16, widen_f16
from precalign.gpu.ptx.compiled.translate.table import Translation, translation
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.compiled.code import Code
    from precalign.gpu.ptx.operations.registry import Modifiers
    from precalign.gpu.ptx.scalars import Scalar

_PRED = SCALARS["pred"]
_ORDERED = ("eq", "ne", "lt", "le", "gt", "ge")
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_UNORDERED = tuple(f"{name}u" for name in _ORDERED)
_TRUE = {"f32": 0x3F800000, "f16": 0x3C00}


def _condition(m: Modifiers, scalar: Scalar) -> Callable[[Code, str, str], str]:
    name, ftz = m.take(*_ORDERED, *_UNSIGNED, *_UNORDERED, "num", "nan"), m.flag("ftz")
    if not name:
        raise m.refuse("a missing comparison")
    if scalar.kind == "f":
        if name in _UNSIGNED or (ftz and scalar.bits == 64):
            raise m.refuse(f"comparison {name}")
        return _of_numbers(scalar, name, ftz=ftz)
    base = _UNSIGNED[name] if name in _UNSIGNED and scalar.kind == "u" else name
    if base not in (_ORDERED if scalar.kind != "b" else ("eq", "ne")) or ftz:
        raise m.refuse(f"comparison {name}")
    condition = base if base in ("eq", "ne") else f"{scalar.kind}{base}"
    return lambda c, a, b: c.compare(condition, f"i{scalar.bits}", a, b)


def _of_numbers(scalar: Scalar, name: str, *, ftz: bool) -> Callable[[Code, str, str], str]:
    condition = {"num": "ord", "nan": "uno"}.get(name) or (f"u{name[:2]}" if name in _UNORDERED else f"o{name}")

    def number(c: Code, code: str) -> tuple[str, str]:
        if ftz and scalar.name != "bf16":
            code = floats.flush(c, scalar.bits, code)
        if scalar.bits != 16:
            return FLOATS[scalar.bits], c.number(scalar.bits, code)
        return "float", c.number(32, widen_bf16(c, code) if scalar.name == "bf16" else widen_f16(c, code))

    def write(c: Code, a: str, b: str) -> str:
        kind, left = number(c, a)
        return c.compare(condition, kind, left, number(c, b)[1])

    return write


@translation("setp", "b u s f")
def _setp(m: Modifiers) -> Translation:
    """Write the comparison and its complement, each combined with a third operand where the opcode says so."""
    scalar, combine = m.scalar(), m.take("and", "or", "xor")
    condition = _condition(m, scalar)

    def write(c: Code, a: str, b: str, third: str = "") -> tuple[str, str]:
        truth = condition(c, a, b)
        complement = c.binary("xor", "i1", truth, splat("i1", 1))
        if not combine:
            return truth, complement
        return c.binary(combine, "i1", truth, third), c.binary(combine, "i1", complement, third)

    return Translation((_PRED, _PRED), (scalar, scalar, _PRED)[: 3 if combine else 2], write)


@translation("set", "b u s f")
def _set(m: Modifiers) -> Translation:
    scalar, result = m.scalar(), m.scalar("u32", "s32", "f32", "f16", "u16", "s16")
    combine = m.take("and", "or", "xor")
    condition = _condition(m, scalar)
    word = f"i{result.bits}"

    def write(c: Code, a: str, b: str, third: str = "") -> str:
        truth = condition(c, a, b)
        if combine:
            truth = c.binary(combine, "i1", truth, third)
        return c.select(truth, word, splat(word, _TRUE.get(result.name, -1)), splat(word, 0))

    return Translation((result,), (scalar, scalar, _PRED)[: 3 if combine else 2], write)


@translation("slct", "s f")
def _slct(m: Modifiers) -> Translation:
    condition = m.scalar("s32", "f32")
    scalar, ftz = m.scalar(*(k + b for k in "busf" for b in ("16", "32", "64"))), m.flag("ftz")
    if ftz and condition.kind != "f":
        raise m.refuse(".ftz of an integer condition")

    def write(c: Code, a: str, b: str, chooser: str) -> str:
        if condition.kind == "s":
            truth = c.compare("sge", "i32", chooser, splat("i32", 0))
        else:
            number = c.number(32, floats.flush(c, 32, chooser) if ftz else chooser)
            truth = c.compare("oge", "float", number, "zeroinitializer")
        return c.select(truth, f"i{scalar.bits}", a, b)

    return Translation((scalar,), (scalar, scalar, condition), write)
