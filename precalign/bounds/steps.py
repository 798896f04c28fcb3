"""The certified bounds of a block of decode steps, from what a kernel has read: never from bits that it has not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.outputs import add_spreads, perturbation
from precalign.bounds.rounding import TINY, gamma, inflation
from precalign.bounds.scores import half_widths, log_weight_errors, round_up, term_weights, unread_channels
from precalign.decode.softmax import LANES

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    errors: Sequence[tuple[NDArray[np.float64], NDArray[np.float32]]],
    levels: Sequence[NDArray[np.uint8]],
    outputs: Sequence[NDArray[np.float32]],
) -> list[Bounds]:
    """Return the bounds for each array of probabilities; what `score_bounds` answered is overwritten.

    Parameters
    ----------
    block : Block
    probs : sequence of ndarray[float32], (group, n_steps, padded_len)
    errors : sequence
        From `score_bounds`.
    levels : sequence of ndarray[uint8], (n_steps, padded_len)
        Of the values.
    outputs : sequence of ndarray[float32], (group, n_steps, head_dim)
    """
    n_splits = -(-block.seq_len // block.split_tokens)
    among = sum_error(block, n_splits)
    rounding = round_up(np.array(value_rounding(block)))[()]
    normalisers = []
    for p, (_, coefficients) in zip(probs, errors, strict=True):
        found = np.empty((*p.shape[:2], 2))
        perturbation(p, coefficients, *block.window, among, found)
        normalisers.append(found)
    padding = -block.head_dim % 16
    centres = [np.ascontiguousarray(np.pad(o, ((0, 0), (0, 0), (0, padding)))) for o in outputs]
    tops = np.ldexp(np.float32(1), block.inputs.value_exponents[: block.seq_len].max(axis=1).astype(np.int32))
    sums = [(np.zeros(z.shape), np.zeros(z.shape)) for z in centres]
    widths = half_widths(block.layout).astype(np.float32)
    least = np.float32(2.0**block.layout.format.emin)
    for token0, chunk in block.chunks():
        rows, _ = block.reads.values(chunk)
        for z, p, (_, a), choice, held in zip(centres, probs, errors, levels, sums, strict=True):
            place = (*block.window, token0)
            add_spreads(rows, block.row_of_level, widths, choice, p, a, z, tops, least, rounding, *place, *held)
    lost = (block.seq_len + 2) * TINY * 4 * (1 + float(tops.max()))
    finish = zip(errors, normalisers, sums, outputs, strict=True)
    head_dim = block.head_dim
    return [
        _bounds(scores, norm, moved[..., :head_dim], direct[..., :head_dim], o, lost)
        for (scores, _), norm, (moved, direct), o in finish
    ]


def _bounds(
    scores: NDArray[np.float64],
    normalisers: NDArray[np.float64],
    moved: NDArray[np.float64],
    direct: NDArray[np.float64],
    outputs: NDArray[np.float32],
    lost: float,
) -> Bounds:
    factor = inflation(64 + 16)
    with np.errstate(invalid="ignore", over="ignore"):
        read = direct * factor + lost
        moved = moved * normalisers[..., :1] * factor
        channels = (moved + read * (1 + normalisers[..., 1:])) * (1 + 2.0**-40)
        channels[~np.isfinite(channels)] = np.inf
        largest, norm = channels.max(axis=-1), np.sqrt((channels**2).sum(axis=-1)) * (1 + 2.0**-40)
        wide = outputs.astype(np.float64)
        left = np.sqrt((wide**2).sum(axis=-1)) * (1 - 2.0**-40) - norm
        relative = np.where(left > 0, norm / left * (1 + 2.0**-50), np.inf)
        parts = moved.max(axis=-1), np.sqrt((moved**2).sum(axis=-1))
    return Bounds(scores, largest, norm, relative, *parts)
