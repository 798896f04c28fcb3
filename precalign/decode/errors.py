"""How far one result lies from another: scores, probabilities, outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.decode.softmax import LANES, tree_sum
from precalign.jit import inline, kernel

if TYPE_CHECKING:
    from precalign.jit import Array


@inline
def _apart(a: Array, b: Array) -> Array:
    return abs(np.float64(a) - np.float64(b))


@kernel
def largest_difference(a: Array, b: Array, first: Array, visible: Array) -> Array:
    """Return max_t |a_t - b_t| in binary64, (group, n_steps), of two arrays (group, n_steps, padded_len)."""
    group, n_steps, _ = a.shape
    out = np.zeros((group, n_steps), np.float64)
    lanes = np.zeros(LANES, np.float64)
    for head in range(group):
        for step in range(n_steps):
            x, y = a[head, step, first[step] : visible[step]], b[head, step, first[step] : visible[step]]
            lanes[:] = 0
            n_whole = len(x) // LANES
            x_tiles, y_tiles = x[: n_whole * LANES].reshape(-1, LANES), y[: n_whole * LANES].reshape(-1, LANES)
            for i in range(n_whole):
                for j in range(LANES):
                    lanes[j] = max(lanes[j], _apart(x_tiles[i, j], y_tiles[i, j]))
            for i in range(n_whole * LANES, len(x)):
                lanes[0] = max(lanes[0], _apart(x[i], y[i]))
            out[head, step] = lanes.max()
    return out


@kernel
def total_variation(a: Array, b: Array, first: Array, visible: Array) -> Array:
    """Return sum_t |a_t - b_t| / 2 in binary64, (group, n_steps), of two arrays (group, n_steps, padded_len)."""
    group, n_steps, _ = a.shape
    out = np.zeros((group, n_steps), np.float64)
    lanes = np.zeros(LANES, np.float64)
    for head in range(group):
        for step in range(n_steps):
            x, y = a[head, step, first[step] : visible[step]], b[head, step, first[step] : visible[step]]
            lanes[:] = 0
            n_whole = len(x) // LANES
            x_tiles, y_tiles = x[: n_whole * LANES].reshape(-1, LANES), y[: n_whole * LANES].reshape(-1, LANES)
            for i in range(n_whole):
                for j in range(LANES):
                    lanes[j] += _apart(x_tiles[i, j], y_tiles[i, j])
            for i in range(n_whole * LANES, len(x)):
                lanes[i - n_whole * LANES] += _apart(x[i], y[i])
            out[head, step] = tree_sum(lanes) / 2
    return out


@inline
def _squares(x: Array) -> Array:
    total = 0.0
    for i in range(len(x)):
        total += x[i] * x[i]
    return total


@kernel
def output_errors(a: Array, reference: Array) -> tuple[Array, Array]:
    """Return |a - reference|_2 / |reference|_2 (0 for 0 / 0) and max |a - reference| along the last axis, in binary64, of two arrays (group, n_steps, n)."""
    group, n_steps, n = a.shape
    relative, largest = np.empty((group, n_steps)), np.empty((group, n_steps))
    apart, size = np.empty(n), np.empty(n)
    for head in range(group):
        for step in range(n_steps):
            x, y = a[head, step], reference[head, step]
            for i in range(n):
                apart[i], size[i] = _apart(x[i], y[i]), np.float64(y[i])
            distance = np.sqrt(_squares(apart))
            relative[head, step] = distance / np.sqrt(_squares(size)) if distance != 0 else 0.0
            top = 0.0
            for i in range(n):
                top = apart[i] if apart[i] > top or apart[i] != apart[i] else top  # NaN stays
            largest[head, step] = top
    return relative, largest
