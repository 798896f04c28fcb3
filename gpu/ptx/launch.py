"""One launch: parameters packed, buffers placed, batches of blocks run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import InputError, UsageError
from precalign.gpu.ptx.faults import UnsupportedPtxError
from precalign.gpu.ptx.memory import PARAM_BASE, GlobalMemory
from precalign.gpu.ptx.report import Report
from precalign.gpu.ptx.variables import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.gpu.ptx.program import Entry, Module, Variable


@dataclass(frozen=True)
class Uninitialised:
    """An output array of which nothing may be read before the kernel has written it."""

    array: NDArray[Any]


class ModuleMemory:
    """The module's own global and constant variables; they live on between launches, as on a GPU.

    Raises
    ------
    UnsupportedPtxError
        If they take more memory than is modelled.
    """

    def __init__(self, module: Module) -> None:
        self.variables = [v for v in module.variables if v.space in ("global", "const")]
        total = sum(v.size_bytes for v in self.variables)
        if total > MOST_BYTES["global"]:
            raise UnsupportedPtxError(f"the module's variables take {total} bytes, {MOST_BYTES['global']} are modelled")
        self.octets = {v.name: _initial(v) for v in self.variables}


def _initial(variable: Variable) -> NDArray[np.uint8]:
    octets = np.zeros(variable.size_bytes, np.uint8)
    if variable.initial:
        octets[: len(variable.initial)] = np.frombuffer(variable.initial, np.uint8)
    return octets


class Launch:
    """Everything that the blocks of a launch share, whatever engine runs them.

    Parameters
    ----------
    entry : Entry
    module, memory : Module, ModuleMemory
    grid, block : tuple of 3 int
    arguments : sequence
        NumPy arrays (passed as pointers, used in place), `Uninitialised` arrays, NumPy scalars, None for a null pointer, and
        0-dimensional structured arrays for structs by value.
    shared_bytes : int
        Dynamic shared memory.

    Raises
    ------
    InputError, UsageError
        If arguments do not fit the kernel's parameters.
    """

    def __init__(
        self,
        entry: Entry,
        module: Module,
        memory: ModuleMemory,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
        shared_bytes: int,
    ) -> None:
        self.entry, self.grid, self.block, self.shared_bytes = entry, grid, block, shared_bytes
        self.module_shared = [v for v in module.variables if v.space == "shared"]
        self.memory, self.addresses = GlobalMemory(), {}
        for variable in memory.variables:
            constant = variable.space == "const"
            octets = memory.octets[variable.name]
            self.addresses[variable.name] = self.memory.place(variable.name, octets, read_only=constant).base
        self._check_shape()
        self.param_octets = self._pack(arguments)
        self.report = Report(entry.name)

    @property
    def threads_per_block(self) -> int:
        """Threads of a block."""
        return int(np.prod(self.block))

    def _check_shape(self) -> None:
        entry = self.entry
        if min(*self.grid, *self.block) < 1:
            raise UsageError(f"{entry.name}: grid {self.grid} and block {self.block} must be at least 1 everywhere")
        limit = entry.max_threads or 1024
        if self.threads_per_block > limit:
            raise UsageError(
                f"{entry.name}: a block of {self.threads_per_block} threads, but the kernel is compiled for {limit}"
            )
        if self.shared_bytes < 0:
            raise UsageError(f"{entry.name}: shared_bytes must not be negative")

    def _pack(self, arguments: Sequence[Any]) -> NDArray[np.uint8]:
        entry = self.entry
        if len(arguments) != len(entry.params):
            raise InputError(f"{entry.name} takes {len(entry.params)} arguments, got {len(arguments)}")
        packed = bytearray()
        placed: dict[int, Any] = {}
        for number, (param, argument) in enumerate(zip(entry.params, arguments, strict=True)):
            packed.extend(bytes(-len(packed) % param.align))
            self.addresses[param.name] = PARAM_BASE + len(packed)
            octets = self._octets(argument, f"{entry.name}, argument {number}", placed)
            if len(octets) != param.size_bytes:
                raise InputError(
                    f"{entry.name}, argument {number}: the kernel takes {param.size_bytes} bytes, got {len(octets)}",
                    hint="pass NumPy scalars of the parameter's type, such as numpy.float32(1.5)",
                )
            packed.extend(octets)
        return np.frombuffer(bytes(packed), np.uint8)

    def _octets(self, argument: Any, where: str, placed: dict[int, Any]) -> bytes:  # noqa: ANN401 - whatever the caller passes
        if argument is None:
            return bytes(8)
        uninitialised = isinstance(argument, Uninitialised)
        array = argument.array if uninitialised else argument
        if isinstance(array, np.generic) or (isinstance(array, np.ndarray) and array.ndim == 0):
            return array.tobytes()
        if not isinstance(array, np.ndarray):
            raise InputError(f"{where}: expected a NumPy array or scalar, got {type(array).__name__}")
        if not array.flags.c_contiguous:
            raise InputError(f"{where}: the array is not contiguous", hint="numpy.ascontiguousarray")
        base = self._place(array, where, placed, uninitialised=uninitialised)
        return np.uint64(base).tobytes()

    def _place(self, array: NDArray[Any], where: str, placed: dict[int, Any], *, uninitialised: bool) -> int:
        octets = array.reshape(-1).view(np.uint8)
        for other, base in placed.values():
            if other.size == octets.size and other.ctypes.data == octets.ctypes.data:
                return int(base)
            if np.may_share_memory(other, octets):
                raise InputError(f"{where}: overlaps another argument in part, which is not modelled")
        segment = self.memory.place(where, octets, read_only=not array.flags.writeable, uninitialised=uninitialised)
        placed[len(placed)] = (octets, segment.base)
        return segment.base

    def summarise(
        self, executed: NDArray[np.int64], issued: NDArray[np.int64], n_blocks: int, models: dict[int, str]
    ) -> Report:
        """Fill the report but for its memory lines.

        Parameters
        ----------
        executed, issued : ndarray[int64], (n_instructions,)
            Lanes and warps that ran each instruction.
        n_blocks : int
        models : dict of int to str
            Instructions that follow a stated model.
        """
        report, entry = self.report, self.entry
        report.launches, report.blocks = 1, n_blocks
        report.threads = n_blocks * self.threads_per_block
        report.warp_instructions = int(issued.sum())
        for index in np.nonzero(executed)[0]:
            opcode = entry.instructions[index].opcode
            report.instructions[opcode] = report.instructions.get(opcode, 0) + int(executed[index])
            if int(index) in models:
                report.models[opcode] = models[int(index)]
        shared = [*self.module_shared, *(v for v in entry.variables if v.space == "shared")]
        report.shared_bytes = sum(v.size_bytes for v in shared) + self.shared_bytes
        return report
