"""Saving at equal output error: what other rules save where they err no more than the published one.

Nothing is interpolated. A rule counts with the setting that saves most among those that were measured and do not err more, so what is
claimed was seen; a finer grid of parameters could only raise it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.frontier.collect import COUNTS
from precalign.analysis.frontier.schema import UNITS
from precalign.analysis.frontier.table import scopes
from precalign.analysis.results.quantiles import quantiles_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from precalign.analysis.frontier.collect import Collected, Head
    from precalign.analysis.frontier.grid import Grid

ERRORS = ("median", "p99")
MEASURES = {"median": ("median",), "p99": ("p99",), "both": ERRORS}
"""Name -> which quantiles of the error must not exceed those of the published rule."""
PER_HEAD = "per head"
"""Family of the choice of an own setting for every head, as a policy makes it."""


def equal_error(table: pa.Table, collected: Collected, grid: Grid) -> list[dict[str, Any]]:
    """Return, for the dump and each layer and each of `MEASURES`, what each family saves at most at the published rule's error.

    Parameters
    ----------
    table : pyarrow.Table
        From `frontier_table`.
    collected : Collected
    grid : Grid

    Returns
    -------
    list of dict
        Families by saving, best first; one that has no setting with so little error has nulls.
    """
    n, rows = len(grid.settings), []
    held = {name: table.column(name).to_numpy(zero_copy_only=False) for name in _columns()}
    places = scopes(collected.heads)
    parts = [{name: column[i * n : (i + 1) * n] for name, column in held.items()} for i in range(len(places))]
    heads = {(p.layer, p.kv_head): part for p, part in zip(places, parts, strict=True) if p.name == "head"}
    for place, part in zip(places, parts, strict=True):
        if place.name == "head":
            continue
        for measure, quantiles in MEASURES.items():
            limits = {q: float(part[f"error_{q}"][grid.reference]) for q in ERRORS}
            found = _families(part, quantiles, limits)
            found[PER_HEAD] = _per_head(place.heads, heads, collected, grid, quantiles, limits)
            reference = float(part["bytes_saving"][grid.reference])
            where = {"scope": place.name, "layer": place.layer, "measure": measure}
            order = sorted(found, key=lambda name: -(found[name] or {"bytes_saving": -np.inf})["bytes_saving"])
            rows += [where | {"family": name} | _row(found[name], reference) for name in order]
    return rows


def _columns() -> list[str]:
    return [
        "layout",
        "rule",
        "family",
        *(f"{unit}_saving" for unit in UNITS),
        *(f"error_{q}" for q in ERRORS),
    ]


def _within(part: dict[str, NDArray[Any]], quantiles: Sequence[str], limits: dict[str, float]) -> NDArray[np.bool_]:
    fits = np.ones(len(part["rule"]), bool)
    for q in quantiles:
        fits &= part[f"error_{q}"] <= limits[q]
    return fits


def _families(
    part: dict[str, NDArray[Any]], quantiles: Sequence[str], limits: dict[str, float]
) -> dict[str, dict[str, Any] | None]:
    fits = _within(part, quantiles, limits)
    found: dict[str, dict[str, Any] | None] = {}
    for family in dict.fromkeys(part["family"].tolist()):
        mine = np.flatnonzero(fits & (part["family"] == family))
        best = mine[np.argmax(part["bytes_saving"][mine])] if len(mine) else None
        found[family] = None if best is None else {name: _plain(part[name][best]) for name in _columns()}
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401 - a numpy scalar or a string
    return value.item() if hasattr(value, "item") else value


def _row(best: dict[str, Any] | None, reference: float) -> dict[str, Any]:
    names = [name for name in _columns() if name != "family"]
    row = {name: None if best is None else best[name] for name in names}
    times = None if best is None or reference <= 0 else best["bytes_saving"] / reference
    return row | {"times_reference": times}


def _per_head(
    chosen: Sequence[Head],
    parts: dict[tuple[int | None, int | None], dict[str, NDArray[Any]]],
    collected: Collected,
    grid: Grid,
    quantiles: Sequence[str],
    limits: dict[str, float],
) -> dict[str, Any] | None:
    """Return the best layout in which every head has its own setting, none erring more than the published rule does there.

    Quantiles of heads say little about those of all together, so these are measured again, and a layout in which they exceed the published
    rule's is not claimed.
    """
    best: dict[str, Any] | None = None
    layouts = np.array([layout.name for layout, _ in grid.settings])
    for layout in dict.fromkeys(layouts.tolist()):
        counts, errors = np.zeros(len(COUNTS), np.int64), []
        for head in chosen:
            part = parts[head.layer, head.kv_head]
            own = {q: float(part[f"error_{q}"][grid.reference]) for q in quantiles}
            mine = np.flatnonzero(_within(part, quantiles, own) & (layouts == layout))
            if not len(mine):
                break
            setting = int(mine[np.argmax(part["bytes_saving"][mine])])
            counts += head.counts[setting]
            errors.append(collected.errors([head], setting)[0])
        if len(errors) < len(chosen):
            continue
        total = dict(zip(COUNTS, counts.tolist(), strict=True))
        spread = dict(zip(ERRORS, quantiles_of(np.concatenate(errors), (0.5, 0.99)), strict=True))
        found = {"layout": layout, "rule": "each head its own"}
        found |= {f"{unit}_saving": 1 - total[unit] / total[f"full_{unit}"] for unit in UNITS}
        found |= {f"error_{q}": value for q, value in spread.items()}
        if all(spread[q] <= limits[q] for q in quantiles) and (
            best is None or found["bytes_saving"] > best["bytes_saving"]
        ):
            best = found
    return best
