"""Counting sectors and bank passes of a warp's access."""

from __future__ import annotations

from typing import Any

import numpy as np

from precalign.jit import kernel

Array = Any
SECTOR_SHIFT = 5
BANKS = 32


def _sorted(keys: Array) -> Array:
    return np.sort(keys) if keys.size > 1 and (keys[1:] < keys[:-1]).any() else keys


def _distinct(ordered: Array) -> Array:
    """Return a mask of the first of each run of equal keys."""
    first = np.empty(ordered.size, np.bool_)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def count_requests(lanes: Array) -> int:
    """Return how many warps the lanes, ascending, belong to."""
    warps = lanes >> 5
    return int((warps[1:] != warps[:-1]).sum()) + 1


def count_sectors(lanes: Array, addresses: Array) -> int:
    """Return the different 32-byte sectors per warp, summed over warps.

    Parameters
    ----------
    lanes : ndarray[int64]
        Ascending.
    addresses : ndarray[int64]
    """
    keys = _sorted(((lanes >> 5) << 45) + (addresses >> SECTOR_SHIFT))
    return int(_distinct(keys).sum())


def count_passes(lanes: Array, offsets: Array, width: int) -> tuple[int, int]:
    """Return the passes over the banks of shared memory, and how many of them conflicts cost.

    Parameters
    ----------
    lanes : ndarray[int64]
        Ascending.
    offsets : ndarray[int64]
        Bytes from the start of shared memory.
    width : int
        Bytes per lane; 8 and 16 bytes are served half a warp and a quarter of a warp at a time.
    """
    shift = {8: 4, 16: 3}.get(width, 5)
    groups = np.empty(BANKS, np.int64)
    passes, n_groups = _passes(lanes, offsets >> 2, shift, max(1, width // 4), groups)
    return int(passes), int(passes - n_groups)


@kernel
def _passes(lanes: Array, words: Array, shift: Array, n_words: Array, seen: Array) -> Array:
    """Sort the first words of each group of lanes that is served together, and fill the banks with those that differ."""
    load = np.zeros(BANKS, np.int64)
    passes, n_groups, begin = 0, 0, 0
    while begin < lanes.size:
        end = begin
        while end < lanes.size and lanes[end] >> shift == lanes[begin] >> shift:
            place = end - begin
            while place > 0 and seen[place - 1] > words[end]:
                seen[place] = seen[place - 1]
                place -= 1
            seen[place] = words[end]
            end += 1
        load[:] = 0
        for i in range(end - begin):
            if i == 0 or seen[i] != seen[i - 1]:
                for word in range(seen[i], seen[i] + n_words):
                    load[word % BANKS] += 1
        passes += load.max()
        n_groups += 1
        begin = end
    return passes, n_groups
