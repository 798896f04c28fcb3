"""The scheduler: of all lanes that can run, those at the lowest instruction go next, all blocks of a batch at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.ptx.batch import AT_BARRIER, AT_WARP, EXITED, RUNNING, Batch
from precalign.gpu.ptx.faults import KernelFault
from precalign.gpu.ptx.memory import BadAccess

if TYPE_CHECKING:
    from precalign.gpu.ptx.compiler import Program
    from precalign.gpu.ptx.launch import Launch
    from precalign.gpu.ptx.report import Report

Array = Any
LANES_PER_BATCH = 16_384
"""Enough for NumPy to work on long arrays, few enough for the registers in use to stay in the cache."""
MAX_TURNS = 5_000_000
"""Basic blocks that a batch may run before it is taken to hang."""


def run_checked(program: Program, launch: Launch, seed: int | None = None) -> Report:
    """Run all blocks of a launch with every check on; a seed draws the order of blocks and warps.

    Raises
    ------
    KernelFault
        For the first defect found.
    """
    n_blocks = int(np.prod(launch.grid))
    order = np.arange(n_blocks)
    rng = None if seed is None else np.random.default_rng(seed)
    if rng is not None:
        rng.shuffle(order)
    per_batch = max(1, LANES_PER_BATCH // (-(-launch.threads_per_block // 32) * 32))
    steps = len(program.steps)
    executed, issued = np.zeros(steps, np.int64), np.zeros(steps, np.int64)
    for start in range(0, n_blocks, per_batch):
        machine = Machine(Batch(program, launch, order[start : start + per_batch]), rng)
        machine.run()
        executed += machine.executed
        issued += machine.issued
    return launch.summarise(executed, issued, n_blocks, program.models)


class Machine:
    """Runs one batch to its end.

    Parameters
    ----------
    batch : Batch
    rng : numpy.random.Generator, optional
        Draws which warps go next; without it, all that are furthest behind.
    """

    def __init__(self, batch: Batch, rng: np.random.Generator | None = None) -> None:
        self.batch, self.rng = batch, rng
        self.steps = batch.program.steps
        self.leaders = batch.program.leaders
        self.executed = np.zeros(len(self.steps), np.int64)
        self.issued = np.zeros(len(self.steps), np.int64)
        self.index = 0

    def run(self) -> None:
        """Run until every lane has exited.

        Raises
        ------
        KernelFault
            For whatever a check finds, naming the source line and a thread.
        """
        with np.errstate(all="ignore"):
            for _ in range(MAX_TURNS):
                if not self._turn():
                    return
        raise self._fault("hang", f"still running after {MAX_TURNS} turns", 0)

    def _turn(self) -> bool:
        batch = self.batch
        running = batch.state == RUNNING
        if not running.any():
            return self._release()
        start = int(batch.pc[running].min()) if self.rng is None else self._draw(running)
        chosen = running & (batch.pc == start)
        lanes = None if chosen.all() else np.nonzero(chosen)[0]
        try:
            self._block(start, lanes)
        except BadAccess as bad:
            at = min(bad.position, self._active.size - 1)
            raise self._fault(bad.kind, bad.message, int(self._active[at])) from bad
        return True

    def _draw(self, running: Array) -> int:
        """Pick a warp at random, and with it about half of those at the same place; the others wait."""
        rng, batch = self.rng, self.batch
        assert rng is not None  # noqa: S101 - called with one only
        far = np.iinfo(np.int32).max
        first = np.where(running, batch.pc, far).reshape(-1, 32).min(axis=1)
        start = int(rng.choice(first[first < far]))
        picked = (first == start) & (rng.random(first.size) < 0.5)
        if not picked.any():
            picked = first == start
        running &= np.repeat(picked, 32)
        return start

    def _block(self, index: int, lanes: Any) -> None:  # noqa: ANN401 - indices or None
        """Run a basic block, or up to the first instruction that may part the lanes."""
        batch, steps, leaders = self.batch, self.steps, self.leaders
        active = batch.everyone if lanes is None else lanes
        n_lanes, n_warps = active.size, batch.n_warps
        if lanes is not None:
            warps = active >> 5
            n_warps = int(np.count_nonzero(warps[1:] != warps[:-1])) + 1
        begin = index
        while True:
            step = steps[index]
            self.index, self._active = index, active
            if step.kind != "plain":
                break
            if step.guard is None:
                step.run(batch, lanes)
            else:
                self._guarded(step, lanes)
            index += 1
            if leaders[index]:
                self.executed[begin:index] += n_lanes
                self.issued[begin:index] += n_warps
                batch.pc[active] = index
                return
        self.executed[begin : index + 1] += n_lanes
        self.issued[begin : index + 1] += n_warps
        self._part(index, lanes, active)

    def _guarded(self, step: Any, lanes: Any) -> None:  # noqa: ANN401 - a Step; indices or None
        holds = step.guard(self.batch, lanes)
        if holds.size == 1:
            holds = np.broadcast_to(holds, self._active.shape)
        if holds.all():
            step.run(self.batch, lanes)
        elif holds.any():
            self._active = self._active[holds]
            step.run(self.batch, self._active)

    def _part(self, index: int, lanes: Any, active: Array) -> None:  # noqa: ANN401 - indices or None
        batch, step = self.batch, self.steps[index]
        going = active
        if step.guard is not None:
            holds = np.broadcast_to(step.guard(batch, lanes), active.shape)
            going = active[holds]
            batch.pc[active] = index + 1
        if step.kind == "branch":
            batch.pc[going] = step.target
        elif step.kind == "exit":
            batch.state[going] = EXITED
        elif step.kind == "barrier":
            batch.state[going] = AT_BARRIER
            batch.pc[going] = index
        else:
            self._gather(index, going)

    def _gather(self, index: int, arrived: Array) -> None:
        """Let lanes wait at a collective until all members of their masks are there, then run it."""
        batch, step = self.batch, self.steps[index]
        batch.state[arrived] = AT_WARP
        batch.pc[arrived] = index
        waiting = np.nonzero((batch.state == AT_WARP) & (batch.pc == index))[0]
        if not waiting.size or step.members is None:
            return
        self._active = waiting
        everyone = waiting.size == batch.n_lanes
        members = np.broadcast_to(step.members(batch, None if everyone else waiting), waiting.shape)
        own = np.uint32(1) << (waiting & 31).astype(np.uint32)
        if ((members & own) == 0).any():
            position = int(np.argmax((members & own) == 0))
            raise BadAccess(
                "barrier", f"the member mask 0x{int(members[position]):08x} leaves out its own lane", position
            )
        present = np.bincount(waiting >> 5, own.astype(np.float64))[waiting >> 5].astype(np.uint32)
        ready = waiting[(members & ~present) == 0]
        if not ready.size:
            return
        self._active = ready
        step.run(batch, None if ready.size == batch.n_lanes else ready)
        batch.state[ready] = RUNNING
        batch.pc[ready] = index + 1

    def _release(self) -> bool:
        """Open the barriers at which all threads of a block wait; False if every lane has exited."""
        batch = self.batch
        unfinished = batch.state != EXITED
        if not unfinished.any():
            return False
        stuck = np.nonzero(batch.state == AT_WARP)[0]
        if stuck.size:
            self.index = int(batch.pc[stuck[0]])
            raise self._fault("barrier", "waits for lanes of its member mask that never come", int(stuck[0]))
        states, places = (a.reshape(batch.n_blocks, -1) for a in (batch.state, batch.pc))
        real = batch.real.reshape(batch.n_blocks, -1)
        waits = (states == AT_BARRIER) & real
        low = np.where(waits, places, np.iinfo(np.int32).max).min(axis=1)
        high = np.where(waits, places, -1).max(axis=1)
        bad = waits.any(axis=1) & ((waits != real).any(axis=1) | (low != high))
        if bad.any():
            raise self._divergent(int(np.argmax(bad)), waits, places)
        lanes = np.nonzero(waits.reshape(-1))[0]
        batch.state[lanes] = RUNNING
        batch.pc[lanes] += 1
        batch.block_epoch[waits.any(axis=1)] += 1
        return True

    def _divergent(self, block: int, waits: Array, places: Array) -> KernelFault:
        batch = self.batch
        here = np.nonzero(waits[block])[0]
        self.index = int(places[block][here].min())
        at = here[places[block][here] == self.index]
        others = sorted({int(p) for p in places[block][here]} - {self.index})
        instructions = batch.program.entry.instructions
        elsewhere = "".join(f", others wait at {instructions[o].location}" for o in others)
        n_threads = batch.launch.threads_per_block
        gone = n_threads - here.size
        ended = f", {gone} ended without it" if gone else ""
        message = f"reached by {at.size} of the block's {n_threads} threads{elsewhere}{ended}"
        return self._fault("barrier", message, block * batch.block_lanes + int(at[0]))

    def _fault(self, kind: str, message: str, lane: int) -> KernelFault:
        instruction = self.batch.program.entry.instructions[self.index]
        return KernelFault(
            kind, f"{message} ({instruction.opcode}, {self.batch.thread_name(lane)})", instruction.location
        )
