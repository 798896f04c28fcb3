"""From levels to bits, bytes, and the 32-byte sectors, 64-byte atoms and 128-byte lines under them, counted, not estimated.

Geometry (docs/definitions.md#traffic): keys lie in pages of 64 tokens, a plane of width w has one row of 8 w bytes per channel
and page; values have one row of ceil(head_dim * w / 8) bytes per token and plane, 64 rows to a page. The rows of a page follow each
other without gaps and every page of a plane begins on a 128-byte boundary. Of a page that a step sees in part, key rows load
the bytes of the tokens seen. The full read that savings refer to is the plain cache: rows of head_dim codes, token after token.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, inline, kernel
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.beside import Beside
    from precalign.layouts import Layout
    from precalign.rules.base import Metadata

SECTOR_BYTES = 32
ATOM_BYTES = 64
LINE_BYTES = 128
GRANULES = {"sectors": SECTOR_BYTES, "atoms": ATOM_BYTES, "lines": LINE_BYTES}
"""Unit -> bytes. Caches fill by sectors; what memory hands out at once differs between GPUs (`precalign.gpus`)."""
UNITS = ("bytes", *GRANULES)
TRANSFER_NAMES = {
    "keys": "key",
    "values": "value",
    "full_keys": "full_key",
    "full_values": "full_value",
    "metadata": "metadata",
    "prepass": "prepass",
}


@dataclass(frozen=True)
class Transfer:
    """What a read moves, per step.

    Attributes
    ----------
    bytes, sectors, atoms, lines : ndarray[int64], (n_steps,)
        Bytes asked for, and distinct 32-byte sectors, 64-byte atoms and 128-byte lines that hold them.
    """

    bytes: NDArray[np.int64]
    sectors: NDArray[np.int64]
    atoms: NDArray[np.int64]
    lines: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_steps: int) -> Transfer:
        """Return a transfer of nothing."""
        return cls(*(np.zeros(n_steps, np.int64) for _ in UNITS))

    @classmethod
    def range(cls, begin: NDArray[np.int64], end: NDArray[np.int64]) -> Transfer:
        """Return the transfer of the bytes [begin, end) of an aligned array."""
        granules = [-(-end // n) - begin // n for n in GRANULES.values()]
        return cls(end - begin, *(np.where(end > begin, count, 0) for count in granules))

    def __add__(self, other: Transfer) -> Transfer:
        return Transfer(*(getattr(self, unit) + getattr(other, unit) for unit in UNITS))

    def take(self, steps: NDArray[np.int64]) -> Transfer:
        """Return the transfer of some steps."""
        return Transfer(*(getattr(self, unit)[steps] for unit in UNITS))

    def where(self, condition: NDArray[np.bool_]) -> Transfer:
        """Return the transfer with nothing where the condition, (n_steps,), is false."""
        return Transfer(*(np.where(condition, getattr(self, unit), 0) for unit in UNITS))

    def replaced(self, steps: NDArray[np.int64], other: Transfer) -> Transfer:
        """Return the transfer with that of some steps replaced by `other`'s."""
        columns = [getattr(self, unit).copy() for unit in UNITS]
        for column, unit in zip(columns, UNITS, strict=True):
            column[steps] = getattr(other, unit)
        return Transfer(*columns)


@dataclass(frozen=True)
class StepTraffic:
    """The traffic of each decode step of one kv head and its group of query heads.

    Attributes
    ----------
    key_ideal_bits, value_ideal_bits : ndarray[int64], (n_steps,)
        Bits that the rule asks for.
    keys, values : Transfer
        What the planes move for them.
    full_keys, full_values : Transfer
        The same step over the plain cache, in the format's own codes.
    metadata : Transfer
        Running maxima that the rule reads, one byte each, and what stands beside the planes of a rebased layout.
    prepass : Transfer
        What is read before the decision and then once more: values by a pre-pass, each query head apart; for a one-pass rule the newest page's
        keys; what an attempt has read whose outcome the rule did not accept, and must read again.
    scores_bytes, probs_bytes : ndarray[int64], (n_steps,)
        binary32 arrays written by one pass and read by the next.
    queries_bytes, outputs_bytes : ndarray[int64], (n_steps,)
        In the storage format, and binary32.
    """

    key_ideal_bits: NDArray[np.int64]
    value_ideal_bits: NDArray[np.int64]
    keys: Transfer
    values: Transfer
    full_keys: Transfer
    full_values: Transfer
    metadata: Transfer
    prepass: Transfer
    scores_bytes: NDArray[np.int64]
    probs_bytes: NDArray[np.int64]
    queries_bytes: NDArray[np.int64]
    outputs_bytes: NDArray[np.int64]

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """Return every count under one flat name: key_bytes, key_sectors, ..., full_value_lines, scores_bytes."""
        flat: dict[str, NDArray[np.int64]] = {}
        for field in fields(self):
            held = getattr(self, field.name)
            if isinstance(held, Transfer):
                stem = TRANSFER_NAMES[field.name]
                flat |= {f"{stem}_{unit.name}": getattr(held, unit.name) for unit in fields(held)}
            else:
                flat[field.name] = held
        return flat


