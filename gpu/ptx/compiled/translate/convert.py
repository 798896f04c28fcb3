"""cvt: between integers and floating point, every rounding mode, saturation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import FLOATS, splat
from precalign.gpu.ptx.compiled.translate import floats
from precalign.gpu.ptx.compiled.translate.floats import MODES
from precalign.gpu.ptx.compiled.translate.halves import widen_bf16, widen_f16
from precalign.gpu.ptx.compiled.translate.table import Translation, translation
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from precalign.gpu.ptx.compiled.code import Code
    from precalign.gpu.ptx.operations.registry import Modifiers
    from precalign.gpu.ptx.scalars import Scalar

_INTEGRAL = {"rni": "llvm.rint", "rzi": "llvm.trunc", "rmi": "llvm.floor", "rpi": "llvm.ceil"}


@dataclass(frozen=True)
class _How:
    """Modifiers of a conversion."""

    integral: str
    mode: str
    sat: bool
    ftz: bool


@translation("cvt", "u s f")
def _cvt(m: Modifiers) -> Translation:
    source = m.scalar()
    if m.rest and m.rest[-1] in ("f16x2", "bf16x2"):
        return _pack(m, source)
    result = m.scalar()
    how = _How(m.take(*_INTEGRAL), m.take(*MODES), m.flag("sat"), m.flag("ftz"))
    if {"b", "pred", "packed"} & {source.kind, result.kind}:
        raise m.refuse("conversion of untyped bits")
    if how.ftz and "f32" not in (source.name, result.name):
        raise m.refuse(".ftz without f32")
    _check(m, source, result, how)

    def write(c: Code, a: str) -> str:
        if source.kind == "f":
            given = floats.flush(c, 32, a) if how.ftz and source.bits == 32 else a
            return (
                _float_to_float(c, source, result, how, given)
                if result.kind == "f"
                else _to_integer(c, source, result, how, given)
            )
        return _to_float(c, source, result, how, a) if result.kind == "f" else _resize(c, source, result, how, a)

    return Translation((result,), (source,), write, wide_registers=True)


def _check(m: Modifiers, source: Scalar, result: Scalar, how: _How) -> None:
    """Refuse combinations of rounding and types that PTX does not have, or that are not modelled."""
    if source.kind == "f" and result.kind == "f":
        rounds = result.bits < source.bits or (result.bits == source.bits and result.name != source.name)
        bad = rounds != bool(how.mode) or (how.integral and source.name != result.name)
        bad = bad or (result.name == "bf16" and (how.mode in ("rm", "rp") or source.bits == 16))
        bad = bad or (how.sat and result.name not in ("f16", "f32"))
    elif source.kind == "f":
        bad = not how.integral or bool(how.mode)
    elif result.kind == "f":
        bad = not how.mode or bool(how.integral) or (how.mode != "rn" and result.bits == 64)
        bad = bad or result.name == "bf16" or (how.sat and result.bits == 64)
    else:
        bad = bool(how.mode or how.integral or how.ftz)
    if bad:
        raise m.refuse("this conversion")


def _single(c: Code, source: Scalar, code: str) -> tuple[int, str]:
    """Return (bits, code) of a number in binary32 or binary64, exactly."""
    if source.bits != 16:
        return source.bits, code
    return 32, widen_bf16(c, code) if source.name == "bf16" else widen_f16(c, code)


def _narrow(c: Code, bits: int, code: str, result: Scalar, mode: str) -> str:
    """Round binary32 or binary64 codes to the result's format."""
    if result.bits == bits and result.name != "bf16":
        return code
    if bits == 64 and result.name == "f32" and mode == "rn":
        return c.codes(32, c.cast("fptrunc", "double", c.number(64, code), "float"))
    if bits == 32 and result.bits == 64:
        return c.codes(64, c.cast("fpext", "float", c.number(32, code), "double"))
    wide = code if bits == 64 else c.codes(64, c.cast("fpext", "float", c.number(32, code), "double"))
    word = f"i{result.bits}"
    return c.scalar_call(f"{result.name}_of_f64", word, ("i64", wide), ("i32", splat("i32", MODES[mode])))


