"""Softmax weights of one side: by how much their logarithms may be off, and what normalising loses."""

from __future__ import annotations

from dataclasses import dataclass
from math import log1p
from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.rounding import LOG2E_ERROR
from precalign.formats import BINARY32
from precalign.tolerance.exponentials import BASE_2, FOLDED, NATURAL
from precalign.tolerance.rounding import SAFETY, errors_of
from precalign.tolerance.side import DIVISIONS
from precalign.tolerance.sums import Sums, sum_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.tolerance.rounding import Rounding
    from precalign.tolerance.side import Side

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453


@dataclass(frozen=True)
class Weights:
    """The weights of one side, as perturbations of e^(s_t - m).

    Attributes
    ----------
    log_errors : ndarray[float64], (n_tokens,)
        The side's weight, with all factors that it is multiplied by later, is e^(s_t - m + x_t) times one number common to all
        tokens, |x_t| at most this.
    offset : float
        |maximum of the side's scores - m| at most.
    blocks : tuple of slice
        Tokens that share a running maximum; one block if it is two-pass.
    maxima : ndarray[float64], (n_blocks,)
        Exact running maximum after each block (of the block itself for `split`).
    moved : ndarray[bool], (n_blocks,)
        Whether sums are multiplied by a factor other than 1 before (`split`: after) the block.
    """

    log_errors: NDArray[np.float64]
    offset: float
    blocks: tuple[slice, ...]
    maxima: NDArray[np.float64]
    moved: NDArray[np.bool_]


def exp_error(side: Side, away: NDArray[np.float64], maximum: float) -> NDArray[np.float64]:
    """Return |log of the computed e^-x + x| at most, for computed differences x <= `away`.

    Parameters
    ----------
    side : Side
    away : ndarray[float64]
    maximum : float
        Magnitude of the maximum, which the folded form multiplies.
    """
    to, form = side.to_softmax, side.exp.form
    relative = side.exp.ulps * 2 * side.softmax_format.unit_roundoff
    function = -log1p(-relative)
    constant = LOG2E_ERROR if side.softmax_format == BINARY32 else 2.0**-53
    difference = errors_of(away, to)
    if form == NATURAL:
        return difference + function
    if form == BASE_2:
        reached = (away + difference) * (LOG2_E * (1 + constant))
        return difference * (1 + constant) + away * constant + errors_of(reached, to) * LN_2 + function
    assert form == FOLDED  # noqa: S101 - there are no others
    u = side.softmax_format.unit_roundoff
    product = errors_of(np.full_like(away, maximum * LOG2_E * (1 + 4 * u)), to)
    reached = away * LOG2_E * (1 + 4 * u) + product
    # c = fl(scale * log2 e) is off by u, and by another where it is made of rounded factors
    return away * 3 * u + (product + errors_of(reached, to)) * LN_2 + function


def weights_of(side: Side, scores: Sums) -> Weights:
    """Return the perturbations of a side's weights, from its scores."""
    s, lost = scores.value, scores.lost
    doubt = (len(s) + 16) * 2.0**-52  # of the binary64 probabilities that all sides are measured from
    if side.exact:
        return Weights(lost + doubt, 0.0, (slice(0, len(s)),), np.array([s.max()]), np.zeros(1, bool))
    kind = side.softmax.kind
    size = len(s) if kind == "two-pass" else side.softmax.block
    blocks = tuple(slice(b, min(b + size, len(s))) for b in range(0, len(s), size))
    own, own_lost = np.array([s[b].max() for b in blocks]), np.array([lost[b].max() for b in blocks])
    worst = float(lost.max())
    maxima = own if kind == "split" else np.maximum.accumulate(own)
    reach = float(np.abs(s).max()) + worst
    if kind == "online":  # a block moves the maximum unless it certainly does not
        before = np.concatenate([[np.inf], maxima[:-1]])
        moved = own + own_lost >= before - np.concatenate([[0.0], np.maximum.accumulate(own_lost)[:-1]])
        moved[0] = False
        gaps = np.diff(maxima, prepend=maxima[0])
    else:
        moved = np.full(len(blocks), kind == "split")
        gaps = s.max() - maxima
    factors = np.where(moved, exp_error(side, gaps + 2 * worst, reach), 0.0)
    after = factors[::-1].cumsum()[::-1] - factors if kind == "online" else factors
    errors = np.empty_like(s)
    for block, top, later in zip(blocks, maxima, after, strict=True):
        errors[block] = lost[block] + exp_error(side, top - s[block] + lost[block] + worst, reach) + later
    return Weights(errors * (1 + SAFETY) + doubt, worst, blocks, maxima, moved)


