"""`certified` keeps its promise, `budget` its budget, and every byte read twice is counted; the yardstick is a lower limit."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import gmpy2
import numpy as np
import pytest
from safetensors.numpy import load_file

from precalign import block
from precalign.bounds.search import make_case
from precalign.errors import UsageError
from precalign.formats import BINARY16
from precalign.inputs import HeadInputs
from precalign.layouts import parse_layout
from precalign.profile import profile_head
from precalign.rules import Rule, get_rule
from precalign.rules.certified import Certified
from precalign.rules.static import Static
from precalign.yardstick import _log2, water_fill

DEMO = Path(__file__).resolve().parents[2] / "analysis/demo/novel.safetensors"
HELD = 1 - 2.0**-22
PROMISES = [
    get_rule(f"certified:{text}")
    for text in ("tolerance=0.1", "tolerance=0.01", "tolerance=1e-3,spread=0.3", "tolerance=0.02,relative=0")
]


def broken_promises(inputs, arguments, rules=PROMISES):
    """Steps of a head in which a rule's bound exceeds its tolerance while a full read would meet it for every query head."""
    with np.errstate(all="ignore"):
        full, *found = profile_head(inputs, **(arguments | {"rules": [get_rule("full"), *rules]}))
    broken = 0
    for rule, profile in zip(rules, found, strict=True):
        possible, bound = (p.output_bound if rule.relative else p.output_max_bound for p in (full, profile))
        can = (possible <= rule.tolerance * HELD).all(axis=1)
        broken += int((can & ~(bound <= rule.tolerance).all(axis=1)).sum())
        assert profile.attempts.max() <= 3
    return broken


@pytest.mark.parametrize("index", range(16))
def test_the_promise_holds_on_random_and_adversarial_heads(index):
    inputs, arguments = make_case(20261125, index)
    assert broken_promises(inputs, arguments) == 0


