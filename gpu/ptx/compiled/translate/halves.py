"""Arithmetic of binary16 and bfloat16, single and packed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import splat
from precalign.gpu.ptx.compiled.translate import floats
from precalign.gpu.ptx.compiled.translate.table import Translation, same, translation

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.compiled.code import Code
    from precalign.gpu.ptx.operations.registry import Modifiers

_N_SOURCES = {"add": 2, "sub": 2, "mul": 2, "fma": 3, "min": 2, "max": 2, "neg": 1, "abs": 1}


def widen_f16(c: Code, code: str) -> str:
    """Return the binary32 codes of binary16 codes: the fields moved, the exponent corrected by an exact multiplication."""
    wide = c.cast("zext", "i16", code, "i32")
    fields = c.binary("shl", "i32", c.binary("and", "i32", wide, splat("i32", 0x7FFF)), splat("i32", 13))
    # 2^112 is the ratio of the formats' scales; subnormal numbers of binary16 come out normal.
    scaled = c.binary("fmul", "float", c.number(32, fields), c.number(32, splat("i32", 0x77800000)))
    special = c.compare("uge", "i32", fields, splat("i32", 0x1F << 23))
    number = c.select(special, "i32", c.binary("or", "i32", fields, splat("i32", 0x7F800000)), c.codes(32, scaled))
    sign = c.binary("shl", "i32", c.binary("and", "i32", wide, splat("i32", 0x8000)), splat("i32", 16))
    return c.binary("or", "i32", sign, number)


def widen_bf16(c: Code, code: str) -> str:
    """Return the binary32 codes of bfloat16 codes."""
    return c.binary("shl", "i32", c.cast("zext", "i16", code, "i32"), splat("i32", 16))


def half(m: Modifiers) -> Translation:
    """Translate for a last type of f16, bf16, f16x2 or bf16x2."""
    scalar, name = m.scalar("f16", "bf16", "f16x2", "bf16x2"), m.name
    mode, ftz, sat, propagate = m.take("rn"), m.flag("ftz"), m.flag("sat"), m.flag("NaN")
    arithmetic, is_bf16 = name in ("add", "sub", "mul", "fma"), scalar.name.startswith("bf16")
    if (name == "fma" and not mode) or (mode and not arithmetic):
        raise m.refuse(f".{mode or 'no rounding'}")
    if propagate and name not in ("min", "max"):
        raise m.refuse(".NaN")
    if is_bf16 and (ftz or sat):
        raise m.refuse(".ftz or .sat of bf16")
    if sat and not arithmetic:
        raise m.refuse(".sat")
    single = _bf16(name, propagate=propagate) if is_bf16 else _f16(name, ftz=ftz, sat=sat, propagate=propagate)
    return same(scalar, _N_SOURCES[name], _packed(single) if scalar.kind == "packed" else single)


def _packed(single: Callable[..., str]) -> Callable[..., str]:
    def both(c: Code, *sources: str) -> str:
        low = single(c, *(c.cast("trunc", "i32", s, "i16") for s in sources))
        upper = [c.binary("lshr", "i32", s, splat("i32", 16)) for s in sources]
        high = single(c, *(c.cast("trunc", "i32", u, "i16") for u in upper))
        moved = c.binary("shl", "i32", c.cast("zext", "i16", high, "i32"), splat("i32", 16))
        return c.binary("or", "i32", moved, c.cast("zext", "i16", low, "i32"))

    return both


def _f16(name: str, *, ftz: bool, sat: bool, propagate: bool) -> Callable[..., str]:
    def write(c: Code, *sources: str) -> str:
        given = [floats.flush(c, 16, s) for s in sources] if ftz else list(sources)
        if name in ("neg", "abs"):
            return floats.sign(c, 16, name, given[0])
        if name in ("min", "max"):
            result = floats.canonical(c, 16, floats.extreme(c, 16, name, *given, propagate=propagate))
        else:
            result = c.scalar_call(f"f16_{name}", "i16", *(("i16", s) for s in given))
        if ftz:
            result = floats.flush(c, 16, result)
        return floats.saturate(c, 16, result) if sat else result

    return write


def _bf16(name: str, *, propagate: bool) -> Callable[..., str]:
    def write(c: Code, *sources: str) -> str:
        if name in ("neg", "abs"):
            return floats.sign(c, 16, name, sources[0])
        if name not in ("min", "max"):
            return c.scalar_call(f"bf16_{name}", "i16", *(("i16", s) for s in sources))
        wide = floats.extreme(c, 32, name, *(widen_bf16(c, s) for s in sources), propagate=propagate)
        code = c.cast("trunc", "i32", c.binary("lshr", "i32", wide, splat("i32", 16)), "i16")
        return c.select(floats.is_nan(c, 32, wide), "i16", splat("i16", 0x7FFF), code)

    return write


@translation("add sub mul fma min max neg abs", "packed")
def _packed_half(m: Modifiers) -> Translation:
    return half(m)