@dataclass(frozen=True)
class Normaliser:
    """Sum of the exact weights e^(s_t - m), and how far a side's is from that of its own weights.

    Attributes
    ----------
    total, least : float
        Of exact weights; of the side's at least.
    error : float
        |side's sum / sum of the side's weights - 1| at most, with the extra roundings of the division.
    """

    total: float
    least: float
    error: float


def perturbed(exact: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much weights may differ, their logarithms off by `errors`."""
    with np.errstate(over="ignore"):
        return exact * np.expm1(errors) * (1 + SAFETY)


def normaliser_of(side: Side, scores: Sums, weights: Weights) -> Normaliser:
    """Return the sum of the weights and the error of a side's, in its order and with its rescaling."""
    s, top = scores.value, float(scores.value.max())
    exact = np.exp(s - top)
    total = float(exact.sum())
    if side.exact:
        return Normaliser(total, total, 0.0)
    to, errors = side.to_softmax, weights.log_errors
    parts: list[Sums] = []
    running: Sums | None = None
    for index, block in enumerate(weights.blocks):
        terms = np.exp(s[block] - weights.maxima[index])[None]
        found = sum_of(
            terms, perturbed(terms, errors[block] + weights.offset), side.sum_order, to, lost=np.zeros_like(terms)
        )
        if side.softmax.kind == "split":
            parts.append(found)
            continue
        running = found if running is None else _advance(running, weights, index, side, found)
    if running is None:
        running = combine_splits(parts, weights, side, top)
    least = float((exact * np.exp(-errors)).sum()) * np.exp(-weights.offset) * (1 - SAFETY)
    error = float(running.lost[0]) / least
    error = error / (1 - error) if error < 1 else np.inf
    return Normaliser(total, least, (error + DIVISIONS[side.division] * to.unit * (1 + error)) * (1 + SAFETY))


def rescale(sums: Sums, weights: Weights, index: int, to: Rounding) -> Sums:
    """Multiply running sums by e^(m_before - m_now), rounded, before block `index` of an online softmax."""
    if not weights.moved[index]:
        return sums
    factor = float(np.exp(weights.maxima[index - 1] - weights.maxima[index]))
    spread = float(np.expm1(2 * weights.offset + weights.log_errors.max()))
    return sums.scaled(factor, factor * (1 + spread)).rounded(to)


def _advance(running: Sums, weights: Weights, index: int, side: Side, found: Sums) -> Sums:
    before = rescale(running, weights, index, side.to_softmax)
    return Sums(*(a + b for a, b in zip(before, found, strict=True))).rounded(side.to_softmax)


def combine_splits(parts: list[Sums], weights: Weights, side: Side, top: float) -> Sums:
    """Add the partial sums of the splits, each times e^(m_i - m), in any order.

    Parameters
    ----------
    parts : list of Sums, (n_sums,)
    """
    spread = float(np.expm1(2 * weights.offset + weights.log_errors.max()))
    scaled = []
    for part, maximum in zip(parts, weights.maxima, strict=True):
        factor = float(np.exp(maximum - top))
        scaled.append(part.scaled(factor, factor * (1 + spread)).rounded(side.to_softmax))
    value, loose, lost = (np.stack(columns, axis=1) for columns in zip(*scaled, strict=True))
    return sum_of(value, loose, None, side.to_softmax, lost=lost)
