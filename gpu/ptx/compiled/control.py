"""Where lanes part and meet: dispatch, branches, exits, barriers, warp-wide operations.

A warp's lanes run lowest instruction first, by basic block: that decides which lanes a request holds. As long as all running
lanes are at one place, blocks jump to each other; otherwise each lane's place is kept in the frame and `dispatch` chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import splat, vector
from precalign.gpu.ptx.compiled.layout import AT_BARRIER, EXITED, HANG, MASK, OTHERS, PC_BYTES, RUNNING, TURNS_WORD
from precalign.gpu.ptx.compiled.memory import leave_on
from precalign.gpu.ptx.compiled.runtime.collectives import REDUCTIONS, SHUFFLES, VOTES
from precalign.gpu.ptx.operations.registry import Modifiers
from precalign.gpu.ptx.program import Immediate, Pair
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from precalign.gpu.ptx.compiled.code import Code
    from precalign.gpu.ptx.compiled.graph import Block
    from precalign.gpu.ptx.compiled.lanes import Lanes
    from precalign.gpu.ptx.program import Instruction, Operand

_U32, _B32, _PRED = SCALARS["u32"], SCALARS["b32"], SCALARS["pred"]
_PCS = vector("i32")


def write_prologue(code: Code) -> None:
    """Write the entry of the function: addresses of the parts of the frame."""
    for name, offset in (("running", 4 * RUNNING), ("exited", 4 * EXITED), ("barrier", 4 * AT_BARRIER)):
        code.do(f"%{name}.p = getelementptr i8, ptr %frame, i64 {offset}")
    for name, offset in (("mask", 4 * MASK), ("others", 4 * OTHERS), ("turns", 8 * TURNS_WORD), ("pc", PC_BYTES)):
        code.do(f"%{name}.p = getelementptr i8, ptr %frame, i64 {offset}")


def write_dispatch(code: Code, begins: list[int]) -> None:
    """Write the choice of the lanes that run next, and the two ways out of the function."""
    code.label("dispatch")
    running = code.emit("load i32, ptr %running.p, align 4")
    done = code.emit(f"icmp eq i32 {running}, 0")
    code.do(f"br i1 {done}, label %leave, label %choose")
    code.label("leave")
    code.do("ret i32 0")
    code.label("fault")
    code.do("ret i32 1")
    code.label("choose")
    places = code.emit(f"load {_PCS}, ptr %pc.p, align 64")
    candidates = code.select(code.truth(running), "i32", places, splat("i32", 0x7FFFFFFF))
    reduce = "llvm.vector.reduce.umin.v32i32"
    code.declarations[reduce] = f"declare i32 @{reduce}({_PCS})"
    lowest = code.emit(f"call i32 @{reduce}({_PCS} {candidates})")
    chosen = code.mask(code.compare("eq", "i32", candidates, _spread(code, lowest)))
    mask = code.emit(f"and i32 {chosen}, {running}")
    code.do(f"store i32 {mask}, ptr %mask.p, align 4")
    code.do(f"store i32 {code.emit(f'xor i32 {running}, {mask}')}, ptr %others.p, align 4")
    targets = " ".join(f"i32 {begin}, label %block{begin}" for begin in begins)
    code.do(f"switch i32 {lowest}, label %fault [{targets}]")


def _spread(code: Code, value: str) -> str:
    first = code.emit(f"insertelement {_PCS} poison, i32 {value}, i32 0")
    return code.emit(f"shufflevector {_PCS} {first}, {_PCS} poison, {_PCS} zeroinitializer")


def write_turn(code: Code, begin: int) -> None:
    """Count a turn of a block to which control goes back, and give up after very many."""
    turns = code.emit(f"sub i64 {code.emit('load i64, ptr %turns.p, align 8')}, 1")
    code.do(f"store i64 {turns}, ptr %turns.p, align 8")
    over = code.emit(f"icmp slt i64 {turns}, 0")
    going, hung = code.name("going"), code.name("hung")
    code.do(f"br i1 {over}, label %{hung}, label %{going}")
    code.label(hung)
    write_fault(code, HANG, begin, "-1")
    code.label(going)


def write_fault(code: Code, kind: int, index: int, mask: str) -> None:
    """Report a fault and leave."""
    code.declarations["ptx_fault"] = "declare i32 @ptx_fault(ptr, i64, i64, i32)"
    code.emit(f"call i32 @ptx_fault(ptr %ctx, i64 {kind}, i64 {index}, i32 {mask})")
    code.do("br label %fault")


class Ending:
    """The end of a block.

    Parameters
    ----------
    lanes : Lanes
        Of the block, everything but its end written.
    block : Block
    """

    def __init__(self, lanes: Lanes, block: Block) -> None:
        self.lanes, self.code, self.block = lanes, lanes.code, block

    def _go(self, mask: str, place: int) -> None:
        """Keep a place for some lanes."""
        old = self.code.emit(f"load {_PCS}, ptr %pc.p, align 64")
        new = self.code.select(self.code.truth(mask), "i32", splat("i32", place), old)
        self.code.do(f"store {_PCS} {new}, ptr %pc.p, align 64")

    def _add(self, pointer: str, mask: str, operation: str = "or") -> None:
        old = self.code.emit(f"load i32, ptr {pointer}, align 4")
        self.code.do(f"store i32 {self.code.emit(f'{operation} i32 {old}, {mask}')}, ptr {pointer}, align 4")

    def _without(self, mask: str, taken: str) -> str:
        return self.code.emit(f"and i32 {mask}, {self.code.emit(f'xor i32 {taken}, -1')}")

    def _alone(self) -> str:
        """Tell whether no other lanes of the warp run."""
        others = self.code.emit("load i32, ptr %others.p, align 4")
        return self.code.emit(f"icmp eq i32 {others}, 0")

    def _all_go(self, place: int) -> None:
        """Go on together: straight if nobody else runs, by way of dispatch if somebody does."""
        if place == self.block.end and self.block.ending == "into":
            self.code.do(f"br label %block{place}")
            return
        apart = self.code.name("apart")
        self.code.do(f"br i1 {self._alone()}, label %block{place}, label %{apart}")
        self.code.label(apart)
        self._go(self.lanes.mask_bits, place)
        self.code.do("br label %dispatch")

    def _split(self, guard: Operand | None) -> tuple[str, str]:
        """Return (lanes that do it, lanes that go on) and store registers."""
        mask = self.lanes.mask_bits
        truth = None if guard is None else self.code.mask(self.lanes.read(guard, _PRED))
        self.lanes.flush(self.block.live_out)
        if truth is None:
            return mask, "0"
        going = self.code.emit(f"and i32 {mask}, {truth}")
        return going, self._without(mask, going)

    def next(self) -> None:
        """Fall into the block that follows."""
        self.lanes.flush(self.block.live_out)
        self._all_go(self.block.end)

    def branch(self, guard: Operand | None) -> None:
        """Branch, or part."""
        going, staying = self._split(guard)
        target = self.block.successors[0]
        if guard is None:
            self._all_go(target)
            return
        code, end = self.code, self.block.end
        alone, both, whole, parted = (code.name(n) for n in ("alone", "both", "whole", "parted"))
        code.do(f"br i1 {self._alone()}, label %{alone}, label %{parted}")
        code.label(alone)
        none_stay = code.emit(f"icmp eq i32 {staying}, 0")
        code.do(f"br i1 {none_stay}, label %block{target}, label %{whole}")
        code.label(whole)
        none_go = code.emit(f"icmp eq i32 {going}, 0")
        code.do(f"br i1 {none_go}, label %block{end}, label %{both}")
        code.label(both)
        code.do(f"br label %{parted}")
        code.label(parted)
        self._go(going, target)
        self._go(staying, end)
        code.do("br label %dispatch")

    def exit(self, guard: Operand | None) -> None:
        """End the thread."""
        going, staying = self._split(guard)
        self._add("%running.p", self.code.emit(f"xor i32 {going}, -1"), "and")
        self._add("%exited.p", going)
        if guard is not None:
            self._go(staying, self.block.end)
        self.code.do("br label %dispatch")

    def barrier(self, instruction: Instruction) -> None:
        """Wait for the whole block."""
        m = Modifiers(instruction.opcode)
        sync = m.flag("sync")
        m.take("cta")
        m.flag("aligned")
        m.finish()
        if not sync:
            raise m.refuse("a barrier that is not .sync")
        if len(instruction.operands) != 1 or not isinstance(instruction.operands[0], Immediate):
            raise m.refuse("a barrier of part of the block, or one chosen at run time,")
        going, staying = self._split(instruction.guard)
        self._add("%running.p", self.code.emit(f"xor i32 {going}, -1"), "and")
        self._add("%barrier.p", going)
        self._go(going, self.block.end - 1)
        if instruction.guard is not None:
            self._go(staying, self.block.end)
        self.code.do("br label %dispatch")

    def collective(self, instruction: Instruction) -> None:
        """Wait for the members of the mask, then do it together."""
        plan = _collective(instruction)
        index, code, lanes = self.block.begin, self.code, self.lanes
        going, staying = self._split(instruction.guard)
        if instruction.guard is not None:
            self._go(staying, self.block.end)
        members = lanes.read(instruction.operands[plan.members], _U32)
        code.do(f"store {_PCS} {members}, ptr %scratch.address, align 64")
        code.declarations["ptx_gather"] = "declare i64 @ptx_gather(ptr, ptr, i64, i64, i32, ptr)"
        gathered = code.emit(
            f"call i64 @ptx_gather(ptr %ctx, ptr %frame, i64 {index}, i64 {index}, i32 {going}, ptr %scratch.address)"
        )
        leave_on(lanes, code.emit(f"icmp slt i64 {gathered}, 0"))
        ready = code.emit(f"trunc i64 {gathered} to i32")
        none, some = code.emit(f"icmp eq i32 {ready}, 0"), code.name("some")
        code.do(f"br i1 {none}, label %dispatch, label %{some}")
        code.label(some)
        lanes.mask_bits, lanes.mask = ready, code.truth(ready)
        plan.write(lanes, index, instruction)
        lanes.flush(self.block.live_out)
        self._go(ready, self.block.end)
        code.do("br label %dispatch")


class _Plan:
    """A warp-wide operation: which operand holds the members, and what to write."""

    members = -1

    def write(self, lanes: Lanes, index: int, instruction: Instruction) -> None:
        """Write it for the lanes of `lanes.mask`; the members lie in %scratch.address."""


class _WarpBarrier(_Plan):
    members = 0


class _Shuffle(_Plan):
    def __init__(self, mode: str) -> None:
        self.mode = SHUFFLES.index(mode)

    def write(self, lanes: Lanes, index: int, instruction: Instruction) -> None:
        code = lanes.code
        destination, *sources = instruction.operands
        places = []
        for number, operand in enumerate(sources[:3]):
            place = code.emit(f"getelementptr i8, ptr %scratch.value, i64 {128 * number}")
            code.do(f"store {_PCS} {lanes.read(operand, _U32)}, ptr {place}, align 64")
            places.append(place)
        code.declarations["ptx_shuffle"] = "declare i64 @ptx_shuffle(ptr, i64, i64, i32, ptr, ptr, ptr, ptr, ptr)"
        valid = code.emit(
            f"call i64 @ptx_shuffle(ptr %ctx, i64 {index}, i64 {self.mode}, i32 {lanes.mask_bits}, ptr %scratch.address, "
            f"{', '.join(f'ptr {p}' for p in places)}, ptr %scratch.place)"
        )
        leave_on(lanes, code.emit(f"icmp slt i64 {valid}, 0"))
        result = code.emit(f"load {_PCS}, ptr %scratch.place, align 64")
        pair = isinstance(destination, Pair)
        lanes.write(destination.first if isinstance(destination, Pair) else destination, _B32, result)
        if pair and isinstance(destination, Pair):
            lanes.write(destination.second, _PRED, code.truth(code.emit(f"trunc i64 {valid} to i32")))


class _Vote(_Plan):
    def __init__(self, mode: str) -> None:
        self.mode = mode

    def write(self, lanes: Lanes, index: int, instruction: Instruction) -> None:  # noqa: ARG002 - of _Plan
        code = lanes.code
        truth = code.mask(lanes.read(instruction.operands[1], _PRED))
        code.declarations["ptx_vote"] = "declare i64 @ptx_vote(i64, i32, ptr, i32, ptr)"
        yes = code.emit(
            f"call i64 @ptx_vote(i64 {VOTES.index(self.mode)}, i32 {lanes.mask_bits}, ptr %scratch.address, i32 {truth}, ptr %scratch.place)"
        )
        if self.mode == "ballot":
            lanes.write(instruction.operands[0], _B32, code.emit(f"load {_PCS}, ptr %scratch.place, align 64"))
        else:
            lanes.write(instruction.operands[0], _PRED, code.truth(code.emit(f"trunc i64 {yes} to i32")))


class _Reduction(_Plan):
    def __init__(self, form: str) -> None:
        self.operation = REDUCTIONS.index(form)

    def write(self, lanes: Lanes, index: int, instruction: Instruction) -> None:  # noqa: ARG002 - of _Plan
        code = lanes.code
        code.do(f"store {_PCS} {lanes.read(instruction.operands[1], _B32)}, ptr %scratch.value, align 64")
        code.declarations["ptx_reduce"] = "declare i64 @ptx_reduce(i64, i32, ptr, ptr, ptr)"
        code.emit(
            f"call i64 @ptx_reduce(i64 {self.operation}, i32 {lanes.mask_bits}, ptr %scratch.address, ptr %scratch.value, ptr %scratch.place)"
        )
        lanes.write(instruction.operands[0], _B32, code.emit(f"load {_PCS}, ptr %scratch.place, align 64"))


def _collective(instruction: Instruction) -> _Plan:
    """Resolve the modifiers of a warp-wide operation."""
    m = Modifiers(instruction.opcode)
    plan: _Plan
    if m.name in ("bar", "barrier"):
        m.flag("warp")
        sync = m.flag("sync")
        plan = _WarpBarrier()
    else:
        sync = m.flag("sync")
        plan = {"shfl": _shuffle, "vote": _vote, "redux": _reduction}[m.name](m)
    m.finish()
    if not sync:
        raise m.refuse("a warp operation without .sync")
    return plan


def _shuffle(m: Modifiers) -> _Plan:
    m.scalar("b32")
    mode = m.take(*SHUFFLES)
    if not mode:
        raise m.refuse("a shuffle without mode")
    return _Shuffle(mode)


def _vote(m: Modifiers) -> _Plan:
    scalar, mode = m.scalar("pred", "b32"), m.take(*VOTES)
    if not mode or (mode == "ballot") != (scalar.name == "b32"):
        raise m.refuse("this vote")
    return _Vote(mode)


def _reduction(m: Modifiers) -> _Plan:
    scalar = m.scalar("u32", "s32", "b32")
    name = m.take("add", "min", "max") if scalar.kind != "b" else m.take("and", "or", "xor")
    if not name:
        raise m.refuse("this reduction")
    return _Reduction(f"{name}.{scalar.kind}" if name in ("min", "max") else name)
