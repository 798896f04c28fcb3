"""Basic blocks of a kernel, and which registers are still wanted where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from precalign.gpu.ptx.faults import PtxSyntaxError, UnsupportedPtxError
from precalign.gpu.ptx.program import Address, Label, Negated, Pair, Register, Vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precalign.gpu.ptx.program import Entry, Instruction, Operand

COLLECTIVES = ("shfl", "vote", "redux")
EXITS = ("ret", "exit")
_WITHOUT_RESULT = ("st", "red", "bra", "bar", "barrier", "membar", "fence", "trap", "ret", "exit")


@dataclass
class Block:
    """Instructions `begin` to `end`, run by a set of lanes together.

    Attributes
    ----------
    begin, end : int
    ending : str
        "branch", "exit", "barrier", "collective", "next" or "into" (a collective follows to which nothing branches). A
        collective stands in a block of its own, so that lanes that came earlier find their operands in memory; nothing is
        scheduled before it.
    successors : list of int
        Blocks by their first instruction.
    live_in, live_out : set of str
        Registers.
    """

    begin: int
    end: int
    ending: str
    successors: list[int] = field(default_factory=list)
    live_in: set[str] = field(default_factory=set)
    live_out: set[str] = field(default_factory=set)


def registers_of(operand: Operand | None) -> Iterator[Register]:
    """Yield every register in an operand."""
    if isinstance(operand, Register):
        yield operand
    elif isinstance(operand, Negated):
        yield operand.register
    elif isinstance(operand, Address):
        if isinstance(operand.base, Register):
            yield operand.base
    elif isinstance(operand, Vector):
        for element in operand.elements:
            yield from registers_of(element)
    elif isinstance(operand, Pair):
        yield from registers_of(operand.first)
        yield from registers_of(operand.second)


def split_results(instruction: Instruction) -> tuple[tuple[Operand, ...], tuple[Operand, ...]]:
    """Return (results, sources)."""
    n = 0 if instruction.name in _WITHOUT_RESULT else 1
    return instruction.operands[:n], instruction.operands[n:]


def ending_of(instruction: Instruction) -> str:
    """Return how an instruction parts the lanes, or "plain"."""
    name = instruction.name
    if name == "bra":
        return "branch"
    if name in EXITS:
        return "exit"
    if name in COLLECTIVES or (name in ("bar", "barrier") and ".warp" in instruction.opcode):
        return "collective"
    return "barrier" if name in ("bar", "barrier") else "plain"


def blocks_of(entry: Entry) -> dict[int, Block]:
    """Cut a kernel into basic blocks, by first instruction, and find what is live.

    Raises
    ------
    PtxSyntaxError, UnsupportedPtxError
    """
    instructions = entry.instructions
    if not instructions or ending_of(instructions[-1]) not in ("exit", "branch") or instructions[-1].guard:
        raise UnsupportedPtxError(f"{entry.name}: a kernel that does not end in ret, exit or bra is not modelled")
    targets = {i for i in entry.labels.values() if i < len(instructions)}
    starts = {0} | targets
    for index, instruction in enumerate(instructions):
        kind = ending_of(instruction)
        if kind != "plain":
            starts.add(index + 1)
        if kind == "collective":
            starts.add(index)
    blocks = {}
    ordered = sorted(s for s in starts if s < len(instructions))
    for begin, end in zip(ordered, [*ordered[1:], len(instructions)], strict=True):
        kind = ending_of(instructions[end - 1])
        if kind == "plain":
            kind = "next" if end in targets or ending_of(instructions[end]) != "collective" else "into"
        block = Block(begin, end, kind)
        block.successors = _successors(entry, block)
        blocks[begin] = block
    _find_live(entry, blocks)
    return blocks


def _successors(entry: Entry, block: Block) -> list[int]:
    last = entry.instructions[block.end - 1]
    if block.ending == "branch":
        label = last.operands[0]
        if not isinstance(label, Label) or label.name not in entry.labels:
            raise PtxSyntaxError(f"{last.location}: no such label: {label}")
        target = entry.labels[label.name]
        if target >= len(entry.instructions):
            raise UnsupportedPtxError(f"{last.location}: a branch to the end of the kernel is not modelled")
        return [target] + ([block.end] if last.guard else [])
    if block.ending == "exit":
        return [block.end] if last.guard else []
    return [block.end]


def _find_live(entry: Entry, blocks: dict[int, Block]) -> None:
    used, defined = {}, {}
    for begin, block in blocks.items():
        uses: set[str] = set()
        kills: set[str] = set()
        for instruction in entry.instructions[begin : block.end]:
            results, sources = split_results(instruction)
            read = [r for o in (*sources, instruction.guard) for r in registers_of(o)]
            written = [r.name for o in results for r in registers_of(o)]
            uses |= {r.name for r in read} - kills
            if instruction.guard is None and block.ending != "collective":
                kills |= set(written)
            else:  # a lane whose guard fails keeps what it had
                uses |= set(written) - kills
        used[begin], defined[begin] = uses, kills
    changed = True
    while changed:
        changed = False
        for begin in sorted(blocks, reverse=True):
            block = blocks[begin]
            out = set().union(*(blocks[s].live_in for s in block.successors if s in blocks))
            new = used[begin] | (out - defined[begin])
            changed |= new != block.live_in
            block.live_in, block.live_out = new, out
