"""One launch on compiled code: context filled, blocks run, counters read into a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.ptx.compiled import layout
from precalign.gpu.ptx.compiled.runtime.runner import MAX_TURNS, run_blocks
from precalign.gpu.ptx.faults import KernelFault
from precalign.gpu.ptx.memory import lay_out
from precalign.gpu.ptx.report import MemoryLine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.gpu.ptx.compiled.program import CompiledProgram
    from precalign.gpu.ptx.launch import Launch
    from precalign.gpu.ptx.program import Variable
    from precalign.gpu.ptx.report import Report

_SPACES = {number: name for name, number in layout.SPACE_NAMES.items()}
_KINDS = {
    layout.OUT_OF_BOUNDS: "out-of-bounds",
    layout.MISALIGNED: "misaligned",
    layout.READ_ONLY: "read-only",
    layout.SHUFFLE_IDLE: "uninitialised",
    layout.TRAP: "trap",
    layout.HANG: "hang",
    layout.LOCAL_ATOMIC: "out-of-bounds",
}


def _aligned(n_bytes: int) -> tuple[Any, int]:
    """Return an array of zeros and the address in it that is a multiple of 64, with so many bytes behind it."""
    octets = np.zeros(n_bytes + 64, np.uint8)
    return octets, -(-octets.ctypes.data // 64) * 64


class _Private:
    """Layout of shared or local memory: where its variables are, which bytes belong to one."""

    def __init__(self, variables: list[Variable], dynamic_bytes: int) -> None:
        self.offsets, self.sizes, self.total = lay_out(variables, dynamic_bytes)
        self.inside = np.zeros(self.total, np.uint8)
        for name, offset in self.offsets.items():
            self.inside[offset : offset + self.sizes[name]] = 1


class CompiledLaunch:
    """Runs a launch on compiled code.

    Parameters
    ----------
    program : CompiledProgram
    launch : Launch
        Its arguments, packed, and its buffers.
    """

    def __init__(self, program: CompiledProgram, launch: Launch) -> None:
        self.program, self.launch = program, launch
        entry = program.entry
        self.shared = _Private(
            [v for v in [*launch.module_shared, *entry.variables] if v.space == "shared"], launch.shared_bytes
        )
        local = [v for v in entry.variables if v.space == "local"]
        self.local = _Private(local, 0)
        self.n_warps = -(-launch.threads_per_block // 32)
        n = len(entry.instructions)
        self.executed, self.issued = np.zeros((2, len(program.blocks)), np.int64)
        self.lines = np.zeros((n, layout.LINE_WORDS), np.int64)
        self.fault = np.zeros(layout.FAULT_WORDS, np.int64)
        self._kept: list[Any] = []
        self.context = self._context(bool(local))

    def _context(self, has_local: bool) -> NDArray[np.int64]:  # noqa: FBT001 - private
        launch, c = self.launch, np.zeros(layout.CONTEXT_WORDS, np.int64)
        segments = np.array(
            [(s.base, s.end, s.octets.ctypes.data, int(s.read_only)) for s in launch.memory.segments] or [(0, 0, 0, 0)],
            np.int64,
        )
        symbols = np.array([launch.addresses[name] for name in self.program.symbols] or [0], np.int64)
        shared, shared_at = _aligned(self.shared.total)
        self._kept += [segments, symbols, shared]
        c[layout.PARAMS], c[layout.PARAM_BYTES] = launch.param_octets.ctypes.data, launch.param_octets.size
        c[layout.SEGMENTS], c[layout.N_SEGMENTS] = segments.ctypes.data, len(launch.memory.segments)
        c[layout.SHARED], c[layout.SHARED_BYTES] = shared_at, self.shared.total
        c[layout.SHARED_INSIDE] = self.shared.inside.ctypes.data
        c[layout.LOCAL_BYTES] = self.local.total if has_local else 0
        c[layout.LOCAL_INSIDE] = self.local.inside.ctypes.data
        c[layout.EXECUTED], c[layout.ISSUED] = self.executed.ctypes.data, self.issued.ctypes.data
        c[layout.LINES], c[layout.FAULT] = self.lines.ctypes.data, self.fault.ctypes.data
        c[layout.SYMBOLS] = symbols.ctypes.data
        words = [0, 0, 0, *launch.grid, *launch.block, self.n_warps]
        c[layout.SPECIAL_WORDS : layout.SPECIAL_WORDS + len(words)] = words
        return c

    def run(self, seed: int | None = None) -> Report:
        """Run all blocks; a seed draws the order of blocks and warps.

        Raises
        ------
        KernelFault
            For the first defect found.
        """
        launch, program = self.launch, self.program
        n_blocks = int(np.prod(launch.grid))
        order, warps = np.arange(n_blocks), np.arange(self.n_warps)
        if seed is not None:
            rng = np.random.default_rng(seed)
            rng.shuffle(order)
            rng.shuffle(warps)
        frame_bytes = -(-program.frame_bytes // 64) * 64
        frames, frames_at = _aligned(frame_bytes * self.n_warps)
        local_bytes = 32 * int(self.context[layout.LOCAL_BYTES]) * self.n_warps
        local, local_at = _aligned(local_bytes)
        self._kept += [frames, local]
        stopped = run_blocks(
            program.address,
            self.context.ctypes.data,
            frames_at,
            frame_bytes,
            local_at,
            order,
            warps,
            launch.threads_per_block,
            np.array(launch.grid, np.int64),
            MAX_TURNS,
        )
        if stopped >= 0:
            raise self._fault(int(stopped), frames_at, frame_bytes)
        return self._report(n_blocks)

    def _report(self, n_blocks: int) -> Report:
        program = self.program
        executed, issued = (np.zeros(len(program.entry.instructions), np.int64) for _ in range(2))
        for begin, block in program.blocks.items():
            number = program.block_numbers[begin]
            executed[begin : block.end] = self.executed[number]
            issued[begin : block.end] = self.issued[number]
        report = self.launch.summarise(executed, issued, n_blocks, program.models)
        for index in np.nonzero(self.lines[:, layout.REQUESTS])[0]:
            requests, lanes, octets, sectors, passes, conflicts, space = (int(n) for n in self.lines[index, :7])
            instruction = program.entry.instructions[index]
            report.memory[int(index)] = MemoryLine(
                instruction.opcode,
                _SPACES[space],
                instruction.location,
                requests,
                lanes,
                octets,
                sectors,
                passes,
                conflicts,
            )
        return report

    def _thread(self, block: int, lane: int) -> str:
        def three(number: int, extent: tuple[int, int, int]) -> tuple[int, int, int]:
            return number % extent[0], number // extent[0] % extent[1], number // (extent[0] * extent[1])

        return f"block {three(block, self.launch.grid)} thread {three(lane, self.launch.block)}"

    def _fault(self, block: int, frames: int, frame_bytes: int) -> KernelFault:
        kind, index, lane, address, width, space = (int(n) for n in self.fault)
        instruction = self.program.entry.instructions[index]
        message = self._message(kind, address, width, _SPACES[space], frames, frame_bytes)
        return KernelFault(
            _KINDS.get(kind, "barrier"),
            f"{message} ({instruction.opcode}, {self._thread(block, lane)})",
            instruction.location,
        )

    def _message(self, kind: int, address: int, width: int, space: str, frames: int, frame_bytes: int) -> str:
        if kind == layout.MISALIGNED:
            return f"{width} bytes at 0x{address:x}, {address % width} beyond a multiple"
        if kind == layout.READ_ONLY:
            near = self.launch.memory.near(address)
            return f"write to {near.name if near else 'memory'}, which is constant"
        if kind == layout.OUT_OF_BOUNDS:
            return self._outside(address, width, space)
        if kind == layout.DIVERGENT:
            return self._divergent(address, frames, frame_bytes)
        return {
            layout.BARRIER_MEMBER: f"the member mask 0x{address & 0xFFFFFFFF:08x} leaves out its own lane",
            layout.SHUFFLE_IDLE: f"shuffle takes the value of lane {address}, which does not take part",
            layout.TRAP: "reached",
            layout.HANG: "a warp is still running after very many basic blocks",
            layout.STUCK: "waits for lanes of its member mask that never come",
            layout.LOCAL_ATOMIC: "an atomic on local memory",
        }[kind]

    def _outside(self, address: int, width: int, space: str) -> str:
        if space in ("global", "const"):
            return self.launch.memory.outside(address, width)
        if space == "param":
            return f"{width} bytes outside of the parameters"
        private = self.shared if space == "shared" else self.local
        names = [n for n, o in private.offsets.items() if o <= address]
        if not names:
            return f"{width} bytes before the {space} variables"
        name = max(names, key=lambda n: private.offsets[n])
        return f"{width} bytes at byte {address - private.offsets[name]} of {space} {name}, which has {private.sizes[name]}"

    def _divergent(self, waiting: int, frames: int, frame_bytes: int) -> str:
        """Tell who waits where: the frames hold the state at the fault."""
        import ctypes

        places: list[int] = []
        for warp in range(self.n_warps):
            words = (ctypes.c_uint32 * (frame_bytes // 4)).from_address(frames + frame_bytes * warp)
            at_barrier = words[layout.AT_BARRIER]
            places += [words[layout.PC_BYTES // 4 + lane] for lane in range(32) if at_barrier >> lane & 1]
        here = int(self.fault[layout.INSTRUCTION])
        instructions = self.program.entry.instructions
        others = "".join(f", others wait at {instructions[p].location}" for p in sorted(set(places) - {here}))
        gone = self.launch.threads_per_block - waiting
        ended = f", {gone} ended without it" if gone else ""
        return f"reached by {places.count(here)} of the block's {self.launch.threads_per_block} threads{others}{ended}"
