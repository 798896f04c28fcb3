"""Bounds hold: against 150 bits and exact rationals where cases are few, against binary64 where they are many."""

from fractions import Fraction

import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_decode import WIDE, exact_step, exponent_of, value_of

from precalign.block import Block, Reads
from precalign.bounds import output_bounds, rounding, score_bounds, scores, steps
from precalign.bounds import outputs as outputs_module
from precalign.bounds.search import LAYOUTS, AnyLevels, make_case, search
from precalign.counts import window_max
from precalign.formats import BFLOAT16, BINARY16
from precalign.formats.codes import Kind, kinds
from precalign.inputs import HeadInputs, Steps
from precalign.layouts import parse_layout
from precalign.planes import truncate
from precalign.rules import get_rule
from precalign.rules.base import KeyReading


def emulated(inputs, window, rule, layout, split):
    """Scores, outputs and their bounds of one step of the emulator."""
    block = Block(Reads(inputs, layout), Steps(*(np.array([n], np.int64) for n in window)), split)
    known = block.key_view()
    keys = rule.key_levels(known)
    (s,), exact = block.scores([keys])
    kept = s.copy()
    errors = score_bounds(block, [keys], [s])
    p = block.softmax(s)
    reading = KeyReading(known, keys, errors[0][1])
    view = block.value_view(p, window_max(inputs.value_exponents, *block.window), kept, reading)
    values = rule.value_levels(view, rule.prepass_tokens(view))
    (o,), _ = block.outputs([p], [values], exact)
    (bounds,) = output_bounds(block, [p], {0: errors[0]}, [0], [values], [o])
    return kept[:, 0, window[1] : window[2]], o[:, 0], bounds


def exceeded(inputs, window, rule, layout, split=256):
    """Largest error / bound over query heads: score, largest channel, 2-norm, relative 2-norm; in 150 bits."""
    query, low, high = window
    s, o, bounds = emulated(inputs, window, rule, layout, split)
    worst = 0.0
    keys, values = inputs.keys[low:high].tolist(), inputs.values[low:high].tolist()
    for h, codes in enumerate(inputs.queries[:, query].tolist()):
        exact_s, _, exact_o = exact_step(
            codes, keys, values, inputs.format.name, inputs.scale, inputs.outside_format.name
        )
        with gmpy2.context(WIDE):
            apart = [abs(gmpy2.mpfr(float(a)) - b) for a, b in zip(o[h], exact_o, strict=True)]
            norm, reference = (gmpy2.sqrt(sum(x * x for x in part)) for part in (apart, exact_o))
            errors = [
                max(abs(gmpy2.mpfr(float(a)) - b) for a, b in zip(s[h], exact_s, strict=True)),
                max(apart),
                norm,
                norm / reference if norm else 0,
            ]
            found = (bounds.scores, bounds.output_max, bounds.output_norm, bounds.output_relative)
            for error, bound in zip(errors, found, strict=True):
                if error:
                    worst = max(worst, float(error / gmpy2.mpfr(float(bound[h, 0]))) if np.isfinite(bound[h, 0]) else 0)
    return worst


@pytest.mark.parametrize("index", range(24))
def test_bounds_hold_in_150_bits(index):
    inputs, arguments = make_case(5, index)
    for i in (0, 1):
        window = tuple(int(arguments[name][i]) for name in ("steps", "first", "visible"))
        window = (window[0], max(window[1], window[2] - 70), window[2])
        for rule in (*arguments["rules"][1::3], AnyLevels(seed=index)):
            assert exceeded(inputs, window, rule, arguments["layout"], arguments["split_tokens"]) <= 1


def test_search_finds_no_violation():
    *_, found = search(40_000, seed=3)
    assert found.cases >= 40_000
    assert (found.violations, found.example) == (0, "")
    assert found.vacuous < found.cases / 2
    # Bounds that nothing comes near would hold too: the kinds that conspire attain them.
    assert 1 <= found.tightest_score < 1.001
    assert 1 <= found.tightest_output < 1.02


