"""Scores: s_t = scale * sum_d q_d k_td, one fused multiply-add per channel in ascending order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.decode.microkernel import SUMS_AT_ONCE, distances_of_4_vectors, sums_of_4_vectors
from precalign.jit import inline, kernel
from precalign.vectors import VECTOR_BYTES

if TYPE_CHECKING:
    from precalign.jit import Array

VECTORS = 4
TILE = 64
"""Tokens that are computed side by side; sequences are padded to a multiple."""


@inline
def read_rows(row_of_level: Array, levels: Array, row_stride: int, offsets: Array, index: Array) -> int:
    """Write where the channels that take part are read, and which they are; return how many."""
    n = 0
    for d in range(len(levels)):
        row = row_of_level[levels[d]]
        if row >= 0:
            offsets[n] = row * row_stride + d * TILE
            index[n] = d
            n += 1
    return n


@inline
def _tile_sums(
    rows: Array,
    row_of_level: Array,
    levels: Array,
    queries: Array,
    first: Array,
    visible: Array,
    token0: int,
    scale: float,
    uniform: bool,  # noqa: FBT001  # numba kernels take positions
    distances: bool,  # noqa: FBT001
    out: Array,
) -> None:
    group, n_steps, head_dim = queries.shape
    n_rows, padded_len = rows.shape[1], out.shape[2]
    offsets, index = np.empty((n_steps, head_dim), np.int64), np.empty((n_steps, head_dim), np.int64)
    n_terms = np.zeros(n_steps, np.int64)
    for step in range(n_steps):
        n_terms[step] = read_rows(row_of_level, levels[step], head_dim * TILE, offsets[step], index[step])
    at_once = max(1, SUMS_AT_ONCE // group) if uniform else 1
    query_bases, out_bases = np.empty(group * at_once, np.int64), np.empty(group * at_once, np.int64)
    part = VECTORS * VECTOR_BYTES // out.itemsize
    for tile in range(rows.shape[0]):
        # A part of a tile at a time, so that what all steps read of it stays in the first-level cache.
        for column in range(0, TILE, part):
            begin, base = token0 + tile * TILE, tile * n_rows * head_dim * TILE + column
            n_sums, step0 = 0, 0
            for step in range(n_steps):
                if first[step] < begin + TILE and visible[step] > begin:
                    step0 = step
                    for head in range(group):
                        query_bases[n_sums] = (head * n_steps + step) * head_dim
                        out_bases[n_sums] = (head * n_steps + step) * padded_len + begin + column
                        n_sums += 1
                if n_sums == len(out_bases) or (n_sums and step == n_steps - 1):
                    terms = (base, step0 * head_dim, offsets, index, n_terms[step0], queries, query_bases, scale)
                    if distances:
                        distances_of_4_vectors(n_sums, out, out_bases, rows, *terms)
                    else:
                        sums_of_4_vectors(n_sums, out, out_bases, rows, *terms)
                    n_sums = 0


@kernel
def scores(
    rows: Array,
    row_of_level: Array,
    levels: Array,
    queries: Array,
    first: Array,
    visible: Array,
    token0: int,
    scale: float,
    uniform: bool,  # noqa: FBT001  # numba kernels take positions
    out: Array,
) -> None:
    """Write the scores of a chunk of tokens.

    Parameters
    ----------
    rows : ndarray[float], (n_tiles, n_rows, head_dim, TILE)
        Key values as each level reads them, in the type of the arithmetic.
    row_of_level : ndarray[int64], (n_levels,)
        Which row a level reads; -1 where it reads nothing, and the channel takes no part.
    levels : ndarray[uint8], (n_steps, head_dim)
        Level of each channel.
    queries : ndarray[float], (group, n_steps, head_dim)
    first, visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    token0 : int
        Token at index 0 of `rows`, a multiple of TILE.
    scale : float
        Of the type of the arithmetic.
    uniform : bool
        Whether all steps have the same levels; they then share loads.
    out : ndarray[float], (group, n_steps, padded_len)
        Written where a step sees a token of the chunk, and to the ends of the tiles that it sees in part.
    """
    _tile_sums(rows, row_of_level, levels, queries, first, visible, token0, scale, uniform, False, out)  # noqa: FBT003


@kernel
def squared_distances(rows: Array, centres: Array, first: Array, visible: Array, token0: int, out: Array) -> None:
    """Write sum_c (v_tc - z_c)^2 of a chunk of tokens: channels in ascending order, one subtraction and one fused multiply-add each.

    Parameters
    ----------
    rows : ndarray[float32], (n_tiles, 1, head_dim, TILE)
        Values of tokens.
    centres : ndarray[float32], (group, n_steps, head_dim)
        z.
    first, visible : ndarray[int64], (n_steps,)
    token0 : int
        Token at index 0 of `rows`, a multiple of TILE.
    out : ndarray[float32], (group, n_steps, padded_len)
        Written where a step sees a token of the chunk, and to the ends of the tiles that it sees in part.
    """
    levels, row_of_level = np.zeros((centres.shape[1], centres.shape[2]), np.uint8), np.zeros(1, np.int64)
    one: Array = np.float32(1)
    _tile_sums(rows, row_of_level, levels, centres, first, visible, token0, one, True, True, out)  # noqa: FBT003
