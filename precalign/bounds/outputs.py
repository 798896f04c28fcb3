"""Bounds on outputs: perturbed probabilities, values read in part, and the roundings of the sums. docs/bounds.md derives them."""

from __future__ import annotations

import numpy as np

from precalign.bounds.rounding import TINY
from precalign.bounds.spread_kernel import spreads
from precalign.decode.exact import exp_binary64
from precalign.jit import Array, inline, kernel

PAGE = 64
FARTHEST = 300.0
"""Errors of log weights from here on are answered with an infinite bound."""
ABOVE = np.float32(1 + 2.0**-22)
INFINITE = np.float32(np.inf)
LEAST_WEIGHT = 2.0**-126
SLACK = 2.0**-49
"""Covers cancellation in e^x - c, whose terms are within 2 ulp."""


@inline
def _is_far(errors: Array) -> Array:
    far = 0
    for x in errors:
        far |= not x < FARTHEST
    return far


@inline
def _change(p: Array, x: Array, less: Array, more: Array, terms: Array) -> None:
    """Write e^-x, e^x and, to the ends of pages, the terms of Zlo and Zhi, (2, >= n)."""
    for i in range(len(p)):
        shrunk = exp_binary64(-np.float64(x[i]))
        weight = np.float64(p[i])
        less[i], more[i] = shrunk, 1 / shrunk
        terms[0, i] = max(weight - TINY, 0.0) * shrunk
        terms[1, i] = (weight + TINY if weight > 0 else LEAST_WEIGHT) / shrunk
    terms[:, len(p) : -(-len(p) // PAGE) * PAGE] = 0


@inline
def _sum(terms: Array, n: int, lanes: Array) -> Array:
    lanes[:] = 0
    for begin in range(0, n, PAGE):
        for i in range(PAGE):
            lanes[i] += terms[begin + i]
    return lanes.sum()


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
    group, n_steps, padded_len = probs.shape
    lanes, less, more, terms = (
        np.empty(PAGE),
        np.empty(padded_len),
        np.empty(padded_len),
        np.empty((2, padded_len + PAGE)),
    )
    for head in range(group):
        for step in range(n_steps):
            p, x = probs[head, step, first[step] : visible[step]], errors[head, step, first[step] : visible[step]]
            if len(p) == 1:  # the softmax of one score is 1, whatever the score
                x[0] = 0
            least = most = 0.0
            if not _is_far(x):
                _change(p, x, less, more, terms)
                least = _sum(terms[0], len(p), lanes) * (1 - sum_error) * (1 - 2.0**-29)
                most = _sum(terms[1], len(p), lanes) * (1 + sum_error) * (1 + 2.0**-29)
            if not least > 0:
                out[head, step] = np.inf
                x[:] = INFINITE
                continue
            centre = (least + most) / 2
            out[head, step, 0] = 1 / least
            out[head, step, 1] = (max(centre - least, most - centre) + SLACK) / least
            for i in range(len(p)):
                weight = np.float64(p[i])
                change = max(more[i] - centre, centre - less[i]) + SLACK
                kept = (weight * (1 + sum_error) + TINY) * change
                x[i] = np.float32(kept if weight > 0 else LEAST_WEIGHT * more[i]) * ABOVE + np.float32(TINY)


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
    n_tokens, padded_len = rows.shape[1], probs.shape[2]
    a, b, zeros = np.empty(padded_dim, np.float32), np.empty(padded_dim, np.float32), np.zeros(padded_dim, np.float32)
    offsets, floors = np.empty(PAGE, np.int64), np.empty(PAGE, np.float32)
    h, weights = np.empty(PAGE, np.float32), np.empty(PAGE, np.float32)
    for step in range(n_steps):
        begin, end = max(first[step], token0), min(visible[step], token0 + n_tokens)
        for page in range(begin // PAGE * PAGE, end, PAGE):
            low, n = max(page, begin), min(page + PAGE, end) - max(page, begin)
            for i in range(n):
                level = levels[step, low + i]
                row, h[i] = row_of_level[level], widths[level]
                offsets[i] = (row * n_tokens + low + i - token0) * padded_dim if row >= 0 else -1
                floors[i] = least if row >= 0 else token_tops[low + i]
            for head in range(group):
                place = head * n_steps + step
                if not coefficients[head, step, begin] < INFINITE:
                    for c in range(padded_dim):
                        moved[head, step, c] = np.inf
                    continue
                for i in range(n):
                    weights[i] = probs[head, step, low + i] * (h[i] + rounding)
                tokens = (offsets, floors, h, coefficients, place * padded_len + low, weights)
                spreads(padded_dim, rows, zeros, n, *tokens, centres, place * padded_dim, a, b)
                for c in range(padded_dim):
                    moved[head, step, c] += np.float64(a[c])
                    direct[head, step, c] += np.float64(b[c])
