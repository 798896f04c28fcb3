"""What a probe of a few tokens says about a step before its keys are read: how much of the error keys make, and how much values.

`certified` and `budget` decide keys first, and must leave the values their share. Neither the probabilities nor the output are known yet, so
the first few and the last few tokens of the step are read at the first level, keys and values (counted as pre-pass), and their softmax stands for
that of all tokens. It is an estimate: nothing that is proven rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, kernel
from precalign.rules.allocate import Prices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout
    from precalign.rules.base import KeyView, Window

FIRST_TOKENS, LAST_TOKENS = 4, 28
"""Where attention tends to be: at the beginning of the sequence, and near its end."""
ELSEWHERE = 0.02
"""Share of the attention that is taken to lie evenly on the probed tokens, whatever their scores: the probe does not see all."""
ROUNDS = 40


def binades(x: NDArray[np.float32], least: float) -> NDArray[np.float64]:
    """Return 2^E(x), at least `least`."""
    _, after_point = np.frexp(x)
    return np.maximum(np.ldexp(1.0, after_point - 1), least)


def windows(first: NDArray[np.int64], visible: NDArray[np.int64]) -> tuple[Window, Window]:
    """Return the windows of tokens that are probed: up to 4 at the beginning, up to 28 at the end, none twice."""
    middle = np.minimum(first + FIRST_TOKENS, visible)
    return (first, middle), (np.maximum(middle, visible - LAST_TOKENS), visible)


def size(x: NDArray[np.float64], *, relative: bool) -> NDArray[np.float64]:
    """Return the 2-norm over channels, or the largest magnitude where errors are absolute."""
    return np.sqrt(np.einsum("...c,...c", x, x)) if relative else np.abs(x).max(axis=-1)


@dataclass(frozen=True)
class Forecast:
    """What the probe tells, (group, n_steps, ..).

    Attributes
    ----------
    key_weights : ndarray[float64], (group, n_steps, head_dim)
        With keys read with half-widths h_d, scores move the output by about sum_d weight_d h_d.
    value_weights : ndarray[float64], (group, n_steps, n)
        With all values read with half-width h, the output moves by sum_j weight_j h; each token stands for many.
    """

    key_weights: NDArray[np.float64]
    value_weights: NDArray[np.float64]


def key_tops(view: KeyView) -> NDArray[np.float64]:
    """Return scale |q_d| 2^(max_t E(k_td)), (group, n_steps, head_dim): a score moves by at most sum_d of it times h_d."""
    tops = np.ldexp(1.0, view.key_max_exponents.astype(np.int32))
    return np.abs(view.queries.astype(np.float64)) * tops * view.scale


def forecast(view: KeyView, *, relative: bool) -> Forecast:
    """Look at the probed tokens; errors are relative to the output's norm, or the largest over channels."""
    (first, middle), (late, _) = windows(view.first, view.visible)
    offsets = np.arange(FIRST_TOKENS + LAST_TOKENS)
    early = offsets < FIRST_TOKENS
    tokens = np.where(early, first[:, None] + offsets, late[:, None] + offsets - FIRST_TOKENS)
    there = tokens < np.where(early, middle[:, None], view.visible[:, None])
    tokens = np.where(there, tokens, view.first[:, None])
    keys, values = (view.peek(what, tokens).astype(np.float64) for what in ("keys", "values"))
    least = 2.0**view.layout.format.emin
    queries = view.queries.astype(np.float64) * view.scale
    scores = np.where(there, np.einsum("gsd,sjd->gsj", queries, keys), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs = weights / weights.sum(axis=-1, keepdims=True)
    probs = (1 - ELSEWHERE) * probs + ELSEWHERE * there / there.sum(axis=-1, keepdims=True)
    outputs = np.einsum("gsj,sjc->gsc", probs, values)
    tops = key_tops(view)
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = np.einsum("gsd,sjd->gsj", np.abs(queries), binades(keys, least)) / tops.sum(axis=-1)[..., None]
    coefficients = probs * np.nan_to_num(moves)
    spread = np.zeros_like(outputs)
    for j in range(tokens.shape[1]):
        spread += coefficients[..., j, None] * np.abs(values[:, j] - outputs)
    norm = np.maximum(size(outputs, relative=True), 1e-300) if relative else np.ones(outputs.shape[:2])
    per_key = size(spread, relative=relative) / norm
    per_value = probs * size(binades(values, least), relative=relative) / norm[..., None]
    return Forecast(tops * per_key[..., None], np.where(there, per_value, 0))


@kernel
def _shares(
    keys: Array,
    values: Array,
    key_costs: Array,
    value_costs: Array,
    h: Array,
    tokens: Array,
    budgets: Array,
    out: Array,
) -> None:
    n_steps, n_keys, n_values, n_levels = len(tokens), keys.shape[1], values.shape[1], len(h)
    n = n_keys + n_values
    for step in range(n_steps):
        low, high = -200.0, 200.0
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            price = 2.0**middle
            cost, error, key_cost, key_error = 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                weight = keys[step, i] if i < n_keys else values[step, i - n_keys]
                share = tokens[step] if i < n_keys else tokens[step] / n_values
                costs = key_costs if i < n_keys else value_costs
                best, least = 0, np.inf
                for level in range(n_levels):
                    figure = weight * h[level] + price * costs[level] * share
                    if figure <= least:
                        best, least = level, figure
                cost += costs[best] * share
                error += weight * h[best]
                if i == n_keys - 1:
                    key_cost, key_error = cost, error
            enough = error <= 1 if budgets[step] < 0 else cost > budgets[step]
            if enough:
                low = middle
            else:
                high = middle
            if enough == (budgets[step] < 0):
                out[step] = key_error if budgets[step] < 0 else key_cost


def error_share(
    ahead: Forecast, tolerance: float, layout: Layout, h: NDArray[np.float64], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return which share of the tolerance keys should take, (n_steps,), so that keys and values together cost least.

    The largest need of the query heads counts.
    """
    return _share(ahead, tolerance, layout, h, tokens, np.full(len(tokens), -1.0), 0.5)


def cost_share(
    ahead: Forecast,
    layout: Layout,
    h: NDArray[np.float64],
    tokens: NDArray[np.int64],
    budgets: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return what keys should cost of the budgets, (n_steps,), in bytes, so that the error is least; as `error_share`."""
    return _share(ahead, 1.0, layout, h, tokens, np.maximum(budgets, 0.0), 0.0)


def _share(
    ahead: Forecast,
    tolerance: float,
    layout: Layout,
    h: NDArray[np.float64],
    tokens: NDArray[np.int64],
    budgets: NDArray[np.float64],
    otherwise: float,
) -> NDArray[np.float64]:
    out = np.full(len(tokens), otherwise)
    keys, values = (np.ascontiguousarray(w.max(axis=0) / tolerance) for w in (ahead.key_weights, ahead.value_weights))
    head_dim = keys.shape[1]
    key_costs = np.array(layout.levels) / 8
    value_costs = Prices.of_rows(layout, head_dim).costs.astype(np.float64)
    _shares(keys, values, key_costs, value_costs, h, tokens.astype(np.float64), budgets, out)
    return out
