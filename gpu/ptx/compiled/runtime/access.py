"""Loads, stores and atomics of a warp: checked, measured, carried out lane by lane in ascending order.

All functions take addresses of memory as integers: `context` and `frame` as laid out in `layout`, vectors as 32 elements.
They return 0, or the kind of fault after writing its particulars.
"""

from __future__ import annotations

from precalign.gpu.ptx.compiled.layout import (
    ADDRESS,
    CONST_SPACE,
    FAULT,
    FAULT_SPACE,
    GENERIC_SPACE,
    GLOBAL_SPACE,
    INSTRUCTION,
    KIND,
    LANE,
    LOCAL_ATOMIC,
    LOCAL_BYTES,
    LOCAL_INSIDE,
    LOCAL_SPACE,
    LOCAL_WORD,
    MISALIGNED,
    N_SEGMENTS,
    OK,
    OUT_OF_BOUNDS,
    PARAM_BYTES,
    PARAM_SPACE,
    PARAMS,
    READ_ONLY,
    SEGMENT_WORDS,
    SEGMENTS,
    SHARED,
    SHARED_BYTES,
    SHARED_INSIDE,
    SHARED_SPACE,
    WIDTH,
)
from precalign.gpu.ptx.compiled.runtime.atomics import changed
from precalign.gpu.ptx.compiled.runtime.measure import cached_segment, keep_segment, measure
from precalign.gpu.ptx.compiled.runtime.raw import (
    int32,
    int64,
    load8,
    load16,
    load32,
    load64,
    store8,
    store16,
    store32,
    store64,
    uint16,
    uint32,
    uint64,
)
from precalign.gpu.ptx.memory import LOCAL_WINDOW, PARAM_BASE, SHARED_WINDOW, WINDOW_BYTES
from precalign.jit import Array, inline

_I32, _I64 = int32, int64
LOAD, STORE, UPDATE = 0, 1, 2


@inline
def word(base: Array, index: Array) -> Array:
    """Return a 64-bit word of a table."""
    return int64(load64(base + 8 * index))


@inline
def report_fault(
    context: Array, kind: Array, index: Array, lane: Array, address: Array, width: Array, space: Array
) -> Array:
    """Write the particulars of a fault; return its kind."""
    place = word(context, FAULT)
    for number, value in (
        (KIND, kind),
        (INSTRUCTION, index),
        (LANE, lane),
        (ADDRESS, address),
        (WIDTH, width),
        (FAULT_SPACE, space),
    ):
        store64(place + 8 * number, uint64(value))
    return int32(kind)


@inline
def find_segment(context: Array, address: Array, width: Array, guess: Array) -> Array:
    """Return the number of the buffer that holds these bytes, or -1."""
    table, n = word(context, SEGMENTS), word(context, N_SEGMENTS)
    if guess < n:
        row = table + 8 * SEGMENT_WORDS * guess
        if address >= word(row, 0) and address + width <= word(row, 1):
            return guess
    for number in range(n):
        row = table + 8 * SEGMENT_WORDS * number
        if address >= word(row, 0) and address + width <= word(row, 1):
            return number
    return -1


@inline
def host_places(
    context: Array, index: Array, mask: Array, addresses: Array, places: Array, width: Array, is_store: Array
) -> Array:
    """Turn global addresses into addresses of this process; -1, or the lane that touches no buffer, or -2 - lane if read-only."""
    guess = cached_segment(context, index)
    for lane in range(32):
        if mask >> lane & 1:
            address = word(addresses, lane)
            row = word(context, SEGMENTS) + 8 * SEGMENT_WORDS * guess
            if not (address >= word(row, 0) and address + width <= word(row, 1)):
                guess = find_segment(context, address, width, guess)
                if guess < 0:
                    return lane
                row = word(context, SEGMENTS) + 8 * SEGMENT_WORDS * guess
            if is_store and word(row, 3):
                return -2 - lane
            store64(places + 8 * lane, uint64(address - word(row, 0) + word(row, 2)))
    keep_segment(context, index, guess)
    return -1


@inline
def inside(map_: Array, offset: Array, width: Array) -> Array:
    """Tell whether all bytes belong to a variable."""
    if width == 4:
        return load32(map_ + offset) == 0x01010101
    if width == 2:
        return load16(map_ + offset) == 0x0101
    if width == 1:
        return load8(map_ + offset) == 1
    whole = load64(map_ + offset) == 0x0101010101010101
    if width == 16:
        whole = whole and load64(map_ + offset + 8) == 0x0101010101010101
    return whole