@lru_cache(maxsize=1)
def demo_heads():
    tensors = load_file(DEMO)
    heads = []
    for layer in sorted(int(name.split(".")[1]) for name in tensors if name.endswith("keys")):
        k, v, q = (
            np.ascontiguousarray(tensors[f"layers.{layer}.{what}"][0]).view(np.uint16)
            for what in ("keys", "values", "queries")
        )
        heads.append(HeadInputs(k[0], v[0], q[: len(q) // len(k)].copy(), BINARY16, 0.125))
    return heads


@pytest.mark.parametrize("name", ["8|4|4", "6|2|2|2|4+skip"])
def test_the_promise_holds_on_real_heads(name):
    steps = np.arange(9, 896, 59)
    for inputs in demo_heads():
        arguments = {"steps": steps, "visible": steps + 1, "layout": parse_layout(name, BINARY16)}
        assert broken_promises(inputs, arguments) == 0


def test_a_rule_that_takes_its_estimates_for_proofs_is_caught():
    @dataclass(frozen=True)
    class Gullible(Certified):
        def accepts(self, attempt):
            return np.ones(len(attempt.key_levels), bool)

    heads = (make_case(20261125, index) for index in range(8))
    assert sum(broken_promises(*head, [Gullible(tolerance=0.01)]) for head in heads) > 0


def test_one_head_of_the_group_is_not_enough():
    @dataclass(frozen=True)
    class FirstHead(Certified):
        def accepts(self, attempt):
            met = attempt.bounds.output_relative[0] <= self.tolerance
            return met | (attempt.number == 3)

    heads = (make_case(20261125, index) for index in range(24))
    assert sum(broken_promises(*head, [FirstHead(tolerance=0.01)]) for head in heads) > 0


def moved(traffic):
    return sum(part.bytes for part in (traffic.keys, traffic.values, traffic.metadata, traffic.prepass))


@pytest.mark.parametrize("index", range(12))
@pytest.mark.parametrize("saving", [0.1, 0.3])
def test_the_budget_is_kept(index, saving):
    inputs, arguments = make_case(7, index)
    rules = [get_rule(f"budget:saving={saving}"), Narrowest()]
    with np.errstate(all="ignore"):
        found, narrowest = profile_head(inputs, **(arguments | {"rules": rules}))
    traffic = found.traffic
    allowed = (1 - saving) * (traffic.full_keys.bytes + traffic.full_values.bytes)
    least = moved(narrowest.traffic) + traffic.metadata.bytes - narrowest.traffic.metadata.bytes
    # A page seen in part may round each channel's row up, once for each end and plane.
    loose = 2 * len(arguments["layout"].widths) * inputs.keys.shape[1]
    assert (moved(traffic) <= np.maximum(allowed, least + loose)).all()


@dataclass(frozen=True)
class Narrowest(Rule):
    """The first level everywhere."""

    name = "narrowest"

    def key_levels(self, view):
        return np.zeros(view.key_max_exponents.shape, np.uint8)

    def value_levels(self, view, prepass):
        return np.zeros(view.probs.shape[1:], np.uint8)


def test_a_budget_buys_as_much_as_it_can():
    """What is left would not pay for the next plane of one more token."""
    layout, steps = parse_layout("8|4|4", BINARY16), np.array([447])
    rule = get_rule("budget:saving=0.25")
    inputs = demo_heads()[0]
    (profile,) = profile_head(inputs, steps=steps, visible=steps + 1, rules=[rule], layout=layout)
    left = 0.75 * 448 * 64 * 4 - moved(profile.traffic)[0]
    assert 0 <= left < 32


PLAN = ((12, 8), (12, 12), (16, 12))


@dataclass(frozen=True)
class Stubborn(Rule):
    """Goes through PLAN; steps with an odd number of visible tokens are content with the first outcome."""

    name = "stubborn"

    def _bits(self, view):
        return PLAN[0 if view.previous is None else view.previous.number]

    def key_levels(self, view):
        return np.full(view.key_max_exponents.shape, view.layout.levels.index(self._bits(view)[0]), np.uint8)

    def value_levels(self, view, prepass):
        return np.full(view.probs.shape[1:], view.layout.levels.index(self._bits(view.keys.view)[1]), np.uint8)

    def accepts(self, attempt):
        odd = (attempt.value_levels != 255).all(axis=1) & (self.seen[-1] % 2 == 1)
        return odd | (attempt.number == len(PLAN))

    seen: ClassVar[list] = []


def test_what_is_read_again_is_counted():
    layout, steps = parse_layout("8|4|4", BINARY16), np.array([99, 100, 201, 450])
    inputs = demo_heads()[0]
    rules = [Static(key_bits=k, value_bits=v) for k, v in PLAN]
    for step in steps:
        Stubborn.seen.append(step + 1)
        found, first, second, third = profile_head(
            inputs, steps=np.array([step]), visible=np.array([step + 1]), rules=[Stubborn(), *rules], layout=layout
        )
        traffic, content = found.traffic, step % 2 == 0
        last = first if content else third
        assert found.attempts[0] == (1 if content else 3)
        for part in ("keys", "values", "metadata"):
            assert getattr(traffic, part).bytes == getattr(last.traffic, part).bytes
        # The second attempt kept the keys, the third read them anew.
        lost = 0 if content else first.traffic.values.bytes + second.traffic.values.bytes + second.traffic.keys.bytes
        assert traffic.prepass.bytes == lost
        assert traffic.scores_bytes == first.traffic.scores_bytes * (1 if content else 2)
        for name in (
            "output_error_vs_exact",
            "output_bound",
            "score_bound",
            "score_error_max_vs_full",
            "prob_tv_vs_full",
            "optimal_bits",
        ):
            assert (getattr(found, name) == getattr(last, name)).all()


def test_blocks_and_company_change_nothing():
    inputs, arguments = make_case(20261125, 5)
    rule = get_rule("certified:tolerance=0.003")
    with np.errstate(all="ignore"):
        (alone,) = profile_head(inputs, **(arguments | {"rules": [rule], "memory_limit_bytes": 1}))
        together = profile_head(inputs, **(arguments | {"rules": [get_rule("full"), rule]}))[1]
    assert (alone.traffic.values.bytes == together.traffic.values.bytes).all()
    assert (alone.attempts == together.attempts).all()
    assert (alone.output_bound == together.output_bound).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("certified:tolerance=0", "tolerance must be positive"),
        ("certified:tolerance=nan", "tolerance must be positive"),
        ("certified:relative=2", "relative must be"),
        ("certified:spread=-1", "spread must be positive"),
        ("budget:saving=0.5", "below 0.5"),
        ("budget:saving=-0.1", "at least 0"),
        ("budget:spread=0", "spread must be positive"),
    ],
)
def test_bad_parameters(text, said):
    with pytest.raises(UsageError, match=said):
        get_rule(text).check(parse_layout("8|4|4", BINARY16))


def test_optimal_is_no_rule():
    with pytest.raises(UsageError, match="yardstick"):
        get_rule("optimal")


def dual(weights, costs, error, total):
    """The least bits by Lagrange duality over a fine grid of bits: another way to the same number, from below."""
    bits = np.concatenate([np.linspace(0, total - 1 / np.log(2), 3000), [total]])
    h = np.where(bits < total, 2.0 ** (1 - bits), 0)
    best = 0.0
    for price in 2.0 ** np.linspace(-40, 40, 1601):
        each = (costs[:, None] * bits + price * weights[:, None] * h).min(axis=1).sum()
        best = max(best, each - price * error)
    return best


def test_water_filling_against_its_dual():
    rng = np.random.default_rng(5)
    for _ in range(12):
        dim, n = int(rng.integers(1, 6)), int(rng.integers(1, 30))
        keys, probs = (
            2.0 ** rng.uniform(-12, 4, (1, 1, dim)),
            (2.0 ** rng.uniform(-12, 4, (1, 1, n))).astype(np.float32),
        )
        sizes = np.full(n, 2.0 ** rng.integers(-3, 3), np.float32)
        values = dim * np.float64(probs) * sizes
        weights, costs = np.concatenate([keys[0, 0], values[0, 0]]), np.concatenate([np.full(dim, n), np.full(n, dim)])
        error = 2 * weights.sum() * 2.0 ** rng.uniform(-18, 1)
        window = np.zeros(1, np.int64), np.array([n])
        found = water_fill(keys, probs, sizes, dim, *window, np.full((1, 1, 1), error), 16)[0, 0, 0]
        least = dual(weights, costs.astype(float), error, 16)
        # A sixteenth of a binade, and the step when a number becomes whole, of those numbers that share a bucket with the threshold.
        assert least - 0.02 * (1 + least) <= found <= least + costs.max() * 1.5


def test_logarithms_of_the_yardstick():
    rng = np.random.default_rng(6)
    edges = np.outer([1, 1 - 2.0**-53, 1 + 2.0**-52, 2**0.5, 2**-0.5], 2.0 ** np.arange(-149, 351)).ravel()
    for x in np.concatenate([edges, 2.0 ** rng.uniform(-149, 350, 5000)]):
        with gmpy2.context(precision=120):
            exact = gmpy2.log2(gmpy2.mpfr(float(x)))
            assert abs(gmpy2.mpfr(float(_log2(float(x)))) - exact) <= max(
                2.0**-53, 2 * float(np.spacing(abs(float(exact))))
            )


@pytest.mark.parametrize("index", range(6))
def test_no_read_is_below_the_yardstick(index):
    inputs, arguments = make_case(11, index)
    with np.errstate(all="ignore"):
        for profile in profile_head(inputs, **arguments):
            read = profile.traffic.key_ideal_bits + profile.traffic.value_ideal_bits
            assert (profile.optimal_bits <= read).all()


@pytest.mark.parametrize("index", [11, 16, 21])
def test_memory_that_no_step_sees_decides_nothing(index, monkeypatch):
    """Working arrays are not initialised: what they hold where a step sees no token must not reach a rule."""
    found = []
    for filling in (0.0, np.nan):
        monkeypatch.setattr(block, "aligned_empty", lambda shape, dtype, held=filling: np.full(shape, held, dtype))
        inputs, arguments = make_case(77, index)
        with np.errstate(all="ignore"):
            found.append(profile_head(inputs, **arguments))
    for zeros, nans in zip(*found, strict=True):
        np.testing.assert_array_equal(zeros.key_level_channels, nans.key_level_channels, zeros.rule)
        np.testing.assert_array_equal(zeros.value_level_tokens, nans.value_level_tokens, zeros.rule)
        np.testing.assert_array_equal(zeros.output_bound, nans.output_bound, zeros.rule)
