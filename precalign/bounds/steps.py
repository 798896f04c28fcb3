"""The certified bounds of a block of decode steps, from what a kernel has read: never from bits that it has not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.outputs import add_spreads, perturbation
from precalign.bounds.rounding import TINY, gamma, inflation
from precalign.bounds.scores import half_widths, log_weight_errors, round_up, term_weights, unread_channels
from precalign.decode.softmax import LANES
from precalign.jit import Array, inline, kernel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from precalign.block import Block

TREE_LEVELS = 6


@dataclass(frozen=True)
class Bounds:
    """Proven bounds on the errors of the reduced read against the exact result, (group, n_steps).

    Attributes
    ----------
    scores : ndarray[float64]
        On max_t |s_t - exact|.
    output_max : ndarray[float64]
        On max_c |o_c - exact|.
    output_norm : ndarray[float64]
        On ||o - exact||_2.
    output_relative : ndarray[float64]
        On ||o - exact||_2 / ||exact||_2: the norm's bound over (||o||_2 - the norm's bound); infinite where that is not positive.
    moved_max, moved_norm : ndarray[float64]
        The parts of `output_max` and `output_norm` that come from scores; the rest comes from values.
    """

    scores: NDArray[np.float64]
    output_max: NDArray[np.float64]
    output_norm: NDArray[np.float64]
    output_relative: NDArray[np.float64]
    moved_max: NDArray[np.float64]
    moved_norm: NDArray[np.float64]


def score_bounds(
    block: Block, levels: Sequence[NDArray[np.uint8]], scores: Sequence[NDArray[np.float32]]
) -> list[tuple[NDArray[np.float64], NDArray[np.float32]]]:
    """Return, for each array of key levels and its scores, max_t D_t and the errors of the logarithms of the weights.

    Parameters
    ----------
    block : Block
    levels : sequence of ndarray[uint8], (n_steps, head_dim)
    scores : sequence of ndarray[float32], (group, n_steps, padded_len)
        As computed, before the softmax.

    Returns
    -------
    list of (ndarray[float64], (group, n_steps); ndarray[float32], (group, n_steps, padded_len))
    """
    widths, scale = half_widths(block.layout), np.float32(block.inputs.scale)
    maxima = block.key_view().key_max_exponents if any((widths[rows] == 2).any() for rows in levels) else None
    weights = [term_weights(block.queries, rows, widths) for rows in levels]
    factor = inflation(block.head_dim + 16)
    scale_error = abs(float(scale) - block.inputs.scale) / float(scale)
    results = []
    for rows, s, terms in zip(levels, scores, block.key_sizes(weights), strict=True):
        unread = np.zeros(terms.shape[:2])
        if maxima is not None:
            unread = unread_channels(block.queries, rows, widths, maxima)
        largest = np.empty(terms.shape[:2])
        log_weight_errors(terms, s, unread, *block.window, float(scale), scale_error, block.head_dim, factor, largest)
        results.append((largest, terms))
    return results


def sum_error(block: Block, n_splits: int) -> float:
    """Return g with |p_t - w_t / sum w| <= g p_t + 2^-149: the roundings of the stated sum and of the division."""
    g = gamma(block.split_tokens // LANES + TREE_LEVELS + n_splits + 2)
    return g / (1 - g) * (1 + 2.0**-50)


def value_rounding(block: Block) -> float:
    """Return what the roundings of a sum over tokens do at most, relative to sum_t p_t 2^E(v_t): of products and of probabilities."""
    n_splits = -(-block.seq_len // block.split_tokens)
    return 2 * (gamma(block.split_tokens + n_splits) + sum_error(block, n_splits))


def output_bounds(
    block: Block,
    probs: Sequence[NDArray[np.float32]],
    errors: Mapping[int, tuple[NDArray[np.float64], NDArray[np.float32]]],
    which: Sequence[int],
    levels: Sequence[NDArray[np.uint8]],
    outputs: Sequence[NDArray[np.float32]],
) -> list[Bounds]:
    """Return the bounds for each array of value levels; what `score_bounds` answered is overwritten.

    Parameters
    ----------
    block : Block
    probs : sequence of ndarray[float32], (group, n_steps, padded_len)
    errors : mapping
        Index into `probs` -> what `score_bounds` answered for it.
    which : sequence of int
        The probabilities that go with each array of value levels.
    levels : sequence of ndarray[uint8], (n_steps, padded_len)
        Of the values.
    outputs : sequence of ndarray[float32], (group, n_steps, head_dim)
    """
    n_splits = -(-block.seq_len // block.split_tokens)
    among = sum_error(block, n_splits)
    rounding = round_up(np.array(value_rounding(block)))[()]
    normalisers = {i: np.empty((*probs[i].shape[:2], 2)) for i in errors}
    for i, (_, coefficients) in errors.items():
        perturbation(probs[i], coefficients, *block.window, among, normalisers[i])
    padding = -block.head_dim % 16
    centres = [np.ascontiguousarray(np.pad(o, ((0, 0), (0, 0), (0, padding)))) for o in outputs]
    tops = np.ldexp(np.float32(1), block.inputs.value_exponents[: block.seq_len].max(axis=1).astype(np.int32))
    sums = [(np.zeros(z.shape), np.zeros(z.shape)) for z in centres]
    widths = half_widths(block.layout).astype(np.float32)
    least = np.float32(2.0**block.layout.format.emin)
    for token0, chunk in block.chunks():
        rows, _ = block.reads.values(chunk)
        for z, i, choice, held in zip(centres, which, levels, sums, strict=True):
            place, p, (_, a) = (*block.window, token0), probs[i], errors[i]
            add_spreads(rows, block.row_of_level, widths, choice, p, a, z, tops, least, rounding, *place, *held)
    lost = (block.seq_len + 2) * TINY * 4 * (1 + float(tops.max()))
    factor = inflation(64 + 16)
    return [
        Bounds(errors[i][0].copy(), *_finish(normalisers[i], *held, o, factor, lost))
        for i, held, o in zip(which, sums, outputs, strict=True)
    ]


@inline
def _norm(x: Array) -> Array:
    total = 0.0
    for i in range(len(x)):
        total += np.float64(x[i]) * np.float64(x[i])
    return np.sqrt(total)


@inline
def _top(x: Array) -> Array:
    top = x[0]
    for i in range(1, len(x)):
        top = x[i] if x[i] > top or x[i] != x[i] else top  # NaN stays
    return top


@kernel
def _finish(
    normalisers: Array, moved: Array, direct: Array, outputs: Array, factor: float, lost: float
) -> tuple[Array, Array, Array, Array, Array]:
    """Return what `Bounds` holds beside the bound on scores; `moved` and `direct` may be padded."""
    group, n_steps, head_dim = outputs.shape
    found = np.empty((5, group, n_steps))
    channels, scaled = np.empty(head_dim), np.empty(head_dim)
    for head in range(group):
        for step in range(n_steps):
            inverse, more = normalisers[head, step, 0], 1 + normalisers[head, step, 1]
            for c in range(head_dim):
                read = direct[head, step, c] * factor + lost
                scaled[c] = moved[head, step, c] * inverse * factor
                channel = (scaled[c] + read * more) * (1 + 2.0**-40)
                if not channel < np.inf:  # NaN: infinity times nothing
                    channel = np.inf
                channels[c] = channel
            norm = _norm(channels) * (1 + 2.0**-40)
            left = _norm(outputs[head, step]) * (1 - 2.0**-40) - norm
            found[0, head, step], found[1, head, step] = _top(channels), norm
            found[2, head, step] = norm / left * (1 + 2.0**-50) if left > 0 else np.inf
            found[3, head, step], found[4, head, step] = _top(scaled), _norm(scaled)
    return found[0], found[1], found[2], found[3], found[4]
