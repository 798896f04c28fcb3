"""Places that the generated code and the runtime agree on: the header of a warp's frame and the words of the context."""

from __future__ import annotations

RUNNING, AT_WARP, AT_BARRIER, EXITED, MASK, OTHERS, WARP = range(7)
"""32-bit words at the start of a frame: sets of lanes by state, those that run now, those that run but wait their turn; the warp's number."""
TURNS_WORD = 4
"""64-bit word of a frame: basic blocks that may still run before the warp is taken to hang."""
LOCAL_WORD = 5
"""64-bit word of a frame: where the local memory of the warp's first lane is."""
PC_BYTES, TID_BYTES, LANE_BYTES = 128, 256, 640
HEADER_BYTES = 1536
"""pc, then tid.x, tid.y, tid.z, then laneid, the five lane masks and warpid, 128 bytes each; then registers."""

(
    PARAMS,
    PARAM_BYTES,
    SEGMENTS,
    N_SEGMENTS,
    SHARED,
    SHARED_BYTES,
    SHARED_INSIDE,
    LOCAL_BYTES,
    LOCAL_INSIDE,
    EXECUTED,
    ISSUED,
    LINES,
    FAULT,
    SYMBOLS,
) = range(14)
"""64-bit words of the context: pointers and sizes."""
SPECIAL_WORDS = 16
"""From here 32-bit values at 8 bytes each: ctaid, nctaid, ntid (x, y, z of each), nwarpid."""
CONTEXT_WORDS = 32

LINE_WORDS = 8
REQUESTS, LANES_COUNTED, BYTES, SECTORS, PASSES, CONFLICTS, SPACE = range(7)
"""64-bit words of an instruction's measurements."""
SEGMENT_WORDS = 4
"""base, end, host address, read-only."""
FAULT_WORDS = 6
KIND, INSTRUCTION, LANE, ADDRESS, WIDTH, FAULT_SPACE = range(6)
OK, OUT_OF_BOUNDS, MISALIGNED, READ_ONLY, BARRIER_MEMBER, SHUFFLE_IDLE, TRAP, HANG, STUCK, DIVERGENT, LOCAL_ATOMIC = (
    range(11)
)
GLOBAL_SPACE, SHARED_SPACE, LOCAL_SPACE, CONST_SPACE, GENERIC_SPACE, PARAM_SPACE = range(6)
SPACE_NAMES = {
    "global": GLOBAL_SPACE,
    "shared": SHARED_SPACE,
    "local": LOCAL_SPACE,
    "const": CONST_SPACE,
    "generic": GENERIC_SPACE,
    "param": PARAM_SPACE,
}

LANE_SPECIALS = ("laneid", "lanemask_eq", "lanemask_lt", "lanemask_le", "lanemask_gt", "lanemask_ge", "warpid")


def _special_slots() -> dict[str, tuple[int, bool]]:
    slots = {}
    for i, axis in enumerate("xyz"):
        slots[f"tid.{axis}"] = (TID_BYTES + 128 * i, True)
        for j, name in enumerate(("ctaid", "nctaid", "ntid")):
            slots[f"{name}.{axis}"] = (8 * (SPECIAL_WORDS + 3 * j + i), False)
    slots["nwarpid"] = (8 * (SPECIAL_WORDS + 9), False)
    for i, name in enumerate(LANE_SPECIALS):
        slots[name] = (LANE_BYTES + 128 * i, True)
    return slots


SPECIAL_SLOTS = _special_slots()
"""Special register -> (bytes from the start, whether in the frame and one per lane or in the context and one for all)."""
