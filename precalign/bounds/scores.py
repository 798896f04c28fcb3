"""Bounds on scores: what the bits not read, and the roundings of the chain, can change at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.rounding import EXPONENT_ERROR, TINY, UNIT_ROUNDOFF, WEIGHT_ERROR, gamma
from precalign.jit import Array, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout

LANES = 64


def half_widths(layout: Layout) -> NDArray[np.float64]:
    """Return h of each level, (n_levels,): a read number lies within h 2^E(x) of the stored one.

    2^(-t - 1) with t trailing significand bits kept, 0 for a full read, 2 for a number that is not read (|x| < 2^(E + 1)).
    """
    h = np.array([2.0 ** -(layout.kept_trailing_bits(level) + 1) for level in range(len(layout.levels))])
    h[layout.dropped_bits == 0] = 0
    h[layout.dropped_bits == layout.total_bits] = 2
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
    lanes = np.zeros(LANES, np.float64)
    for head in range(group):
        for step in range(n_steps):
            low, high = first[step], visible[step]
            row, s = terms[head, step, low:high], scores[head, step, low:high]
            largest = np.float64(s.max())
            constant = unread[head, step] + head_dim * TINY
            lanes[:] = 0
            for begin in range(0, len(row), LANES):
                for i in range(begin, min(begin + LANES, len(row))):
                    chain = (np.float64(row[i]) + constant) * scale * (1 + scale_error)
                    bound = (chain + abs(np.float64(s[i])) * relative + TINY) * factor
                    lanes[i - begin] = max(lanes[i - begin], bound)
                    away = (largest - np.float64(s[i])) * EXPONENT_ERROR
                    row[i] = np.float32((bound + away + WEIGHT_ERROR) * (1 + 2.0**-22))
            out[head, step] = lanes.max()
