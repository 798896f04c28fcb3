"""`optimal`: the fewest bits that could give the error of a rule, if bits could be divided at will. Nothing can be read like that; a limit to compare with.

For one query head, the worst error that a read can make is taken as sum_i w_i h_i over key channels and tokens' values (docs/certified.md): h_i the
half-width of what the level leaves open, in binades of the number. Without planes b bits of a number would leave h = 2^(1 - b), and all of them 0;
the lower convex hull of these follows 2^(1 - b) up to 1 / ln 2 bits before the end and goes straight to 0 from there. The least
sum_i c_i b_i with the same sum of errors is reverse water-filling: b_i = log2(w_i / c_i) + constant, at least 0 and at most all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.scores import half_widths
from precalign.decode.output import add_outputs
from precalign.decode.scores import squared_distances
from precalign.jit import Array, fma, inline, kernel, reinterpret
from precalign.memory import aligned_empty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.block import Block

LN2 = float.fromhex("0x1.62e42fefa39efp-1")
PARTS = 16
BUCKETS, SHIFT = 512 * PARTS, 48
"""Buckets of ratios, a sixteenth of a binade each: the leading bits of a binary64."""
LEAST, MOST = 2.0**-149, 2.0**350
"""Ratios that have buckets: what binary32 holds, and weights of keys beyond that."""
LANES = 16
FIRST = (1023 - 150) * PARTS
SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
LARGEST = float(np.finfo(np.float32).max)
L1, L3, L5, L7, L9, L11, L13, L15, L17, L19 = (2 / LN2 / n for n in range(1, 20, 2))


@inline
def _log2(x: float) -> Array:
    """Return log2 of a normal binary64 number, within 2 ulp or 2^-53: 2 / ln 2 artanh((m - 1) / (m + 1)) with m in [sqrt(1/2), sqrt(2))."""
    binades = (reinterpret(x) - reinterpret(SQRT_HALF)) >> 52
    m = reinterpret(reinterpret(x) - (binades << 52))
    s = (m - 1) / (m + 1)
    z = s * s
    y = fma(L19, z, L17)
    y = fma(y, z, L15)
    y = fma(y, z, L13)
    y = fma(y, z, L11)
    y = fma(y, z, L9)
    y = fma(y, z, L7)
    y = fma(y, z, L5)
    y = fma(y, z, L3)
    y = fma(y, z, L1)
    return y * s + np.float64(binades)


@inline
def _whole(ratio: float, total_bits: int) -> Array:
    """Return the error per bit from which on a number is not read whole."""
    return ratio * LN2 * 2.0 ** -(total_bits - 1 - 1 / LN2)


@inline
def _error(theta: float, none: int, most: int, sums: Array) -> Array:
    """Return the error where a number pays `theta` of error per bit: `none` have no bit, from `most` on all are whole."""
    return 2 * sums[0, none] + theta / LN2 * (sums[1, most] - sums[1, none])


@inline
def _bits(theta: float, none: int, most: int, n: int, sums: Array, total_bits: int) -> Array:
    """Return the bits for that error."""
    in_part = sums[1, most] - sums[1, none]
    bits = sums[2, most] - sums[2, none] + (1 - np.log2(theta / LN2)) * in_part
    return bits + total_bits * (sums[1, n] - sums[1, most])


@inline
def _turns(n: int, ratios: Array, total_bits: int, none: Array) -> None:
    """Write how many numbers have no bit left where each begins to be read in part."""
    have_none = 0
    for most in range(n):
        theta = _whole(ratios[most], total_bits)
        while have_none < n and 2 * LN2 * ratios[have_none] <= theta:
            have_none += 1
        none[most] = have_none


@inline
def _least_bits(n: int, ratios: Array, sums: Array, none: Array, error: float, total_bits: int) -> Array:
    """Return the least bits with at most the error; every ratio is positive.

    As `theta` grows, numbers go from whole to part, where the error jumps, and from part to none, where it bends.
    """
    if n == 0 or not error > 0:
        return total_bits * sums[1, n]
    if error >= 2 * sums[0, n]:
        return 0.0
    # `most` numbers are not whole: the error just after the jump of the last of them is at most `error`.
    most, beyond = 0, n + 1
    while beyond - most > 1:
        middle = (most + beyond) // 2
        if _error(_whole(ratios[middle - 1], total_bits), none[middle - 1], middle, sums) <= error:
            most = middle
        else:
            beyond = middle
    if most < n:
        theta, gone = _whole(ratios[most], total_bits), none[most]
        low = _error(theta, gone, most, sums) if most else 0.0
        if low <= error:  # where numbers of one ratio leave the whole code together, some of them do
            few = _bits(theta, gone, most, n, sums, total_bits)
            many = _bits(theta, gone, most + 1, n, sums, total_bits)
            part = (error - low) / max(_error(theta, gone, most + 1, sums) - low, 1e-300)
            return few + part * (many - few)
    gone, beyond = none[most - 1], (none[most] if most < n else n) + 1
    while beyond - gone > 1:
        middle = (gone + beyond) // 2
        if _error(2 * LN2 * ratios[middle - 1], middle, most, sums) <= error:
            gone = middle
        else:
            beyond = middle
    theta = (error - 2 * sums[0, gone]) * LN2 / (sums[1, most] - sums[1, gone])
    return _bits(theta, gone, most, n, sums, total_bits)


@inline
def _add(ratios: Array, logarithms: Array, cost: float, buckets: Array, ends: Array) -> None:
    """Add numbers of one cost to their buckets: weights, costs, and costs times logarithms of ratios; widen the range of buckets in use."""
    low, high = ends[0], ends[1]
    for i in range(len(ratios)):
        if ratios[i] >= LEAST:
            place = (reinterpret(ratios[i]) >> SHIFT) - FIRST
            low, high = min(low, place), max(high, place)
            buckets[place, 0] += cost * ratios[i]
            buckets[place, 1] += cost
            buckets[place, 2] += cost * logarithms[i]
    ends[0], ends[1] = low, high


@inline
def _run(buckets: Array, ends: Array, sums: Array, ratios: Array) -> int:
    """Turn buckets into running sums over those that hold something, and write their mean ratios; return how many. The buckets are emptied."""
    n = 0
    for place in range(ends[0], ends[1] + 1):
        if buckets[place, 1] > 0:
            ratios[n] = buckets[place, 0] / buckets[place, 1]
            n += 1
            for i in range(3):
                sums[i, n] = sums[i, n - 1] + buckets[place, i]
                buckets[place, i] = 0
    return n


@kernel
def water_fill(
    keys: Array, probs: Array, sizes: Array, head_dim: int, first: Array, visible: Array, errors: Array, total_bits: int
) -> Array:
    """Return the least bits with at most the errors, (n_rules, group, n_steps).

    Numbers whose weights differ by less than a sixteenth of a binade begin to be read, and are read whole, together.

    Parameters
    ----------
    keys : ndarray[float64], (group, n_steps, head_dim)
        What h = 1 of a channel does; a bit of it costs a bit for every token.
    probs : ndarray[float32], (group, n_steps, >= visible)
    sizes : ndarray[float32], (seq_len,)
        What h = 1 of a token's values does is head_dim * fl(p_t * sizes_t); a bit of it costs head_dim bits.
    head_dim : int
    first, visible : ndarray[int64], (n_steps,)
    errors : ndarray[float64], (n_rules, group, n_steps)
    total_bits : int
    """
    out = np.empty(errors.shape)
    buckets, sums, ends = np.zeros((BUCKETS, 4)), np.zeros((3, BUCKETS + 1)), np.empty(2, np.int64)
    means, none = np.empty(BUCKETS), np.empty(BUCKETS, np.int64)
    channels = np.empty(keys.shape[2])
    tokens, logarithms = np.empty(len(sizes)), np.empty(max(len(sizes), keys.shape[2]))
    for head in range(keys.shape[0]):
        for step in range(keys.shape[1]):
            low, high = first[step], visible[step]
            ends[:] = BUCKETS, -1
            for d in range(len(channels)):
                channels[d] = min(keys[head, step, d] / (high - low), MOST)
                logarithms[d] = _log2(channels[d])
            _add(channels, logarithms, float(high - low), buckets, ends)
            p, size, ratios = probs[head, step, low:high], sizes[low:high], tokens[: high - low]
            for i in range(len(p)):
                ratios[i] = np.float64(p[i] * size[i])
                logarithms[i] = _log2(ratios[i])
            _add(ratios, logarithms, float(head_dim), buckets, ends)
            n = _run(buckets, ends, sums, means)
            _turns(n, means, total_bits, none)
            for rule in range(len(errors)):
                out[rule, head, step] = _least_bits(n, means, sums, none, errors[rule, head, step], total_bits)
    return out


@kernel
def _weigh(probs: Array, squares: Array, first: Array, visible: Array) -> None:
    """Replace |v_t - o|^2 by p_t |v_t - o| where a step sees the token."""
    for head in range(probs.shape[0]):
        for step in range(probs.shape[1]):
            p, x = probs[head, step, first[step] : visible[step]], squares[head, step, first[step] : visible[step]]
            for i in range(len(p)):
                x[i] = p[i] * np.sqrt(x[i])


def weights(
    block: Block, probs: NDArray[np.float32], outputs: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return what h = 1 of a key channel does to the output at most, (group, n_steps, head_dim), and for each token a factor of p_t, (seq_len,).

    To first order, with the full read's p and o: scale |q_d| sum_t p_t |v_t - o| 2^E(k_td), and head_dim times p_t times the factor for a token's
    values, p_t |2^E(v_t)|; in 2-norms over channels and in binary32.
    """
    moved = aligned_empty(probs.shape, np.float32)
    centres, row_of_level = np.ascontiguousarray(outputs), np.zeros_like(block.row_of_level)
    keys = np.zeros((*probs.shape[:2], block.head_dim + -block.head_dim % 16), np.float32)
    for token0, chunk in block.chunks():
        squared_distances(block.reads.value_tiles(chunk), centres, *block.window, token0, moved)
    _weigh(probs, moved, *block.window)
    for token0, chunk in block.chunks():
        place = (*block.window, token0, block.split_tokens)
        rows = block.reads.key_size_rows(chunk)
        add_outputs(rows, row_of_level, block.full_value_levels, moved, *place, True, keys)  # noqa: FBT003
    sums = np.nan_to_num(
        keys[..., : block.head_dim], posinf=LARGEST
    )  # numbers near the end of binary32's range overflow
    by_channel = (np.abs(block.queries) * block.inputs.scale).astype(np.float64) * sums.astype(np.float64)
    return by_channel, block.reads.value_norms


