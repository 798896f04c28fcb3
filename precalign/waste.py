"""Wasted significand bits by the criterion: digits finer than the coarsest term of their sum.

In a sum of w_i x_i the term matters through e_i = E(w_i) + E(x_i); wasted(x_i) = clip(max_i e_i - e_i, 0, p). A stored number is
read once for the query heads of its group, so of its wasted bits the smallest over the heads counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import inline, kernel
from precalign.waste_kernels import TILE, count_waste, largest_by_channel, largest_by_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.jit import Array


@dataclass(frozen=True)
class Waste:
    """Wasted bits of the keys or of the values of one kv head, summed along every axis.

    Attributes
    ----------
    step_bits : ndarray[int64], (n_steps,)
        Over the tokens that the step sees and all channels.
    channel_bits : ndarray[int64], (head_dim,)
        Over steps and tokens.
    token_bits : ndarray[int64], (seq_len,)
        Over steps and channels.
    histogram : ndarray[int64], (p + 1,)
        How many (step, token, channel) waste so many bits.
    """

    step_bits: NDArray[np.int64]
    channel_bits: NDArray[np.int64]
    token_bits: NDArray[np.int64]
    histogram: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_steps: int, head_dim: int, seq_len: int, precision_bits: int) -> Waste:
        """Return a record of nothing counted yet."""
        return cls(*(np.zeros(n, np.int64) for n in (n_steps, head_dim, seq_len, precision_bits + 1)))


CHANNELS_AT_ONCE = 128
LEAST_PROB_EXPONENT = {1: -80, 2: -126}
"""By the bytes of an exponent: E(p) below this is raised to it. Of n <= 2^30 probabilities the largest is at least 2^-31, so a
binary16 or 8-bit value with E(p) <= -80 lies 11 binades and more below the coarsest term of its channel either way."""
UNSEEN_EXPONENT = {1: -100, 2: -1000}
"""Below every term, and still within the integers used."""


@inline
def _sum(lanes: Array, mask: int) -> int:
    total = 0
    for i in range(TILE):
        total += lanes[i] & mask
    return total


@inline
def _count(
    precision_bits: int,
    exponents: Array,
    base: int,
    n: int,
    by_token: Array,
    by_channel: Array,
    channel_base: int,
    stride: int,
    group: int,
    seen: Array,
    channels: Array,
    counters: Array,
    tokens: Array,
) -> None:
    """Call the counting code for the precision of binary16, bfloat16, e4m3 or e5m2."""
    if precision_bits == 11:
        count_waste(
            11, exponents, base, n, by_token, by_channel, channel_base, stride, group, seen, channels, counters, tokens
        )
    elif precision_bits == 8:
        count_waste(
            8, exponents, base, n, by_token, by_channel, channel_base, stride, group, seen, channels, counters, tokens
        )
    elif precision_bits == 4:
        count_waste(
            4, exponents, base, n, by_token, by_channel, channel_base, stride, group, seen, channels, counters, tokens
        )
    else:
        count_waste(
            3, exponents, base, n, by_token, by_channel, channel_base, stride, group, seen, channels, counters, tokens
        )


@kernel
def _tile_waste(
    tiles: Array,
    by_token: Array,
    by_channel: Array,
    low: Array,
    high: Array,
    precision_bits: int,
    steps: Array,
    channel_bits: Array,
    token_bits: Array,
    histogram: Array,
) -> None:
    """Count one tile of tokens for a block of steps.

    Parameters
    ----------
    tiles : ndarray[int8 or int16], (n_channels, TILE)
        Exponents of the stored numbers.
    by_token : ndarray of the same type, (n_steps, group, TILE)
    by_channel : ndarray of the same type, (group, n_steps, n_channels)
        wasted = by_token - by_channel - tiles.
    low, high : ndarray[int64], (n_steps,)
        Lanes that a step sees.
    precision_bits : int
    steps, channel_bits, token_bits, histogram : ndarray[int64]
        Added to: (n_steps,), (n_channels,), (TILE,), (p + 1,).
    """
    group, n_steps, n_channels = by_channel.shape
    seen = np.zeros(TILE, tiles.dtype)
    channels = np.zeros((CHANNELS_AT_ONCE, TILE), tiles.dtype)
    unsigned = (1 << 8 * tiles.itemsize) - 1
    counters = np.zeros((precision_bits, TILE), np.uint16)
    tokens = np.zeros(TILE, np.uint16)
    steps_at_once = (255 if tiles.itemsize == 1 else 500) // precision_bits
    for channel0 in range(0, n_channels, CHANNELS_AT_ONCE):
        n = min(CHANNELS_AT_ONCE, n_channels - channel0)
        for step0 in range(0, n_steps, steps_at_once):
            end = min(n_steps, step0 + steps_at_once)
            for step in range(step0, end):
                if low[step] >= high[step]:
                    continue
                seen[:] = 0
                seen[low[step] : high[step]] = -1
                _count(
                    precision_bits,
                    tiles,
                    channel0 * TILE,
                    n,
                    by_token[step],
                    by_channel,
                    step * n_channels + channel0,
                    n_steps * n_channels,
                    group,
                    seen,
                    channels,
                    counters,
                    tokens,
                )
                for lane in range(TILE):
                    token_bits[lane] += tokens[lane]
                steps[step] += _sum(tokens, 0xFFFF)
                histogram[0] += n * (high[step] - low[step])
            for i in range(n):
                channel_bits[channel0 + i] += _sum(channels[i], unsigned)
            channels[:] = 0
            # Counters hold how many waste at least so many bits.
            for bits in range(precision_bits):
                reached = _sum(counters[bits], 0xFFFF)
                histogram[bits] -= reached
                histogram[bits + 1] += reached
            counters[:] = 0


@kernel
def _key_waste(
    tiles: Array,
    query_exponents: Array,
    first: Array,
    visible: Array,
    precision_bits: int,
    steps: Array,
    channels: Array,
    tokens: Array,
    histogram: Array,
) -> None:
    group, n_steps, n_channels = query_exponents.shape
    by_token = np.empty((n_steps, group, TILE), tiles.dtype)
    low, high = np.empty_like(first), np.empty_like(first)
    for tile in range(tiles.shape[0]):
        for step in range(n_steps):
            low[step] = max(first[step] - tile * TILE, 0)
            high[step] = min(visible[step] - tile * TILE, TILE)
            for head in range(group if low[step] < high[step] else 0):
                scalars = (head * n_steps + step) * n_channels
                base = tile * n_channels * TILE
                place = (step * group + head) * TILE
                largest_by_token(tiles, base, query_exponents, scalars, n_channels, by_token, place)
        here = tokens[tile * TILE : (tile + 1) * TILE]
        _tile_waste(tiles[tile], by_token, query_exponents, low, high, precision_bits, steps, channels, here, histogram)


@kernel
def _value_waste(
    tiles: Array,
    rows: Array,
    probs: Array,
    first: Array,
    visible: Array,
    least: int,
    unseen: int,
    precision_bits: int,
    steps: Array,
    channels: Array,
    tokens: Array,
    histogram: Array,
) -> None:
    group, n_steps = probs.shape[:2]
    n_tiles, n_channels, _ = tiles.shape
    prob_exponents = np.empty(n_tiles * TILE, tiles.dtype)
    by_token = np.empty((n_tiles, n_steps, group, TILE), tiles.dtype)
    references, largest = np.empty((group, n_steps, n_channels), tiles.dtype), np.empty(TILE, tiles.dtype)
    low, high = np.empty_like(first), np.empty_like(first)
    for step in range(n_steps):
        begin, end = first[step] // TILE, (visible[step] - 1) // TILE + 1
        for head in range(group):
            row = probs[head, step].view(np.int32)
            for t in range(begin * TILE, end * TILE):
                prob_exponents[t] = max((row[t] >> np.int32(23)) - np.int32(127), np.int32(least))
            prob_exponents[begin * TILE : first[step]] = unseen
            prob_exponents[visible[step] : end * TILE] = unseen
            for tile in range(begin, end):
                for i in range(TILE):
                    by_token[tile, step, head, i] = -prob_exponents[tile * TILE + i]
            for channel0 in range(0, n_channels, TILE):
                base = first[step] * rows.shape[1] + channel0
                n = visible[step] - first[step]
                largest_by_channel(rows, base, rows.shape[1], prob_exponents, first[step], n, largest)
                for c in range(min(TILE, n_channels - channel0)):
                    references[head, step, channel0 + c] = -largest[c]
    for tile in range(n_tiles):
        for step in range(n_steps):
            low[step] = max(first[step] - tile * TILE, 0)
            high[step] = min(visible[step] - tile * TILE, TILE)
        here = tokens[tile * TILE : (tile + 1) * TILE]
        _tile_waste(
            tiles[tile], by_token[tile], references, low, high, precision_bits, steps, channels, here, histogram
        )


def exponent_tiles(exponents: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
    """Return exponents (seq_len, head_dim) as (n_tiles, head_dim, TILE), zeros where there is no token."""
    seq_len, head_dim = exponents.shape
    padded = np.zeros((-(-seq_len // TILE) * TILE, head_dim), exponents.dtype)
    padded[:seq_len] = exponents
    return np.ascontiguousarray(padded.reshape(-1, TILE, head_dim).transpose(0, 2, 1))


def exponent_rows(exponents: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
    """Return exponents (seq_len, head_dim) with zeros up to a multiple of 64 channels."""
    return np.ascontiguousarray(np.pad(exponents, ((0, 0), (0, -exponents.shape[1] % TILE))))


def add_key_waste(
    waste: Waste,
    query_exponents: NDArray[np.signedinteger],
    key_tiles: NDArray[np.signedinteger],
    first: NDArray[np.int64],
    visible: NDArray[np.int64],
) -> None:
    """Count the wasted bits of keys for a block of steps; the reference is the coarsest channel of each (step, token).

    Parameters
    ----------
    waste : Waste
        Added to.
    query_exponents : ndarray[int8 or int16], (group, n_steps, head_dim)
    key_tiles : ndarray[int8 or int16], (n_tiles, head_dim, TILE)
        From `exponent_tiles`; tiles up to the last token seen.
    first, visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    """
    _add(waste, _key_waste, key_tiles, query_exponents, first, visible)


def add_value_waste(
    waste: Waste,
    probs: NDArray[np.float32],
    value_tiles: NDArray[np.signedinteger],
    value_rows: NDArray[np.signedinteger],
    first: NDArray[np.int64],
    visible: NDArray[np.int64],
) -> None:
    """Count the wasted bits of values for a block of steps; the reference is the coarsest token of each (step, channel).

    Parameters
    ----------
    waste : Waste
        Added to.
    probs : ndarray[float32], (group, n_steps, n_tiles * TILE)
        Of the full read.
    value_tiles : ndarray[int8 or int16], (n_tiles, head_dim, TILE)
        From `exponent_tiles`; tiles up to the last token seen.
    value_rows : ndarray of the same type, (seq_len, padded_dim)
        From `exponent_rows`.
    first, visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    """
    size = value_tiles.itemsize
    extremes = LEAST_PROB_EXPONENT[size], UNSEEN_EXPONENT[size]
    _add(waste, _value_waste, value_tiles, value_rows, probs, first, visible, *extremes)


def _add(waste: Waste, count: Callable[..., None], tiles: NDArray[np.signedinteger], *arguments: Array) -> None:
    token_bits = np.zeros(len(tiles) * TILE, np.int64)
    precision_bits = len(waste.histogram) - 1
    count(tiles, *arguments, precision_bits, waste.step_bits, waste.channel_bits, token_bits, waste.histogram)
    seq_len = len(waste.token_bits)
    waste.token_bits[: len(token_bits)] += token_bits[:seq_len]
