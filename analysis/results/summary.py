"""summary.json: what the heads add up to. Heads come one at a time; nothing here grows with the dump."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from precalign.analysis.results.quantiles import Spread
from precalign.analysis.results.rows import QUANTILES, errors_of, ratios, reads_of
from precalign.analysis.results.schema import ERRORS, SPREADS
from precalign.gpus import GPUS
from precalign.traffic import UNITS, Transfer, key_transfer, plain_transfer, value_transfer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from precalign.analysis.cache_stats import CacheStats
    from precalign.analysis.results.rows import Place
    from precalign.layouts import Layout
    from precalign.profile import HeadProfile

WORST_HEADS = 5
WORST_BY = "output_relative_error_to_exact"


class RuleTotals:
    """Everything that a summary says about one rule."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self._counts: dict[str, int] = defaultdict(int)
        self._spreads = {column.name: Spread() for column in ERRORS}
        self._worst: list[Worst] = []

    def add(self, place: Place, profile: HeadProfile, head_dim: int) -> None:
        """Count one kv head."""
        sums = {name: int(counts.sum()) for name, counts in reads_of(profile, head_dim, place.format).items()}
        errors = errors_of(profile)
        p99 = float(np.quantile(errors[WORST_BY], 0.99, method="inverted_cdf"))
        saving = ratios(sums, place.format.total_bits)["bytes_saving"]
        self.count(sums, errors, [Worst(-p99, (place.layer, place.kv_head), dict(place.index), saving)])

    def count(self, sums: Mapping[str, int], errors: Mapping[str, NDArray[np.float32]], heads: Iterable[Worst]) -> None:
        """Count some heads.

        Parameters
        ----------
        sums : mapping
            The columns `READS`, added up.
        errors : mapping
            The columns `ERRORS`, of all steps and query heads.
        heads : iterable of Worst
            All of them; the worst are kept.
        """
        for name, count in sums.items():
            self._counts[name] += count
        for name, spread in self._spreads.items():
            spread.add(errors[name])
        self._worst = sorted([*self._worst, *heads], key=lambda head: head[:2])[:WORST_HEADS]

    @property
    def counted(self) -> bool:
        """Whether any head was."""
        return bool(self._counts)

    def figures(self, total_bits: int, errors_files: Sequence[Path]) -> dict[str, Any]:
        """Return the object of this rule; `errors_files` are the finished table of errors."""
        spreads = {}
        for name, spread in self._spreads.items():
            found = spread.quantiles(QUANTILES, partial(self._errors, errors_files, name))
            spreads[name] = {key: _finite(value) for key, value in zip(SPREADS, found, strict=True)}
        return {
            "rule": self.rule,
            "totals": dict(self._counts) | ratios(self._counts, total_bits),
            "memory": memory_traffic(self._counts),
            "errors": spreads,
            "worst_heads": [
                head.place | {f"{WORST_BY}_p99": _finite(-head.less_p99), "bytes_saving": head.saving}
                for head in self._worst
            ],
        }

    def _errors(self, paths: Sequence[Path], column: str) -> Iterator[NDArray[np.float32]]:
        """Go through one column of one rule, a batch at a time."""
        for path in paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["rule", column]):
                    mine = batch.column(0).to_numpy(zero_copy_only=False) == self.rule
                    yield batch.column(1).to_numpy(zero_copy_only=False)[mine]


class Worst(NamedTuple):
    """A head, as it is ranked: larger errors first, then by place.

    Attributes
    ----------
    less_p99 : float
        Minus the 99th percentile of `WORST_BY`.
    order : tuple of int
    place : dict
        Its index columns.
    saving : float
        In bytes.
    """

    less_p99: float
    order: tuple[int, ...]
    place: dict[str, Any]
    saving: float


