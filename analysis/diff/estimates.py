"""From the sums of two results to a figure of each, its change, and the interval of the change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.diff.inference import Change, over_dumps, over_other_steps, over_steps
from precalign.analysis.diff.measures import MEASURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.analysis.diff.measures import Measure
    from precalign.analysis.diff.series import Sums

LEAST_PAIRS = 2
"""Dumps of one name in both sets, from which on they are compared pair by pair."""


@dataclass(frozen=True)
class Compared:
    """One measure in both results; figures are None where nothing can be told.

    Attributes
    ----------
    measure : Measure
    units_a, units_b : int
        Steps or dumps that count.
    value_a, value_b : float or None
    change : Change or None
        Of the figure, b against a; a factor if `measure.relative`.
    same : bool
        Whether every unit is the same, to the bit.
    left_out_a, left_out_b : int
        Rows that have no logarithm.
    """

    measure: Measure
    units_a: int
    units_b: int
    value_a: float | None
    value_b: float | None
    change: Change | None
    same: bool
    left_out_a: int
    left_out_b: int


def compare(a: Sums, b: Sums, *, dumps: bool) -> list[Compared]:
    """Compare every measure.

    Parameters
    ----------
    a, b : Sums
        Units of a single result are steps in their order: figures are ratios of sums over them. Units of a set are dumps: figures are means
        over dumps, each of which weighs the same.
    dumps : bool
        Whether units are dumps.
    """
    same = a.same(b)
    return [(_dumps if dumps else _steps)(i, a, b, same=bool(same[i])) for i in range(len(MEASURES))]


def pairs_of(a: NDArray[np.str_], b: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the names of dumps that are compared pair by pair; none if there are fewer than `LEAST_PAIRS`."""
    common = np.intersect1d(a, b)
    return common if len(common) >= LEAST_PAIRS else common[:0]


def _compared(i: int, a: Sums, b: Sums, units: tuple[int, int], ratios: tuple[float, float], *, same: bool) -> Compared:
    measure = MEASURES[i]
    values = [measure.value(ratio) if np.isfinite(ratio) else None for ratio in ratios]
    left_out = int(a.left_out[i]), int(b.left_out[i])
    return Compared(measure, *units, values[0], values[1], None, same, *left_out)


def _steps(i: int, a: Sums, b: Sums, *, same: bool) -> Compared:
    (ratio_a, influence_a), (ratio_b, influence_b) = (_ratio(s.numerators[i], s.denominators[i]) for s in (a, b))
    compared = _compared(i, a, b, (len(a.units), len(b.units)), (ratio_a, ratio_b), same=same)
    if compared.value_a is None or compared.value_b is None:
        return compared
    change = ratio_b - ratio_a
    if np.array_equal(a.units, b.units):
        return _with(compared, over_steps(change, influence_b - influence_a))
    return _with(compared, over_other_steps(change, influence_a, influence_b))


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return the ratio of two sums, and what each term adds to it: the ratio's error is the mean of that, to first order."""
    total = denominator.sum()
    if total == 0:
        return np.nan, np.zeros_like(numerator)
    ratio = numerator.sum() / total
    return float(ratio), (numerator - ratio * denominator) * (len(denominator) / total)


def _dumps(i: int, a: Sums, b: Sums, *, same: bool) -> Compared:
    names, ratios = [], []
    for held in (a, b):
        counted = held.denominators[i] > 0
        names.append(held.units[counted])
        ratios.append(held.numerators[i][counted] / held.denominators[i][counted])
    common = pairs_of(names[0], names[1])
    if len(common):
        ratios = [ratio[np.searchsorted(name, common)] for name, ratio in zip(names, ratios, strict=True)]
    means = [float(ratio.mean()) if len(ratio) else np.nan for ratio in ratios]
    compared = _compared(i, a, b, (len(ratios[0]), len(ratios[1])), (means[0], means[1]), same=same)
    if compared.value_a is None or compared.value_b is None:
        return compared
    return _with(compared, over_dumps(*ratios, paired=len(common) > 0))


def _with(compared: Compared, change: Change) -> Compared:
    """Express a change of ratios as one of the figure."""
    measure = compared.measure
    ends = [None if end is None else measure.change(end) for end in (change.low, change.high)]
    if measure.form == "saving":
        ends.reverse()
    values = {**compared.__dict__, "change": Change(measure.change(change.value), ends[0], ends[1], change.p)}
    return Compared(**values)
