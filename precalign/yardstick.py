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
from precalign.jit import Array, inline, kernel, reinterpret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.block import Block

LN2 = float.fromhex("0x1.62e42fefa39efp-1")
ROUNDS = 64
LANES = 16
BUCKETS, SHIFT = 4096, np.int32(19)
"""Buckets of weights, a sixteenth of a binade each: the leading bits of a binary32."""


LARGEST = float(np.finfo(np.float32).max)


@inline
def _water(theta: float, ratios: Array, sums: Array, total_bits: int) -> tuple[Array, Array]:
    """Return the error and the bits where a number pays `theta` of error per bit.

    `ratios` and `sums` are one row of those of `water_fill`.
    """
    none = np.searchsorted(ratios, theta / (2 * LN2), side="right")
    most = max(np.searchsorted(ratios, theta / LN2 * 2.0 ** (total_bits - 1 - 1 / LN2), side="right"), none)
    error = 2 * sums[0, none] + theta / LN2 * (sums[1, most] - sums[1, none])
    n = len(ratios)
    bits = sums[2, most] - sums[2, none] + (1 - np.log2(theta / LN2)) * (sums[1, most] - sums[1, none])
    return error, bits + total_bits * (sums[1, n] - sums[1, most])


@inline
def _least_bits(ratios: Array, sums: Array, error: float, total_bits: int) -> Array:
    """Return the least bits with at most the error; every ratio is positive."""
    n = len(ratios)
    everything = total_bits * sums[1, n]
    if n == 0 or not error > 0:
        return everything
    # At `low` every number is whole, at `high` none has a bit.
    low, high = ratios[0] * LN2 * 2.0 ** -(total_bits + 1), ratios[n - 1] * 4 * LN2
    few, many = (0.0, everything), _water(high, ratios, sums, total_bits)
    if error >= many[0]:
        return 0.0
    for _ in range(ROUNDS):
        middle = np.sqrt(low * high)
        found = _water(middle, ratios, sums, total_bits)
        if found[0] <= error:
            low, few = middle, found
        else:
            high, many = middle, found
    # Where numbers of one ratio leave the whole code together, some of them do.
    part = (error - few[0]) / max(many[0] - few[0], 1e-300)
    return few[1] + part * (many[1] - few[1])


@inline
def _add(weight: float, cost: float, sums: Array) -> None:
    ratio = np.float32(weight / cost)
    if ratio > 0:
        place = (reinterpret(ratio) >> SHIFT) + 1
        sums[0, place] += weight
        sums[1, place] += cost
        sums[2, place] += cost * np.log2(weight / cost)


@inline
def _run(sums: Array, ratios: Array) -> int:
    """Turn sums by bucket into running sums over the buckets that hold something, and write their mean ratios; return how many."""
    n = 0
    for place in range(1, BUCKETS + 1):
        if sums[1, place] > 0:
            n += 1
            ratios[n - 1] = sums[0, place] / sums[1, place]
            for i in range(3):
                sums[i, n] = sums[i, n - 1] + sums[i, place]
    return n


@kernel
def water_fill(
    keys: Array, values: Array, head_dim: int, first: Array, visible: Array, errors: Array, total_bits: int
) -> Array:
    """Return the least bits with at most the errors, (n_rules, group, n_steps).

    Numbers whose weights differ by less than a sixteenth of a binade begin to be read, and are read whole, together.

    Parameters
    ----------
    keys : ndarray[float64], (group, n_steps, head_dim)
        What h = 1 of a channel does; a bit of it costs a bit for every token.
    values : ndarray[float64], (group, n_steps, n_tokens)
        What h = 1 of a token's values does; a bit of it costs head_dim bits.
    head_dim : int
    first, visible : ndarray[int64], (n_steps,)
    errors : ndarray[float64], (n_rules, group, n_steps)
    total_bits : int
    """
    out = np.empty(errors.shape)
    sums, ratios = np.empty((3, BUCKETS + 1)), np.empty(BUCKETS)
    for head in range(keys.shape[0]):
        for step in range(keys.shape[1]):
            sums[:] = 0
            for d in range(keys.shape[2]):
                _add(keys[head, step, d], float(visible[step] - first[step]), sums)
            for t in range(first[step], visible[step]):
                _add(values[head, step, t], float(head_dim), sums)
            n = _run(sums, ratios)
            for rule in range(len(errors)):
                out[rule, head, step] = _least_bits(ratios[:n], sums[:, : n + 1], errors[rule, head, step], total_bits)
    return out


