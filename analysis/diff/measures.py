"""The figures that two results are compared by. Each is a ratio of two sums over rows, so any scope follows from its rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Columns = Mapping[str, NDArray[np.float64]]

COUNTS, ERRORS = "counts", "errors"


@dataclass(frozen=True)
class Measure:
    """A figure: `numerator / denominator`, or one minus that, or two to the power of that.

    Attributes
    ----------
    name : str
        As in the tables, where it is a column there.
    label : str
        For people.
    source : str
        `COUNTS` (a row per step and kv head) or `ERRORS` (a row per step and query head).
    numerator, denominator : tuple of str
        Columns that are added up; for `ERRORS` the one column whose binary logarithm is.
    better : int
        1 if more is better, -1 if less is.
    form : str
        "saving": 1 - ratio. "bits": the ratio. "error": 2^ratio, a geometric mean.
    """

    name: str
    label: str
    source: str
    numerator: tuple[str, ...]
    denominator: tuple[str, ...]
    better: int
    form: str

    @property
    def relative(self) -> bool:
        """Whether a change is a factor rather than a difference."""
        return self.form == "error"

    def value(self, ratio: float) -> float:
        """Return the figure as people read it, of a ratio of sums."""
        if self.form == "saving":
            return 1 - ratio
        return ratio if self.form == "bits" else float(np.exp2(ratio))

    def change(self, difference: float) -> float:
        """Return the change of the figure, of a difference of ratios (b - a): a factor for an error."""
        if self.form == "saving":
            return 0.0 - difference
        return difference if self.form == "bits" else float(np.exp2(difference))


_READ = ("key", "value", "metadata", "prepass")


def _moved(unit: str, label: str) -> Measure:
    full = (f"full_key_{unit}", f"full_value_{unit}")
    return Measure(f"{unit}_saving", label, COUNTS, tuple(f"{part}_{unit}" for part in _READ), full, 1, "saving")


FULL = ("full_ideal_bits",)
MEASURES = (
    Measure("key_bits_mean", "bits read per key", COUNTS, ("key_ideal_bits",), FULL, -1, "bits"),
    Measure("value_bits_mean", "bits read per value", COUNTS, ("value_ideal_bits",), FULL, -1, "bits"),
    Measure("bits_saving", "bits saved", COUNTS, ("key_ideal_bits", "value_ideal_bits"), FULL, 1, "saving"),
    _moved("bytes", "bytes saved"),
    _moved("sectors", "sectors saved"),
    Measure("output_error", "output error", ERRORS, ("output_relative_error_to_exact",), (), -1, "error"),
    Measure("output_bound", "proven output error", ERRORS, ("output_relative_bound",), (), -1, "error"),
)
"""In the order in which they are shown."""
NAMES = tuple(measure.name for measure in MEASURES)


def columns(source: str) -> list[str]:
    """Return the columns of the tables that the measures of a source need."""
    return list(dict.fromkeys(n for m in MEASURES if m.source == source for n in (*m.numerator, *m.denominator)))


def sums(measure: Measure, rows: Columns, format_bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return numerator and denominator of every row; an error that is 0 or infinite has no logarithm and counts in neither.

    Parameters
    ----------
    measure : Measure
    rows : mapping
        Columns of the source.
    format_bits : int
        Width of a number of the plain cache: a full read has that many bits of a key and as many of a value.
    """
    if measure.source == COUNTS:
        scale = 2 * format_bits if measure.form == "bits" else 1
        return scale * _added(rows, measure.numerator), _added(rows, measure.denominator)
    errors = rows[measure.numerator[0]]
    counted = (errors > 0) & np.isfinite(errors)
    return np.log2(errors, out=np.zeros_like(errors), where=counted), counted.astype(np.float64)


def _added(rows: Columns, names: tuple[str, ...]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum([rows[name] for name in names], axis=0, dtype=np.float64)
    return total
