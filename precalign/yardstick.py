"""`optimal`: the fewest bits that could give the error of a rule, if bits could be divided at will. Nothing can be read like that; a limit to compare with.

For one query head, the worst error that a read can make is taken as sum_i w_i h_i over key channels and tokens' values (docs/rules.md): h_i the
half-width of what the level leaves open, in binades of the number. Without planes b bits of a number would leave h = 2^(1 - b), and all of them 0;
the lower convex hull of these follows 2^(1 - b) up to 1 / ln 2 bits before the end and goes straight to 0 from there. The least
sum_i c_i b_i with the same sum of errors is reverse water-filling: b_i = log2(w_i / c_i) + constant, at least 0 and at most all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.scores import half_widths
from precalign.jit import Array, inline, kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.block import Block

LN2 = float.fromhex("0x1.62e42fefa39efp-1")
ROUNDS = 64


@inline
def _water(theta: float, ratios: Array, sums: Array, total_bits: int) -> tuple[float, float]:
    """Return the error and the bits where a number pays `theta` of error per bit.

    `ratios` and `sums` are one row of those of `water_fill`.
    """
    none = np.searchsorted(ratios, theta / (2 * LN2), side="right")
    most = max(np.searchsorted(ratios, theta / LN2 * 2.0 ** (total_bits - 1 - 1 / LN2), side="right"), none)
    error = 2 * sums[0, none] + theta / LN2 * (sums[1, most] - sums[1, none])
    n = len(ratios)
    bits = sums[2, most] - sums[2, none] + (1 - np.log2(theta / LN2)) * (sums[1, most] - sums[1, none])
    return error, bits + total_bits * (sums[1, n] - sums[1, most])


@kernel
def water_fill(ratios: Array, sums: Array, errors: Array, total_bits: int) -> Array:
    """Return the least bits with at most the errors, (n_rows,).

    Parameters
    ----------
    ratios : ndarray[float64], (n_rows, n)
        w / c, ascending, not negative.
    sums : ndarray[float64], (n_rows, 3, n + 1)
        Running sums of w, c and c log2(w / c); the last counts only w > 0.
    errors : ndarray[float64], (n_rows,)
    total_bits : int
    """
    out = np.empty(len(errors), np.float64)
    for row in range(len(errors)):
        n = ratios.shape[1]
        positive = np.searchsorted(ratios[row], 0.0, side="right")
        everything = total_bits * (sums[row, 1, n] - sums[row, 1, positive])
        if not errors[row] > 0 or positive == n:
            out[row] = everything
            continue
        # At `low` every number is whole, at `high` none has a bit.
        low, high = ratios[row, positive] * LN2 * 2.0 ** -(total_bits + 1), ratios[row, n - 1] * 4 * LN2
        few, many = (0.0, everything), _water(high, ratios[row], sums[row], total_bits)
        if errors[row] >= many[0]:
            out[row] = 0
            continue
        for _ in range(ROUNDS):
            middle = np.sqrt(low * high)
            found = _water(middle, ratios[row], sums[row], total_bits)
            if found[0] <= errors[row]:
                low, few = middle, found
            else:
                high, many = middle, found
        # Where numbers of one ratio leave the whole code together, some of them do.
        part = (errors[row] - few[0]) / max(many[0] - few[0], 1e-300)
        out[row] = few[1] + part * (many[1] - few[1])
    return out


def weights(
    block: Block, probs: NDArray[np.float32], outputs: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what h = 1 of a key channel, (group, n_steps, head_dim), and of a token's values, (group, n_steps, padded_len), does to the output at most.

    To first order, with the full read's p and o: scale |q_d| sum_t p_t |v_t - o| 2^E(k_td) and p_t |2^E(v_t)|, in 2-norms over channels.
    """
    values = np.zeros(probs.shape)
    keys = np.zeros(block.queries.shape)
    wide = outputs.astype(np.float64)
    norms = np.einsum("gsc,gsc->gs", wide, wide)[..., None]
    tokens = np.arange(block.padded_len)
    seen = (tokens >= block.steps.first[:, None]) & (tokens < block.steps.visible[:, None])
    for _, chunk in block.chunks():
        _, full = block.reads.values(chunk)
        v = full[0, :, : block.head_dim]
        here = slice(chunk.start, chunk.start + len(v))
        p = np.where(seen[:, here], probs[..., here], 0)
        away = (v**2).sum(axis=1) - 2 * (wide @ v.T) + norms
        exponents = block.inputs.value_exponents[chunk].astype(np.int32)
        sizes = np.sqrt((np.ldexp(1.0, exponents) ** 2).sum(axis=1))
        values[..., here] = p * sizes
        key_sizes = np.ldexp(1.0, block.inputs.key_exponents[chunk].astype(np.int32))
        keys += (p * np.sqrt(np.maximum(away, 0))) @ key_sizes
    keys *= np.abs(block.queries.astype(np.float64)) * block.inputs.scale
    return keys, values


def _running(
    weights: NDArray[np.float64], costs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ratios = weights / costs
    order = ratios.argsort(axis=1)
    ratios = np.take_along_axis(ratios, order, axis=1)
    w, c = np.take_along_axis(weights, order, axis=1), np.take_along_axis(costs, order, axis=1)
    with np.errstate(divide="ignore"):
        logs = np.where(ratios > 0, c * np.log2(ratios), 0)
    sums = np.zeros((len(ratios), 3, ratios.shape[1] + 1))
    np.cumsum(np.stack([w, c, logs], axis=1), axis=2, out=sums[..., 1:])
    return ratios, sums


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
    group, n_steps, _ = keys.shape
    tokens = (block.steps.visible - block.steps.first).astype(np.float64)
    both = np.concatenate([keys, values], axis=2).reshape(group * n_steps, -1)
    costs = np.full(both.shape, float(block.head_dim))
    costs[:, : block.head_dim] = np.tile(tokens, group)[:, None]
    ratios, sums = _running(both, costs)
    h = half_widths(block.layout)
    found = []
    for key_levels, value_levels in levels:
        errors = np.einsum("gsd,sd->gs", keys, h[key_levels])
        errors += _value_errors(values, value_levels, h, *block.window)
        bits = water_fill(ratios, sums, errors.ravel(), block.layout.total_bits).reshape(group, n_steps)
        found.append(np.floor(bits.max(axis=0)).astype(np.int64))
    return found


@kernel
def _value_errors(weights: Array, levels: Array, h: Array, first: Array, visible: Array) -> Array:
    group, n_steps, _ = weights.shape
    out = np.zeros((group, n_steps))
    for head in range(group):
        for step in range(n_steps):
            for t in range(first[step], visible[step]):
                out[head, step] += weights[head, step, t] * h[levels[step, t]]
    return out
