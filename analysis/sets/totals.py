"""What the dumps of a set add up to, from their tables alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from precalign.analysis.results.schema import ERRORS, READS
from precalign.analysis.results.summary import WORST_BY, RuleTotals, WasteTotals, Worst

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

INDEX = ("dump", "layer", "kv_head")


class SetTotals:
    """Counts of all dumps, in one object per rule, as a single result's summary.json has them."""

    def __init__(self, rules: Sequence[str], total_bits: int) -> None:
        self._rules = [RuleTotals(rule) for rule in rules]
        self._waste, self._total_bits = WasteTotals(), total_bits

    def add(self, tables: Mapping[str, pa.Table], numbers: Mapping[str, int]) -> None:
        """Count the rows of a group.

        Parameters
        ----------
        tables : mapping
            Of a set: with the column `dump`.
        numbers : mapping
            Name of a dump -> its place in the order of the set; heads of one error are ranked by it.
        """
        for position, totals in enumerate(self._rules):
            mine = pc.field("rule") == totals.rule
            heads, errors = tables["heads"].filter(mine), tables["errors"].filter(mine)
            if heads.num_rows == 0:
                continue
            counts = [field for column in READS for field in heads.schema.names if _is(column.name, field)]
            sums = {name: int(pc.sum(heads[name]).as_py()) for name in counts}
            by_error = {column.name: errors[column.name].to_numpy() for column in ERRORS}
            totals.count(sums, by_error, _ranked(heads, numbers))
            if position == 0:
                self._waste.count({kind: _added(heads[f"{kind}_wasted_histogram"]) for kind in ("key", "value")})

    def waste(self) -> dict[str, Any] | None:
        """Return the object `waste`; null where no dump has queries."""
        return self._waste.figures(self._total_bits)

    def rules(self, errors: Sequence[Path]) -> list[dict[str, Any]]:
        """Return the list `rules`; `errors` are the finished parts of that table."""
        return [totals.figures(self._total_bits, errors) for totals in self._rules if totals.counted]


def _is(column: str, field: str) -> bool:
    """Whether a field is a column of `READS`, or one of those that it stands for."""
    stem, brace, end = column.partition("{level}")
    return field == column if not brace else field.startswith(stem) and field.endswith(end)


def _ranked(heads: pa.Table, numbers: Mapping[str, int]) -> list[Worst]:
    rows = heads.select([*INDEX, f"{WORST_BY}_p99", "bytes_saving"]).to_pylist()
    return [
        Worst(
            -row[f"{WORST_BY}_p99"],
            (numbers[row["dump"]], row["layer"], row["kv_head"]),
            {name: row[name] for name in INDEX},
            row["bytes_saving"],
        )
        for row in rows
    ]


def _added(histograms: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the sum of histograms of one length."""
    counts: NDArray[np.int64] = np.array(histograms.to_pylist(), np.int64).sum(axis=0)
    return counts
