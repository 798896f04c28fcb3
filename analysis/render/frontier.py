"""A frontier as a page and for the terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.frontier.equal import ERRORS
from precalign.analysis.frontier.schema import FRONTS, UNITS
from precalign.analysis.render import words
from precalign.analysis.render.figures import finite
from precalign.analysis.render.html import page

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from precalign.analysis.frontier.reader import Frontier

ERROR_WORDS = {"median": "median", "p99": "99th percentile", "bound": "proven bound, median"}
MEASURE_WORDS = {"both": "median and 99th percentile", "median": "median", "p99": "99th percentile"}
ONCE = ("layout", "rule", "family", "reference")
DRAWN = (
    "optimal_bits_saving",
    *(f"{unit}_saving" for unit in UNITS),
    *FRONTS.values(),
    *(f"on_front_{unit}_{name}" for unit in UNITS for name in FRONTS),
)
DIGITS = 5
"""Significant digits of numbers on the page."""


def html(frontier: Frontier) -> str:
    """Return the page: curves of the dump and of each layer, and the tables at equal error."""
    summary, scopes = frontier.summary, _scopes(frontier.table)
    first = scopes[0][1]
    data = {name: first.column(name).to_pylist() for name in ONCE}
    data["scopes"] = [{name: _numbers(rows, name) for name in DRAWN} for _, rows in scopes]
    data["equal"] = {measure: _by_layer(summary["equal_error"], measure, scopes) for measure in MEASURE_WORDS}
    return page(
        "frontier.html.j2",
        data,
        summary=summary,
        title=words.title(summary),
        sentence=sentence(frontier),
        scopes=[{"title": title} for title, _ in scopes],
        errors=ERROR_WORDS,
        measures=MEASURE_WORDS,
        tables=_tables(summary["equal_error"], scopes),
    )


def sentence(frontier: Frontier) -> str:
    """Return the answer in one sentence: what the best rule saves at the error of the published one."""
    reference = _reference(_scopes(frontier.table)[0][1])
    best = best_at_equal_error(frontier.summary["equal_error"], "dump", None, "both")
    published = (
        f"The published rule saves {words.percent(reference['bytes_saving'])} of the bytes at a relative output error of "
        f"{words.error(reference['error_median'])} (median) and {words.error(reference['error_p99'])} (99th percentile)."
    )
    if best is None:
        return f"{published} No other setting errs as little."
    times = best["times_reference"]
    ratio = "" if times is None else f", {words.times(times)} as many"
    return f"{published} With no larger error in either, {best['rule']} in planes {best['layout']} saves {words.percent(best['bytes_saving'])}{ratio}."


def best_at_equal_error(
    rows: list[dict[str, Any]], scope: str, layer: int | None, measure: str
) -> dict[str, Any] | None:
    """Return the row that saves most with one setting for all heads of the scope."""
    found = [
        row
        for row in rows
        if (row["scope"], row["layer"], row["measure"]) == (scope, layer, measure)
        and row["rule"] is not None
        and row["family"] != "per head"
    ]
    return max(found, key=lambda row: row["bytes_saving"], default=None)


def _scopes(table: pa.Table) -> list[tuple[str, pa.Table]]:
    """Return the dump and its layers with their rows; heads are in the table, not on the page."""
    import pyarrow.compute as pc

    layers = table.filter(pc.field("scope") == "layer")
    indices = sorted(set(layers.column("layer").to_pylist()))
    return [
        ("the whole dump", table.filter(pc.field("scope") == "dump")),
        *((f"layer {layer}", layers.filter(pc.field("layer") == layer)) for layer in indices),
    ]


def _numbers(rows: pa.Table, name: str) -> list[Any]:
    values = rows.column(name).to_numpy(zero_copy_only=False)
    if values.dtype == bool:
        return [int(v) for v in values]
    return [finite(float(f"{v:.{DIGITS}g}")) for v in values.tolist()]


def _reference(rows: pa.Table) -> dict[str, Any]:
    chosen = int(np.flatnonzero(rows.column("reference").to_numpy(zero_copy_only=False))[0])
    row: dict[str, Any] = rows.slice(chosen, 1).to_pylist()[0]
    return row


def _by_layer(equal: list[dict[str, Any]], measure: str, scopes: list[tuple[str, pa.Table]]) -> dict[str, list[Any]]:
    held: dict[str, list[Any]] = {"layers": [], "reference": [], "best": [], "rule": []}
    for _, rows in scopes[1:]:
        reference = _reference(rows)
        best = best_at_equal_error(equal, "layer", reference["layer"], measure)
        held["layers"].append(reference["layer"])
        held["reference"].append(reference["bytes_saving"])
        held["best"].append(None if best is None else best["bytes_saving"])
        held["rule"].append("" if best is None else f"{best['rule']}, planes {best['layout']}")
    return held


def _tables(equal: list[dict[str, Any]], scopes: list[tuple[str, pa.Table]]) -> list[dict[str, Any]]:
    tables = []
    for index, (_, rows) in enumerate(scopes):
        reference = _reference(rows)
        place = (reference["scope"], reference["layer"])
        for measure in MEASURE_WORDS:
            chosen = [row for row in equal if (row["scope"], row["layer"], row["measure"]) == (*place, measure)]
            tables.append({"scope": index, "measure": measure, "reference": reference, "rows": chosen})
    return tables


def terminal(frontier: Frontier) -> str:
    """Return plain text."""
    from rich.console import Console

    text = io.StringIO()
    show(frontier, Console(file=text, width=140, highlight=False))
    return text.getvalue()


def show(frontier: Frontier, out: Console) -> None:
    """Print the answer, the table at equal error of the dump, the best of each layer, and what accepted errors buy."""
    from rich.markup import escape

    summary = frontier.summary
    options = summary["options"]
    shape = (
        f"{options['n_settings']} settings in {len(options['layouts'])} layouts, {options['n_steps']:,} decode steps"
    )
    out.print(f"[bold]{escape(words.title(summary))}[/]  {escape(shape)}")
    out.print(escape(sentence(frontier)))
    scopes = _scopes(frontier.table)
    out.print("\nAt most the published rule's error, in the median and the 99th percentile:")
    _show_equal(frontier, scopes[0][1], out)
    _show_layers(summary["equal_error"], scopes, out)
    _show_accepted(summary["accepted"], out)


def _grid(*headings: str) -> Any:  # noqa: ANN401 - rich is imported lazily
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        left = heading in {"rule", "best setting", "planes"}
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    return table


def _savings(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(words.percent(row[f"{unit}_saving"]) for unit in UNITS)


def _show_equal(frontier: Frontier, rows: pa.Table, out: Console) -> None:
    table = _grid("rule", "best setting", "planes", "bytes", "sectors", "bits", "times", "median", "99 %")
    reference = _reference(rows)
    errors = [f"error_{q}" for q in ERRORS]
    figures = [*_savings(reference), words.times(1.0), *(words.error(reference[name]) for name in errors)]
    table.add_row("published", reference["rule"], reference["layout"], *figures)
    for row in frontier.summary["equal_error"]:
        if (row["scope"], row["measure"]) == ("dump", "both") and row["rule"] is not None:
            times = words.times(row["times_reference"])
            figures = [*_savings(row), times, *(words.error(row[name]) for name in errors)]
            table.add_row(row["family"], row["rule"], row["layout"], *figures)
    out.print(table)


def _show_layers(equal: list[dict[str, Any]], scopes: list[tuple[str, pa.Table]], out: Console) -> None:
    out.print("The same, layer by layer: the best with one setting for the layer.")
    table = _grid("layer", "published", "best", "times", "best setting", "planes")
    for _, rows in scopes[1:]:
        reference = _reference(rows)
        best = best_at_equal_error(equal, "layer", reference["layer"], "both")
        if best is not None:
            savings = words.percent(reference["bytes_saving"]), words.percent(best["bytes_saving"])
            times = words.times(best["times_reference"])
            table.add_row(str(reference["layer"]), *savings, times, best["rule"], best["layout"])
    out.print(table)


def _show_accepted(rows: list[dict[str, Any]], out: Console) -> None:
    out.print("What an error that you accept buys (99th percentile; the setting that saves most within it):")
    table = _grid("accepted", "bytes", "sectors", "bits", "99 %", "median", "rule", "planes")
    for row in rows:
        if row["rule"] is not None:
            errors = (words.error(row[name]) for name in ("error_p99", "error_median"))
            table.add_row(f"{row['limit']:.0e}", *_savings(row), *errors, row["rule"], row["layout"])
    out.print(table)
