"""The rows of frontier.parquet: every setting in every scope."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from precalign.analysis.frontier.collect import COUNTS
from precalign.analysis.frontier.front import pareto
from precalign.analysis.frontier.grid import is_reference
from precalign.analysis.frontier.schema import FRONTS, SPREADS, UNITS, frontier_schema
from precalign.analysis.results.quantiles import quantiles_of
from precalign.analysis.results.tables import make_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.frontier.collect import Collected, Head
    from precalign.analysis.frontier.grid import Grid


@dataclass(frozen=True)
class Scope:
    """What a curve is drawn of.

    Attributes
    ----------
    name : str
        "dump", "layer" or "head".
    layer, kv_head : int or None
    heads : sequence of Head
    """

    name: str
    layer: int | None
    kv_head: int | None
    heads: Sequence[Head]


def scopes(heads: Sequence[Head]) -> list[Scope]:
    """Return the dump, then each layer followed by its heads."""
    found = [Scope("dump", None, None, heads)]
    for layer in sorted({head.layer for head in heads}):
        inside = [head for head in heads if head.layer == layer]
        found.append(Scope("layer", layer, None, inside))
        found += [Scope("head", layer, head.kv_head, [head]) for head in inside]
    return found


def frontier_table(collected: Collected, grid: Grid, total_bits: int) -> pa.Table:
    """Return frontier.parquet's rows, scope by scope in the order of `scopes`, settings in the order of the grid.

    Parameters
    ----------
    collected : Collected
    grid : Grid
    total_bits : int
        Width of a code.
    """
    schema, names = frontier_schema(), _names(grid)
    return pa.concat_tables(
        make_table(schema, names | _figures(collected, scope, total_bits), len(names["rule"]))
        for scope in scopes(collected.heads)
    )


def _names(grid: Grid) -> dict[str, Any]:
    settings = grid.settings
    return {
        "layout": [layout.name for layout, _ in settings],
        "rule": [str(rule) for _, rule in settings],
        "family": [rule.name for _, rule in settings],
        "reference": np.array([is_reference(layout, rule) for layout, rule in settings]),
    }


def _figures(collected: Collected, scope: Scope, total_bits: int) -> dict[str, Any]:
    counts: dict[str, Any] = dict(zip(COUNTS, np.sum([head.counts for head in scope.heads], axis=0).T, strict=True))
    numbers = counts["full_bits"] / (2 * total_bits)
    columns: dict[str, Any] = {
        "scope": scope.name,
        "layer": scope.layer,
        "kv_head": scope.kv_head,
        "n_steps": sum(head.n_steps for head in scope.heads),
        **{unit: counts[unit] for unit in UNITS},
        **{f"full_{unit}": counts[f"full_{unit}"] for unit in UNITS},
        **{f"{unit}_saving": 1 - counts[unit] / counts[f"full_{unit}"] for unit in UNITS},
        "optimal_bits": counts["optimal_bits"],
        "optimal_bits_saving": 1 - counts["optimal_bits"] / counts["full_bits"],
        "key_bits_mean": counts["key_bits"] / numbers,
        "value_bits_mean": counts["value_bits"] / numbers,
    }
    spreads = np.empty((2, len(SPREADS), len(numbers)), np.float32)
    for setting in range(len(numbers)):
        for i, held in enumerate(collected.errors(scope.heads, setting)):
            spreads[i, :, setting] = quantiles_of(held, tuple(SPREADS.values()))
    for i, what in enumerate(("error", "bound")):
        columns |= {f"{what}_{name}": spreads[i, j] for j, name in enumerate(SPREADS)}
    for (name, column), unit in product(FRONTS.items(), UNITS):
        columns[f"on_front_{unit}_{name}"] = pareto(columns[f"{unit}_saving"], columns[column])
    return columns
