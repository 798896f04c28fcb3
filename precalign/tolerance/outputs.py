"""Probabilities and outputs of one side: errors of weights, of the normaliser, and of the sum over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from precalign.formats import get_format
from precalign.matrix_units import MatrixUnit
from precalign.tolerance.rounding import SAFETY, errors_of, rounding_to
from precalign.tolerance.scores import operand_exponents
from precalign.tolerance.sums import Sums, sum_of
from precalign.tolerance.weights import combine_splits, normaliser_of, perturbed, rescale, weights_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.tolerance.side import Side
    from precalign.tolerance.weights import Normaliser, Weights


class Errors(NamedTuple):
    """How far one side is from the binary64 centre at most.

    Attributes
    ----------
    scores, probs : ndarray[float64], (n_tokens,)
    outputs : ndarray[float64], (head_dim,)
    """

    scores: NDArray[np.float64]
    probs: NDArray[np.float64]
    outputs: NDArray[np.float64]


class Tokens(NamedTuple):
    """The values, and what is exact about them.

    Attributes
    ----------
    values : ndarray[float64], (n_tokens, head_dim)
    storage : Format
    probs : ndarray[float64], (n_tokens,)
        softmax of the binary64 scores.
    outputs : ndarray[float64], (head_dim,)
        probs @ values.
    """

    values: NDArray[np.float64]
    storage: Format
    probs: NDArray[np.float64]
    outputs: NDArray[np.float64]


def errors_of_side(side: Side, scores: Sums, tokens: Tokens) -> Errors:
    """Bound everything that one side computes from its scores on."""
    weights = weights_of(side, scores)
    normaliser = normaliser_of(side, scores, weights)
    high, change = prob_range(tokens.probs, weights.log_errors)
    tiny = 0.0 if side.exact else 2.0**side.softmax_format.emin  # what flushing a weight to zero may cost
    stored = stored_probs(side)
    among = change + high * normaliser.error + tiny * (len(high) + 1) / max(normaliser.least, tiny)
    probs = among + (0.0 if side.exact else errors_of(high + among, side.to_softmax))
    probs += errors_of(high + probs, rounding_to(stored))
    direct = _two_pass if side.softmax.kind == "two-pass" or side.exact else _late
    moved = _moved(tokens, weights.log_errors)
    outputs = moved + normaliser.error * (np.abs(tokens.outputs) + moved)
    outputs += direct(side, scores, tokens, weights, normaliser, probs - among, probs)
    span = np.ptp(tokens.values, axis=0)
    outputs += len(high) * tiny / max(normaliser.least, tiny) * span
    outputs += (len(high) + 16) * 2.0**-51 * (tokens.probs @ np.abs(tokens.values))
    outputs *= 1 + SAFETY
    if not side.exact and side.softmax.kind != "two-pass":
        outputs += errors_of(np.abs(tokens.outputs) + outputs, side.to_softmax)
    if side.output is not None:
        outputs += errors_of(np.abs(tokens.outputs) + outputs, rounding_to(side.output))
    return Errors(scores.lost, probs * (1 + SAFETY), outputs)


def stored_probs(side: Side) -> Format | None:
    """Return the format of what multiplies the values; a matrix unit takes its own."""
    if side.prob_format is None and isinstance(side.output_order, MatrixUnit):
        return get_format(side.output_order.inputs)
    return side.prob_format


def prob_range(
    probs: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what probabilities may be at most, and how far from `probs`, if log weights are off by `errors`.

    The largest p_t has its own weight up and all others down; it never leaves [0, 1].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        up, down = np.minimum(np.exp(errors), 2.0**500), np.exp(-errors)
        rest_low, rest_high = (probs * down).sum() - probs * down, (probs * up).sum() - probs * up
        rest_low = np.maximum(rest_low, 0)
        # high - p = p (up rest - rest_low) / (p up + rest_low), in a form that does not cancel
        rest = np.maximum(probs.sum() - probs, 0)
        loss, gain = _others(probs, -np.expm1(-errors)), _others(probs, np.minimum(np.expm1(errors), 2.0**500))
        change_up = probs * (np.minimum(np.expm1(errors), 2.0**500) * rest + loss) / (probs * up + rest_low)
        change_down = probs * (-np.expm1(-errors) * rest + gain) / (probs * down + rest_high)
    change = np.minimum(np.maximum(change_up, change_down) * (1 + SAFETY), 1.0)
    change[np.isnan(change)] = 1.0
    return np.minimum(probs + change, 1.0), change


def _others(probs: NDArray[np.float64], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum over the other tokens of p factor."""
    parts = probs * factor
    found: NDArray[np.float64] = np.maximum(parts.sum() - parts, 0) + parts.sum() * (len(parts) + 4) * 2.0**-52
    return found


