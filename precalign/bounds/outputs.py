"""Bounds on outputs: perturbed probabilities, values read in part, and the roundings of the sums. docs/bounds.md derives them."""

from __future__ import annotations

import numpy as np

from precalign.bounds.rounding import TINY
from precalign.decode.exact import exp_binary64
from precalign.jit import Array, inline, kernel, reinterpret

PAGE = 64
FARTHEST = 300.0
"""Errors of log weights from here on are answered with an infinite bound."""
ABOVE = np.float32(1 + 2.0**-22)
INFINITE = np.float32(np.inf)
EXPONENT_FIELD = np.int32(0x7F800000)
LEAST_WEIGHT = 2.0**-126
SLACK = 2.0**-49
"""Covers cancellation in e^x - c, whose terms are within 2 ulp."""


@kernel
def perturbation(probs: Array, errors: Array, first: Array, visible: Array, sum_error: float, out: Array) -> None:
    """Turn errors of log weights into coefficients of |v_t - z|, in place.

    With weights w_t = W_t e^(x_t), |x_t| <= errors_t, exact W_t, and P_t = w_t / sum w: for any c,
    |sum_t (P_t - p*_t)(v_t - z)| <= (sum_t a_t |v_t - z| + |e| max(c - Zlo, Zhi - c)) / Zlo, e = sum_t P_t (v_t - z), where
    a_t = P_t max(e^x - c, c - e^-x), Zlo = sum P_t e^-x, Zhi = sum P_t e^x; c = sum P_t cosh x. A weight that underflowed to 0 is
    at most 2^-126 e^x instead.

    Parameters
    ----------
    probs : ndarray[float32], (group, n_steps, padded_len)
        As computed; within `sum_error` p_t + 2^-149 of P_t.
    errors : ndarray[float32], (group, n_steps, padded_len)
        Overwritten with a_t where a step sees the token; infinite for all of a row that is beyond `FARTHEST`.
    first, visible : ndarray[int64], (n_steps,)
    sum_error : float
    out : ndarray[float64], (group, n_steps, 2)
        1 / Zlo and max(c - Zlo, Zhi - c) / Zlo.
    """
    group, n_steps, _ = probs.shape
    low_lanes, high_lanes = np.zeros(PAGE), np.zeros(PAGE)
    for head in range(group):
        for step in range(n_steps):
            low, high = first[step], visible[step]
            p, x = probs[head, step, low:high], errors[head, step, low:high]
            if len(p) == 1:  # the softmax of one score is 1, whatever the score
                x[0] = 0
            if not x.max() < FARTHEST:
                out[head, step] = np.inf
                x[:] = INFINITE
                continue
            low_lanes[:], high_lanes[:] = 0, 0
            for begin in range(0, len(p), PAGE):
                for i in range(begin, min(begin + PAGE, len(p))):
                    shrunk = exp_binary64(-np.float64(x[i]))
                    weight = np.float64(p[i])
                    low_lanes[i - begin] += max(weight - TINY, 0.0) * shrunk
                    high_lanes[i - begin] += (weight + TINY if weight > 0 else LEAST_WEIGHT) / shrunk
            least = low_lanes.sum() * (1 - sum_error) * (1 - 2.0**-29)
            most = high_lanes.sum() * (1 + sum_error) * (1 + 2.0**-29)
            if not least > 0:
                out[head, step] = np.inf
                x[:] = INFINITE
                continue
            centre = (least + most) / 2
            out[head, step, 0] = 1 / least
            out[head, step, 1] = (max(centre - least, most - centre) + SLACK) / least
            for i in range(len(p)):
                shrunk = exp_binary64(-np.float64(x[i]))
                weight = np.float64(p[i])
                change = max(1 / shrunk - centre, centre - shrunk) + SLACK
                kept = (weight * (1 + sum_error) + TINY) * change
                x[i] = np.float32(kept if weight > 0 else LEAST_WEIGHT / shrunk) * ABOVE + np.float32(TINY)


@inline
def binade(x: Array, least: Array) -> Array:
    """Return 2^E(x) of a binary32, at least `least`."""
    return max(reinterpret(np.int32(reinterpret(x) & EXPONENT_FIELD)), least)


@kernel
def add_spreads(
    rows: Array,
    row_of_level: Array,
    widths: Array,
    levels: Array,
    probs: Array,
    coefficients: Array,
    centres: Array,
    token_tops: Array,
    least: Array,
    rounding: Array,
    first: Array,
    visible: Array,
    token0: int,
    moved: Array,
    direct: Array,
) -> None:
    """Add sum_t a_t |v_tc - z_c| and sum_t p_t (h_t + rounding) 2^E(v_tc) of a chunk of tokens.

    |v - z| <= |v' - z| + h 2^E(v'), for v' as read; a number and what is read of it have one E. A token that is not read has
    |v| < 2 * token_tops.

    Parameters
    ----------
    rows : ndarray[float32], (n_rows, n_tokens, padded_dim)
    row_of_level : ndarray[int64], (n_levels,)
        -1 where nothing is read.
    widths : ndarray[float32], (n_levels,)
        h of each level.
    levels : ndarray[uint8], (n_steps, padded_len)
    probs, coefficients : ndarray[float32], (group, n_steps, padded_len)
    centres : ndarray[float32], (group, n_steps, padded_dim)
        z: any; the output is a good one.
    token_tops : ndarray[float32], (seq_len,)
        2^(max_c E(v_tc)).
    least : float32
        2^emin of the format.
    rounding : float32
    first, visible : ndarray[int64], (n_steps,)
    token0 : int
        Token at index 0 of `rows`, a multiple of 64.
    moved, direct : ndarray[float64], (group, n_steps, padded_dim)
        Added to.
    """
    group, n_steps, padded_dim = centres.shape
    a, b = np.empty(padded_dim, np.float32), np.empty(padded_dim, np.float32)
    for step in range(n_steps):
        begin, end = max(first[step], token0), min(visible[step], token0 + rows.shape[1])
        for head in range(group if begin < end else 0):
            z = centres[head, step]
            if not coefficients[head, step, begin] < INFINITE:
                moved[head, step] = np.inf
                continue
            for page in range(begin // PAGE * PAGE, end, PAGE):
                a[:], b[:] = 0, 0
                for t in range(max(page, begin), min(page + PAGE, end)):
                    level = levels[step, t]
                    row, h = row_of_level[level], widths[level]
                    much, p = coefficients[head, step, t], probs[head, step, t] * (h + rounding)
                    if row >= 0:
                        read = rows[row, t - token0]
                        for c in range(padded_dim):
                            size = binade(read[c], least)
                            a[c] += much * (abs(read[c] - z[c]) + h * size)
                            b[c] += p * size
                    else:
                        size = token_tops[t]
                        for c in range(padded_dim):
                            a[c] += much * (abs(z[c]) + h * size)
                            b[c] += p * size
                for c in range(padded_dim):
                    moved[head, step, c] += np.float64(a[c])
                    direct[head, step, c] += np.float64(b[c])