@inline
def own_places(
    context: Array, frame: Array, space: Array, mask: Array, addresses: Array, places: Array, width: Array
) -> Array:
    """Turn offsets into shared or local memory into addresses of this process; -1, or the lane that touches no variable."""
    shared = space == SHARED_SPACE
    total = word(context, SHARED_BYTES) if shared else word(context, LOCAL_BYTES)
    map_ = word(context, SHARED_INSIDE) if shared else word(context, LOCAL_INSIDE)
    base = word(context, SHARED) if shared else word(frame, LOCAL_WORD)
    step = 0 if shared else total
    for lane in range(32):
        if mask >> lane & 1:
            offset = word(addresses, lane)
            if offset < 0 or offset + width > total or not inside(map_, offset, width):
                return lane
            store64(places + 8 * lane, uint64(base + lane * step + offset))
    return -1


@inline
def copy(width: Array, target: Array, source: Array) -> Array:
    """Copy one number."""
    if width == 4:
        store32(target, load32(source))
    elif width == 8:
        store64(target, load64(source))
    elif width == 2:
        store16(target, load16(source))
    else:
        store8(target, load8(source))


@inline
def move(kind: Array, mask: Array, places: Array, values: Array, width: Array, count: Array) -> Array:
    """Copy numbers between memory and vectors."""
    for element in range(count):
        vector, step = values + 32 * width * element, width * element
        for lane in range(32):
            if mask >> lane & 1:
                place, own = word(places, lane) + step, vector + width * lane
                if kind == LOAD:
                    copy(width, own, place)
                else:
                    copy(width, place, own)


@inline
def locate(
    context: Array,
    frame: Array,
    index: Array,
    space: Array,
    mask: Array,
    addresses: Array,
    places: Array,
    width: Array,
    total: Array,
    kind: Array,
) -> Array:
    """Check an access to one space and find its places; 0 or a fault."""
    for lane in range(32):
        if mask >> lane & 1 and word(addresses, lane) & (total - 1):
            return report_fault(context, MISALIGNED, index, lane, word(addresses, lane), total, space)
    if space in (GLOBAL_SPACE, CONST_SPACE):
        found = host_places(context, index, mask, addresses, places, total, kind != LOAD)
        if found < -1:
            return report_fault(context, READ_ONLY, index, -2 - found, word(addresses, -2 - found), width, space)
    else:
        found = own_places(context, frame, space, mask, addresses, places, total)
    if found >= 0:
        return report_fault(context, OUT_OF_BOUNDS, index, found, word(addresses, found), width, space)
    return OK


@inline
def window_of(address: Array) -> Array:
    """Return the space of a generic address."""
    if SHARED_WINDOW <= address < SHARED_WINDOW + WINDOW_BYTES:
        return SHARED_SPACE
    if LOCAL_WINDOW <= address < LOCAL_WINDOW + WINDOW_BYTES:
        return LOCAL_SPACE
    return GLOBAL_SPACE


@inline
def access(  # noqa: C901
    context: Array,
    frame: Array,
    index: Array,
    space: Array,
    mask: Array,
    addresses: Array,
    places: Array,
    values: Array,
    width: Array,
    count: Array,
    kind: Array,
    operation: Array,
) -> Array:
    """Carry out one access of a warp; a generic one is split by space."""
    if mask == 0:
        return OK
    if space == PARAM_SPACE:
        return load_param(context, index, mask, addresses, places, values, width, count)
    if space != GENERIC_SPACE:
        return one_space(context, frame, index, space, mask, addresses, places, values, width, count, kind, operation)
    for own in (SHARED_SPACE, LOCAL_SPACE, GLOBAL_SPACE):
        part = int64(0)
        for lane in range(32):
            if mask >> lane & 1 and window_of(word(addresses, lane)) == own:
                part |= int64(1) << lane
        if part:
            base = SHARED_WINDOW if own == SHARED_SPACE else LOCAL_WINDOW if own == LOCAL_SPACE else 0
            for lane in range(32):
                if part >> lane & 1:
                    store64(addresses + 8 * lane, uint64(word(addresses, lane) - base))
            fault = one_space(
                context, frame, index, own, part, addresses, places, values, width, count, kind, operation
            )
            if fault:
                return fault
    return OK


