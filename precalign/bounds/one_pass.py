"""How far the order of a one-pass kernel and the stated order can lie apart, given the same scores and reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.rounding import EXPONENT_ERROR, TINY, WEIGHT_ERROR, gamma
from precalign.decode.softmax import LANES
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray

TREE_LEVELS = 6
LEAST_WEIGHT = 2.0**-126
FARTHEST = 100.0
"""A token this far below has a weight under 2^-126 in either order: 0, or what `lost` covers."""


def one_pass_difference(
    scores: NDArray[np.float32], values: NDArray[np.float32], split_tokens: int
) -> NDArray[np.float64]:
    """Return a proven bound on |o_c - o'_c| between the one-pass and the stated order, (group, head_dim).

    Both are compared with O_c = sum_t P_t v_tc, P_t the softmax in real arithmetic of the scores given. A weight of either order is
    e^(s_t - m + x_t) with |x_t| <= EXPONENT_ERROR |s_t - m| + k WEIGHT_ERROR: in one pass k factors make it, one against the running
    maximum, one for each later page of the split, one for the combination; their arguments add up to s_t - m, because maxima
    only grow, so the first part is the same. Then |o_c - O_c| <= sum_t P_t (e^(x_t) N - 1) |v_tc| with
    N = max(sum P e^x, 1 / sum P e^-x), and the roundings of the sums and of the division. docs/architecture.md says it in words.

    Parameters
    ----------
    scores : ndarray[float32], (group, seq_len)
    values : ndarray[float32], (seq_len, head_dim)
        As read.
    split_tokens : int
    """
    seq_len = len(values)
    in_split = min(seq_len, split_tokens)
    pages, n_splits = -(-in_split // PAGE_TOKENS), -(-seq_len // split_tokens)
    below = scores.max(axis=1, keepdims=True).astype(np.float64) - scores
    weights = np.exp(-below)
    probs = weights / weights.sum(axis=1, keepdims=True)
    sizes = np.abs(values).astype(np.float64)
    # Roundings that a term passes: sums of weights, sums of products, division (and the probability in the stated order).
    one = 2 * pages + TREE_LEVELS + n_splits + in_split + pages + n_splits + 1
    two = in_split // LANES + 1 + TREE_LEVELS + n_splits + 1 + in_split + n_splits
    bound = np.zeros((len(scores), values.shape[1]))
    for factors, roundings in ((pages + 1, one), (1, two)):
        x = EXPONENT_ERROR * np.minimum(below, FARTHEST) + factors * WEIGHT_ERROR
        normaliser = np.maximum((probs * np.exp(x)).sum(1), 1 / (probs * np.exp(-x)).sum(1))[:, None]
        moved = probs * np.exp(x) * normaliser
        bound += ((moved - probs) + moved * (np.expm1(2 * gamma(roundings)))) @ sizes
    # Weights below 2^-126 are 0 in either order; a sum that is scaled down, or a product, can underflow.
    lost = 2 * seq_len * (LEAST_WEIGHT * 2 + 4 * TINY) * (1 + sizes.max(initial=0.0))
    safe: NDArray[np.float64] = bound * (1 + 2.0**-30) + lost
    return safe
