"""Intervals of differences hold what they promise: exact predictions, other formulas, and known means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import fft, stats

from precalign.analysis.diff.estimates import compare
from precalign.analysis.diff.inference import (
    LEAST_STEPS,
    adjusted,
    cosine_terms,
    over_dumps,
    over_other_steps,
    over_steps,
    variance_of_mean,
)
from precalign.analysis.diff.measures import MEASURES
from precalign.analysis.diff.series import Sums

N, RUNS, DRAWS = 240, 1500, 60_000
SIGMAS = 4.5
"""A seeded run outside of this many standard errors would be one of 150,000."""


def autoregressive(rng, runs, n, phi):
    """Return stationary series of mean 0 and variance 1 whose neighbours correlate by phi, (runs, n)."""
    noise = rng.normal(size=(runs, n))
    series = np.empty((runs, n))
    series[:, 0] = noise[:, 0]
    for t in range(1, n):
        series[:, t] = phi * series[:, t - 1] + math.sqrt(1 - phi**2) * noise[:, t]
    return series


def predicted_coverage(rng, n, phi):
    """Return how often the interval holds the mean: its ends are functions of a few Gaussians whose covariance is known exactly."""
    terms = cosine_terms(n)
    transform = fft.dct(np.eye(n), type=2, norm="ortho", axis=0)[: terms + 1]  # row 0: sqrt(n) times the mean
    covariance = phi ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    drawn = rng.multivariate_normal(np.zeros(terms + 1), transform @ covariance @ transform.T, size=DRAWS)
    half = stats.t.ppf(0.975, terms) * np.sqrt(np.mean(drawn[:, 1:] ** 2, axis=1))
    return float(np.mean(np.abs(drawn[:, 0]) <= half))


@pytest.mark.parametrize(("phi", "least"), [(0.0, 0.945), (0.5, 0.94), (0.8, 0.90)])
def test_intervals_over_steps_hold_the_mean_as_often_as_theory_says(phi, least):
    rng = np.random.default_rng(11)
    predicted = predicted_coverage(rng, N, phi)
    held = naive = 0
    for series in autoregressive(rng, RUNS, N, phi):
        mean = float(series.mean())
        change = over_steps(mean, series - mean)
        held += change.low <= 0 <= change.high
        naive += abs(mean) <= stats.t.ppf(0.975, N - 1) * series.std(ddof=1) / math.sqrt(N)
    tolerance = SIGMAS * math.sqrt(predicted * (1 - predicted) * (1 / RUNS + 1 / DRAWS))
    assert abs(held / RUNS - predicted) <= tolerance
    assert predicted >= least - SIGMAS * math.sqrt(0.05 * 0.95 / DRAWS)
    if phi == 0.8:  # what steps taken for independent would have given
        assert naive / RUNS < 0.6


def test_the_variance_is_that_of_a_cosine_transform():
    series = np.random.default_rng(3).normal(size=97).cumsum()
    variance, freedom = variance_of_mean(series)
    assert freedom == 8  # 0.4 * 97^(2/3) = 8.4
    coefficients = fft.dct(series, type=2, norm="ortho")[1:9]
    assert variance == pytest.approx(np.mean(coefficients**2) / 97, rel=1e-12)
    assert variance_of_mean(series + 1e6)[0] == pytest.approx(variance, rel=1e-6)  # a constant is no noise


def test_too_few_steps_give_no_interval():
    for n in range(1, LEAST_STEPS):
        change = over_steps(0.5, np.arange(n, dtype=float))
        assert (change.value, change.low, change.high, change.p) == (0.5, None, None, None)
    assert over_steps(0.5, np.arange(LEAST_STEPS, dtype=float)).p is not None


def test_no_noise_at_all():
    zero = np.zeros(20)
    assert over_steps(0.0, zero).p == 1
    moved = over_steps(0.25, zero)
    assert (moved.low, moved.high, moved.p) == (0.25, 0.25, 0)
    assert over_other_steps(0.25, zero, zero).p == 0


def test_dumps_are_students_and_welchs():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=7), rng.normal(0.5, 2, size=7)
    change = over_dumps(a, b, paired=True)
    oracle = stats.ttest_rel(b, a)
    ends = oracle.confidence_interval(0.95)
    assert (change.value, change.p) == pytest.approx((float(np.mean(b - a)), oracle.pvalue), rel=1e-12)
    assert (change.low, change.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
    other = rng.normal(size=12)
    change = over_dumps(a, other, paired=False)
    oracle = stats.ttest_ind(other, a, equal_var=False)
    ends = oracle.confidence_interval(0.95)
    assert change.p == pytest.approx(oracle.pvalue, rel=1e-12)
    assert (change.low, change.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
    assert over_dumps(a[:1], b[:1], paired=True).low is None
    assert over_dumps(a[:1], other, paired=False).low is None


def test_adjusted_p_values_are_benjamini_and_yekutielis():
    p = [0.9, None, 0.0001, 0.04, 0.01]
    held = sorted(x for x in p if x is not None)
    harmonic = sum(1 / k for k in range(1, 5))
    expected = {x: min(1, *(held[j] * 4 * harmonic / (j + 1) for j in range(i, 4))) for i, x in enumerate(held)}
    assert adjusted(p) == [None if x is None else pytest.approx(expected[x]) for x in p]
    assert adjusted([None, None]) == [None, None]


def sums(numerators, denominators, units=None):
    n = len(numerators)
    shape = (len(MEASURES), 1)
    return Sums(
        np.arange(n) if units is None else units,
        np.tile(numerators, shape),
        np.tile(denominators, shape),
        np.zeros(len(MEASURES), np.int64),
    )


@pytest.mark.parametrize("paired", [True, False])
def test_ratios_with_correlated_steps_hold_the_true_change(paired):
    """Denominators grow along the sequence as contexts do, and both sides share their steps' noise. The true change is 0.02."""
    rng = np.random.default_rng(7)
    runs, n, phi = 600, 200, 0.5
    shared, own_a, own_b = (autoregressive(rng, runs, n, phi) for _ in range(3))
    full = 1000.0 + 5 * np.arange(n)
    held = wide = 0
    for i in range(runs):
        read_a = full * (0.80 + 0.03 * shared[i] + 0.01 * own_a[i])
        read_b = full * (0.78 + 0.03 * shared[i] + 0.01 * own_b[i])
        units = np.arange(n) if paired else np.arange(1, n + 1)
        saving = compare(sums(read_a, full), sums(read_b, full, units), dumps=False)[2]
        assert saving.measure.name == "bits_saving"
        held += saving.change.low <= 0.02 <= saving.change.high
        wide += saving.change.high - saving.change.low
    predicted = predicted_coverage(rng, n, phi)  # weights change slowly: the ratio behaves as a mean
    allowed = SIGMAS * math.sqrt(0.06 * 0.94 / runs) + 0.01
    if paired:
        assert abs(held / runs - predicted) <= allowed
        assert wide / runs < 0.012  # what both sides share has gone
    else:
        assert held / runs >= predicted - allowed  # takes what they share for noise
        assert wide / runs > 0.02


def test_few_heads_are_called_changed_where_nothing_did():
    """40 heads share most of their noise; in at most 5 % of runs may any be called changed."""
    rng = np.random.default_rng(9)
    runs, heads, n = 300, 40, 128
    wrong = 0
    for _ in range(runs):
        common = rng.normal(size=n)
        found = []
        for _ in range(heads):
            series = common + 0.5 * rng.normal(size=n)
            found.append(over_steps(float(series.mean()), series - series.mean()).p)
        wrong += min(adjusted(found)) <= 0.05
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
