"""The stated order of a one-pass kernel: docs/architecture.md, operation by operation.

A split's tokens are weighed against the largest score met so far; when a page raises it, what was added up is scaled down. Scores and
probabilities are never stored, so nothing here takes or gives a probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.decode.exp2 import LOG2E, exp2_fma
from precalign.decode.softmax import LANES, tree_sum
from precalign.jit import fma, inline, kernel
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.jit import Array


@dataclass(frozen=True)
class OnePass:
    """What a one-pass kernel computes.

    Attributes
    ----------
    maxima, sums : ndarray[float32], (group, n_splits)
        Largest score of each split, and the sum of its weights against it.
    partials : ndarray[float32], (group, n_splits, head_dim)
        Sums of weight times value, not divided by anything.
    outputs : ndarray[float32], (group, head_dim)
    """

    maxima: NDArray[np.float32]
    sums: NDArray[np.float32]
    partials: NDArray[np.float32]
    outputs: NDArray[np.float32]


@inline
def factor(lower: Array, upper: Array) -> Array:
    """Return exp2_fma((lower - upper) * LOG2E), the weight of `lower` against `upper`; exactly 1 where they are equal."""
    return exp2_fma((lower - upper) * LOG2E)


@kernel
def _add_splits(scores: Array, values: Array, split_tokens: int, maxima: Array, sums: Array, partials: Array) -> None:
    group, seq_len = scores.shape
    lanes = np.zeros(LANES, np.float32)
    for head in range(group):
        for begin in range(0, seq_len, split_tokens):
            split, end = begin // split_tokens, min(begin + split_tokens, seq_len)
            acc = partials[head, split]
            acc[:], lanes[:] = 0, 0
            largest = np.float32(-np.inf)
            for page in range(begin, end, PAGE_TOKENS):
                last = min(page + PAGE_TOKENS, end)
                raised = max(largest, scores[head, page:last].max())
                rescale = factor(largest, raised) if page > begin else np.float32(1)
                largest = raised
                for c in range(len(acc)):
                    acc[c] *= rescale
                for j in range(LANES):
                    weight = factor(scores[head, page + j], largest) if page + j < last else np.float32(0)
                    lanes[j] = fma(lanes[j], rescale, weight)
                    if page + j < last:
                        for c in range(len(acc)):
                            acc[c] = fma(weight, values[page + j, c], acc[c])
            maxima[head, split] = largest
            sums[head, split] = tree_sum(lanes)


@kernel
def _combine(maxima: Array, sums: Array, partials: Array, outputs: Array) -> None:
    group, n_splits = maxima.shape
    for head in range(group):
        largest = maxima[head].max()
        total, out = np.float32(0), outputs[head]
        out[:] = 0
        for split in range(n_splits):
            scale = factor(maxima[head, split], largest)
            total = fma(sums[head, split], scale, total)
            for c in range(len(out)):
                out[c] = fma(partials[head, split, c], scale, out[c])
        for c in range(len(out)):
            out[c] /= total


def one_pass(scores: NDArray[np.float32], values: NDArray[np.float32], split_tokens: int) -> OnePass:
    """Attend in the stated order of one-pass kernels.

    Parameters
    ----------
    scores : ndarray[float32], (group, seq_len)
        Scaled; at least one token.
    values : ndarray[float32], (seq_len, head_dim)
        As read.
    split_tokens : int
        A multiple of 64.

    Returns
    -------
    OnePass
    """
    (group, seq_len), head_dim = scores.shape, values.shape[1]
    n_splits = -(-seq_len // split_tokens)
    maxima, sums = (np.empty((group, n_splits), np.float32) for _ in range(2))
    partials, outputs = np.empty((group, n_splits, head_dim), np.float32), np.empty((group, head_dim), np.float32)
    _add_splits(scores, values, split_tokens, maxima, sums, partials)
    _combine(maxima, sums, partials, outputs)
    return OnePass(maxima, sums, partials, outputs)
