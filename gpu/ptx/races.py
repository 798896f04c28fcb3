"""Shared-memory races: two accesses of different threads to the same byte, at least one a write, with nothing between.

Two levels of epochs order accesses: a barrier of the block orders all its threads, a barrier of the warp the threads of
that warp. One level alone gives false alarms.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from precalign.jit import kernel

Array = Any
_MANY = -1
_BLOCK_EPOCH, _WARP_EPOCH, _WARP, _LANE = range(4)
_AGAINST = {"read": ("write", "atomic"), "write": ("write", "read", "atomic"), "atomic": ("write", "read")}
"""Kind of access -> the kinds that it must not meet."""


@kernel
def _first_conflict(
    record: Array,
    latest: Array,
    first: Array,
    n_cells: Array,
    lanes: Array,
    blocks: Array,
    block_epoch: Array,
    warp_epoch: Array,
) -> Array:
    """Return the position of the first access that conflicts with what is recorded, or -1."""
    for i in range(lanes.size):
        block, warp = blocks[i], lanes[i] >> 5
        if latest[block] != block_epoch[block]:
            continue
        for step in range(n_cells):
            cell = first[i] + step
            if record[cell, _BLOCK_EPOCH] != block_epoch[block]:
                continue
            other_warp = record[cell, _WARP] != warp
            unordered = record[cell, _WARP_EPOCH] == warp_epoch[warp] and record[cell, _LANE] != lanes[i]
            if other_warp or unordered:
                return i
    return -1


@kernel
def _note(
    record: Array,
    latest: Array,
    first: Array,
    n_cells: Array,
    lanes: Array,
    blocks: Array,
    block_epoch: Array,
    warp_epoch: Array,
) -> Array:
    """Record who made accesses of one class (reads, writes or atomics) to each cell in the latest epoch."""
    for i in range(lanes.size):
        block, warp = blocks[i], lanes[i] >> 5
        latest[block] = block_epoch[block]
        for step in range(n_cells):
            cell = record[first[i] + step]
            if cell[_BLOCK_EPOCH] != block_epoch[block]:
                cell[_WARP], cell[_LANE] = warp, lanes[i]
            elif cell[_WARP] != warp:
                cell[_WARP] = cell[_LANE] = _MANY
            elif cell[_WARP_EPOCH] != warp_epoch[warp]:
                cell[_LANE] = lanes[i]
            elif cell[_LANE] != lanes[i]:
                cell[_LANE] = _MANY
            cell[_BLOCK_EPOCH], cell[_WARP_EPOCH] = block_epoch[block], warp_epoch[warp]


class RaceDetector:
    """Remembers accesses to shared memory, per cell of `granule` bytes.

    Parameters
    ----------
    n_bytes : int
        Of all blocks together.
    granule : int
        Width of the narrowest access of the kernel; accesses are aligned, so none covers part of a cell.
    n_blocks : int
    """

    def __init__(self, n_bytes: int, granule: int, n_blocks: int) -> None:
        self.shift = granule.bit_length() - 1
        self.granule = granule
        n_cells = -(-n_bytes // granule)
        self.records = {kind: np.full((n_cells, 4), _MANY, np.int32) for kind in _AGAINST}
        self.latest = {kind: np.full(n_blocks, -1, np.int32) for kind in _AGAINST}

    def access(
        self, kind: str, places: Array, width: int, lanes: Array, epochs: tuple[Array, Array, Array]
    ) -> tuple[int, str] | None:
        """Check accesses and record them; return position and opponent's kind of the first race.

        Parameters
        ----------
        kind : str
            "read", "write" or "atomic".
        places, lanes : ndarray[int64], (n,)
        width : int
            Bytes of each access.
        epochs : tuple of ndarray
            The block of each lane, the epoch of every block, that of every warp.
        """
        where = (places >> self.shift, width >> self.shift, lanes, *epochs)
        for against in _AGAINST[kind]:
            position = int(_first_conflict(self.records[against], self.latest[against], *where))
            if position >= 0:
                return position, against
        _note(self.records[kind], self.latest[kind], *where)
        return None
