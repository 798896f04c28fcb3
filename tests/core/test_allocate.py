"""The solver of `certified` and `budget` against all possibilities, and against exact dynamic programming where these are too many."""

import itertools

import numpy as np
import pytest

from precalign.bounds.scores import half_widths
from precalign.formats import BFLOAT16, BINARY16
from precalign.layouts import parse_layout
from precalign.rules.allocate import Prices, cover, fill, hull

ALLOWED = 0.02
LAYOUTS = ("8|4|4", "8|4|4+skip", "6|2|2|2|4+skip", "12|4")


def random_weights(rng, group, n):
    """Several kinds: anything; heads that agree; equal weights; one item far above the others."""
    kind = rng.integers(0, 4)
    weights = 2.0 ** rng.uniform(-6, 12, (group, 1, n))
    if kind == 1:
        weights = weights[:1] * 2.0 ** rng.uniform(-1, 1, (group, 1, n))
    elif kind == 2:
        weights[:] = 2.0 ** rng.uniform(-3, 6, (group, 1, 1))
    elif kind == 3:
        weights[..., 0] *= 1e4
    return weights.astype(np.float32)


def all_choices(weights, h, costs):
    """Cost and largest error over the heads of every choice of levels."""
    choices = np.array(list(itertools.product(range(len(costs)), repeat=weights.shape[-1])))
    return costs[choices].sum(axis=1), (h[choices] @ weights.astype(np.float64).T).max(axis=1)


def one(solve, weights, h, prices, *budget):
    n = np.array([weights.shape[-1]])
    levels = solve(weights, h, prices, *budget, np.zeros(1, np.int64), n)[0]
    return prices.costs[levels].sum(), (weights[:, 0].astype(np.float64) * h[levels]).sum(axis=1).max()


def gaps(layout, group, n, rng):
    """How far cover's cost and fill's error lie above the least there are, relative to them."""
    h, prices = half_widths(layout), Prices.of_bits(layout)
    weights = random_weights(rng, group, n)
    costs, errors = all_choices(weights[:, 0], h, prices.costs)
    cost, error = one(cover, weights, h, prices)
    least = costs[errors <= 1].min()
    assert error <= 1 + 1e-12
    assert cost >= least
    budget = int(rng.integers(prices.costs[0] * n, prices.costs[-1] * n + 1))
    spent, reached = one(fill, weights, h, prices, np.array([budget]))
    best = errors[costs <= budget].min()
    assert spent <= budget
    assert reached >= best * (1 - 1e-12)
    return cost / least - 1 if least else float(cost > 0), reached / best - 1 if best else float(reached > 0)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("group", [1, 2, 3])
def test_within_2_percent_of_all_possibilities(name, group):
    layout = parse_layout(name, BINARY16)
    n = {2: 8, 3: 7, 4: 6, 6: 5}[len(layout.levels)]
    rng = np.random.default_rng((group, len(name)))
    found = np.array([gaps(layout, group, int(rng.integers(1, n + 1)), rng) for _ in range(150)])
    assert found.max() <= ALLOWED


def least_errors(weights, h, prices):
    """The least error for each cost: exact, one head."""
    n_costs = int(prices.costs[-1]) * len(weights) // prices.unit + 1
    least = np.full(n_costs, np.inf)
    least[0] = 0
    for w in weights.astype(np.float64):
        following = np.full(n_costs, np.inf)
        for cost, width in zip(prices.costs // prices.unit, h, strict=True):
            following[cost:] = np.minimum(following[cost:], least[: n_costs - cost] + w * width)
        least = following
    return least


@pytest.mark.parametrize("name", [*LAYOUTS, "6|1|1|1|1|1|1|1|1|1|1+skip"])
def test_within_2_percent_of_dynamic_programming(name):
    layout = parse_layout(name, BINARY16)
    h, prices, rng = half_widths(layout), Prices.of_bits(layout), np.random.default_rng(len(name))
    for _ in range(30):
        n = int(rng.choice([12, 17, 25, 40, 64, 129]))
        weights = (random_weights(rng, 1, n) * 2.0 ** rng.uniform(-4, 2)).astype(np.float32)
        least = least_errors(weights[0, 0], h, prices)
        cost, error = one(cover, weights, h, prices)
        assert error <= 1 + 1e-9
        assert cost <= (1 + ALLOWED) * np.flatnonzero(least <= 1)[0] * prices.unit
        budget = int(rng.integers(prices.costs[0] * n, prices.costs[-1] * n + 1))
        spent, reached = one(fill, weights, h, prices, np.array([budget]))
        assert spent <= budget
        assert reached <= (1 + ALLOWED) * least[: budget // prices.unit + 1].min()


def test_what_cannot_be_is_answered_with_the_nearest():
    h, prices = np.array([2, 0.125, 0.01]), Prices.of([0, 8, 16])
    weights = np.full((1, 1, 3), 1e6, np.float32)
    window = np.zeros(1, np.int64), np.array([3])
    assert (cover(weights, h, prices, *window) == 2).all()
    assert (fill(weights, h, Prices.of([8, 12, 16]), np.array([5]), *window) == 0).all()


def test_steps_have_their_own_items_and_widths():
    layout = parse_layout("8|4|4", BINARY16)
    rng, prices = np.random.default_rng(3), Prices.of_bits(layout)
    weights = (2.0 ** rng.uniform(-4, 6, (2, 3, 40))).astype(np.float32)
    first, visible = np.array([0, 7, 30]), np.array([40, 31, 31])
    h = half_widths(layout) * np.array([[1], [2], [0.5]])
    levels = cover(weights, h, prices, first, visible)
    for step, (low, high) in enumerate(zip(first, visible, strict=True)):
        alone = cover(
            weights[:, step : step + 1, low:high].copy(), h[step], prices, np.zeros(1, np.int64), np.array([high - low])
        )
        assert (levels[step, low:high] == alone[0]).all()
        assert not levels[step, :low].any()
        assert not levels[step, high:].any()


def test_hull():
    assert hull(np.array([0, 8, 12, 16]), np.array([2, 1.9, 0.1, 0])).tolist() == [0, 2, 3]
    assert hull(np.array([12, 16]), np.array([0.1, 0])).tolist() == [0, 1]


def test_costs_of_rows():
    assert Prices.of_rows(parse_layout("8|4|4+skip", BINARY16), 17).costs.tolist() == [0, 17, 26, 35]
    assert Prices.of_bits(parse_layout("12|4", BFLOAT16)).unit == 4


@pytest.mark.long
def test_thousands_of_instances(proof):
    rng, worst, total, cases = np.random.default_rng(20261125), np.zeros(2), np.zeros(2), 0
    for name in LAYOUTS:
        layout = parse_layout(name, BINARY16)
        n = {2: 8, 3: 7, 4: 6, 6: 5}[len(layout.levels)]
        for group in (1, 2, 3, 4):
            for _ in range(1000):
                found = np.array(gaps(layout, group, int(rng.integers(1, n + 1)), rng))
                worst, total, cases = np.maximum(worst, found), total + found, cases + 1
    assert worst.max() <= ALLOWED
    name = "fewest bits and least error of certified and budget against all possibilities, instances; over 2 % above"
    proof(name, cases, int((worst > ALLOWED).sum()))
