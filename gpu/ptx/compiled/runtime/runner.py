"""Runs the blocks of a launch one after another, their warps in turn from barrier to barrier."""

from __future__ import annotations

from precalign.gpu.ptx.compiled.layout import (
    AT_BARRIER,
    AT_WARP,
    DIVERGENT,
    EXITED,
    FAULT,
    LANE,
    LANE_BYTES,
    LOCAL_BYTES,
    LOCAL_WORD,
    PC_BYTES,
    RUNNING,
    SHARED,
    SHARED_BYTES,
    SPECIAL_WORDS,
    STUCK,
    TID_BYTES,
    TURNS_WORD,
    WARP,
)
from precalign.gpu.ptx.compiled.runtime.access import report_fault, word
from precalign.gpu.ptx.compiled.runtime.raw import call_kernel, int64, load32, store32, store64, uint32, uint64
from precalign.jit import Array, inline, kernel

MAX_TURNS = 1 << 31
"""Basic blocks that a warp may run between two barriers before it is taken to hang."""


@inline
def begin_warp(context: Array, frame: Array, frame_bytes: Array, warp: Array, n_threads: Array, local: Array) -> Array:
    """Clear a warp's frame and set its special registers."""
    for step in range(0, frame_bytes, 8):
        store64(frame + step, uint64(0))
    lanes = min(32, n_threads - 32 * warp)
    everyone = (int64(1) << lanes) - 1
    store32(frame + 4 * RUNNING, uint32(everyone))
    store32(frame + 4 * EXITED, uint32(~everyone))
    store32(frame + 4 * WARP, uint32(warp))
    store64(frame + 8 * LOCAL_WORD, uint64(local))
    nx, ny = word(context, SPECIAL_WORDS + 6), word(context, SPECIAL_WORDS + 7)
    for lane in range(32):
        thread, bit = 32 * warp + lane, int64(1) << lane
        specials = (
            (TID_BYTES, thread % nx),
            (TID_BYTES + 128, thread // nx % ny),
            (TID_BYTES + 256, thread // (nx * ny)),
            (LANE_BYTES, lane),
            (LANE_BYTES + 128, bit),
            (LANE_BYTES + 256, bit - 1),
            (LANE_BYTES + 384, 2 * bit - 1),
            (LANE_BYTES + 512, ~(2 * bit - 1)),
            (LANE_BYTES + 640, ~(bit - 1)),
            (LANE_BYTES + 768, warp),
        )
        for place, value in specials:
            store32(frame + place + 4 * lane, uint32(value))


@inline
def release(context: Array, frames: Array, frame_bytes: Array, n_warps: Array, n_threads: Array) -> Array:  # noqa: C901
    """Open the barrier at which all threads wait; 1 if there is more to do, 0 at the end, -1 on a fault."""
    waiting, exited, place = 0, 0, int64(-1)
    first_warp, first_lane, same = -1, 0, True
    for warp in range(n_warps):
        frame = frames + frame_bytes * warp
        stuck = int64(load32(frame + 4 * AT_WARP))
        if stuck:
            lane = 0
            while not stuck >> lane & 1:
                lane += 1
            at = int64(load32(frame + PC_BYTES + 4 * lane))
            report_fault(context, STUCK, at, 32 * warp + lane, 0, 0, 0)
            return -1
        here = int64(load32(frame + 4 * AT_BARRIER))
        for lane in range(32):
            if 32 * warp + lane >= n_threads:
                break
            if not here >> lane & 1:
                exited += 1
                continue
            waiting += 1
            at = int64(load32(frame + PC_BYTES + 4 * lane))
            if first_warp < 0:
                place, first_warp, first_lane = at, warp, lane
            elif at != place:
                same = False
    if waiting == 0:
        return 0
    if exited or not same:
        report_fault(context, DIVERGENT, place, 32 * first_warp + first_lane, waiting, 0, 0)
        return -1
    for warp in range(n_warps):
        frame = frames + frame_bytes * warp
        store32(frame + 4 * RUNNING, load32(frame + 4 * AT_BARRIER))
        store32(frame + 4 * AT_BARRIER, uint32(0))
        for lane in range(32):
            store32(frame + PC_BYTES + 4 * lane, uint32(place + 1))
    return 1


@kernel
def run_blocks(
    function: Array,
    context: Array,
    frames: Array,
    frame_bytes: Array,
    local: Array,
    order: Array,
    warp_order: Array,
    n_threads: Array,
    grid: Array,
    max_turns: Array,
) -> Array:
    """Run blocks in an order; return -1, or the number of the block in which a fault was found.

    Parameters
    ----------
    function, context, frames, local : int
        Addresses: the generated code, the context, one frame per warp, the local memory of a block's threads.
    frame_bytes : int
    order : ndarray[int64], (n_blocks,)
    warp_order : ndarray[int64], (n_warps,)
        In which the warps of a block take turns.
    n_threads : int
    grid : ndarray[int64], (3,)
    max_turns : int
    """
    n_warps = warp_order.size
    for number in order:
        store64(context + 8 * SPECIAL_WORDS, uint64(number % grid[0]))
        store64(context + 8 * (SPECIAL_WORDS + 1), uint64(number // grid[0] % grid[1]))
        store64(context + 8 * (SPECIAL_WORDS + 2), uint64(number // (grid[0] * grid[1])))
        shared = word(context, SHARED)
        for step in range(0, word(context, SHARED_BYTES), 8):
            store64(shared + step, uint64(0))
        local_bytes = 32 * word(context, LOCAL_BYTES)
        for step in range(0, local_bytes * n_warps, 8):
            store64(local + step, uint64(0))
        for warp in range(n_warps):
            begin_warp(context, frames + frame_bytes * warp, frame_bytes, warp, n_threads, local + local_bytes * warp)
        more = int64(1)
        while more > 0:
            for warp in warp_order:
                frame = frames + frame_bytes * warp
                store64(frame + 8 * TURNS_WORD, uint64(max_turns))
                if call_kernel(function, context, frame):
                    found = word(context, FAULT)
                    store64(found + 8 * LANE, uint64(word(found, LANE) + 32 * warp))
                    return number
            more = int64(release(context, frames, frame_bytes, n_warps, n_threads))
            if more < 0:
                return number
    return -1
