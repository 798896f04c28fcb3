"""What lanes do together: barriers, shuffles, votes, reductions of a warp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.ptx.access import Reader
from precalign.gpu.ptx.faults import UnsupportedPtxError, operands_of
from precalign.gpu.ptx.memory import BadAccess
from precalign.gpu.ptx.operations.registry import Modifiers
from precalign.gpu.ptx.program import Immediate, Pair
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.batch import Batch
    from precalign.gpu.ptx.compiler import Compiler, Step
    from precalign.gpu.ptx.program import Instruction

Array = Any
Lanes = Any
NAMES = ("bar", "barrier", "shfl", "vote", "redux", "activemask", "match", "elect")
_U32, _B32, _PRED = SCALARS["u32"], SCALARS["b32"], SCALARS["pred"]


def compile_collective(compiler: Compiler, instruction: Instruction, guard: Any) -> Step:  # noqa: ANN401 - a closure or None
    """Compile an instruction that several lanes execute together."""
    from precalign.gpu.ptx.compiler import Step

    m, name = Modifiers(instruction.opcode), instruction.name
    if name in ("bar", "barrier"):
        return _barrier(compiler, m, instruction, guard)
    if name == "activemask":
        m.scalar("b32")
        m.finish()
        put = Reader(compiler.registers).put(operands_of(instruction, 1)[0], _B32)
        return Step("plain", lambda b, lanes: put(b, lanes, _ballot(_active(b, lanes))), guard)
    if not m.flag("sync"):
        raise m.refuse("a warp operation without .sync")
    if name == "shfl":
        return _shuffle(compiler, m, instruction, guard)
    if name == "vote":
        return _vote(compiler, m, instruction, guard)
    if name == "redux":
        return _reduce(compiler, m, instruction, guard)
    raise UnsupportedPtxError(f"{instruction.opcode} is not modelled")


def _members(compiler: Compiler, operand: Any) -> Callable[[Batch, Lanes], Array]:  # noqa: ANN401 - an Operand
    return Reader(compiler.registers).get(operand, _U32)


def _barrier(compiler: Compiler, m: Modifiers, instruction: Instruction, guard: Any) -> Step:  # noqa: ANN401 - a closure
    from precalign.gpu.ptx.compiler import Step

    warp, sync = m.flag("warp"), m.flag("sync")
    m.take("cta")
    m.flag("aligned")
    m.finish()
    if not sync:
        raise m.refuse("a barrier that is not .sync")
    if warp:
        return Step("collective", _pass_warp_barrier, guard, members=_members(compiler, operands_of(instruction, 1)[0]))
    if len(instruction.operands) != 1 or not isinstance(instruction.operands[0], Immediate):
        raise m.refuse("a barrier of part of the block, or one chosen at run time,")
    return Step("barrier", lambda _b, _lanes: None, guard)


def _pass_warp_barrier(batch: Batch, lanes: Lanes) -> None:
    batch.warp_epoch[np.unique(_active(batch, lanes) >> 5)] += 1


def _active(batch: Batch, lanes: Lanes) -> Array:
    return batch.everyone if lanes is None else lanes


def _ballot(lanes: Array, truth: Array | None = None) -> Array:
    """Return, to each lane, the mask of the given lanes of its warp (for which `truth` holds)."""
    warps = lanes >> 5
    bits = (1 << (lanes & 31)).astype(np.float64)  # sums of different powers below 2^32 are exact
    if truth is not None:
        bits = np.where(truth, bits, 0.0)
    return np.bincount(warps, bits)[warps].astype(np.uint32)


def _shuffle(compiler: Compiler, m: Modifiers, instruction: Instruction, guard: Any) -> Step:  # noqa: ANN401 - a closure
    from precalign.gpu.ptx.compiler import Step

    m.scalar("b32")
    mode = m.take("up", "down", "bfly", "idx")
    m.finish()
    if not mode:
        raise m.refuse("a shuffle without mode")
    destination, *sources = operands_of(instruction, 5)
    reader = Reader(compiler.registers)
    value, delta, clamp, members = (reader.get(s, _U32) for s in sources)
    pair = isinstance(destination, Pair)
    put = reader.put(destination.first if isinstance(destination, Pair) else destination, _B32)
    put_pred = reader.put(destination.second, _PRED) if isinstance(destination, Pair) else None

    def run(batch: Batch, lanes: Lanes) -> None:
        active = _active(batch, lanes)
        lane = (active & 31).astype(np.int64)
        source, valid = shuffle_source(mode, lane, delta(batch, lanes), clamp(batch, lanes))
        everywhere = np.zeros(batch.n_lanes, np.uint32)
        everywhere[active] = value(batch, lanes)
        takes_part = np.zeros(batch.n_lanes, np.bool_)
        takes_part[active] = True
        idle = ~takes_part[(active & ~31) + source]
        if idle.any():
            position = int(np.argmax(idle))
            lane_name = f"lane {int(source[position])}, which does not take part"
            raise BadAccess("uninitialised", f"shuffle takes the value of {lane_name}", position)
        put(batch, lanes, everywhere[(active & ~31) + source])
        if pair and put_pred:
            put_pred(batch, lanes, valid)

    return Step("collective", run, guard, members=members)


def shuffle_source(mode: str, lane: Array, delta: Array, clamp: Array) -> tuple[Array, Array]:
    """Return the lane from which each lane takes its value, and whether that is within its segment.

    Parameters
    ----------
    mode : str
        up, down, bfly or idx.
    lane : ndarray[int64]
    delta, clamp : ndarray[uint32]
        As PTX's operands b and c: the clamp value in bits 0-4, the segment mask in bits 8-12.
    """
    by, c = (delta & np.uint32(31)).astype(np.int64), clamp.astype(np.int64)
    last, segment = c & 31, c >> 8 & 31
    low, high = lane & segment, (lane & segment) | (last & ~segment)
    if mode == "up":
        source = lane - by
        valid = source >= high  # for .up the clamp value is the lowest lane, and 0 in practice
    elif mode == "down":
        source = lane + by
        valid = source <= high
    elif mode == "bfly":
        source = lane ^ by
        valid = source <= high
    else:
        source = low | (by & ~segment)
        valid = source <= high
    return np.where(valid, source, lane), valid


def _vote(compiler: Compiler, m: Modifiers, instruction: Instruction, guard: Any) -> Step:  # noqa: ANN401 - a closure
    from precalign.gpu.ptx.compiler import Step

    scalar, mode = m.scalar("pred", "b32"), m.take("all", "any", "uni", "ballot")
    m.finish()
    if not mode or (mode == "ballot") != (scalar.name == "b32"):
        raise m.refuse("this vote")
    reader = Reader(compiler.registers)
    destination, condition, mask = operands_of(instruction, 3)
    put = reader.put(destination, scalar)
    truth, members = reader.predicate(condition), _members(compiler, mask)

    def run(batch: Batch, lanes: Lanes) -> None:
        active, fellows = _active(batch, lanes), members(batch, lanes)
        votes, voters = _ballot(active, truth(batch, lanes)) & fellows, _ballot(active) & fellows
        answers = {"ballot": votes, "all": votes == voters, "any": votes != 0}
        put(batch, lanes, answers[mode] if mode != "uni" else (votes == 0) | (votes == voters))

    return Step("collective", run, guard, members=members)


def _reduce(compiler: Compiler, m: Modifiers, instruction: Instruction, guard: Any) -> Step:  # noqa: ANN401 - a closure
    from precalign.gpu.ptx.compiler import Step

    functions = {"add": np.add, "min": np.minimum, "max": np.maximum}
    logic = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
    scalar = m.scalar("u32", "s32", "b32")
    function = (logic if scalar.name == "b32" else functions).get(m.take(*functions, *logic))
    m.finish()
    if function is None:
        raise m.refuse("this reduction")
    reader = Reader(compiler.registers)
    destination, source, mask = operands_of(instruction, 3)
    put, value = reader.put(destination, scalar), reader.get(source, scalar)
    members = _members(compiler, mask)

    def run(batch: Batch, lanes: Lanes) -> None:
        active = _active(batch, lanes)
        groups = (active >> 5 << 32) + members(batch, lanes)  # different masks of one warp are reduced apart
        order = np.argsort(groups, kind="stable")
        ordered = groups[order]
        starts = np.nonzero(np.append(True, ordered[1:] != ordered[:-1]))[0]
        given = np.broadcast_to(value(batch, lanes), active.shape)[order]
        sums = function.reduceat(given, starts, dtype=scalar.dtype)
        results = np.empty(active.shape, scalar.dtype)
        results[order] = np.repeat(sums, np.diff(np.append(starts, active.size)))
        put(batch, lanes, results)

    return Step("collective", run, guard, members=members)