def memory_traffic(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the list `memory`: what each GPU's memory moves, in whole fetches, for keys, values, metadata and pre-pass."""
    rows = []
    for gpu in GPUS.values():
        unit, size = gpu.fetch_unit, gpu.fetch_bytes
        moved, full = (
            size * sum(counts[f"{part}_{unit}"] for part in parts)
            for parts in (("key", "value", "metadata", "prepass"), ("full_key", "full_value"))
        )
        rows.append(
            {
                "gpu": gpu.name,
                "architecture": gpu.architecture,
                "fetch_bytes": size,
                "moved_bytes": moved,
                "full_bytes": full,
                "saving": 1 - moved / full,
            }
        )
    return rows


class WasteTotals:
    """Wasted significand bits over all heads; the same whatever the rule."""

    def __init__(self) -> None:
        self._histograms: dict[str, NDArray[np.int64]] = {}

    def add(self, profile: HeadProfile) -> None:
        """Count one kv head."""
        self.count({"key": profile.key_wasted_histogram, "value": profile.value_wasted_histogram})

    def count(self, histograms: Mapping[str, NDArray[np.int64]]) -> None:
        """Count numbers by the bits that they waste."""
        for kind, histogram in histograms.items():
            self._histograms[kind] = self._histograms.get(kind, np.zeros_like(histogram)) + histogram

    def figures(self, total_bits: int) -> dict[str, Any] | None:
        """Return the object `waste`, None if no head was counted."""
        if not self._histograms:
            return None
        parts = {kind: _waste(histogram) for kind, histogram in self._histograms.items()}
        wasted = sum(part["wasted_bits"] for part in parts.values())
        return {"share": wasted / (total_bits * sum(part["numbers"] for part in parts.values())), **parts}


def _waste(histogram: NDArray[np.int64]) -> dict[str, Any]:
    numbers, wasted = int(histogram.sum()), int(histogram @ np.arange(len(histogram)))
    # Bit i of p (1 leads) is wasted in the numbers that waste at least p - i + 1 bits.
    at_least = np.cumsum(histogram[::-1])[:-1]
    return {
        "numbers": numbers,
        "wasted_bits": wasted,
        "wasted_bits_mean": wasted / numbers,
        "numbers_by_wasted_bits": histogram.tolist(),
        "share_by_position": (at_least / numbers).tolist(),
    }


class CacheTotals:
    """What codes alone tell, over all heads, and what reading them once would move at each level."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stats: dict[str, CacheStats] = {}
        self._shapes: dict[tuple[int, int], int] = defaultdict(int)
        self._exponent_waste: dict[str, list[float]] = defaultdict(list)
        self._escaped: dict[str, int] = defaultdict(int)

    def add(
        self,
        stats: Mapping[str, CacheStats],
        seq_len: int,
        head_dim: int,
        exponent_waste: Mapping[str, float],
        escaped: Mapping[str, int],
    ) -> None:
        """Count one kv head."""
        for kind, mean in exponent_waste.items():
            self._exponent_waste[kind].append(mean)
        for kind, count in escaped.items():
            self._escaped[kind] += count
        for kind, held in stats.items():
            self._stats[kind] = self._stats[kind] + held if kind in self._stats else held
        self._shapes[seq_len, head_dim] += 1

    def figures(self) -> dict[str, Any]:
        """Return the object `cache`."""
        return {
            kind: held.figures()
            | {
                "group_exponent_wasted_bits_mean": float(np.mean(waste))
                if (waste := self._exponent_waste[kind])
                else None,
                "escaped": self._escaped.get(kind),
            }
            for kind, held in self._stats.items()
        }

    def traffic(self) -> list[dict[str, Any]]:
        """Return the list `layout_traffic`."""
        rows: list[dict[str, Any]] = []
        for level, bits in [*enumerate(self._layout.levels), (None, "plain")]:
            moved: dict[str, int] = defaultdict(int)
            for (seq_len, head_dim), heads in self._shapes.items():
                for kind, transfer in _whole_cache(self._layout, level, seq_len, head_dim).items():
                    for unit in UNITS:
                        moved[f"{kind}_{unit}"] += heads * int(getattr(transfer, unit)[0])
            rows.append({"level_bits": bits, **moved})
        return rows


def _whole_cache(layout: Layout, level: int | None, seq_len: int, head_dim: int) -> dict[str, Transfer]:
    first, visible = np.zeros(1, np.int64), np.full(1, seq_len, np.int64)
    if level is None:
        plain = plain_transfer(layout, head_dim, first, visible)
        return {"key": plain, "value": plain}
    keys, values = np.full((1, head_dim), level, np.uint8), np.full((1, seq_len), level, np.uint8)
    return {
        "key": key_transfer(keys, layout, first, visible),
        "value": value_transfer(values, layout, head_dim, first, visible),
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity; an error relative to an exact output of zero is one."""
    return value if math.isfinite(value) else None
