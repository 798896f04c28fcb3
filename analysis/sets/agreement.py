"""Which layers and heads agree across dumps: mean and spread of what each needs, saves and loses, with intervals.

The dump is the unit: heads of one dump share its prompt and are not independent of each other. A figure of a head is one
number per dump; its mean over n dumps has the 95 % interval of Student's t with n - 1 degrees of freedom. Errors are
heavy-tailed, so their logarithms are averaged: the mean is geometric, its spread a factor.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CONFIDENCE = 0.95
METHOD = (
    "mean over dumps with the 95 % interval of Student's t (n - 1 degrees of freedom), the dump being the unit; spread is the standard "
    "deviation over dumps; errors are averaged as logarithms, so their mean is geometric and their spread a factor"
)
MEASURES = ("bits_mean", "key_bits_mean", "value_bits_mean", "bytes_saving", "output_relative_error_to_exact_median")
"""What is compared, `bits_mean` being bits read per number, keys and values alike. The last one is averaged as a logarithm."""
LOGARITHMIC = "output_relative_error_to_exact_median"
COLUMNS = ("dump", "rule", "layer", "kv_head", "key_ideal_bits", "value_ideal_bits", "full_ideal_bits")
MOVED = tuple(f"{part}_bytes" for part in ("key", "value", "metadata", "prepass"))
FULL = ("full_key_bytes", "full_value_bytes")
BATCH_ROWS = 1 << 14


@dataclass
class Moments:
    """Mean and spread of numbers that come one at a time, cell by cell (Welford's recurrence).

    Attributes
    ----------
    n, mean, squares : ndarray, (n_cells,)
        How many, their mean, and the sum of squared distances from it.
    """

    n: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, cells: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Count one number in each of some cells, all different; numbers that are not finite are left out."""
        if len(cells) and cells.max() >= len(self.n):
            more = int(cells.max()) + 1 - len(self.n)
            self.n = np.concatenate([self.n, np.zeros(more, np.int64)])
            self.mean, self.squares = (np.concatenate([held, np.zeros(more)]) for held in (self.mean, self.squares))
        finite = np.isfinite(values)
        cells, values = cells[finite], values[finite]
        self.n[cells] += 1
        away = values - self.mean[cells]
        self.mean[cells] += away / self.n[cells]
        self.squares[cells] += away * (values - self.mean[cells])

    def figures(self, cell: int, *, logarithmic: bool) -> dict[str, float | int | None]:
        """Return n, mean, spread, low and high of a cell; what one number does not tell is None."""
        from scipy.stats import t

        if cell >= len(self.n) or self.n[cell] == 0:
            return {"n": 0, "mean": None, "spread": None, "low": None, "high": None}
        n, mean = int(self.n[cell]), float(self.mean[cell])
        spread = low = high = None
        if n > 1:
            spread = float(np.sqrt(self.squares[cell] / (n - 1)))
            half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread / float(np.sqrt(n))
            low, high = mean - half, mean + half
        found = {"mean": mean, "spread": spread, "low": low, "high": high}
        if logarithmic:
            found = {what: None if value is None else float(np.exp(value)) for what, value in found.items()}
        return {"n": n, **found}


class Cells:
    """Moments of every measure, for cells with any key."""

    def __init__(self) -> None:
        self._index: dict[tuple[Any, ...], int] = {}
        self._moments = {name: Moments() for name in MEASURES}

    def add(self, keys: Sequence[tuple[Any, ...]], values: Mapping[str, NDArray[np.float64]]) -> None:
        """Count what one dump gives for some cells."""
        cells = np.array([self._index.setdefault(key, len(self._index)) for key in keys], np.int64)
        for name, moments in self._moments.items():
            moments.add(cells, values[name])

    def rows(self) -> Iterator[tuple[tuple[Any, ...], dict[str, dict[str, Any]]]]:
        """Yield every cell in the order of its key, with the figures of every measure."""
        for key in sorted(self._index):
            cell = self._index[key]
            yield key, {name: m.figures(cell, logarithmic=name == LOGARITHMIC) for name, m in self._moments.items()}


@dataclass
class Agreement:
    """What dumps have in common.

    Attributes
    ----------
    rules : tuple of str
    whole, layers, heads : Cells
        By (rule,), (rule, layer) and (rule, layer, kv head), the rule by its number.
    """

    rules: tuple[str, ...]
    whole: Cells = field(default_factory=Cells)
    layers: Cells = field(default_factory=Cells)
    heads: Cells = field(default_factory=Cells)

    def summary(self) -> dict[str, Any]:
        """Return the object `over_dumps` of summary.json."""
        rules = [{"rule": self.rules[number], **figures} for (number,), figures in self.whole.rows()]
        return {"method": METHOD, "rules": rules}

    def by_layer(self, rule: str) -> list[dict[str, Any]]:
        """Return a row per layer."""
        number = self.rules.index(rule)
        return [{"layer": key[1], **figures} for key, figures in self.layers.rows() if key[0] == number]

    def by_head(self, rule: str) -> list[dict[str, Any]]:
        """Return a row per head, those that disagree most across dumps first: by the spread of the bits they need."""
        number = self.rules.index(rule)
        rows = [
            {"layer": key[1], "kv_head": key[2], **figures}
            for key, figures in self.heads.rows()
            if key[0] == number and figures["bits_mean"]["n"]
        ]
        return sorted(rows, key=lambda row: (-(row["bits_mean"]["spread"] or 0), row["layer"], row["kv_head"]))


def over_dumps(heads: Sequence[Path], rules: Sequence[str], total_bits: int) -> Agreement:
    """Go through the parts of the table `heads`, holding the rows of one dump and a batch.

    Parameters
    ----------
    heads : sequence of Path
    rules : sequence of str
    total_bits : int
        Of a number in the plain cache.
    """
    found = Agreement(tuple(rules))
    for dump in _dump_by_dump(heads):
        rows = dump.filter(pc.is_valid(dump["rule"]))
        if rows.num_rows:
            _count(found, rows, total_bits)
    return found


def _dump_by_dump(paths: Sequence[Path]) -> Iterator[pa.Table]:
    columns = [*COLUMNS, *MOVED, *FULL, LOGARITHMIC]
    held: list[pa.Table] = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                held.append(pa.Table.from_batches([batch]))
                rows = pa.concat_tables(held)
                names = rows["dump"].to_numpy()
                cuts = np.flatnonzero(names[1:] != names[:-1]) + 1
                begin = 0
                for end in cuts.tolist():
                    yield rows.slice(begin, end - begin)
                    begin = end
                held = [rows.slice(begin)]
    if held and held[0].num_rows:
        yield pa.concat_tables(held)


def _count(found: Agreement, rows: pa.Table, total_bits: int) -> None:
    columns = {name: rows[name].to_numpy() for name in rows.schema.names if name not in {"dump", "rule"}}
    numbers = [found.rules.index(rule) for rule in rows["rule"].to_pylist()]
    layers, kv_heads = columns["layer"].tolist(), columns["kv_head"].tolist()
    for cells, keys in (
        (found.whole, [(number,) for number in numbers]),
        (found.layers, list(zip(numbers, layers, strict=True))),
        (found.heads, list(zip(numbers, layers, kv_heads, strict=True))),
    ):
        members: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, key in enumerate(keys):
            members[key].append(row)
        cells.add(list(members), _measures(columns, list(members.values()), total_bits))


def _measures(
    columns: Mapping[str, NDArray[Any]], members: list[list[int]], total_bits: int
) -> dict[str, NDArray[np.float64]]:
    """Return every measure of one dump for some cells; a cell is heads added up, its error the geometric mean of theirs."""
    order = np.concatenate([np.array(rows) for rows in members])
    starts = np.cumsum([0, *(len(rows) for rows in members[:-1])])

    def total(*names: str) -> NDArray[np.float64]:
        return np.add.reduceat(np.sum([columns[name][order] for name in names], axis=0, dtype=np.float64), starts)

    key, value, full = total("key_ideal_bits"), total("value_ideal_bits"), total("full_ideal_bits")
    with np.errstate(divide="ignore", invalid="ignore"):  # an error of 0 has no logarithm and is left out
        logs = np.log(columns[LOGARITHMIC][order].astype(np.float64))
    return {
        "bits_mean": (key + value) / full * total_bits,
        "key_bits_mean": 2 * key / full * total_bits,
        "value_bits_mean": 2 * value / full * total_bits,
        "bytes_saving": 1 - total(*MOVED) / total(*FULL),
        LOGARITHMIC: np.add.reduceat(logs, starts) / np.diff([*starts, len(order)]),
    }
