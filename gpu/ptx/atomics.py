"""atom and red: one lane after another, in the order of lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.ptx.access import Reader
from precalign.gpu.ptx.faults import operands_of
from precalign.gpu.ptx.loads import address_reader, note_shared, split_generic, take_space
from precalign.gpu.ptx.memory import SHARED_WINDOW, BadAccess
from precalign.gpu.ptx.operations import resolve, rounding
from precalign.gpu.ptx.operations.registry import Modifiers

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.batch import Batch
    from precalign.gpu.ptx.compiler import Compiler
    from precalign.gpu.ptx.program import Instruction
    from precalign.gpu.ptx.scalars import Scalar

Array = Any
Lanes = Any
_OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
_ORDERS = ("relaxed", "acquire", "release", "acq_rel")


def _function(m: Modifiers, name: str, scalar: Scalar, space: str) -> Callable[..., Array]:
    """Return (old, operands...) to new, on arrays of the type."""
    if name == "exch":
        return lambda _old, b: b
    if name == "cas":
        return lambda old, b, c: np.where(old == b, c, old)
    if name == "inc":
        return lambda old, b: np.where(old >= b, old.dtype.type(0), old + old.dtype.type(1))
    if name == "dec":
        return lambda old, b: np.where((old == 0) | (old > b), b, old - old.dtype.type(1))
    if scalar.kind == "f" and scalar.name == "f32" and name == "add" and space != "shared":
        # As PTX states for global memory.
        return lambda old, b: rounding.flush(rounding.canonical(rounding.flush(old) + rounding.flush(b)))
    if scalar.name in ("f16", "f16x2", "bf16", "bf16x2"):
        m.take("noftz")
        return resolve(f"{name}.rn.{scalar.name}").function
    if scalar.kind == "f" and name != "add":
        raise m.refuse(f".{name} of .{scalar.name}")
    function: Callable[..., Array] = resolve(f"{name}.{scalar.name}").function
    return function


def compile_atomic(compiler: Compiler, index: int, instruction: Instruction) -> Callable[[Batch, Lanes], None]:
    """Compile atom or red."""
    m = Modifiers(instruction.opcode)
    scalar = m.scalar()
    space, name = take_space(m), m.take(*_OPERATIONS)
    m.take(*_ORDERS)
    m.take("cta", "cluster", "gpu", "sys")
    if not name or space in ("local", "param", "const") or (name in ("inc", "dec") and scalar.name != "u32"):
        raise m.refuse("this atomic")
    function = _function(m, name, scalar, space)
    m.finish()
    note_shared(compiler, index, space, scalar.bytes, writes=True)
    reader = Reader(compiler.registers)
    wants_old = instruction.name == "atom"
    place, *given = operands_of(instruction, wants_old + (3 if name == "cas" else 2))[wants_old:]
    addresses = address_reader(compiler, place)
    gets = [reader.get(g, scalar) for g in given]
    put = reader.put(instruction.operands[0], scalar) if wants_old else None

    def run(batch: Batch, lanes: Lanes) -> None:
        at = addresses(batch, lanes)
        active = batch.everyone if lanes is None else lanes
        operands = [np.broadcast_to(g(batch, lanes), at.shape) for g in gets]
        old = np.empty(at.shape, scalar.dtype)
        parts = split_generic(at) if space == "generic" else [(space, None)]
        for own_space, positions in parts:
            chosen = slice(None) if positions is None else positions
            if own_space == "local":
                raise BadAccess(
                    "out-of-bounds", "an atomic on local memory", 0 if positions is None else int(positions[0])
                )
            base = SHARED_WINDOW if space == "generic" and own_space == "shared" else 0
            old[chosen] = batch.update(
                index, own_space, at[chosen] - base, function, [o[chosen] for o in operands], active[chosen]
            )
        if put:
            put(batch, lanes, old)

    return run
