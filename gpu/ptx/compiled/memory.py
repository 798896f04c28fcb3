"""ld, st, atom, red, cvta, and moves between registers and vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import splat, vector
from precalign.gpu.ptx.compiled.layout import SPACE_NAMES
from precalign.gpu.ptx.compiled.runtime.atomics import NAMES
from precalign.gpu.ptx.faults import PtxSyntaxError, UnsupportedPtxError
from precalign.gpu.ptx.memory import LOCAL_WINDOW, PARAM_BASE, SHARED_WINDOW
from precalign.gpu.ptx.operations.registry import Modifiers
from precalign.gpu.ptx.program import Address, Pair, SymbolAddress, Vector
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from precalign.gpu.ptx.compiled.lanes import Lanes
    from precalign.gpu.ptx.program import Instruction, Operand
    from precalign.gpu.ptx.scalars import Scalar

SPACES = ("global", "shared", "shared::cta", "local", "param", "const")
_ORDERS = ("weak", "volatile", "relaxed", "acquire", "release")
_SCOPES = ("cta", "cluster", "gpu", "sys")
_CACHE = ("ca", "cg", "cs", "lu", "cv", "wb", "wt")
_HINTS = tuple(f"L1::{h}" for h in ("evict_normal", "evict_unchanged", "evict_first", "evict_last", "no_allocate"))
_PREFETCH = ("L2::64B", "L2::128B", "L2::256B")
_WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
SCRATCH = {"%scratch.address": 8 * 32, "%scratch.place": 8 * 32, "%scratch.value": 4 * 16 * 32}
"""Bytes of the places through which vectors are handed to the runtime."""


def _space(m: Modifiers) -> str:
    return m.take(*SPACES, default="generic").removesuffix("::cta")


def addresses(lanes: Lanes, operand: Operand) -> str:
    """Return the addresses of an access, a vector of i64."""
    if not isinstance(operand, Address):
        raise PtxSyntaxError(f"address expected, got {operand}")
    if operand.base is None:
        return splat("i64", operand.offset)
    if isinstance(operand.base, SymbolAddress):
        return lanes.read(SymbolAddress(operand.base.name, operand.base.offset + operand.offset), SCALARS["u64"])
    base = operand.base
    if base.type.bits not in (32, 64) or base.type.kind == "pred":
        raise PtxSyntaxError(f"register {base.name} of .{base.type.name} as an address")
    value = lanes.code.cast("zext", f"i{base.type.bits}", lanes.fetch(base), "i64")
    return lanes.code.binary("add", "i64", value, splat("i64", operand.offset)) if operand.offset else value


def _store(lanes: Lanes, element: str, value: str, place: str, offset: int = 0) -> None:
    where = lanes.code.emit(f"getelementptr i8, ptr {place}, i64 {offset}") if offset else place
    lanes.code.do(f"store {vector(element)} {value}, ptr {where}, align 64")


def call(lanes: Lanes, function: str, index: int, space: str, width: int, last: int) -> None:
    """Call ptx_load, ptx_store or ptx_update, and leave the function on a fault."""
    code = lanes.code
    code.declarations[function] = f"declare i32 @{function}(ptr, ptr, i64, i64, i32, ptr, ptr, ptr, i64, i64)"
    fault = code.emit(
        f"call i32 @{function}(ptr %ctx, ptr %frame, i64 {index}, i64 {SPACE_NAMES[space]}, i32 {lanes.active_bits}, "
        f"ptr %scratch.address, ptr %scratch.place, ptr %scratch.value, i64 {width}, i64 {last})"
    )
    leave_on(lanes, code.emit(f"icmp ne i32 {fault}, 0"))


def leave_on(lanes: Lanes, condition: str) -> None:
    """Return from the function if a fault was reported."""
    following = lanes.code.name("sound")
    lanes.code.do(f"br i1 {condition}, label %fault, label %{following}")
    lanes.code.label(following)


def _modifiers(m: Modifiers) -> tuple[Scalar, int, str]:
    """Return the type, the number of elements and the space of ld or st."""
    scalar = m.scalar()
    count = int(m.take("v2", "v4", default="v1")[1])
    space, order = _space(m), m.take(*_ORDERS)
    if order in ("relaxed", "acquire", "release") and not m.take(*_SCOPES):
        raise m.refuse("an ordering without scope")
    for hints in (_CACHE, _HINTS, _PREFETCH):
        m.take(*hints)
    if m.flag("nc") and space != "global":
        raise m.refuse(".nc outside of global memory")
    m.finish()
    if scalar.kind in ("pred", "packed"):
        raise m.refuse(f".{scalar.name}")
    return scalar, count, space


def write_access(lanes: Lanes, index: int, instruction: Instruction) -> None:
    """Write ld or st."""
    scalar, count, space = _modifiers(Modifiers(instruction.opcode))
    is_load = instruction.name != "st"
    place, data = reversed(instruction.operands) if is_load else instruction.operands
    elements = data.elements if isinstance(data, Vector) else (data,)
    if len(elements) != count:
        raise PtxSyntaxError(f"{instruction.opcode}: {count} elements expected, got {len(elements)}")
    if space == "param" and not is_load:
        raise UnsupportedPtxError("st.param, a call's argument, is not modelled")
    if space == "param" and isinstance(place, Address) and isinstance(place.base, SymbolAddress):
        _load_param(lanes, place, elements, scalar)
        return
    word = f"i{scalar.bits}"
    if not is_load:
        for element, operand in enumerate(elements):
            value = lanes.read(operand, scalar, wide=True)
            _store(lanes, word, value, "%scratch.value", 32 * scalar.bytes * element)
    _store(lanes, "i64", addresses(lanes, place), "%scratch.address")
    call(lanes, "ptx_load" if is_load else "ptx_store", index, space, scalar.bytes, count)
    if is_load:
        for element, operand in enumerate(elements):
            where = lanes.code.emit(f"getelementptr i8, ptr %scratch.value, i64 {32 * scalar.bytes * element}")
            value = lanes.code.emit(f"load {vector(word)}, ptr {where}, align 32")
            lanes.write(operand, scalar, value, wide=True)


def _load_param(lanes: Lanes, place: Address, elements: tuple[Operand, ...], scalar: Scalar) -> None:
    """Read a parameter once for all lanes."""
    base = place.base
    if not isinstance(base, SymbolAddress) or base.name not in lanes.frame.addresses:
        raise UnsupportedPtxError(f"no such parameter: {base}")
    offset = lanes.frame.addresses[base.name] + base.offset + place.offset - PARAM_BASE
    for element, operand in enumerate(elements):
        where = lanes.code.emit(f"getelementptr i8, ptr %params, i64 {offset + element * scalar.bytes}")
        value = lanes.code.emit(f"load i{scalar.bits}, ptr {where}, align 1")
        lanes.write(operand, scalar, lanes.spread(f"i{scalar.bits}", value), wide=True)


_ATOMICS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")


def _operation(m: Modifiers, name: str, scalar: Scalar, space: str) -> int:
    """Return the number of an atomic operation."""
    form = name
    if name in ("min", "max"):
        form = f"{name}.u" if scalar.kind == "u" else f"{name}.{scalar.name}"
    elif name == "add" and scalar.kind in ("f", "packed"):
        form = "add.ftz.f32" if scalar.name == "f32" and space != "shared" else f"add.{scalar.name}"
        if scalar.bits == 16 or scalar.kind == "packed":
            m.take("noftz")
    allowed = {
        "add": scalar.kind != "b",
        "min": scalar.kind in "us",
        "max": scalar.kind in "us",
        "inc": scalar.name == "u32",
        "dec": scalar.name == "u32",
    }.get(name, scalar.kind == "b")
    if not allowed or form not in NAMES or scalar.bits < 16 or (scalar.bits == 16 and name not in ("cas", "add")):
        raise m.refuse("this atomic")
    return NAMES.index(form)


def write_atomic(lanes: Lanes, index: int, instruction: Instruction) -> None:
    """Write atom or red."""
    m = Modifiers(instruction.opcode)
    scalar, space, name = m.scalar(), _space(m), m.take(*_ATOMICS)
    m.take("relaxed", "acquire", "release", "acq_rel")
    m.take(*_SCOPES)
    if not name or space in ("local", "param", "const"):
        raise m.refuse("this atomic")
    operation = _operation(m, name, scalar, space)
    m.finish()
    wants_old = instruction.name == "atom"
    if not wants_old and name in ("exch", "cas"):
        raise m.refuse("this reduction")
    place, *given = instruction.operands[wants_old:]
    if len(given) != (2 if name == "cas" else 1):
        raise PtxSyntaxError(f"{instruction.opcode}: {len(given)} operands")
    word = f"i{scalar.bits}"
    for number, operand in enumerate(given):
        _store(lanes, word, lanes.read(operand, scalar), "%scratch.value", 32 * scalar.bytes * number)
    _store(lanes, "i64", addresses(lanes, place), "%scratch.address")
    call(lanes, "ptx_update", index, space, scalar.bytes, operation)
    if wants_old:
        where = lanes.code.emit(f"getelementptr i8, ptr %scratch.value, i64 {64 * scalar.bytes}")
        old = lanes.code.emit(f"load {vector(word)}, ptr {where}, align 32")
        lanes.write(instruction.operands[0], scalar, old)


def write_cvta(lanes: Lanes, instruction: Instruction) -> None:
    """Write cvta: shared and local addresses move by the base of their window, the others stay."""
    m = Modifiers(instruction.opcode)
    scalar, to = m.scalar("u64"), m.flag("to")
    space = _space(m)
    m.finish()
    if space in ("generic", "param"):
        raise m.refuse(f"space {space}")
    value = lanes.read(instruction.operands[1], scalar)
    shift = splat("i64", _WINDOWS.get(space, 0))
    lanes.write(instruction.operands[0], scalar, lanes.code.binary("sub" if to else "add", "i64", value, shift))


def write_vector_move(lanes: Lanes, instruction: Instruction) -> None:
    """Write mov.b32 %r, {%a, %b} and its reverse."""
    m, code = Modifiers(instruction.opcode), lanes.code
    whole = m.scalar("b32", "b64")
    m.finish()
    destination, source = instruction.operands
    one = source if isinstance(source, Vector) else destination
    if not isinstance(one, Vector) or isinstance(destination, Pair) or whole.bits % len(one.elements):
        raise m.refuse("this move")
    part, word = SCALARS[f"b{whole.bits // len(one.elements)}"], f"i{whole.bits}"
    if one is source:
        result = splat(word, 0)
        for number, element in enumerate(one.elements):
            wide = code.cast("zext", f"i{part.bits}", lanes.read(element, part), word)
            result = code.binary("or", word, result, code.binary("shl", word, wide, splat(word, part.bits * number)))
        lanes.write(destination, whole, result)
        return
    value = lanes.read(source, whole)
    for number, element in enumerate(one.elements):
        moved = code.binary("lshr", word, value, splat(word, part.bits * number))
        lanes.write(element, part, code.cast("trunc", word, moved, f"i{part.bits}"))
