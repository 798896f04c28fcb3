"""Outputs: o_c = sum_t p_t v_tc, one fused multiply-add per token in ascending order, split by split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.decode.microkernel import SUMS_AT_ONCE, sums_of_1_vector, sums_of_4_vectors
from precalign.jit import inline, kernel
from precalign.vectors import VECTOR_BYTES

if TYPE_CHECKING:
    from precalign.jit import Array


@inline
def read_rows(places: Array, levels: Array, stride: int, offsets: Array, index: Array) -> int:
    """Write where the tokens that take part are read, and which they are, from the first on; return how many."""
    if places[0] >= 0:
        for i in range(len(levels)):
            offsets[i] = places[levels[i]] + i * stride
            index[i] = i
        return len(levels)
    n = 0
    for i in range(len(levels)):
        if places[levels[i]] >= 0:
            offsets[n] = places[levels[i]] + i * stride
            index[n] = i
            n += 1
    return n


@kernel
def add_outputs(
    rows: Array,
    row_of_level: Array,
    levels: Array,
    probs: Array,
    first: Array,
    visible: Array,
    token0: int,
    split_tokens: int,
    uniform: bool,  # noqa: FBT001  # numba kernels take positions
    out: Array,
) -> None:
    """Add the partial outputs of a chunk of whole splits.

    Parameters
    ----------
    rows : ndarray[float], (n_rows, n_tokens, padded_dim)
        Values as each level reads them, in the type of the arithmetic.
    row_of_level : ndarray[int64], (n_levels,)
        Which row a level reads; -1 where it reads nothing, and the token takes no part.
    levels : ndarray[uint8], (n_steps, padded_len)
        Level of each token.
    probs : ndarray[float], (group, n_steps, padded_len)
    first, visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    token0 : int
        Token at index 0 of `rows`, a multiple of `split_tokens`.
    split_tokens : int
        Tokens of a split.
    uniform : bool
        Whether all steps have the same levels; those that see the same part of a split then share loads.
    out : ndarray[float], (group, n_steps, padded_dim)
        padded_dim is a multiple of 16. Zero before the first chunk; chunks come in ascending order.
    """
    group, n_steps, padded_dim = out.shape
    n_tokens, padded_len = rows.shape[1], probs.shape[2]
    lanes, one = VECTOR_BYTES // out.itemsize, out.dtype.type(1)
    # Only level 0 can read nothing.
    places = np.where(row_of_level >= 0, row_of_level * n_tokens * padded_dim, -1)
    offsets, index = np.empty(split_tokens, np.int64), np.empty(split_tokens, np.int64)
    at_once = max(1, SUMS_AT_ONCE // group) if uniform else 1
    partial = np.empty((at_once * group, padded_dim), out.dtype)
    prob_bases, out_bases = np.empty(at_once * group, np.int64), np.empty(at_once * group, np.int64)
    for begin in range(token0, token0 + n_tokens, split_tokens):
        end = min(begin + split_tokens, token0 + n_tokens)
        step = 0
        while step < n_steps:
            low, high = max(first[step], begin), min(visible[step], end)
            run = 1
            while (
                run < min(at_once, n_steps - step)
                and max(first[step + run], begin) == low
                and min(visible[step + run], end) == high
            ):
                run += 1
            if low < high:
                n = read_rows(places, levels[step, low:high], padded_dim, offsets, index)
                for i in range(run * group):
                    prob_bases[i] = (i % group * n_steps + step + i // group) * padded_len + low
                    out_bases[i] = i * padded_dim
                channel = 0
                while channel < padded_dim:
                    terms = ((low - token0) * padded_dim + channel, 0, offsets, index, n, probs, prob_bases, one)
                    if channel + 4 * lanes <= padded_dim:
                        sums_of_4_vectors(run * group, partial, out_bases, rows, *terms)
                        channel += 4 * lanes
                        out_bases += 4 * lanes
                    else:
                        sums_of_1_vector(run * group, partial, out_bases, rows, *terms)
                        channel += lanes
                        out_bases += lanes
                for i in range(run * group):
                    for c in range(padded_dim):
                        out[i % group, step + i // group, c] += partial[i, c]
            step += run