def _float_to_float(c: Code, source: Scalar, result: Scalar, how: _How, code: str) -> str:
    if how.integral:
        bits, wide = _single(c, source, code)
        whole = c.codes(bits, c.intrinsic(_INTEGRAL[how.integral], FLOATS[bits], c.number(bits, wide)))
        code = _narrow(c, bits, whole, result, "rn")
    elif source.name != result.name:
        bits, wide = _single(c, source, code)
        code = _narrow(c, bits, wide, result, how.mode or "rn")
    if result.name == "bf16":  # the runtime gave the canonical NaN, but not where nothing was converted
        nan = c.compare("ugt", "i16", floats.magnitude(c, 16, code), splat("i16", 0x7F80))
        return c.select(nan, "i16", splat("i16", 0x7FFF), code)
    code = floats.canonical(c, result.bits, code)
    if how.ftz and result.bits == 32:
        code = floats.flush(c, 32, code)
    return floats.saturate(c, result.bits, code) if how.sat else code


def _to_integer(c: Code, source: Scalar, result: Scalar, how: _How, code: str) -> str:
    """Out of range gives the nearest end; NaN gives 0, or 2^(n-1) where a 64-bit type takes part."""
    bits, wide = _single(c, source, code)
    whole = c.intrinsic(_INTEGRAL[how.integral], FLOATS[bits], c.number(bits, wide))
    word = f"i{result.bits}"
    integer = c.saturating(f"llvm.fpto{result.kind}i.sat", FLOATS[bits], whole, word)
    if 64 not in (source.bits, result.bits):
        return integer
    return c.select(floats.is_nan(c, bits, wide), word, splat(word, 1 << (result.bits - 1)), integer)


def _to_float(c: Code, source: Scalar, result: Scalar, how: _How, value: str) -> str:
    word, signed = f"i{source.bits}", source.kind == "s"
    if how.mode == "rn" and result.bits != 16:
        number = c.cast("sitofp" if signed else "uitofp", word, value, FLOATS[result.bits])
        code = c.codes(result.bits, number)
    else:
        wide = c.cast("sext" if signed else "zext", word, value, "i64")
        name = f"{result.name}_of_{'s' if signed else 'u'}64"
        code = c.scalar_call(name, f"i{result.bits}", ("i64", wide), ("i32", splat("i32", MODES[how.mode])))
    return floats.saturate(c, result.bits, code) if how.sat else code


def _resize(c: Code, source: Scalar, result: Scalar, how: _How, value: str) -> str:
    if how.sat:
        value = _clamp(c, source, result, value)
    if result.bits <= source.bits:
        return c.cast("trunc", f"i{source.bits}", value, f"i{result.bits}")
    return c.cast("sext" if source.kind == "s" else "zext", f"i{source.bits}", value, f"i{result.bits}")


def _ends(scalar: Scalar) -> tuple[int, int]:
    return (
        (-(1 << (scalar.bits - 1)), (1 << (scalar.bits - 1)) - 1) if scalar.kind == "s" else (0, (1 << scalar.bits) - 1)
    )


def _clamp(c: Code, source: Scalar, result: Scalar, value: str) -> str:
    word, (low, high), (own_low, own_high) = f"i{source.bits}", _ends(result), _ends(source)
    if low > own_low:
        value = c.intrinsic(f"llvm.{source.kind}max", word, value, splat(word, low))
    if high < own_high:
        value = c.intrinsic(f"llvm.{source.kind}min", word, value, splat(word, high))
    return value


def _pack(m: Modifiers, source: Scalar) -> Translation:
    """cvt.rn.f16x2.f32 d, a, b: a becomes the upper half."""
    result, mode = m.scalar("f16x2", "bf16x2"), m.take("rn", "rz")
    if source.name != "f32" or not mode:
        raise m.refuse("this packing conversion")
    half = SCALARS[result.name.removesuffix("x2")]

    def write(c: Code, upper: str, lower: str) -> str:
        high, low = (c.cast("zext", "i16", _narrow(c, 32, s, half, mode), "i32") for s in (upper, lower))
        return c.binary("or", "i32", c.binary("shl", "i32", high, splat("i32", 16)), low)

    return Translation((result,), (source, source), write)
