"""One pair (atol, rtol) for all elements of a test: sound for each, and the least allowance in total.

numpy.testing.assert_allclose(got, reference, rtol, atol) passes where |got - reference| <= atol + rtol |reference|. Given each element's
bound b_i and a size r_i <= |reference_i|, the pair that minimises sum_i (atol + rtol r_i) subject to atol + rtol r_i >= b_i, atol, rtol >= 0 is a
linear program in two unknowns: the tangent to the upper hull of the points (r_i, b_i) at the mean of r_i, moved to the border where a
coefficient would be negative.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN = 1 + 2.0**-40
"""Covers the binary64 arithmetic of the test itself: a subtraction, a product, a sum."""


class Allowance(NamedTuple):
    """Arguments of numpy.testing.assert_allclose on binary64 arrays."""

    rtol: float
    atol: float

    def __str__(self) -> str:
        return f"rtol={_up(self.rtol)}, atol={_up(self.atol)}"


def _up(x: float) -> str:
    """Write three digits, rounded up."""
    if x == 0 or not np.isfinite(x):
        return "0" if x == 0 else "np.inf"
    exponent = int(np.floor(np.log10(x)))
    text = f"{x:.2e}"
    if float(text) < x:
        text = f"{x + 0.5 * 10.0 ** (exponent - 2):.2e}"
    return text if float(text) >= x else f"{x + 1.01 * 10.0 ** (exponent - 2):.2e}"


def upper_hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper convex hull of points (n, 2), ascending in the first coordinate."""
    points = points[np.lexsort((-points[:, 1], points[:, 0]))]
    points = points[np.concatenate([[True], np.diff(points[:, 0]) > 0])]
    hull: list[NDArray[np.float64]] = []
    for point in points:
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array(hull)


def _turns_up(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> bool:
    return bool((b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0]))


@dataclass
class Fit:
    """Collects elements block by block; only the hull is kept."""

    hull: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    count: int = 0
    total_size: float = 0.0
    total_bound: float = 0.0
    endless: int = 0

    def add(self, sizes: NDArray[np.float64], bounds: NDArray[np.float64]) -> None:
        """Add elements: lower bounds on |reference|, and what each may differ by."""
        sizes, bounds = sizes.ravel(), bounds.ravel()
        finite = np.isfinite(bounds)
        self.endless += int((~finite).sum())
        sizes, bounds = sizes[finite], bounds[finite]
        self.count += len(sizes)
        self.total_size += float(sizes.sum())
        self.total_bound += float(bounds.sum())
        if len(sizes):
            self.hull = upper_hull(np.concatenate([self.hull, np.stack([sizes, bounds], axis=1)]))

    def allowance(self) -> Allowance:
        """Return the pair; infinite atol where some element has no finite bound."""
        if self.endless or not self.count:
            return Allowance(0.0, np.inf if self.endless else 0.0)
        x, y = self.hull.T
        mean = self.total_size / self.count
        place = int(np.clip(np.searchsorted(x, mean, side="right"), 1, max(len(x) - 1, 1)))
        slope = (y[place] - y[place - 1]) / (x[place] - x[place - 1]) if len(x) > 1 else 0.0
        rtol = max(float(slope), 0.0)
        if y.max() > 0 and np.all(y <= rtol * x):  # the tangent would meet zero below the axis
            rtol = float((y[x > 0] / x[x > 0]).max())
        atol = max(float((y - rtol * x).max()), 0.0)
        return Allowance(rtol * MARGIN, atol * MARGIN)

    @property
    def slack(self) -> float:
        """Mean allowance over mean bound: 1 says that the pair allows no more than the elements' own bounds."""
        pair = self.allowance()
        allowed = pair.atol * self.count + pair.rtol * self.total_size
        return allowed / self.total_bound if self.total_bound else 1.0


def fit(sizes: NDArray[np.float64], bounds: NDArray[np.float64]) -> Allowance:
    """Return the pair for one array of elements."""
    held = Fit()
    held.add(sizes, bounds)
    return held.allowance()
