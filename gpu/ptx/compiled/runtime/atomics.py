"""What an atomic makes of the old value, by number of the operation."""

from __future__ import annotations

from precalign.gpu.ptx.compiled.runtime.raw import int32, int64, uint16, uint32, uint64
from precalign.gpu.ptx.compiled.runtime.rounding import NEAREST
from precalign.gpu.ptx.compiled.runtime.scalars import BFLOAT16, BINARY16, brain, fused, half
from precalign.jit import Array, inline, reinterpret

NAMES = (
    "exch", "cas", "inc", "dec", "and", "or", "xor", "add",
    "min.u", "max.u", "min.s32", "max.s32", "min.s64", "max.s64",
    "add.f32", "add.ftz.f32", "add.f64", "add.f16", "add.bf16", "add.f16x2", "add.bf16x2",
)  # fmt: skip
(
    _EXCH, _CAS, _INC, _DEC, _AND, _OR, _XOR, _ADD,
    _MIN_U, _MAX_U, _MIN_S32, _MAX_S32, _MIN_S64, _MAX_S64,
    _ADD_F32, _ADD_FTZ_F32, _ADD_F64, _ADD_F16, _ADD_BF16, _ADD_F16X2, _ADD_BF16X2,
) = range(len(NAMES))  # fmt: skip


@inline
def _f32(code: Array) -> Array:
    return reinterpret(int32(code))


@inline
def _flushed(code: Array) -> Array:
    return code & uint64(0x80000000) if (code & uint64(0x7F800000)) == 0 else code


@inline
def _add_f32(a: Array, b: Array) -> Array:
    total = _f32(a) + _f32(b)
    if total != total:  # noqa: PLR0124 - NaN
        return uint64(0x7FFFFFFF)
    return uint64(uint32(reinterpret(total)))


@inline
def _add_f64(a: Array, b: Array) -> Array:
    total = reinterpret(int64(a)) + reinterpret(int64(b))
    if total != total:  # noqa: PLR0124 - NaN
        return uint64(0x7FF8000000000000)
    return uint64(reinterpret(total))


@inline
def _add_half(a: Array, b: Array, is_bf16: Array) -> Array:
    one, two = a & uint64(0xFFFF), b & uint64(0xFFFF)
    if is_bf16:
        return fused(brain(uint16(one)), brain(uint16(two)), NEAREST, BFLOAT16)
    return fused(half(uint16(one)), half(uint16(two)), NEAREST, BINARY16)


@inline
def _integers(operation: Array, old: Array, b: Array, c: Array) -> Array:  # noqa: C901, PLR0912
    if operation == _EXCH:
        return b
    if operation == _CAS:
        return c if old == b else old
    if operation == _INC:
        return uint64(0) if old >= b else old + uint64(1)
    if operation == _DEC:
        return b if old == 0 or old > b else old - uint64(1)
    if operation == _AND:
        return old & b
    if operation == _OR:
        return old | b
    if operation == _XOR:
        return old ^ b
    if operation == _ADD:
        return old + b
    if operation == _MIN_U:
        return min(old, b)
    if operation == _MAX_U:
        return max(old, b)
    if operation == _MIN_S32:
        return b if int32(b) < int32(old) else old
    if operation == _MAX_S32:
        return b if int32(b) > int32(old) else old
    if operation == _MIN_S64:
        return b if int64(b) < int64(old) else old
    return b if int64(b) > int64(old) else old


@inline
def changed(operation: Array, old: Array, b: Array, c: Array) -> Array:
    """Return the new value; codes in the low bits of 64, what is above is cut by the caller."""
    if operation < _ADD_F32:
        return _integers(operation, old, b, c)
    if operation == _ADD_F32:
        return _add_f32(old, b)
    if operation == _ADD_FTZ_F32:
        return _flushed(_add_f32(_flushed(old), _flushed(b)))
    if operation == _ADD_F64:
        return _add_f64(old, b)
    is_bf16 = operation in (_ADD_BF16, _ADD_BF16X2)
    low = _add_half(old, b, is_bf16)
    if operation in (_ADD_F16, _ADD_BF16):
        return low
    return _add_half(old >> uint64(16), b >> uint64(16), is_bf16) << uint64(16) | low
