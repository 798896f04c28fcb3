"""ld, st, cvta, and moves between registers and vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from precalign.gpu.ptx.access import Reader
from precalign.gpu.ptx.faults import KernelFault, PtxSyntaxError, UnsupportedPtxError, operands_of
from precalign.gpu.ptx.memory import LOCAL_WINDOW, PARAM_BASE, SHARED_WINDOW, WINDOW_BYTES
from precalign.gpu.ptx.operations.registry import Modifiers
from precalign.gpu.ptx.program import Address, Pair, SymbolAddress, Vector
from precalign.gpu.ptx.scalars import SCALARS, Scalar

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.batch import Batch
    from precalign.gpu.ptx.compiler import Compiler
    from precalign.gpu.ptx.program import Instruction, Operand

Array = Any
Lanes = Any
SPACES = ("global", "shared", "shared::cta", "local", "param", "const")
_ORDERS = ("weak", "volatile", "relaxed", "acquire", "release")
_SCOPES = ("cta", "cluster", "gpu", "sys")
_CACHE = ("ca", "cg", "cs", "lu", "cv", "wb", "wt")
_HINTS = tuple(f"L1::{h}" for h in ("evict_normal", "evict_unchanged", "evict_first", "evict_last", "no_allocate"))
_PREFETCH = ("L2::64B", "L2::128B", "L2::256B")
_WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}


def take_space(m: Modifiers) -> str:
    """Take the state space of an access, "generic" if none is written."""
    return m.take(*SPACES, default="generic").removesuffix("::cta")


def address_reader(compiler: Compiler, operand: Operand) -> Callable[[Batch, Lanes], Array]:
    """Return a reader of addresses, one for each given lane."""
    if not isinstance(operand, Address):
        raise PtxSyntaxError(f"address expected, got {operand}")
    offset = operand.offset
    if operand.base is None:
        return lambda batch, lanes: np.full(batch.count(lanes), offset, np.int64)
    if isinstance(operand.base, SymbolAddress):
        name = operand.base.name
        return lambda batch, lanes: np.full(batch.count(lanes), batch.address_of(name) + offset, np.int64)
    scalar = SCALARS["u64" if operand.base.type.bits == 64 else "u32"]
    read = Reader(compiler.registers).get(operand.base, scalar)
    return lambda batch, lanes: read(batch, lanes).astype(np.int64) + offset


def split_generic(addresses: Array) -> list[tuple[str, Any]]:
    """Split generic addresses by window: (space, positions), positions None for all."""
    shared = (addresses >= SHARED_WINDOW) & (addresses < SHARED_WINDOW + WINDOW_BYTES)
    local = (addresses >= LOCAL_WINDOW) & (addresses < LOCAL_WINDOW + WINDOW_BYTES)
    if not (shared.any() or local.any()):
        return [("global", None)]
    masks = (("shared", shared), ("local", local), ("global", ~(shared | local)))
    return [(space, np.nonzero(mask)[0]) for space, mask in masks if mask.any()]


def compile_access(compiler: Compiler, index: int, instruction: Instruction) -> Callable[[Batch, Lanes], None]:
    """Compile ld or st."""
    m = Modifiers(instruction.opcode)
    scalar = m.scalar()
    count = int(m.take("v2", "v4", default="v1")[1])
    space, order = take_space(m), m.take(*_ORDERS)
    if order in ("relaxed", "acquire", "release") and not m.take(*_SCOPES):
        raise m.refuse("an ordering without scope")
    m.take(*_CACHE)
    m.take(*_HINTS)
    m.take(*_PREFETCH)
    if m.flag("nc") and space != "global":
        raise m.refuse(".nc outside of global memory")
    m.finish()
    if scalar.kind in ("pred", "packed"):
        raise m.refuse(f".{scalar.name}")
    is_load = instruction.name != "st"
    first, second = operands_of(instruction, 2)
    place, data = (second, first) if is_load else (first, second)
    elements = data.elements if isinstance(data, Vector) else (data,)
    if len(elements) != count:
        raise PtxSyntaxError(f"{instruction.opcode}: {count} elements expected, got {len(elements)}")
    if space == "param":
        return _compile_param(compiler, place, elements, scalar, is_load=is_load)
    note_shared(compiler, index, space, scalar.bytes, writes=not is_load)
    addresses = address_reader(compiler, place)
    reader = Reader(compiler.registers)
    if is_load:
        puts = [reader.put(e, scalar, wide=True) for e in elements]
        return _load(index, space, scalar, addresses, puts)
    gets = [reader.get(e, scalar, wide=True) for e in elements]
    return _store(index, space, scalar, addresses, gets)


def note_shared(compiler: Compiler, index: int, space: str, width: int, *, writes: bool) -> None:
    """Tell the compiler of an access that may go to shared memory."""
    if space in ("shared", "generic"):
        compiler.shared_widths[index] = width
        if writes:
            compiler.shared_writes.append(index)


def _load(index: int, space: str, scalar: Scalar, addresses: Any, puts: list[Any]) -> Callable[[Batch, Lanes], None]:  # noqa: ANN401 - closures
    dtype, count = scalar.storage, len(puts)

    def run(batch: Batch, lanes: Lanes) -> None:
        at = addresses(batch, lanes)
        active = batch.everyone if lanes is None else lanes
        for element, values in enumerate(batch.load(index, space, at, dtype, count, active)):
            puts[element](batch, lanes, values.view(scalar.dtype))

    return run


def _store(index: int, space: str, scalar: Scalar, addresses: Any, gets: list[Any]) -> Callable[[Batch, Lanes], None]:  # noqa: ANN401 - closures
    dtype = scalar.storage

    def run(batch: Batch, lanes: Lanes) -> None:
        at = addresses(batch, lanes)
        active = batch.everyone if lanes is None else lanes
        values = [g(batch, lanes).view(dtype) for g in gets]
        values = [v if v.size == at.size else np.broadcast_to(v, at.shape) for v in values]
        batch.store(index, space, at, values, active)

    return run


def _compile_param(
    compiler: Compiler, place: Operand, elements: tuple[Operand, ...], scalar: Scalar, *, is_load: bool
) -> Callable[[Batch, Lanes], None]:
    if not is_load:
        raise UnsupportedPtxError("st.param, a call's argument, is not modelled")
    addresses = address_reader(compiler, place)
    puts = [Reader(compiler.registers).put(e, scalar, wide=True) for e in elements]
    dtype = scalar.storage

    def run(batch: Batch, lanes: Lanes) -> None:
        at = addresses(batch, lanes) - PARAM_BASE
        for element, put in enumerate(puts):
            put(batch, lanes, batch.load_param(at + element * dtype.itemsize, dtype).view(scalar.dtype))

    return run


def compile_cvta(compiler: Compiler, instruction: Instruction) -> Callable[[Batch, Lanes], None]:
    """Compile cvta: shared and local addresses move by the base of their window, the others stay."""
    m = Modifiers(instruction.opcode)
    scalar, to = m.scalar("u64"), m.flag("to")
    space = take_space(m)
    m.finish()
    if space in ("generic", "param"):
        raise m.refuse(f"space {space}")
    shift = np.uint64(_WINDOWS.get(space, 0))
    reader = Reader(compiler.registers)
    destination, source = operands_of(instruction, 2)
    put, get = reader.put(destination, scalar), reader.get(source, scalar)
    if to:
        return lambda batch, lanes: put(batch, lanes, get(batch, lanes) - shift)
    return lambda batch, lanes: put(batch, lanes, get(batch, lanes) + shift)


def compile_vector_move(compiler: Compiler, instruction: Instruction) -> Callable[[Batch, Lanes], None]:
    """Compile mov.b32 %r, {%a, %b} and its reverse."""
    m = Modifiers(instruction.opcode)
    whole = m.scalar("b32", "b64")
    m.finish()
    destination, source = operands_of(instruction, 2)
    reader = Reader(compiler.registers)
    vector = source if isinstance(source, Vector) else destination
    if not isinstance(vector, Vector) or isinstance(destination, Pair) or whole.bits % len(vector.elements):
        raise m.refuse("this move")
    part = SCALARS[f"b{whole.bits // len(vector.elements)}"]
    shifts = [whole.dtype.type(i * part.bits) for i in range(len(vector.elements))]
    if vector is source:
        gets = [reader.get(e, part) for e in vector.elements]
        put = reader.put(destination, whole)

        def join(batch: Batch, lanes: Lanes) -> None:
            words = [g(batch, lanes).astype(whole.dtype) << s for g, s in zip(gets, shifts, strict=True)]
            put(batch, lanes, np.bitwise_or.reduce(np.broadcast_arrays(*words)))

        return join
    get = reader.get(source, whole)
    puts = [reader.put(e, part) for e in vector.elements]

    def split(batch: Batch, lanes: Lanes) -> None:
        word = get(batch, lanes)
        for put_part, shift in zip(puts, shifts, strict=True):
            put_part(batch, lanes, (word >> shift).astype(part.dtype))

    return split


def trap(instruction: Instruction) -> Callable[[Batch, Lanes], None]:
    """Compile trap: reaching it is a finding."""

    def run(batch: Batch, lanes: Lanes) -> NoReturn:
        first = 0 if lanes is None else int(lanes[0])
        raise KernelFault("trap", f"reached by {batch.thread_name(first)}", instruction.location)

    return run