@kernel
def _add_weights(
    probs: Array,
    outputs: Array,
    values: Array,
    key_sizes: Array,
    value_sizes: Array,
    first: Array,
    visible: Array,
    token0: int,
    keys: Array,
    out: Array,
) -> None:
    """Add a chunk of tokens to sum_t p_t |v_t - o| 2^E(k_td), and write p_t |2^E(v_t)|."""
    group, n_steps, padded_dim = outputs.shape
    lanes = np.zeros(LANES, np.float32)
    for step in range(n_steps):
        begin, end = max(first[step], token0), min(visible[step], token0 + len(values))
        for head in range(group):
            o, sums = outputs[head, step], keys[head, step]
            for t in range(begin, end):
                p, v, sizes = probs[head, step, t], values[t - token0], key_sizes[t - token0]
                out[head, step, t] = p * value_sizes[t - token0]
                lanes[:] = 0
                for block in range(0, padded_dim, LANES):
                    for i in range(LANES):
                        away = v[block + i] - o[block + i]
                        lanes[i] += away * away
                much = p * np.sqrt(lanes.sum())
                for d in range(len(sums)):
                    sums[d] += much * sizes[d]


def weights(
    block: Block, probs: NDArray[np.float32], outputs: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what h = 1 of a key channel, (group, n_steps, head_dim), and of a token's values, (group, n_steps, padded_len), does to the output at most.

    To first order, with the full read's p and o: scale |q_d| sum_t p_t |v_t - o| 2^E(k_td) and p_t |2^E(v_t)|, in 2-norms over channels; in binary32.
    """
    values, keys = np.zeros(probs.shape), np.zeros(block.queries.shape, np.float32)
    centres = np.pad(outputs, ((0, 0), (0, 0), (0, -block.head_dim % LANES)))
    for token0, chunk in block.chunks():
        rows, _ = block.reads.values(chunk)
        key_sizes, value_sizes = (
            np.ldexp(np.float32(1), found[chunk].astype(np.int32))
            for found in (block.inputs.key_exponents, block.inputs.value_exponents)
        )
        norms = np.minimum(np.sqrt((value_sizes.astype(np.float64) ** 2).sum(axis=1)), LARGEST).astype(np.float32)
        _add_weights(probs, centres, rows[-1], key_sizes, norms, *block.window, token0, keys, values)
    keys = np.nan_to_num(keys, posinf=LARGEST)  # numbers near the end of binary32's range overflow in the sums
    by_channel = (np.abs(block.queries) * block.inputs.scale).astype(np.float64) * keys.astype(np.float64)
    return by_channel, values


def optimal_bits(
    block: Block,
    probs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    levels: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
) -> list[NDArray[np.int64]]:
    """Return for each pair of key and value levels the bits that the yardstick needs for the same error, (n_steps,), rounded down.

    Each query head is filled alone; the group needs at least what its most needy head does.
    """
    keys, values = weights(block, probs, outputs)
    h = half_widths(block.layout)
    errors = np.stack(
        [
            np.einsum("gsd,sd->gs", keys, h[key_levels]) + _value_errors(values, value_levels, h, *block.window)
            for key_levels, value_levels in levels
        ]
    )
    bits = water_fill(keys, values, block.head_dim, *block.window, errors, block.layout.total_bits)
    return list(np.floor(bits.max(axis=1)).astype(np.int64))


@kernel
def _value_errors(weights: Array, levels: Array, h: Array, first: Array, visible: Array) -> Array:
    group, n_steps, _ = weights.shape
    out = np.zeros((group, n_steps))
    for head in range(group):
        for step in range(n_steps):
            for t in range(first[step], visible[step]):
                out[head, step] += weights[head, step, t] * h[levels[step, t]]
    return out
