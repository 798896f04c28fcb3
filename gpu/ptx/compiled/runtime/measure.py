"""Requests, bytes, sectors and bank passes of one warp's access."""

from __future__ import annotations

import numpy as np

from precalign.gpu.ptx.compiled.layout import (
    BYTES,
    CONFLICTS,
    GLOBAL_SPACE,
    LANES_COUNTED,
    LINE_WORDS,
    LINES,
    PASSES,
    REQUESTS,
    SECTORS,
    SHARED_SPACE,
    SPACE,
)
from precalign.gpu.ptx.compiled.runtime.raw import int64, load64, store64, uint64
from precalign.jit import Array, inline

_SEGMENT = 7  # the buffer that the instruction met last; no measurement


@inline
def line_of(context: Array, index: Array) -> Array:
    """Return where the measurements of an instruction are."""
    return int64(load64(context + 8 * LINES)) + 8 * LINE_WORDS * index


@inline
def cached_segment(context: Array, index: Array) -> Array:
    """Return the buffer that the instruction met last."""
    return int64(load64(line_of(context, index) + 8 * _SEGMENT))


@inline
def keep_segment(context: Array, index: Array, number: Array) -> Array:
    """Remember it."""
    store64(line_of(context, index) + 8 * _SEGMENT, uint64(number))


@inline
def count(line: Array, what: Array, amount: Array) -> Array:
    """Add to a measurement."""
    store64(line + 8 * what, load64(line + 8 * what) + uint64(amount))


@inline
def sectors_of(mask: Array, addresses: Array) -> Array:
    """Return how many different 32-byte sectors the lanes touch: new ones, counted in the order of lanes."""
    n, previous, highest = 0, int64(-1), int64(-1)
    for lane in range(32):
        if mask >> lane & 1:
            sector = int64(load64(addresses + 8 * lane)) >> 5
            if sector == previous:
                continue
            previous = sector
            if sector > highest:
                highest = sector
                n += 1
                continue
            known = False
            for earlier in range(lane):
                if mask >> earlier & 1 and int64(load64(addresses + 8 * earlier)) >> 5 == sector:
                    known = True
                    break
            if not known:
                n += 1
    return n


@inline
def passes_of(mask: Array, offsets: Array, width: Array) -> Array:  # noqa: C901
    """Return (passes over the banks, groups of lanes served together)."""
    lanes_together = 16 if width == 8 else 8 if width == 16 else 32
    words = 1 if width < 4 else width // 4
    passes, groups = 0, 0
    load = np.empty(32, np.int32)
    first_word = np.empty(32, np.int64)
    for start in range(0, 32, lanes_together):
        if not mask >> start & ((1 << lanes_together) - 1):
            continue
        groups += 1
        load[:] = 0
        for lane in range(start, start + lanes_together):
            if not mask >> lane & 1:
                continue
            first = int64(load64(offsets + 8 * lane)) >> 2
            bank = first & 31
            if load[bank] and first_word[bank] == first:
                continue
            if load[bank]:
                known = False
                for earlier in range(start, lane):
                    if mask >> earlier & 1 and int64(load64(offsets + 8 * earlier)) >> 2 == first:
                        known = True
                        break
                if known:
                    continue
            else:
                first_word[bank] = first
            for i in range(words):
                load[(first + i) & 31] += 1
        passes += load.max()
    return passes, groups


@inline
def measure(context: Array, index: Array, space: Array, mask: Array, addresses: Array, width: Array) -> Array:
    """Count one request."""
    line = line_of(context, index)
    lanes = 0
    rest = mask
    while rest:
        rest &= rest - 1
        lanes += 1
    if load64(line + 8 * REQUESTS) == 0:
        store64(line + 8 * SPACE, uint64(space))
    count(line, REQUESTS, 1)
    count(line, LANES_COUNTED, lanes)
    count(line, BYTES, lanes * width)
    if space == GLOBAL_SPACE:
        count(line, SECTORS, sectors_of(mask, addresses))
    elif space == SHARED_SPACE:
        passes, groups = passes_of(mask, addresses, width)
        count(line, PASSES, passes)
        count(line, CONFLICTS, passes - groups)
