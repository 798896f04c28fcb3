"""What `certified` and `budget` go by before they know: sizes of terms from maxima alone, and how attention is taken to fall off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, kernel
from precalign.rules.allocate import Prices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout
    from precalign.rules.base import KeyView

ROUNDS = 50
VALUE_SPREAD = 2.0
"""How much longer the vector of the values' binades is taken to be than the output."""


def binades(x: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Return 2^E(x), at least `least`."""
    _, after_point = np.frexp(x)
    found: NDArray[np.float64] = np.maximum(np.ldexp(1.0, after_point - 1), least)
    return found


def size(x: NDArray[np.float64], *, relative: bool) -> NDArray[np.float64]:
    """Return the 2-norm over channels, or the largest magnitude where errors are absolute."""
    found: NDArray[np.float64] = np.sqrt(np.einsum("...c,...c", x, x)) if relative else np.abs(x).max(axis=-1)
    return found


def key_tops(view: KeyView) -> NDArray[np.float64]:
    """Return scale |q_d| 2^(max_t E(k_td)), (group, n_steps, head_dim): a score moves by at most sum_d of it times h_d."""
    tops = np.ldexp(1.0, view.key_max_exponents.astype(np.int32))
    return np.abs(view.queries.astype(np.float64)) * tops * view.scale


@kernel
def _key_bytes(
    keys: Array, tokens: Array, budgets: Array, key_costs: Array, value_costs: Array, h: Array, out: Array
) -> None:
    head_dim = keys.shape[1]
    for step in range(len(tokens)):
        ranks, harmonic = 0, 0.0
        while 1 << ranks <= tokens[step]:
            harmonic += np.log((min(2 << ranks, tokens[step] + 1)) / (1 << ranks))
            ranks += 1
        low, high = -200.0, 200.0
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            price, cost, key_cost = 2.0**middle, 0.0, 0.0
            for i in range(head_dim + ranks):
                costs, weight, many = key_costs, 0.0, float(tokens[step])
                if i < head_dim:
                    weight = keys[step, i]
                else:
                    begin = 1 << (i - head_dim)
                    end = min(2 * begin, tokens[step] + 1)
                    weight = VALUE_SPREAD * np.log(end / begin) / harmonic
                    costs, many = value_costs, float(end - begin)
                best, least = 0, np.inf
                for level in range(len(h)):
                    figure = weight * h[level] + price * costs[level] * many
                    if figure <= least:
                        best, least = level, figure
                cost += costs[best] * many
                if i < head_dim:
                    key_cost = cost
            if cost > budgets[step]:
                low = middle
            else:
                high = middle
                out[step] = key_cost


def key_bytes(
    keys: NDArray[np.float64],
    tokens: NDArray[np.int64],
    budgets: NDArray[np.float64],
    layout: Layout,
    h: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return what keys should cost of budgets for keys and values, in bytes, (n_steps,), so that the error is least if attention falls off like 1 / rank.

    Parameters
    ----------
    keys : ndarray[float64], (n_steps, head_dim)
        What a channel does to the output, relative to its norm, per unit of h.
    tokens : ndarray[int64], (n_steps,)
    budgets : ndarray[float64], (n_steps,)
        Bytes.
    layout : Layout
    h : ndarray[float64], (n_levels,)

    Notes
    -----
    The token of rank r holds 1 / (r H) of the attention, H = ln(n + 1); ranks are taken together in powers of two. Both kinds pay the same price per
    byte at the optimum; where even the narrowest levels cost more than a budget, the keys' narrowest is answered.
    """
    out: NDArray[np.float64] = tokens.astype(np.float64) * (keys.shape[1] * layout.levels[0] / 8)
    value_costs = Prices.of_rows(layout, keys.shape[1]).costs.astype(np.float64)
    _key_bytes(keys, tokens, budgets, np.array(layout.levels) / 8, value_costs, h, out)
    return out
