"""What lanes of a warp do together: waiting for each other, shuffles, votes, reductions."""

from __future__ import annotations

from precalign.gpu.ptx.compiled.layout import (
    AT_WARP,
    BARRIER_MEMBER,
    PC_BYTES,
    RUNNING,
    SHUFFLE_IDLE,
)
from precalign.gpu.ptx.compiled.runtime.access import report_fault
from precalign.gpu.ptx.compiled.runtime.raw import int32, int64, load32, store32, uint32
from precalign.jit import Array, inline

_I32, _I64 = int32, int64
UP, DOWN, BUTTERFLY, INDEX = range(4)
SHUFFLES = ("up", "down", "bfly", "idx")
VOTES = ("all", "any", "uni", "ballot")
REDUCTIONS = ("add", "min.u", "max.u", "min.s", "max.s", "and", "or", "xor")


@inline
def own(vector: Array, lane: Array) -> Array:
    """Return a lane's 32 bits."""
    return int64(load32(vector + 4 * lane))


def ptx_gather(context: Array, frame: Array, index: Array, block: Array, arrived: Array, members: Array) -> Array:
    """Let lanes wait at a collective; return those whose fellow members are all there, or -1 in the upper half on a fault.

    `arrived` are the lanes that reach it now, `members` the masks of all lanes, valid for those that wait.
    """
    waiting = int64(load32(frame + 4 * AT_WARP))
    came = int64(uint32(arrived))
    running = int64(load32(frame + 4 * RUNNING))
    store32(frame + 4 * RUNNING, uint32(running & ~came))
    here = int64(0)
    for lane in range(32):
        bit = int64(1) << lane
        if came & bit:
            store32(frame + PC_BYTES + 4 * lane, uint32(block))
        if (came | waiting) & bit and int64(load32(frame + PC_BYTES + 4 * lane)) == block:
            here |= bit
    ready = int64(0)
    for lane in range(32):
        bit = int64(1) << lane
        if here & bit:
            mask = own(members, lane)
            if not mask & bit:
                report_fault(context, BARRIER_MEMBER, index, lane, mask, 0, 0)
                return int64(-1)
            if not mask & ~here:
                ready |= bit
    store32(frame + 4 * AT_WARP, uint32((waiting | came) & ~ready))
    store32(frame + 4 * RUNNING, uint32(running & ~came | ready))
    return ready


@inline
def _source(mode: Array, lane: Array, by: Array, clamp: Array) -> Array:
    """Return the lane that PTX's definition of shfl reads from, or -1 where the lane keeps its own value."""
    segment, bound = clamp >> 8 & 31, clamp & 31
    lowest = lane & segment
    limit = lowest | (bound & ~segment)
    if mode == UP:
        source = lane - by
        return source if source >= limit else -1
    if mode == DOWN:
        source = lane + by
    elif mode == BUTTERFLY:
        source = lane ^ by
    else:
        source = lowest | (by & ~segment)
    return source if source <= limit else -1


def ptx_shuffle(
    context: Array,
    index: Array,
    mode: Array,
    ready: Array,
    members: Array,
    values: Array,
    deltas: Array,
    clamps: Array,
    results: Array,
) -> Array:
    """Shuffle; return the lanes whose source was in range, or -1 in the upper half on a fault."""
    lanes, valid = int64(uint32(ready)), int64(0)
    for lane in range(32):
        bit = int64(1) << lane
        if lanes & bit:
            source = _source(mode, lane, own(deltas, lane) & 31, own(clamps, lane))
            if source >= 0:
                valid |= bit
            else:
                source = int64(lane)
            if not (lanes & own(members, lane)) >> source & 1:
                report_fault(context, SHUFFLE_IDLE, index, lane, source, 0, 0)
                return int64(-1)
            store32(results + 4 * lane, load32(values + 4 * source))
    return valid


def ptx_vote(mode: Array, ready: Array, members: Array, truth: Array, results: Array) -> Array:
    """Vote; `results` takes the ballots, the lanes returned are those for which the answer is yes."""
    lanes, yes = int64(uint32(ready)), int64(0)
    for lane in range(32):
        if lanes >> lane & 1:
            voters = lanes & own(members, lane)
            votes = voters & int64(uint32(truth))
            store32(results + 4 * lane, uint32(votes))
            every, some = votes == voters, votes != 0
            answer = every if mode == 0 else some if mode == 1 else every or not some
            if answer:
                yes |= int64(1) << lane
    return yes


@inline
def _combine(operation: Array, a: Array, b: Array) -> Array:
    if operation == 0:
        return (a + b) & 0xFFFFFFFF
    if operation == 1:
        return min(a, b)
    if operation == 2:
        return max(a, b)
    if operation == 3:
        return a if int32(a) < int32(b) else b
    if operation == 4:
        return a if int32(a) > int32(b) else b
    if operation == 5:
        return a & b
    if operation == 6:
        return a | b
    return a ^ b


def ptx_reduce(operation: Array, ready: Array, members: Array, values: Array, results: Array) -> Array:
    """Reduce over each lane's fellow members."""
    lanes = int64(uint32(ready))
    for lane in range(32):
        if lanes >> lane & 1:
            total, begun = int64(0), False
            fellows = lanes & own(members, lane)
            for other in range(32):
                if fellows >> other & 1:
                    total = _combine(operation, total, own(values, other)) if begun else own(values, other)
                    begun = True
            store32(results + 4 * lane, uint32(total))
    return int64(0)


FUNCTIONS = {
    "ptx_gather": (_I64(_I64, _I64, _I64, _I32, _I32, _I64), ptx_gather),
    "ptx_shuffle": (_I64(_I64, _I64, _I64, _I32, _I64, _I64, _I64, _I64, _I64), ptx_shuffle),
    "ptx_vote": (_I64(_I64, _I32, _I64, _I32, _I64), ptx_vote),
    "ptx_reduce": (_I64(_I64, _I32, _I64, _I64, _I64), ptx_reduce),
}
