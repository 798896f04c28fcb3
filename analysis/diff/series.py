"""From the tables of a result to sums per head and unit: a decode step of a single result, a dump of a set.

Rows of a head stand together in every table (docs/results.md), so tables are gone through once, and memory holds one head of a single result.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from precalign.analysis.diff.measures import COUNTS, ERRORS, MEASURES, columns, sums
from precalign.analysis.readers import printable
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from precalign.analysis.results.stored import Stored


class Where(NamedTuple):
    """A kv head."""

    layer: int
    kv_head: int


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators of every measure.

    Attributes
    ----------
    units : ndarray, (n_units,)
        Steps or names of dumps, ascending.
    numerators, denominators : ndarray[float64], (n_measures, n_units)
    left_out : ndarray[int64], (n_measures,)
        Rows that have no logarithm.
    """

    units: NDArray[Any]
    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]
    left_out: NDArray[np.int64]

    def __add__(self, other: Sums) -> Sums:
        left_out = self.left_out + other.left_out
        if np.array_equal(self.units, other.units):
            totals = self.numerators + other.numerators, self.denominators + other.denominators
            return Sums(self.units, *totals, left_out)
        units = np.union1d(self.units, other.units)
        both = [np.zeros((len(MEASURES), len(units))) for _ in range(2)]
        for held in (self, other):
            at = np.searchsorted(units, held.units)
            for total, part in zip(both, (held.numerators, held.denominators), strict=True):
                total[:, at] += part
        return Sums(units, both[0], both[1], left_out)

    def same(self, other: Sums) -> NDArray[np.bool_]:
        """Return, for each measure, whether every unit is the same, to the bit."""
        if not np.array_equal(self.units, other.units):
            return np.zeros(len(MEASURES), bool)
        equal = (self.numerators == other.numerators) & (self.denominators == other.denominators)
        same: NDArray[np.bool_] = equal.all(axis=1) & (self.left_out == other.left_out)
        return same


def heads(stored: Stored, rule: str) -> Iterator[tuple[Where, Sums]]:
    """Yield every kv head of a result with its sums, in the order of the tables; of a set a head per dump.

    Raises
    ------
    InputError
        If tables are damaged, or do not fit each other.
    """
    index = (["dump"] if stored.is_set else []) + ["layer", "kv_head"]
    unit = "dump" if stored.is_set else "step"
    counts = _groups(stored, "heads" if stored.is_set else "steps", rule, index, unit, COUNTS)
    errors = _groups(stored, "errors", rule, index, unit, ERRORS)
    bits = stored.summary["layout"]["format_bits"]
    for one, other in zip_longest(counts, errors):
        if one is None or other is None or one.key != other.key or not np.isin(other.units, one.units).all():
            raise InputError(f"{printable(stored.path)}: its tables do not fit each other", hint="make it again")
        layer, kv_head = one.key[-2:]
        yield Where(int(layer), int(kv_head)), _joined(one, other, bits)


def by_head(stored: Stored, rule: str) -> Iterator[tuple[Where, Sums]]:
    """Yield every kv head once, its units all steps of a single result or all dumps of a set.

    Raises
    ------
    InputError
        As `heads`.
    """
    if not stored.is_set:
        yield from heads(stored, rule)
        return
    held: dict[Where, list[Sums]] = {}
    for where, sums_ in heads(stored, rule):
        held.setdefault(where, []).append(sums_)
    for where in sorted(held):
        pieces = held[where]
        order = np.argsort(np.concatenate([piece.units for piece in pieces]))
        numerators, denominators = (
            np.concatenate([getattr(piece, name) for piece in pieces], axis=1)[:, order]
            for name in ("numerators", "denominators")
        )
        units = np.concatenate([piece.units for piece in pieces])[order]
        yield where, Sums(units, numerators, denominators, np.sum([piece.left_out for piece in pieces], axis=0))


def _joined(counts: _Rows, errors: _Rows, format_bits: int) -> Sums:
    units = np.unique(counts.units)
    totals = np.zeros((2, len(MEASURES), len(units)))
    left_out = np.zeros(len(MEASURES), np.int64)
    for i, measure in enumerate(MEASURES):
        rows = counts if measure.source == COUNTS else errors
        at = np.searchsorted(units, rows.units)
        numerator, denominator = sums(measure, rows.columns, format_bits)
        totals[:, i] = [np.bincount(at, part, len(units)) for part in (numerator, denominator)]
        left_out[i] = np.count_nonzero(denominator == 0)
    return Sums(units, totals[0], totals[1], left_out)


class _Rows(NamedTuple):
    """Rows of one head."""

    key: tuple[Any, ...]
    units: NDArray[Any]
    columns: dict[str, NDArray[np.float64]]


def _groups(stored: Stored, table: str, rule: str, index: list[str], unit: str, source: str) -> Iterator[_Rows]:
    """Yield each run of rows with one key."""
    wanted = columns(source)
    held: list[_Rows] = []
    names = list(dict.fromkeys([*index, unit, *wanted]))
    for batch in stored.dataset(table).to_batches(columns=names, filter=pc.field("rule") == rule):
        for rows in _runs(batch, index, unit, wanted):
            if held and rows.key != held[0].key:
                yield _merged(held)
                held = []
            held.append(rows)
    if held:
        yield _merged(held)


def _runs(batch: pa.RecordBatch, index: list[str], unit: str, wanted: list[str]) -> Iterator[_Rows]:
    if not batch.num_rows:
        return
    of = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
    keys = [of[name] for name in index]
    changes = np.flatnonzero(np.any([key[1:] != key[:-1] for key in keys], axis=0)) + 1
    units = of[unit].astype(str) if of[unit].dtype == object else of[unit]
    rows = {name: of[name].astype(np.float64) for name in wanted}
    for start, stop in pairwise([0, *changes.tolist(), batch.num_rows]):
        key = tuple(column[start] for column in keys)
        yield _Rows(key, units[start:stop], {name: column[start:stop] for name, column in rows.items()})


def _merged(pieces: list[_Rows]) -> _Rows:
    columns_ = {name: np.concatenate([piece.columns[name] for piece in pieces]) for name in pieces[0].columns}
    return _Rows(pieces[0].key, np.concatenate([piece.units for piece in pieces]), columns_)
