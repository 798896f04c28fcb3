"""cvt: between integers and floating point, every rounding mode, saturation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.ptx.operations import rounding
from precalign.gpu.ptx.operations.registry import Modifiers, Operation, operation
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.scalars import Scalar

Array = Any
_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_MODES = ("rn", "rz", "rm", "rp")


@operation("cvt", "u s f")
def _cvt(m: Modifiers) -> Operation:
    source = m.scalar()
    if m.rest and m.rest[-1] in ("f16x2", "bf16x2"):
        return _pack(m, source)
    result = m.scalar()
    integral, mode = m.take(*_TO_INTEGER), m.take(*_MODES)
    sat, ftz = m.flag("sat"), m.flag("ftz")
    if "b" in (source.kind, result.kind) or "pred" in (source.kind, result.kind):
        raise m.refuse("conversion of untyped bits")
    if ftz and "f32" not in (source.name, result.name):
        raise m.refuse(".ftz without f32")
    if (
        result.name == "bf16"
        and (source.name not in ("f32", "f64") or mode not in ("rn", "rz"))
        and source.name != "bf16"
    ):
        raise m.refuse("this conversion to bf16")
    if sat and result.name == "f64":
        raise m.refuse(".sat of f64")
    function = _conversion(m, source, result, _Rounding(integral, mode, sat, ftz))
    return Operation((result,), (source,), function, wide_registers=True)


@dataclass(frozen=True)
class _Rounding:
    """Modifiers of a conversion: to an integral value, to the result's precision, .sat and .ftz."""

    integral: str
    mode: str
    sat: bool
    ftz: bool


def _conversion(m: Modifiers, source: Scalar, result: Scalar, how: _Rounding) -> Callable[[Array], Array]:
    integral, mode = how.integral, how.mode
    if source.kind == "f" and result.kind == "f":
        _require_mode(m, source, result, integral, mode, sat=how.sat)
        return _float_to_float(source, result, integral, mode, ftz=how.ftz, sat=how.sat)
    if source.kind == "f":
        if not integral or mode:
            raise m.refuse("a conversion to an integer without .rni, .rzi, .rmi or .rpi")
        return _float_to_integer(source, result, integral, ftz=how.ftz)
    if result.kind == "f":
        if not mode or integral or (mode != "rn" and result.bits == 64):
            raise m.refuse(f"rounding .{mode or integral or 'none'} from an integer")
        return _integer_to_float(result, mode, sat=how.sat)
    if mode or integral or how.ftz:
        raise m.refuse("rounding between integers")
    return _integer_to_integer(source, result, sat=how.sat)


def _require_mode(m: Modifiers, source: Scalar, result: Scalar, integral: str, mode: str, *, sat: bool) -> None:
    narrowing = result.bits < source.bits or (result.bits == source.bits and result.name != source.name)
    if narrowing and not mode:
        raise m.refuse("a narrowing conversion without rounding")
    if not narrowing and mode:
        raise m.refuse(f".{mode} of a conversion that does not round")
    if integral and source.name != result.name:
        raise m.refuse(f".{integral} between these types")
    if sat and result.name not in ("f16", "f32"):
        raise m.refuse(f".sat of {result.name}")


def _values(source: Scalar, a: Array) -> Array:
    """Return the values of floating-point operands as binary64, exactly."""
    return (rounding.bf16_values(a) if source.name == "bf16" else a).astype(np.float64)


def _float_to_float(
    source: Scalar, result: Scalar, integral: str, mode: str, *, ftz: bool, sat: bool
) -> Callable[[Array], Array]:
    def convert(a: Array) -> Array:
        given = rounding.flush(a) if ftz and source.bits == 32 else a
        if source.name == result.name and not integral:
            values = given.copy()
        elif source.name == "f16" and result.name == "f32":
            values = given.astype(np.float32)
        else:
            wide = _values(source, given)
            values = _narrow(_TO_INTEGER[integral](wide) if integral else wide, result, mode or "rn")
        if result.name != "bf16":
            values = rounding.canonical(values)
            if ftz and result.bits == 32:
                values = rounding.flush(values)
            if sat:
                values = rounding.saturate(values)
        return values

    return convert


def _narrow(values: Array, result: Scalar, mode: str) -> Array:
    """Round binary64 numbers, exact or rounded to odd, to the result type."""
    if result.name == "bf16":
        return rounding.bf16_codes(values, mode)
    return values if result.bits == 64 else rounding.round_odd(values, result.dtype, mode)


def _float_to_integer(source: Scalar, result: Scalar, integral: str, *, ftz: bool) -> Callable[[Array], Array]:
    """Out of range gives the nearest end; NaN gives 0, or 2^63 where a 64-bit type takes part (as PTX says)."""
    low, high = np.iinfo(result.dtype).min, np.iinfo(result.dtype).max
    of_nan = 1 << (result.bits - 1) if 64 in (source.bits, result.bits) else 0

    def convert(a: Array) -> Array:
        given = rounding.flush(a) if ftz else a
        whole = _TO_INTEGER[integral](_values(source, given))
        inside = (whole > float(low)) & (whole < float(high))
        integers = np.where(inside, whole, 0).astype(result.dtype)
        integers = np.where(whole >= float(high), result.dtype.type(high), integers)
        integers = np.where(whole <= float(low), result.dtype.type(low), integers)
        nan = np.array(of_nan, result.storage).view(result.dtype)
        return np.where(np.isnan(whole), nan, integers)

    return convert


def _integer_to_float(result: Scalar, mode: str, *, sat: bool) -> Callable[[Array], Array]:
    def convert(a: Array) -> Array:
        values = a.astype(np.float64) if result.bits == 64 else _narrow(_integer_to_odd(a), result, mode)
        return rounding.saturate(values) if sat else values

    return convert


def _integer_to_odd(a: Array) -> Array:
    """Return integers as binary64 rounded to odd: beyond 53 bits the last kept bit says that more followed."""
    if a.itemsize < 8:
        return a.astype(np.float64)
    magnitude = np.where(a < 0, -a, a).view(np.uint64)
    cut = magnitude & ~np.uint64(0x7FF)
    sticky = np.where(magnitude != cut, np.uint64(0x800), np.uint64(0))
    odd = np.where(magnitude < np.uint64(1 << 53), magnitude, cut | sticky).astype(np.float64)
    return np.where(a < 0, -odd, odd)


def _integer_to_integer(source: Scalar, result: Scalar, *, sat: bool) -> Callable[[Array], Array]:
    low, high = np.iinfo(result.dtype).min, np.iinfo(result.dtype).max
    own = np.iinfo(source.dtype)

    def convert(a: Array) -> Array:
        if sat:
            a = np.clip(a, max(low, own.min), min(high, own.max))
        return a.astype(result.dtype)

    return convert


def _pack(m: Modifiers, source: Scalar) -> Operation:
    """cvt.rn.f16x2.f32 d, a, b: a becomes the upper half."""
    result = m.scalar("f16x2", "bf16x2")
    mode = m.take("rn", "rz")
    if source.name != "f32" or not mode:
        raise m.refuse("this packing conversion")
    half = SCALARS[result.name[:-2]]

    def codes(a: Array) -> Array:
        rounded = _narrow(a.astype(np.float64), half, mode)
        return rounded if half.name == "bf16" else rounding.canonical(rounded).view(np.uint16)

    def pack(upper: Array, lower: Array) -> Array:
        return codes(upper).astype(np.uint32) << np.uint32(16) | codes(lower)

    return Operation((result,), (source, source), pack)