def optimal_bits(
    block: Block,
    probs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    levels: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
) -> list[NDArray[np.int64]]:
    """Return for each pair of key and value levels the bits that the yardstick needs for the same error, (n_steps,), rounded down.

    Each query head is filled alone; the group needs at least what its most needy head does.
    """
    keys, sizes = weights(block, probs, outputs)
    h, head_dim = half_widths(block.layout), block.head_dim
    errors = np.stack(
        [
            np.einsum("gsd,sd->gs", keys, h[key_levels])
            + _value_errors(probs, sizes, head_dim, value_levels, h, *block.window)
            for key_levels, value_levels in levels
        ]
    )
    bits = water_fill(keys, probs, sizes, head_dim, *block.window, errors, block.layout.total_bits)
    return list(np.floor(bits.max(axis=1)).astype(np.int64))


@kernel
def _value_errors(
    probs: Array, sizes: Array, head_dim: int, levels: Array, h: Array, first: Array, visible: Array
) -> Array:
    group, n_steps, _ = probs.shape
    out, lanes = np.empty((group, n_steps)), np.empty(LANES)
    for step in range(n_steps):
        low, high = first[step], visible[step]
        size, level = sizes[low:high], levels[step, low:high]
        for head in range(group):
            p = probs[head, step, low:high]
            lanes[:] = 0
            n_whole = len(p) // LANES * LANES
            for begin in range(0, n_whole, LANES):
                for i in range(LANES):
                    lanes[i] += np.float64(p[begin + i] * size[begin + i]) * h[level[begin + i]]
            for i in range(n_whole, len(p)):
                lanes[0] += np.float64(p[i] * size[i]) * h[level[i]]
            out[head, step] = lanes.sum() * head_dim
    return out