BREAKS = {
    "narrow reads": (steps, "half_widths", lambda layout: scores.half_widths(layout) * 0.98),
    "chain not counted": (scores, "gamma", lambda k: 1e-12),
    "last products not counted": (scores, "gamma", lambda k: rounding.gamma(k) / 64),
    "sums of outputs not counted": (steps, "gamma", lambda k: 1e-12),
    "log errors halved": (
        steps,
        "perturbation",
        lambda p, x, *rest: (np.multiply(x, np.float32(0.5), out=x), outputs_module.perturbation(p, x, *rest)),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_search_finds_bounds_that_are_too_small(name, monkeypatch):
    module, attribute, broken = BREAKS[name]
    monkeypatch.setattr(module, attribute, broken)
    assert any(found.violations for found in search(60_000, seed=4))


def codes_of(fmt):
    codes = np.arange(1 << fmt.total_bits, dtype=fmt.code_dtype)
    return codes[kinds(codes, fmt) < Kind.INFINITY]


PLAIN = [(fmt, text) for fmt in LAYOUTS for text in LAYOUTS[fmt] if not text.startswith("rebased")]


@pytest.mark.parametrize(("fmt", "text"), PLAIN)
def test_half_widths_over_all_codes(fmt, text):
    """Every finite code at every level; and the widths are attained. Rebased layouts: tests/core/test_stored_formats.py."""
    layout, codes = parse_layout(text, fmt), codes_of(fmt)
    h = scores.half_widths(layout)
    values = np.array([value_of(int(c), fmt.name) for c in codes])
    sizes = np.array([2.0 ** exponent_of(int(c), fmt.name) for c in codes])
    assert h[0] == 2
    assert (np.abs(values) < 2 * sizes).all()
    for level in range(1, len(layout.levels)):
        read = np.array([value_of(int(c), fmt.name) for c in truncate(codes, layout, level)])
        assert (np.abs(read - values) / sizes).max() == h[level]


def test_constants():
    with gmpy2.context(precision=200):
        log2e = gmpy2.mpfr(float(np.array(0x3FB8AA3B, np.uint32).view(np.float32)))
        error = abs(log2e * gmpy2.log(gmpy2.mpfr(2)) - 1)
        assert 0 < error < rounding.LOG2E_ERROR
        u = gmpy2.mpfr(2) ** -24
        assert (1 + u) ** 2 * (1 + error) - 1 < gmpy2.mpfr(rounding.EXPONENT_ERROR)
        assert -gmpy2.log(1 - gmpy2.mpfr("0.8") * 2**-23) < gmpy2.mpfr(rounding.WEIGHT_ERROR)
    for k in (1, 2, 64, 300, 10_000):
        assert Fraction(rounding.gamma(k)) >= Fraction(k, 2**24) / (1 - Fraction(k, 2**24))
    with pytest.raises(ValueError, match="no useful bound"):
        rounding.gamma(1 << 23)


finite16 = st.integers(0, 0xFFFF).filter(lambda c: (c & 0x7C00) != 0x7C00)


@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(1, 6), st.integers(1, 4), st.sampled_from(LAYOUTS[BINARY16]), st.integers(0, 1 << 20))
def test_score_bounds_over_exact_rationals(data, dim, n, text, seed):
    """Any finite binary16 codes and levels; s_t - s*_t as a rational."""
    k, q = (np.array(data.draw(st.lists(finite16, min_size=m, max_size=m)), np.uint16) for m in (n * dim, dim))
    inputs = HeadInputs(k.reshape(n, dim), k.reshape(n, dim), q.reshape(1, 1, dim), BINARY16, 0.3)
    s, _, bounds = emulated(inputs, (0, 0, n), AnyLevels(seed=seed), parse_layout(text, BINARY16), 64)
    for t in range(n):
        terms = zip(q.tolist(), inputs.keys[t].tolist(), strict=True)
        exact = Fraction(0.3) * sum(
            Fraction(value_of(a, "binary16")) * Fraction(value_of(b, "binary16")) for a, b in terms
        )
        assert abs(Fraction(float(s[0, t])) - exact) <= Fraction(float(bounds.scores[0, 0]))


def test_one_token_is_bounded_by_its_own_read():
    """One token: p = 1 whatever its score, so that only the value's read and two roundings are left."""
    keys = np.array([[0x3C01, 0x7BFF]], np.uint16)
    inputs = HeadInputs(keys, keys, keys[None], BINARY16, 1.0)
    _, _, bounds = emulated(inputs, (0, 0, 1), get_rule("full"), parse_layout("8|4|4", BINARY16), 256)
    assert bounds.output_relative[0, 0] < 1e-4


def test_scores_that_overflow_promise_nothing():
    codes = np.full((3, 2), 0x7F00, np.uint16)
    inputs = HeadInputs(codes, codes, codes[None], BFLOAT16, 1.0)
    with np.errstate(all="ignore"):
        _, _, bounds = emulated(inputs, (0, 0, 3), AnyLevels(seed=1), parse_layout("12|4+skip", BFLOAT16), 256)
    assert np.isinf(bounds.output_relative).all()


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_search_of_millions(part, proof):
    found = None
    for found in search(3_000_000, seed=20261124 + part):  # noqa: B007 - the last one counts
        pass
    name = "certified bounds on scores and outputs, adversarial search, (step, query head, rule) against binary64"
    proof(f"{name}, part {part + 1} of 4", found.cases, found.violations)
