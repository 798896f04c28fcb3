"""Bounds on scores: what the bits not read, and the roundings of the chain, can change at most."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.rounding import EXPONENT_ERROR, TINY, UNIT_ROUNDOFF, WEIGHT_ERROR, gamma
from precalign.jit import Array, inline, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout

LANES = 64


@lru_cache(maxsize=64)
def half_widths(layout: Layout) -> NDArray[np.float64]:
    """Return h of each level, (n_levels,): a read number lies within h 2^E(x) of the stored one.

    2^(-t - 1) with t trailing significand bits kept, 0 for a full read, 2 for a number that is not read (|x| < 2^(E + 1)).
    """
    h = np.array([2.0 ** -(layout.kept_trailing_bits(level) + 1) for level in range(len(layout.levels))])
    h[layout.dropped_bits == 0] = 0
    h[layout.dropped_bits == layout.total_bits] = 2
    h.flags.writeable = False
    return h


def round_up(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return binary32 numbers not below non-negative binary64 ones."""
    with np.errstate(over="ignore"):
        return np.nextafter(x.astype(np.float32), np.float32(np.inf), dtype=np.float32)


def term_weights(
    queries: NDArray[np.float32], levels: NDArray[np.uint8], widths: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return c_d >= 0, (group, n_steps, head_dim), with |acc_t - sum_d q_d k_td| <= sum_d c_d 2^E(k_td) + head_dim * 2^-149.

    c_d = |q_d| (h_d + 2 gamma(head_dim - d)): the number read is below 2^(E + 1) and goes through head_dim - d roundings. A channel
    that is not read has no E(k_td) to count on; `unread_channels` bounds it.
    """
    head_dim = queries.shape[-1]
    rounding = np.array([2 * gamma(head_dim - d) for d in range(head_dim)])
    h = np.where(widths[levels] < 2, widths[levels], 0)
    return round_up(np.abs(queries.astype(np.float64)) * (h + rounding) * (1 + 2.0**-50))


def unread_channels(
    queries: NDArray[np.float32],
    levels: NDArray[np.uint8],
    widths: NDArray[np.float64],
    key_max_exponents: NDArray[np.signedinteger],
) -> NDArray[np.float64]:
    """Return sum |q_d| 2^(max_t E(k_td) + 1) over the channels that are not read, (group, n_steps)."""
    tops = np.where(widths[levels] == 2, np.ldexp(2.0, key_max_exponents.astype(np.int32)), 0)
    result: NDArray[np.float64] = (np.abs(queries.astype(np.float64)) * tops).sum(axis=-1)
    return result


@inline
def _largest(scores: Array, lanes: Array) -> Array:
    lanes[:] = -np.inf
    whole = len(scores) // LANES * LANES
    for begin in range(0, whole, LANES):
        for i in range(LANES):
            lanes[i] = max(lanes[i], np.float64(scores[begin + i]))
    for i in range(whole, len(scores)):
        lanes[0] = max(lanes[0], np.float64(scores[i]))
    return lanes.max()


@inline
def _bound(term: Array, score: Array, constant: float, constants: tuple[float, float, float, float]) -> Array:
    scale, scale_error, relative, factor = constants
    chain = (np.float64(term) + constant) * scale * (1 + scale_error)
    return (chain + abs(np.float64(score)) * relative + TINY) * factor


@inline
def _log_error(bound: float, largest: float, score: Array) -> Array:
    away = (largest - np.float64(score)) * EXPONENT_ERROR
    return np.float32((bound + away + WEIGHT_ERROR) * (1 + 2.0**-22))


@kernel
def log_weight_errors(
    terms: Array,
    scores: Array,
    unread: Array,
    first: Array,
    visible: Array,
    scale: float,
    scale_error: float,
    head_dim: int,
    factor: float,
    out: Array,
) -> None:
    """Turn sums of `term_weights` into bounds on the logarithms of the softmax weights, in place, and bound the scores.

    With T_t the bound on the chain, |s_t - s*_t| <= D_t = scale T_t + u |s_t| + ..., because s_t = fl(acc scale); and the computed weight
    is w_t = e^(s*_t - m + x) with |x| <= D_t + EXPONENT_ERROR |s_t - m| + WEIGHT_ERROR.

    Parameters
    ----------
    terms : ndarray[float32], (group, n_steps, padded_len)
        sum_d c_d 2^E(k_td); overwritten where a step sees the token.
    scores : ndarray[float32], (group, n_steps, padded_len)
        As computed.
    unread : ndarray[float64], (group, n_steps)
    first, visible : ndarray[int64], (n_steps,)
    scale, scale_error : float
        The binary32 factor of the scores, and how far it is from the real one, relative to it.
    head_dim : int
    factor : float
        Covers the rounding of `terms` and of this.
    out : ndarray[float64], (group, n_steps)
        max_t D_t.
    """
    group, n_steps, _ = terms.shape
    relative = (UNIT_ROUNDOFF + scale_error) * (1 + 2 * UNIT_ROUNDOFF)
    constants = (scale, scale_error, relative, factor)
    bounds, lanes = np.empty(LANES), np.empty(LANES)
    for head in range(group):
        for step in range(n_steps):
            low, high = first[step], visible[step]
            row, s = terms[head, step, low:high], scores[head, step, low:high]
            largest = np.float64(_largest(s, lanes))
            constant = unread[head, step] + head_dim * TINY
            lanes[:] = 0
            whole = len(row) // LANES * LANES
            for begin in range(0, whole, LANES):
                x, t = row[begin : begin + LANES], s[begin : begin + LANES]
                for i in range(LANES):
                    bounds[i] = _bound(x[i], t[i], constant, constants)
                    x[i] = _log_error(bounds[i], largest, t[i])
                for i in range(LANES):
                    lanes[i] = max(lanes[i], bounds[i])
            for i in range(whole, len(row)):
                bound = _bound(row[i], s[i], constant, constants)
                row[i] = _log_error(bound, largest, s[i])
                lanes[0] = max(lanes[0], bound)
            out[head, step] = lanes.max()
