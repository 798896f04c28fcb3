"""The state of many blocks that run side by side, and their accesses to memory."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.ptx.faults import UnsupportedPtxError
from precalign.gpu.ptx.loads import split_generic
from precalign.gpu.ptx.memory import LOCAL_WINDOW, PARAM_BASE, SHARED_WINDOW, BadAccess, PrivateMemory, lay_out
from precalign.gpu.ptx.races import RaceDetector
from precalign.gpu.ptx.report import MemoryLine
from precalign.gpu.ptx.traffic import count_passes, count_requests, count_sectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.gpu.ptx.compiler import Program
    from precalign.gpu.ptx.launch import Launch

Array = Any
RUNNING, AT_BARRIER, AT_WARP, EXITED = 0, 1, 2, 3


class Batch:
    """Registers, memories and places of the lanes of some blocks of a launch.

    Parameters
    ----------
    program : Program
    launch : Launch
    block_numbers : ndarray[int64]
        Which blocks, x fastest.
    """

    def __init__(self, program: Program, launch: Launch, block_numbers: NDArray[np.int64]) -> None:
        self.program, self.launch = program, launch
        self.n_blocks = block_numbers.size
        self.warps = -(-launch.threads_per_block // 32)
        self.block_lanes = 32 * self.warps
        self.n_lanes = self.n_blocks * self.block_lanes
        self.n_warps = self.n_blocks * self.warps
        self.everyone = np.arange(self.n_lanes)
        self.block_of = self.everyone // self.block_lanes
        self.thread_of = self.everyone % self.block_lanes
        self.block_numbers = block_numbers
        self.registers: list[Array] = [None] * len(program.registers.storage)
        self.pc = np.zeros(self.n_lanes, np.int32)
        self.state = np.where(self.thread_of < launch.threads_per_block, RUNNING, EXITED).astype(np.int8)
        self.real = self.state == RUNNING
        self.block_epoch = np.zeros(self.n_blocks, np.int32)
        self.warp_epoch = np.zeros(self.n_blocks * self.warps, np.int32)
        self._specials: dict[str, Array] = {}
        self._place_variables()

    def _place_variables(self) -> None:
        launch, entry = self.launch, self.program.entry
        shared = [v for v in [*launch.module_shared, *entry.variables] if v.space == "shared"]
        offsets, sizes, total = lay_out(shared, launch.shared_bytes)
        self.shared = PrivateMemory(offsets, sizes, total, self.n_blocks, "shared")
        self.races = RaceDetector(self.n_blocks * total, self.program.shared_granule, self.n_blocks)
        local = [v for v in entry.variables if v.space == "local"]
        offsets, sizes, total = lay_out(local, 0)
        self.local = PrivateMemory(offsets, sizes, total, self.n_lanes if local else 0, "local")
        self._addresses = launch.addresses | self.shared.offsets | self.local.offsets

    def address_of(self, name: str) -> int:
        """Return the address of a variable or parameter, in its own state space."""
        if name not in self._addresses:
            raise UnsupportedPtxError(f"no such variable: {name}")
        return self._addresses[name]

    def count(self, lanes: Array) -> int:
        """Return how many lanes a set holds."""
        return self.n_lanes if lanes is None else len(lanes)

    def thread_name(self, lane: int) -> str:
        """Return "block (x, y, z) thread (x, y, z)" of a lane."""
        block = tuple(int(self.special(f"ctaid.{a}")[lane]) for a in "xyz")
        thread = tuple(int(self.special(f"tid.{a}")[lane]) for a in "xyz")
        return f"block {block} thread {thread}"

    def special(self, name: str) -> Array:
        """Return a special register, one element or one a lane."""
        if name not in self._specials:
            self._specials[name] = self._compute_special(name).astype(np.uint32)
        return self._specials[name]

    def _compute_special(self, name: str) -> Array:
        kind, _, axis = name.partition(".")
        if axis:
            i = "xyz".index(axis)
            extent = self.launch.block if kind in ("tid", "ntid") else self.launch.grid
            if kind in ("ntid", "nctaid"):
                return np.array([extent[i]])
            number = self.thread_of if kind == "tid" else self.block_numbers[self.block_of]
            return number // int(np.prod(extent[:i])) % extent[i]
        lane = self.everyone & 31
        masks = {
            "laneid": lane,
            "warpid": self.thread_of >> 5,
            "nwarpid": np.array([self.warps]),
            "lanemask_eq": 1 << lane,
            "lanemask_lt": (1 << lane) - 1,
            "lanemask_le": (2 << lane) - 1,
            "lanemask_gt": ~((2 << lane) - 1),
            "lanemask_ge": ~((1 << lane) - 1),
        }
        return masks[kind]

    def load_param(self, offsets: Array, dtype: np.dtype[Any]) -> Array:
        """Read parameters; addresses that are all the same give one element."""
        octets, first = self.launch.param_octets, int(offsets[0])
        if (offsets != first).any():
            return octets[offsets[:, None] + np.arange(dtype.itemsize)].view(dtype).reshape(-1)
        return np.frombuffer(octets.tobytes(), dtype, 1, first)

    def _line(self, index: int, space: str) -> MemoryLine:
        memory = self.launch.report.memory
        if index not in memory:
            instruction = self.program.entry.instructions[index]
            memory[index] = MemoryLine(instruction.opcode, space, instruction.location)
        return memory[index]

    def _measure(self, index: int, space: str, addresses: Array, width: int, lanes: Array) -> None:
        line = self._line(index, space)
        line.requests += count_requests(lanes)
        line.lanes += lanes.size
        line.bytes += lanes.size * width
        if space == "shared":
            passes, conflicts = count_passes(lanes, addresses, width)
            line.passes += passes
            line.conflicts += conflicts
        elif space == "global":
            line.sectors += count_sectors(lanes, addresses)

    def _aligned(self, addresses: Array, width: int) -> None:
        wrong = addresses & (width - 1)
        if wrong.any():
            position = int(np.argmax(wrong != 0))
            at = int(addresses[position])
            raise BadAccess("misaligned", f"{width} bytes at 0x{at:x}, {at % width} beyond a multiple", position)

    def _epochs(self, lanes: Array) -> tuple[Array, Array, Array]:
        return self.block_of[lanes], self.block_epoch, self.warp_epoch

    def _race(self, kind: str, index: int, places: Array, width: int, lanes: Array) -> None:
        if kind == "read" and not self.program.racy_reads[index]:
            return
        found = self.races.access(kind, places, width, lanes, self._epochs(lanes))
        if found:
            position, against = found
            place = self.shared.describe(int(places[position]) % self.shared.stride, width)
            raise BadAccess(
                "race",
                f"{kind} of {place} and a{'n' if against == 'atomic' else ''} {against} of another thread, "
                "with no barrier between",
                position,
            )

    def load(
        self, index: int, space: str, addresses: Array, dtype: np.dtype[Any], count: int, lanes: Array
    ) -> list[Array]:
        """Read `count` neighbouring numbers per lane.

        Parameters
        ----------
        index : int
            Of the instruction.
        space : str
            global, shared, local, const or generic.
        addresses : ndarray[int64], (n,)
        dtype : numpy.dtype
        count : int
        lanes : ndarray[int64], (n,)
            Ascending.

        Returns
        -------
        list of ndarray, count arrays of (n,)

        Raises
        ------
        BadAccess
        """
        width = dtype.itemsize
        if space == "generic":
            return self._load_generic(index, addresses, dtype, count, lanes)
        self._aligned(addresses, width * count)
        if space in ("global", "const"):
            self._measure(index, space, addresses, width * count, lanes)
            return [self.launch.memory.load(addresses + i * width if i else addresses, dtype) for i in range(count)]
        memory, owners = (self.shared, self.block_of[lanes]) if space == "shared" else (self.local, lanes)
        places = memory.check(addresses, owners, width * count, for_read=True)
        if space == "shared":
            self._race("read", index, places, width * count, lanes)
        self._measure(index, space, addresses, width * count, lanes)
        return [memory.load(places + i * width if i else places, dtype) for i in range(count)]

    def _load_generic(self, index: int, addresses: Array, dtype: Any, count: int, lanes: Array) -> list[Array]:  # noqa: ANN401 - a dtype
        results = [np.empty(addresses.shape, dtype) for _ in range(count)]
        for space, positions in split_generic(addresses):
            chosen = slice(None) if positions is None else positions
            at = addresses[chosen] - {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space, 0)
            for result, values in zip(results, self.load(index, space, at, dtype, count, lanes[chosen]), strict=True):
                result[chosen] = values
        return results

    def store(self, index: int, space: str, addresses: Array, values: list[Array], lanes: Array) -> None:
        """Write neighbouring numbers per lane; parameters as for `load`.

        Raises
        ------
        BadAccess
        """
        width, count = values[0].dtype.itemsize, len(values)
        if space == "generic":
            for own_space, positions in split_generic(addresses):
                chosen = slice(None) if positions is None else positions
                at = addresses[chosen] - {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(own_space, 0)
                self.store(index, own_space, at, [v[chosen] for v in values], lanes[chosen])
            return
        self._aligned(addresses, width * count)
        if space in ("global", "const"):
            for i, part in enumerate(values):
                self.launch.memory.store(addresses + i * width, part)
            self._measure(index, space, addresses, width * count, lanes)
            return
        memory, owners = (self.shared, self.block_of[lanes]) if space == "shared" else (self.local, lanes)
        places = memory.check(addresses, owners, width * count, for_read=False)
        if space == "shared":
            self._race("write", index, places, width * count, lanes)
        for i, part in enumerate(values):
            memory.store(places + i * width, part)
            if space == "shared":
                self._same_instruction(memory.load(places + i * width, part.dtype), part, places)
        self._measure(index, space, addresses, width * count, lanes)

    def _same_instruction(self, kept: Array, written: Array, places: Array) -> None:
        """Refuse lanes of one instruction that write different values to one place."""
        lost = kept != written
        if lost.any():
            position = int(np.argmax(lost))
            place = self.shared.describe(int(places[position]) % self.shared.stride, written.dtype.itemsize)
            raise BadAccess("race", f"different values written at once: {place}", position)

    def update(
        self,
        index: int,
        space: str,
        addresses: Array,
        function: Callable[..., Array],
        operands: list[Array],
        lanes: Array,
    ) -> Array:
        """Read, change and write one number per lane, one lane after another where addresses agree.

        Parameters
        ----------
        index, space, addresses, lanes
            As for `load`; not generic.
        function : callable
            (old values, *operands) to new values.
        operands : list of ndarray, (n,)

        Returns
        -------
        ndarray, (n,)
            The old values.
        """
        dtype = operands[0].dtype
        self._aligned(addresses, dtype.itemsize)
        self._measure(index, space, addresses, dtype.itemsize, lanes)
        places = addresses
        if space == "shared":
            places = self.shared.check(addresses, self.block_of[lanes], dtype.itemsize, for_read=True)
            self._race("atomic", index, places, dtype.itemsize, lanes)
        memory = self.shared if space == "shared" else self.launch.memory
        order = np.argsort(places, kind="stable")
        ordered = places[order]
        starts = np.nonzero(np.append(True, ordered[1:] != ordered[:-1]))[0]
        rank = np.arange(order.size) - np.repeat(starts, np.diff(np.append(starts, order.size)))
        old = np.empty(places.shape, dtype)
        by_rank = np.argsort(rank, kind="stable")
        bounds = np.searchsorted(rank[by_rank], np.arange(int(rank.max()) + 2))
        for begin, end in pairwise(bounds):
            now = order[by_rank[begin:end]]
            old[now] = memory.load(places[now], dtype)
            memory.store(places[now], function(old[now], *(o[now] for o in operands)))
        return old


def param_address(offset: int) -> int:
    """Return the address under which a parameter is known."""
    return PARAM_BASE + offset
