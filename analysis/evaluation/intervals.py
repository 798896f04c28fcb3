"""Confidence intervals over windows of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

CONFIDENCE = 0.95
METHOD = (
    "95 % intervals: Student's t over the windows' means, because positions of one window are not independent. Perplexity changes are "
    "paired: t over the windows' differences of mean negative log-likelihood, then exponentiated. Agreement: the wider of t over windows "
    "and Clopper-Pearson over positions."
)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; low and high are None where one window tells nothing of the spread."""

    mean: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return plain data."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def over_windows(means: ArrayLike) -> Estimate:
    """Return the mean of window means and Student's interval."""
    from scipy.stats import t

    values = np.asarray(means, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def perplexity(nll: ArrayLike) -> Estimate:
    """Return exp of the mean negative log-likelihood (nats a token) of windows of equal length."""
    return _map(over_windows(nll), np.exp)


def perplexity_change(nll: ArrayLike, reference: ArrayLike) -> Estimate:
    """Return perplexity / reference - 1, paired by window."""
    return _map(over_windows(np.asarray(nll, np.float64) - np.asarray(reference, np.float64)), np.expm1)


def proportion(counts: ArrayLike, sizes: ArrayLike) -> Estimate:
    """Return a share with the wider of two intervals: t over windows, and Clopper-Pearson over positions."""
    from scipy.stats import beta

    hits, of = np.asarray(counts, np.float64), np.asarray(sizes, np.float64)
    by_window = over_windows(hits / of)
    k, n, tail = float(hits.sum()), float(of.sum()), (1 - CONFIDENCE) / 2
    low = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(1 - tail, k + 1, n - k))
    if by_window.low is not None and by_window.high is not None:
        low, high = max(0.0, min(low, by_window.low)), min(1.0, max(high, by_window.high))
    return Estimate(k / n, low, high)


def _map(estimate: Estimate, function: np.ufunc) -> Estimate:
    low, high = (None if end is None else float(function(end)) for end in (estimate.low, estimate.high))
    return Estimate(float(function(estimate.mean)), low, high)