@inline
def one_space(
    context: Array,
    frame: Array,
    index: Array,
    space: Array,
    mask: Array,
    addresses: Array,
    places: Array,
    values: Array,
    width: Array,
    count: Array,
    kind: Array,
    operation: Array,
) -> Array:
    """Carry out an access to one space."""
    if kind == UPDATE and space == LOCAL_SPACE:
        return report_fault(context, LOCAL_ATOMIC, index, 0, word(addresses, 0), width, space)
    fault = locate(context, frame, index, space, mask, addresses, places, width, width * count, kind)
    if fault:
        return fault
    measure(context, index, space, mask, addresses, width * count)
    if kind != UPDATE:
        move(kind, mask, places, values, width, count)
        return OK
    for lane in range(32):  # values holds the first operand, the second, and takes the old value
        if mask >> lane & 1:
            place, own = word(places, lane), values + width * lane
            if width == 4:
                old = uint64(load32(place))
                new = changed(operation, old, uint64(load32(own)), uint64(load32(own + 32 * width)))
                store32(place, uint32(new))
                store32(own + 64 * width, uint32(old))
            elif width == 8:
                old = load64(place)
                store64(place, changed(operation, old, load64(own), load64(own + 32 * width)))
                store64(own + 64 * width, old)
            else:
                old = uint64(load16(place))
                new = changed(operation, old, uint64(load16(own)), uint64(load16(own + 32 * width)))
                store16(place, uint16(new))
                store16(own + 64 * width, uint16(old))
    return OK


@inline
def load_param(
    context: Array,
    index: Array,
    mask: Array,
    addresses: Array,
    places: Array,
    values: Array,
    width: Array,
    count: Array,
) -> Array:
    """Read parameters at addresses computed at run time; they are not measured."""
    for lane in range(32):
        if mask >> lane & 1:
            offset = word(addresses, lane) - PARAM_BASE
            if offset < 0 or offset + width * count > word(context, PARAM_BYTES):
                return report_fault(context, OUT_OF_BOUNDS, index, lane, word(addresses, lane), width, PARAM_SPACE)
            store64(places + 8 * lane, uint64(word(context, PARAMS) + offset))
    move(LOAD, mask, places, values, width, count)
    return OK


_SIGNATURE = _I32(_I64, _I64, _I64, _I64, _I32, _I64, _I64, _I64, _I64, _I64)


def ptx_load(
    context: Array,
    frame: Array,
    index: Array,
    space: Array,
    mask: Array,
    addresses: Array,
    places: Array,
    values: Array,
    width: Array,
    count: Array,
) -> Array:
    """Read `count` neighbouring numbers of `width` bytes per lane into `values`."""
    lanes = int64(uint32(mask))
    return int32(access(context, frame, index, space, lanes, addresses, places, values, width, count, LOAD, 0))


def ptx_store(
    context: Array,
    frame: Array,
    index: Array,
    space: Array,
    mask: Array,
    addresses: Array,
    places: Array,
    values: Array,
    width: Array,
    count: Array,
) -> Array:
    """Write them from `values`."""
    lanes = int64(uint32(mask))
    return int32(access(context, frame, index, space, lanes, addresses, places, values, width, count, STORE, 0))


def ptx_update(
    context: Array,
    frame: Array,
    index: Array,
    space: Array,
    mask: Array,
    addresses: Array,
    places: Array,
    values: Array,
    width: Array,
    operation: Array,
) -> Array:
    """Read, change and write one number per lane; the old ones stand behind the operands in `values`."""
    lanes = int64(uint32(mask))
    return int32(access(context, frame, index, space, lanes, addresses, places, values, width, 1, UPDATE, operation))


def ptx_fault(context: Array, kind: Array, index: Array, mask: Array) -> Array:
    """Report a fault of the lowest of some lanes."""
    lane = 0
    while lane < 31 and not mask >> lane & 1:
        lane += 1
    return report_fault(context, kind, index, lane, 0, 0, 0)


FUNCTIONS = {f.__name__: (_SIGNATURE, f) for f in (ptx_load, ptx_store, ptx_update)} | {
    "ptx_fault": (_I32(_I64, _I64, _I64, _I32), ptx_fault)
}
