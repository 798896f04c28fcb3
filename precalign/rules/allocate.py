"""Fewest bits for an error, least error for bits: the problem of `certified` and `budget`, and its solver.

Items i (key channels, or the values of tokens) are read at levels l_i. Query head g suffers u_g = sum_i w_gi h(l_i), h falling with the level, and
the read costs sum_i c(l_i). `cover` wants the least cost with u_g <= 1 for every head of the group, `fill` the least max_g u_g with cost <= budget.

1. Lagrange: with multipliers m_g, item i takes the level that minimises (sum_g m_g w_gi) h(l) + x c(l); levels off the lower convex hull of
   (c, h) are never taken, and between two levels of the hull a threshold on the weight decides. Weights are counted in buckets of an
   eighth of a binade, so x is found without going over the items again. The heads' multipliers move towards those that bind.
2. Items whose threshold lies in the last bucket move one by one as long as the limits hold.
3. The items nearest to a threshold (the *core*) are decided again, exactly: dynamic programming over their cost, which keeps for each cost the
   least u, or for several heads a few u that do not dominate each other. With one head and no more items than the core the optimum is exact.

What is left on the table is at most what one item's step is worth. docs/rules.md states the measured gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, inline, kernel, reinterpret
from precalign.rules.core_levels import decide_core

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.layouts import Layout

CORE = 16
LABELS = 6
ROUNDS = 8
BUCKETS = 2048
SHIFT = np.int32(20)
PER_BINADE = 8
LEAST = np.float32(2.0**-120)


@dataclass(frozen=True)
class Prices:
    """What levels cost, and the order in which they pay.

    Attributes
    ----------
    costs : ndarray[int64], (n_levels,)
        Ascending, in any unit.
    unit : int
        Divides all of them.
    """

    costs: NDArray[np.int64]
    unit: int

    @classmethod
    def of_bits(cls, layout: Layout) -> Prices:
        """Cost in bits of a code: of keys, whose rows of whole pages have no padding."""
        return cls.of(layout.levels)

    @classmethod
    def of_rows(cls, layout: Layout, length: int) -> Prices:
        """Cost in bytes of rows of `length` codes, a row a plane: of values, whose rows are padded to whole bytes."""
        rows = [-(-length * width // 8) for width in layout.widths]
        return cls.of([sum(rows[:planes]) for planes in layout.level_planes])

    @classmethod
    def of(cls, costs: Sequence[int]) -> Prices:
        """Take ascending integer costs."""
        return cls(np.array(costs, np.int64), gcd(*(int(c) for c in costs)) or 1)


def hull(costs: NDArray[np.int64], widths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the indices of the levels on the lower convex hull of (cost, width), ascending."""
    kept: list[int] = []
    for level in range(len(costs)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            before = (widths[a] - widths[b]) * (costs[level] - costs[b])
            after = (widths[b] - widths[level]) * (costs[b] - costs[a])
            if before >= after:
                break
            kept.pop()
        kept.append(level)
    return np.array(kept, np.int64)


@inline
def _bucket(weight: Array) -> Array:
    return reinterpret(max(weight, LEAST)) >> SHIFT


@inline
def _offsets(costs: Array, h: Array, steps: Array, out: Array) -> None:
    """Write, for each step of the hull, how many buckets its threshold lies above the multiplier's own bucket."""
    for i in range(len(steps) - 1):
        a, b = steps[i], steps[i + 1]
        slope = max((h[a] - h[b]) / (costs[b] - costs[a]), 1e-300)
        out[i] = np.int64(np.rint(-PER_BINADE * np.log2(slope)))


@inline
def _level(bucket: int, at: int, offsets: Array, steps: Array) -> Array:
    n = 0
    while n < len(offsets) and bucket >= at + offsets[n]:
        n += 1
    return steps[n]


@inline
def _clip(x: int) -> int:
    return min(max(x, 0), BUCKETS)


@inline
def _price(
    at: int, offsets: Array, steps: Array, costs: Array, h: Array, below: Array, sums: Array, used: Array
) -> Array:
    """Return the cost with the multiplier in bucket `at`, and write what each head suffers."""
    n = below[BUCKETS]
    cost = costs[steps[0]] * n
    for head in range(len(used)):
        used[head] = h[steps[-1]] * sums[head, BUCKETS]
    for i in range(len(offsets)):
        place = _clip(at + offsets[i])
        cost += (costs[steps[i + 1]] - costs[steps[i]]) * (n - below[place])
        for head in range(len(used)):
            used[head] += (h[steps[i]] - h[steps[i + 1]]) * sums[head, place]
    return cost


@inline
def _search(
    budget: int, offsets: Array, steps: Array, costs: Array, h: Array, below: Array, sums: Array, used: Array
) -> int:
    """Return the highest bucket at which every head suffers at most 1, or with a budget the lowest that it pays for."""
    low, high = -4 * BUCKETS, 4 * BUCKETS  # everything at the widest level, everything at the narrowest
    while high - low > 1:
        middle = (low + high) // 2
        cost = _price(middle, offsets, steps, costs, h, below, sums, used)
        enough = cost > budget if budget >= 0 else used.max() <= 1
        if enough:
            low = middle
        else:
            high = middle
    return high if budget >= 0 else low


@inline
def _combine(weights: Array, multipliers: Array, out: Array) -> None:
    for i in range(len(out)):
        total = np.float32(0)
        for head in range(len(multipliers)):
            total += multipliers[head] * weights[head, i]
        out[i] = total


@inline
def _count(weights: Array, combined: Array, below: Array, sums: Array) -> None:
    """Write the numbers of items, and each head's sums of weights, in the buckets below each."""
    below[:], sums[:, :] = 0, 0
    for i in range(len(combined)):
        place = _bucket(combined[i]) + 1
        below[place] += 1
        for head in range(len(weights)):
            sums[head, place] += weights[head, i]
    for place in range(BUCKETS):
        below[place + 1] += below[place]
        for head in range(len(weights)):
            sums[head, place + 1] += sums[head, place]


@inline
def _nearest(buckets: Array, at: int, offsets: Array, core: Array, distance: Array) -> int:
    """Write the items nearest to a threshold, nearest first; return how many."""
    n = 0
    for i in range(len(buckets)):
        away = 1 << 30
        for offset in offsets:
            away = min(away, abs(2 * (buckets[i] - at - offset) + 1))
        if n < len(core) or away < distance[n - 1]:
            place = n if n < len(core) else n - 1
            n = min(n + 1, len(core))
            while place > 0 and distance[place - 1] > away:
                distance[place], core[place] = distance[place - 1], core[place - 1]
                place -= 1
            distance[place], core[place] = away, i
    return n


@inline
def _move_ties(
    weights: Array,
    buckets: Array,
    beyond: int,
    offsets: Array,
    steps: Array,
    costs: Array,
    h: Array,
    budget: int,
    cost: int,
    used: Array,
    levels: Array,
) -> int:
    """Move items to their levels of the multiplier `beyond`, which is one bucket too far, as long as the limits hold; return the cost.

    Weights of one bucket, in a plain array perhaps all, would else stay or move together.
    """
    group = len(weights)
    for i in range(len(levels)):
        level, there = np.int64(levels[i]), _level(buckets[i], beyond, offsets, steps)
        towards = 1 if there < level else -1
        while there != level:  # the whole way, or as far as it fits
            dearer = costs[there] - costs[level]
            fits = budget < 0 or cost + dearer <= budget
            for head in range(group if budget < 0 else 0):
                fits &= used[head] + weights[head, i] * (h[there] - h[level]) <= 1
            if fits:
                cost += dearer
                levels[i] = there
                for head in range(group):
                    used[head] += weights[head, i] * (h[there] - h[level])
                break
            there += towards
    return cost


@kernel
def _allocate(
    weights: Array,
    h: Array,
    first: Array,
    visible: Array,
    budgets: Array,
    costs: Array,
    unit: int,
    steps: Array,
    out: Array,
) -> None:
    """Write levels where a step sees the item; a budget below 0 asks for u_g <= 1 at the least cost."""
    group, n_steps, width = weights.shape
    combined, multipliers = np.empty(width, np.float32), np.empty(group, np.float32)
    best_multipliers = np.empty(group, np.float32)
    below, sums, used = np.empty(BUCKETS + 1, np.int64), np.empty((group, BUCKETS + 1)), np.empty(group)
    offsets, buckets = np.empty(len(steps) - 1, np.int64), np.empty(width, np.int64)
    core, distance = np.empty(CORE, np.int64), np.empty(CORE, np.int64)
    lowest, highest = np.empty(CORE, np.int64), np.empty(CORE, np.int64)
    for step in range(n_steps):
        low, high = first[step], visible[step]
        mine, budget = weights[:, step, low:high], budgets[step]
        levels, n = out[step, low:high], high - low
        _offsets(costs, h[step], steps, offsets)
        multipliers[:] = np.float32(1) / np.float32(group)
        best, at = np.inf, 0
        for _ in range(ROUNDS if group > 1 else 1):
            _combine(mine, multipliers, combined[:n])
            _count(mine, combined[:n], below, sums)
            place = _search(budget, offsets, steps, costs, h[step], below, sums, used)
            cost = _price(place, offsets, steps, costs, h[step], below, sums, used)
            figure = used.max() if budget >= 0 else np.float64(cost)
            if figure < best:
                best, at = figure, place
                best_multipliers[:] = multipliers
            total = np.float32(0)
            for head in range(group):
                multipliers[head] *= np.float32(max(used[head], 1e-3 * used.max()) / max(used.max(), 1e-300))
                total += multipliers[head]
            multipliers /= total
        _combine(mine, best_multipliers, combined[:n])
        used[:], cost = 0, 0
        for i in range(n):
            buckets[i] = _bucket(combined[i])
            level = _level(buckets[i], at, offsets, steps)
            levels[i] = level
            cost += costs[level]
            for head in range(group):
                used[head] += mine[head, i] * h[step, level]
        beyond = at - 1 if budget >= 0 else at + 1
        cost = _move_ties(mine, buckets, beyond, offsets, steps, costs, h[step], budget, cost, used, levels)
        # An item's step weighs less the more items there are: fewer need to be decided exactly.
        n_core = _nearest(buckets[:n], at, offsets, core[: CORE if n <= 32 * CORE else CORE // 2], distance)
        reach = len(costs) if n <= 2 * CORE else 2
        spend = budget - cost if budget >= 0 else 0
        for i in range(n_core):
            item, level = core[i], int(levels[core[i]])
            lowest[i] = max(0, level - reach)
            highest[i] = min(len(costs) - 1, level + reach)
            spend += costs[level]
            for head in range(group):
                used[head] -= mine[head, item] * h[step, level]
        n_labels = LABELS if group > 1 else 1
        some = (core[:n_core], lowest[:n_core], highest[:n_core])
        np.maximum(used, 0.0, used)
        decide_core(mine, *some, used, spend, budget, costs, h[step], unit, n_labels, levels)


def _run(
    weights: NDArray[np.float32],
    widths: NDArray[np.float64],
    prices: Prices,
    budgets: NDArray[np.int64],
    first: NDArray[np.int64],
    visible: NDArray[np.int64],
) -> NDArray[np.uint8]:
    out = np.zeros(weights.shape[1:], np.uint8)
    h = np.ascontiguousarray(np.broadcast_to(widths, (len(first), len(prices.costs))))
    steps = hull(prices.costs, h[0])
    _allocate(weights, h, first, visible, budgets, prices.costs, prices.unit, steps, out)
    return out


def cover(
    weights: NDArray[np.float32],
    widths: NDArray[np.float64],
    prices: Prices,
    first: NDArray[np.int64],
    visible: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Return the levels of least cost with sum_i w_gi h(l_i) <= 1 for every head; the widest where that cannot be.

    Parameters
    ----------
    weights : ndarray[float32], (group, n_steps, n_items)
        Finite, not negative.
    widths : ndarray[float64], (n_levels,) or (n_steps, n_levels)
        h, falling; the steps share which levels are on the convex hull.
    prices : Prices
    first, visible : ndarray[int64], (n_steps,)
        A step has the items [first, visible).

    Returns
    -------
    ndarray[uint8], (n_steps, n_items)
        0 where a step does not have the item.
    """
    return _run(weights, widths, prices, np.full(len(first), -1, np.int64), first, visible)


def fill(
    weights: NDArray[np.float32],
    widths: NDArray[np.float64],
    prices: Prices,
    budgets: NDArray[np.int64],
    first: NDArray[np.int64],
    visible: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Return the levels with the least max_g sum_i w_gi h(l_i) that cost at most the budget (n_steps,); the narrowest where none does.

    The other arguments are those of `cover`.
    """
    return _run(weights, widths, prices, np.maximum(budgets, 0), first, visible)
