"""How far a difference would move with other steps, or with other dumps.

Steps of one dump follow one another: what attention needs at one step resembles the step before. The variance of a mean over steps is
therefore its long-run variance, here by the equal-weighted cosine estimator: the series is projected onto nu = 0.4 T^(2/3) type II cosines,
the mean of their squares estimates the long-run variance, and the mean over its standard error has Student's t with nu degrees of freedom.
E. Lazarus, D. J. Lewis, J. H. Stock, M. W. Watson, "HAR Inference: Recommendations for Practice", Journal of Business & Economic Statistics
36(4), 2018, pp. 541-559. A slow drift along the sequence counts as noise, which widens the interval.

Dumps are taken as drawn independently: Student's t over the differences of dumps of one name, else Welch's over the two samples.

Heads of one dump share its steps, so their tests depend on each other in a way nobody knows. Which heads changed is decided by Benjamini and
Yekutieli's procedure, "The control of the false discovery rate in multiple testing under dependency", Annals of Statistics 29(4), 2001, which holds under
any dependence: among the heads called changed, at most 5 % are expected not to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
FALSE_DISCOVERIES = 0.05
LEAST_STEPS = 8
"""Fewer say nothing of how they vary."""
STEPS_METHOD = (
    "95 % intervals over steps: long-run variance by the equal-weighted cosine estimator with 0.4 T^(2/3) terms, Student's t (Lazarus, Lewis, "
    "Stock, Watson 2018), because steps resemble their neighbours."
)
DUMPS_METHOD = {
    True: "95 % intervals over dumps: Student's t over the differences of dumps of one name.",
    False: "95 % intervals over dumps: Welch's t over two samples, because the dumps have not the same names.",
}
HEADS_METHOD = "Heads beyond noise: Benjamini and Yekutieli 2001, false discovery rate 5 % under any dependence."


@dataclass(frozen=True)
class Change:
    """A difference, its interval and its two-sided p-value against no difference; None where there is too little to tell."""

    value: float
    low: float | None
    high: float | None
    p: float | None


def over_steps(change: float, influence: NDArray[np.float64]) -> Change:
    """Return a difference of means or ratios over the same steps.

    Parameters
    ----------
    change : float
    influence : ndarray[float64], (n_steps,)
        What each step adds: `change` is the mean of a series whose deviation from its mean this is.
    """
    variance, freedom = variance_of_mean(influence)
    return _student(change, variance, freedom)


def over_other_steps(change: float, a: NDArray[np.float64], b: NDArray[np.float64]) -> Change:
    """Return a difference between two sets of steps, `influence` of each, with Welch and Satterthwaite's degrees of freedom."""
    return _welch(change, variance_of_mean(a), variance_of_mean(b))


def over_dumps(a: ArrayLike, b: ArrayLike, *, paired: bool) -> Change:
    """Return the difference of the means of two samples of dumps, b - a; NaN dumps are left out by the caller."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if paired:
        differences = second - first
        return _student(float(differences.mean()), *_plain_variance(differences))
    return _welch(float(second.mean() - first.mean()), _plain_variance(first), _plain_variance(second))


def variance_of_mean(series: NDArray[np.float64]) -> tuple[float, float]:
    """Return the variance of the mean of a series whose neighbours are correlated, and its degrees of freedom; NaN and 0 for a short one.

    Parameters
    ----------
    series : ndarray[float64], (n_steps,)
        In the order of steps.
    """
    n = len(series)
    if n < LEAST_STEPS:
        return math.nan, 0.0
    projections = _cosines(n) @ series
    return float(np.mean(projections**2)) / n, float(len(projections))


def cosine_terms(n: int) -> int:
    """Return how many cosines a series of n steps is projected onto."""
    return max(1, int(0.4 * n ** (2 / 3)))


@lru_cache(maxsize=8)
def _cosines(n: int) -> NDArray[np.float64]:
    """Return the cosines, (terms, n), each of norm 1 and orthogonal to a constant."""
    j, t = np.arange(1, cosine_terms(n) + 1)[:, None], np.arange(n)[None, :]
    basis: NDArray[np.float64] = math.sqrt(2 / n) * np.cos(np.pi * j * (t + 0.5) / n)
    return basis


def _plain_variance(values: NDArray[np.float64]) -> tuple[float, float]:
    n = len(values)
    return (float(values.var(ddof=1)) / n, n - 1.0) if n > 1 else (math.nan, 0.0)


def _welch(change: float, a: tuple[float, float], b: tuple[float, float]) -> Change:
    (variance_a, freedom_a), (variance_b, freedom_b) = a, b
    variance = variance_a + variance_b
    if not (freedom_a and freedom_b):
        return Change(change, None, None, None)
    if variance == 0:
        return _student(change, 0.0, freedom_a + freedom_b)
    freedom = variance**2 / (variance_a**2 / freedom_a + variance_b**2 / freedom_b)
    return _student(change, variance, freedom)


def _student(change: float, variance: float, freedom: float) -> Change:
    from scipy.stats import t

    if not freedom or not math.isfinite(change) or not math.isfinite(variance):
        return Change(change, None, None, None)
    error = math.sqrt(variance)
    if error == 0:
        return Change(change, change, change, 1.0 if change == 0 else 0.0)
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Change(change, change - half, change + half, float(2 * t.sf(abs(change) / error, freedom)))


def adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Benjamini and Yekutieli's adjusted p-values; those that are None are no tests and stay None."""
    from scipy.stats import false_discovery_control

    tests = [p for p in p_values if p is not None]
    if not tests:
        return list(p_values)
    found = iter(false_discovery_control(tests, method="by").tolist())
    return [None if p is None else next(found) for p in p_values]