@inline
def _at_least(levels: Array, rows: int, least: int) -> int:
    """Count groups of consecutive rows in which some level is at least `least`."""
    count = 0
    if rows == 1:
        for i in range(len(levels)):
            count += levels[i] >= least
        return count
    for i in range(len(levels) // rows):
        found = False
        for j in range(rows):
            found |= levels[i * rows + j] >= least
        count += found
    left = len(levels) // rows * rows
    return count + (len(levels) > left and levels[left:].max() >= least)


@inline
def _granules(levels: Array, least: int, row_bytes: int, begin: int, end: int, granule: int) -> int:
    """Count distinct granules under bytes [begin, end) of those rows of a page whose level is at least `least`."""
    if row_bytes % granule == 0:
        return _at_least(levels, 1, least) * ((end - 1) // granule - begin // granule + 1)
    if granule % row_bytes == 0:
        return _at_least(levels, granule // row_bytes, least)
    count, free = 0, 0  # granules below `free` are counted already
    for row in range(len(levels)):
        if levels[row] >= least:
            lowest = max((row * row_bytes + begin) // granule, free)
            free = max(free, (row * row_bytes + end - 1) // granule + 1)
            count += max(0, free - lowest)
    return count


@kernel
def _key_transfer(levels: Array, widths: Array, least_levels: Array, first: Array, visible: Array, out: Array) -> None:
    for step in range(len(first)):
        low, high = first[step], visible[step]
        while low < high:
            skipped = low % PAGE_TOKENS
            pages = (high - low) // PAGE_TOKENS if skipped == 0 and high - low >= PAGE_TOKENS else 1
            tokens = min(high - low, PAGE_TOKENS - skipped)
            for plane in range(len(widths)):
                begin, end = skipped * widths[plane] // 8, ((skipped + tokens) * widths[plane] + 7) // 8
                place = (levels[step], least_levels[plane], PAGE_TOKENS * widths[plane] // 8, begin, end)
                out[0, step] += pages * (end - begin) * _at_least(levels[step], 1, least_levels[plane])
                out[1, step] += pages * _granules(*place, SECTOR_BYTES)
                out[2, step] += pages * _granules(*place, ATOM_BYTES)
                out[3, step] += pages * _granules(*place, LINE_BYTES)
            low += tokens + (pages - 1) * PAGE_TOKENS


@kernel
def _value_transfer(
    levels: Array, widths: Array, least_levels: Array, head_dim: int, first: Array, visible: Array, out: Array
) -> None:
    # Where a page fills whole lines, its rows go on into the next page; elsewhere pages are counted one by one.
    unread = np.zeros(levels.shape[1] + PAGE_TOKENS, np.int16)
    for plane in range(len(widths)):
        row_bytes = (head_dim * widths[plane] + 7) // 8
        at_once = len(unread) if PAGE_TOKENS * row_bytes % LINE_BYTES == 0 else PAGE_TOKENS
        for step in range(len(first)):
            low = first[step]
            while low < visible[step]:
                page = low // PAGE_TOKENS * PAGE_TOKENS
                end = min(visible[step], page + at_once)
                rows, seen = unread[: end - page], levels[step, low:end]
                rows[: low - page] = -1
                rows[low - page :] = seen
                out[0, step] += row_bytes * _at_least(rows, 1, least_levels[plane])
                out[1, step] += _granules(rows, least_levels[plane], row_bytes, 0, row_bytes, SECTOR_BYTES)
                out[2, step] += _granules(rows, least_levels[plane], row_bytes, 0, row_bytes, ATOM_BYTES)
                out[3, step] += _granules(rows, least_levels[plane], row_bytes, 0, row_bytes, LINE_BYTES)
                low = end


def _least_levels(layout: Layout) -> NDArray[np.int64]:
    """Return the first level that reads each plane, (n_planes,)."""
    reads = np.array(layout.level_planes)
    return np.array([int((reads > plane).argmax()) for plane in range(len(layout.widths))], np.int64)


def key_transfer(
    levels: NDArray[np.uint8], layout: Layout, first: NDArray[np.int64], visible: NDArray[np.int64]
) -> Transfer:
    """Return what key planes move when channels are read at `levels` (n_steps, head_dim) for tokens [first, visible)."""
    out = np.zeros((len(UNITS), len(first)), np.int64)
    _key_transfer(levels, np.array(layout.widths), _least_levels(layout), first, visible, out)
    return Transfer(*out)


def value_transfer(
    levels: NDArray[np.uint8], layout: Layout, head_dim: int, first: NDArray[np.int64], visible: NDArray[np.int64]
) -> Transfer:
    """Return what value planes move when tokens [first, visible) are read at `levels` (n_steps, seq_len)."""
    out = np.zeros((len(UNITS), len(first)), np.int64)
    _value_transfer(levels, np.array(layout.widths), _least_levels(layout), head_dim, first, visible, out)
    return Transfer(*out)


def prepass_transfer(tokens: NDArray[np.int32], layout: Layout, head_dim: int) -> Transfer:
    """Return what query heads move that read `tokens` (group, n_steps, n; -1 for none) at the first level.

    Every read counts by itself: a row's own sectors, atoms and lines.
    """
    total = Transfer.zeros(tokens.shape[1])
    for width in layout.widths[: layout.level_planes[layout.first_read]]:
        row_bytes = -(-head_dim * width // 8)
        stride = -(-PAGE_TOKENS * row_bytes // LINE_BYTES) * LINE_BYTES
        begin = tokens // PAGE_TOKENS * stride + tokens % PAGE_TOKENS * row_bytes
        reads = Transfer.range(begin, begin + row_bytes * (tokens >= 0))
        total += Transfer(*(getattr(reads, unit).sum(axis=(0, 2)) for unit in UNITS))
    return total


def metadata_transfer(
    metadata: Metadata, head_dim: int, first: NDArray[np.int64], visible: NDArray[np.int64]
) -> Transfer:
    """Return what the running maxima move that a rule reads: one byte per channel or token, each kind an aligned array."""
    zero = np.zeros_like(first)
    total = Transfer.zeros(len(first))
    for _ in range(metadata.key_channels + metadata.value_channels):
        total += Transfer.range(zero, zero + head_dim)
    if metadata.value_tokens:
        total += Transfer.range(first, visible)
    return total


def plain_transfer(layout: Layout, head_dim: int, first: NDArray[np.int64], visible: NDArray[np.int64]) -> Transfer:
    """Return what reading tokens [first, visible) of a cache without planes moves, for keys or for values."""
    row_bytes = head_dim * layout.format.total_bits // 8
    return Transfer.range(first * row_bytes, visible * row_bytes)


def step_traffic(
    layout: Layout,
    metadata: Metadata,
    key_levels: NDArray[np.uint8],
    value_levels: NDArray[np.uint8],
    key_level_channels: NDArray[np.int64],
    value_level_tokens: NDArray[np.int64],
    prepass_tokens: NDArray[np.int32] | None,
    group: int,
    first: NDArray[np.int64],
    visible: NDArray[np.int64],
    *,
    one_pass: bool = False,
    beside: Beside | None = None,
    query_bits: int | None = None,
) -> StepTraffic:
    """Return the traffic of a block of decode steps.

    Parameters
    ----------
    layout : Layout
    metadata : Metadata
        Which running maxima the rule reads.
    key_levels : ndarray[uint8], (n_steps, head_dim)
    value_levels : ndarray[uint8], (n_steps, seq_len)
    key_level_channels, value_level_tokens : ndarray[int64], (n_steps, n_levels)
        The same counted by level, over visible tokens.
    prepass_tokens : ndarray[int32], (group, n_steps, n) or None
        What a pre-pass reads at the first level.
    group : int
        Query heads that share the reads.
    first, visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    one_pass : bool
        Whether scores and probabilities are never stored; the newest page's keys and token maxima are then read once more.
    beside : Beside, optional
        What stands beside the planes of a rebased layout; it counts as metadata.
    query_bits : int, optional
        Of a query number; as wide as a number of the cache if not given.
    """
    tokens, head_dim = visible - first, key_levels.shape[1]
    level_bits = np.array(layout.levels, np.int64)
    full = plain_transfer(layout, head_dim, first, visible)
    constant = np.full(len(first), group * head_dim, np.int64)
    prepass = (
        Transfer.zeros(len(first)) if prepass_tokens is None else prepass_transfer(prepass_tokens, layout, head_dim)
    )
    if one_pass:
        newest = np.maximum(first, (visible - 1) // PAGE_TOKENS * PAGE_TOKENS)
        prepass += key_transfer(key_levels, layout, newest, visible) + Transfer.range(newest, visible)
        if beside is not None:
            prepass += beside.keys(newest, visible)
    read = metadata_transfer(metadata, head_dim, first, visible)
    if beside is not None:
        read += beside.keys(first, visible) + beside.values(first, visible, references=not metadata.value_tokens)
    stored = np.zeros_like(tokens) if one_pass else 2 * 4 * group * tokens
    return StepTraffic(
        key_ideal_bits=key_level_channels @ level_bits * tokens,
        value_ideal_bits=value_level_tokens @ level_bits * head_dim,
        keys=key_transfer(key_levels, layout, first, visible),
        values=value_transfer(value_levels, layout, head_dim, first, visible),
        full_keys=full,
        full_values=full,
        metadata=read,
        prepass=prepass,
        scores_bytes=stored,
        probs_bytes=stored,
        queries_bytes=constant * (query_bits or layout.format.total_bits) // 8,
        outputs_bytes=4 * constant,
    )