def _moved(tokens: Tokens, errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what errors of log weights do to outputs at most: sum_t p_t max(e^x - c, c - e^-x) |v_t - z| / Z_lo, z the exact output."""
    if len(errors) == 1:
        return np.zeros_like(tokens.outputs)
    if not errors.max() < 300:
        return np.full_like(tokens.outputs, np.inf)
    up, down = np.expm1(errors), np.expm1(-errors)
    least, most = float(tokens.probs @ down), float(tokens.probs @ up)
    if not 1 + least > 0:
        return np.full_like(tokens.outputs, np.inf)
    centre = (least + most) / 2
    coefficients = tokens.probs * np.maximum(up - centre, centre - down) / (1 + least)
    found: NDArray[np.float64] = coefficients @ np.abs(tokens.values - tokens.outputs)
    return found


def _value_exponents(side: Side, sizes: NDArray[np.float64], tokens: Tokens, block: slice) -> NDArray[np.int64] | None:
    stored = stored_probs(side)
    if not isinstance(side.output_order, MatrixUnit) or stored is None:
        return None
    return operand_exponents(tokens.values[block], tokens.storage).T + operand_exponents(sizes, stored)


def _two_pass(
    side: Side,
    scores: Sums,
    tokens: Tokens,
    weights: Weights,
    normaliser: Normaliser,
    rounded: NDArray[np.float64],
    probs: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Bound the roundings of probabilities, and of their sum with the values."""
    del scores, weights, normaliser
    if side.exact:
        return np.zeros_like(tokens.outputs)
    size = np.abs(tokens.values)
    sums = sum_of(
        (tokens.probs[:, None] * tokens.values).T,
        (probs[:, None] * size).T,
        side.output_order,
        side.to_accumulator,
        product=side.to_product,
        exponents=_value_exponents(side, tokens.probs + probs, tokens, slice(None)),
    )
    found: NDArray[np.float64] = sums.lost + rounded @ size
    return found


def _late(
    side: Side,
    scores: Sums,
    tokens: Tokens,
    weights: Weights,
    normaliser: Normaliser,
    rounded: NDArray[np.float64],
    probs: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Bound the roundings where the sum over tokens is normalised last, block by block with rescaling."""
    del rounded, probs
    top, stored = float(scores.value.max()), rounding_to(stored_probs(side))
    held = get_format(side.output_order.output) if isinstance(side.output_order, MatrixUnit) else None
    direct = np.zeros_like(tokens.outputs)
    parts: list[Sums] = []
    running: Sums | None = None
    for index, block in enumerate(weights.blocks):
        exact = np.exp(scores.value[block] - weights.maxima[index])
        loose = perturbed(exact, weights.log_errors[block] + weights.offset)
        rho = errors_of(exact + loose, stored)
        size = np.abs(tokens.values[block])
        back = float(np.exp(weights.maxima[index] - top + 2 * weights.offset + weights.log_errors.max()))
        direct += (rho @ size) * min(back, 1e300)
        if side.softmax.kind == "online" and running is not None:
            running = rescale(running, weights, index, rounding_to(held) if held else side.to_accumulator)
        running = sum_of(
            (exact[:, None] * tokens.values[block]).T,
            ((loose + rho)[:, None] * size).T,
            side.output_order,
            side.to_accumulator,
            product=side.to_product,
            exponents=_value_exponents(side, exact + loose + rho, tokens, block),
            carry=running if side.softmax.kind == "online" else None,
        )
        parts.append(running)
    sums = combine_splits(parts, weights, side, top) if side.softmax.kind == "split" else parts[-1]
    found: NDArray[np.float64] = (sums.lost + direct) / normaliser.least * (1 + normaliser.error)
    return found
