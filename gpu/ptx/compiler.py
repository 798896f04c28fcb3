"""A parsed kernel to a list of steps, each a closure over registers held as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import PrecalignError
from precalign.gpu.ptx import atomics, collectives, loads
from precalign.gpu.ptx.access import Reader, Registers
from precalign.gpu.ptx.faults import PtxSyntaxError, UnsupportedPtxError, operands_of
from precalign.gpu.ptx.operations import resolve
from precalign.gpu.ptx.program import Label, Negated, Pair, Register, Vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.batch import Batch
    from precalign.gpu.ptx.operations import Operation
    from precalign.gpu.ptx.program import Entry, Instruction, Operand

Array = Any
Lanes = Any
"""Indices of the active lanes, ascending; None where all are active."""


@dataclass(frozen=True)
class Step:
    """One instruction, ready to run.

    Attributes
    ----------
    kind : str
        "plain", "branch", "exit", "barrier" or "collective".
    run : callable
        Does it for the given lanes.
    guard : callable or None
        Reads the predicate of the given lanes.
    target : int
        Of a branch.
    members : callable or None
        Reads the member mask of a collective.
    """

    kind: str
    run: Callable[[Batch, Lanes], None]
    guard: Callable[[Batch, Lanes], Array] | None = None
    target: int = -1
    members: Callable[[Batch, Lanes], Array] | None = None


@dataclass
class Program:
    """A kernel compiled to steps.

    Attributes
    ----------
    steps : list of Step
    leaders : ndarray[bool]
        Where basic blocks begin.
    registers : list of numpy.dtype
        Storage of each register.
    models : dict of int to str
        Instructions whose opcode follows a stated model.
    shared_granule : int
        Bytes of the narrowest access to shared memory.
    racy_reads : ndarray[bool]
        Instructions that can run in the same stretch between barriers as a write to shared memory.
    """

    entry: Entry
    steps: list[Step]
    leaders: Array
    registers: Registers
    models: dict[int, str]
    shared_granule: int
    racy_reads: Array


def _nothing(batch: Batch, lanes: Lanes) -> None:
    """Do what a branch, an exit or a fence does to registers."""


_FENCES = ("membar", "fence")


class Compiler:
    """Compiles one kernel."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.registers = Registers()
        self.models: dict[int, str] = {}
        self.shared_widths: dict[int, int] = {}
        self.shared_writes: list[int] = []

    def compile(self) -> Program:
        """Compile every instruction.

        Raises
        ------
        UnsupportedPtxError
            Naming the source line, for the first instruction that is not modelled.
        """
        steps = []
        for index, instruction in enumerate(self.entry.instructions):
            try:
                steps.append(self._step(index, instruction))
            except PrecalignError as error:
                place = f"{instruction.location}: PTX line {instruction.ptx_line}"
                raise type(error)(f"{place}: {error.message}", hint=error.hint) from error
        leaders = np.zeros(len(steps) + 1, np.bool_)
        for target in self.entry.labels.values():
            leaders[target] = True
        racy = _racy(steps, self.shared_writes)
        granule = min(self.shared_widths.values(), default=4)
        return Program(self.entry, steps, leaders, self.registers, self.models, granule, racy)

    def _step(self, index: int, instruction: Instruction) -> Step:
        guard = self._guard(instruction.guard) if instruction.guard is not None else None
        name, parts = instruction.name, instruction.opcode.split(".")[1:]
        if name == "bra":
            return Step("branch", _nothing, guard, self._target(instruction, parts))
        if name in ("ret", "exit") and parts in ([], ["uni"]):
            return Step("exit", _nothing, guard)
        if name in collectives.NAMES:
            return collectives.compile_collective(self, instruction, guard)
        return Step("plain", self._plain(index, instruction), guard)

    def _plain(self, index: int, instruction: Instruction) -> Callable[[Batch, Lanes], None]:
        name = instruction.name
        if name in _FENCES:  # lanes see memory in program order anyway
            return _nothing
        if name == "trap":
            return loads.trap(instruction)
        if name in ("ld", "ldu", "st"):
            return loads.compile_access(self, index, instruction)
        if name in ("atom", "red"):
            return atomics.compile_atomic(self, index, instruction)
        if name == "cvta":
            return loads.compile_cvta(self, instruction)
        if name == "mov" and any(isinstance(o, Vector) for o in instruction.operands):
            return loads.compile_vector_move(self, instruction)
        return self._computation(index, instruction)

    def _target(self, instruction: Instruction, parts: list[str]) -> int:
        (label,) = operands_of(instruction, 1)
        if parts not in ([], ["uni"]) or not isinstance(label, Label):
            raise UnsupportedPtxError(f"{instruction.opcode} is not modelled")
        if label.name not in self.entry.labels:
            raise PtxSyntaxError(f"no such label: {label.name}")
        return self.entry.labels[label.name]

    def _guard(self, guard: Register | Negated) -> Callable[[Batch, Lanes], Array]:
        return Reader(self.registers).predicate(guard)

    def _computation(self, index: int, instruction: Instruction) -> Callable[[Batch, Lanes], None]:
        operation = resolve(instruction.opcode)
        if operation.model:
            self.models[index] = operation.model
        destination, *sources = operands_of(instruction, 1 + len(operation.sources))
        reader = Reader(self.registers)
        getters = [
            reader.get(operand, scalar, wide=operation.wide_registers)
            for operand, scalar in zip(sources, operation.sources, strict=True)
        ]
        function = operation.function
        if len(operation.results) == 2:
            return self._two_results(destination, operation, getters)
        put = reader.put(destination, operation.results[0], wide=operation.wide_registers)
        if len(getters) == 1:
            (one,) = getters
            return lambda batch, lanes: put(batch, lanes, function(one(batch, lanes)))
        if len(getters) == 2:
            left, right = getters
            return lambda batch, lanes: put(batch, lanes, function(left(batch, lanes), right(batch, lanes)))
        return lambda batch, lanes: put(batch, lanes, function(*[g(batch, lanes) for g in getters]))

    def _two_results(
        self,
        destination: Operand,
        operation: Operation,
        getters: list[Any],
    ) -> Callable[[Batch, Lanes], None]:
        reader, pair = Reader(self.registers), isinstance(destination, Pair)
        wanted = (destination.first, destination.second) if isinstance(destination, Pair) else (destination,)
        puts = [reader.put(w, s) for w, s in zip(wanted, operation.results, strict=False)]
        function = operation.function

        def run(batch: Batch, lanes: Lanes) -> None:
            results = function(*[g(batch, lanes) for g in getters])
            puts[0](batch, lanes, results[0])
            if pair:
                puts[1](batch, lanes, results[1])

        return run


def _successors(index: int, step: Step) -> list[int]:
    if step.kind == "branch":
        return [step.target] + ([index + 1] if step.guard else [])
    if step.kind == "exit":
        return [index + 1] if step.guard else []
    return [index + 1]


def _racy(steps: list[Step], writes: list[int]) -> Array:
    """Mark what can run between the same two barriers of the block as a write to shared memory."""
    racy = np.zeros(len(steps) + 1, np.bool_)
    for start in [0] + [i + 1 for i, s in enumerate(steps) if s.kind == "barrier"]:
        seen, todo = set(), [start]
        while todo:
            index = todo.pop()
            if index in seen or index >= len(steps) or steps[index].kind == "barrier":
                continue
            seen.add(index)
            todo.extend(_successors(index, steps[index]))
        if seen.intersection(writes):
            racy[list(seen)] = True
    return racy
