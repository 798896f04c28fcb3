"""Exact levels for a few items, by dynamic programming over their cost: the last step of `precalign.rules.allocate`.

A label is what each query head suffers. For each cost the labels that no other dominates are kept: with one head that is the least error, with
several a few of them.
"""

from __future__ import annotations

import numpy as np

from precalign.jit import Array, inline


@inline
def _worst(used: Array) -> float:
    worst = 0.0
    for x in used:
        worst = max(worst, x)
    return worst


@inline
def _insert(labels: Array, count: int, trial: Array, trace: Array, back: int) -> int:
    """Keep `trial` among the labels of one cost unless one of them is at least as good; return how many there are."""
    k = 0
    while k < count:
        no_worse, no_better = True, True
        for head in range(len(trial)):
            no_worse &= labels[k, head] <= trial[head]
            no_better &= labels[k, head] >= trial[head]
        if no_worse:
            return count
        if no_better:
            count -= 1
            labels[k], trace[k] = labels[count], trace[count]
        else:
            k += 1
    if count == len(labels):
        worst = 0
        for k in range(1, count):
            if _worst(labels[k]) > _worst(labels[worst]):
                worst = k
        if _worst(labels[worst]) <= _worst(trial):
            return count
        labels[worst], trace[worst] = trial, back
        return count
    labels[count], trace[count] = trial, back
    return count + 1


@inline
def _extend(
    weights: Array,
    lowest: int,
    highest: int,
    budget: int,
    costs: Array,
    h: Array,
    unit: int,
    old: Array,
    held: Array,
    new: Array,
    following: Array,
    trace: Array,
    trial: Array,
) -> None:
    """Add one item at each of its levels to every label: `old` and `held` labels by cost become `new` and `following`."""
    n_labels = old.shape[1]
    for c in range(len(held)):
        for k in range(held[c]):
            for level in range(lowest, highest + 1):
                there = c + (costs[level] - costs[lowest]) // unit
                if there >= len(held):
                    break
                for head in range(len(trial)):
                    trial[head] = old[c, k, head] + weights[head] * h[level]
                if budget >= 0 or _worst(trial) <= 1:
                    back = (c * n_labels + k) * len(costs) + level
                    following[there] = _insert(new[there], following[there], trial, trace[there], back)


@inline
def _best(labels: Array, held: Array, budget: int) -> tuple[int, int]:
    """Return cost and index of the label with the least error, of the least cost if there is no budget; -1 if there is no label."""
    least, best_c, best_k = np.inf, -1, -1
    for c in range(len(held)):
        for k in range(held[c]):
            if _worst(labels[c, k]) < least:
                least, best_c, best_k = _worst(labels[c, k]), c, k
        if budget < 0 and best_c >= 0:
            break
    return best_c, best_k


@inline
def decide_core(
    weights: Array,
    core: Array,
    lowest: Array,
    highest: Array,
    base: Array,
    spend: int,
    budget: int,
    costs: Array,
    h: Array,
    unit: int,
    n_labels: int,
    levels: Array,
) -> None:
    """Decide the core exactly, and write its levels if there is a way.

    Parameters
    ----------
    weights : ndarray[float32], (group, n_items)
    core, lowest, highest : ndarray[int64], (n_core,)
        Items, and the levels that each may take.
    base : ndarray[float64], (group,)
        What the other items leave each head to suffer.
    spend : int
        What the core may cost at most.
    budget : int
        Negative: errors must not exceed 1, at the least cost; else the least error is wanted.
    costs : ndarray[int64], (n_levels,)
    h : ndarray[float64], (n_levels,)
    unit : int
        Divides the costs.
    n_labels : int
        Errors that are kept for each cost; 1 is exact for one head.
    levels : ndarray[uint8], (n_items,)
    """
    n, group, least = len(core), len(base), 0
    for i in range(n):
        least += costs[lowest[i]]
    n_costs = (spend - least) // unit + 1
    if n_costs < 1:
        return
    labels, held = np.empty((2, n_costs, n_labels, group)), np.zeros((n + 1, n_costs), np.int64)
    trace, trial = np.empty((n + 1, n_costs, n_labels), np.int64), np.empty(group)
    labels[0, 0, 0] = base
    held[0, 0] = 1
    for i in range(n):
        old, new = labels[i % 2], labels[(i + 1) % 2]
        limits = (lowest[i], highest[i], budget, costs, h, unit)
        _extend(weights[:, core[i]], *limits, old, held[i], new, held[i + 1], trace[i + 1], trial)
    c, k = _best(labels[n % 2], held[n], budget)
    for i in range(n if c >= 0 else 0):
        j = n - 1 - i
        back = trace[j + 1, c, k]
        levels[core[j]] = back % len(costs)
        c, k = back // len(costs) // n_labels, back // len(costs) % n_labels
