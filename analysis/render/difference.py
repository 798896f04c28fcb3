"""A difference as a page and for the terminal."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from precalign.analysis.diff.measures import MEASURES
from precalign.analysis.readers import printable
from precalign.analysis.render import words
from precalign.analysis.render.html import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from rich.console import Console

    from precalign.analysis.diff.measures import Measure
    from precalign.analysis.results.single import TableResult

BY_NAME = {measure.name: measure for measure in MEASURES}
LAYER_MEASURES = ("bits_saving", "bytes_saving", "output_error")
"""What the terminal shows of each layer."""
MOST_HEADS = 5
MOST_FACTS = 12


def html(result: TableResult) -> str:
    """Return the page: what differs, figures side by side, heads against each other, layers with intervals."""
    return html_of(result.summary, result.table)


def html_of(summary: dict[str, Any], table: pa.Table) -> str:
    """Return the page of a difference that stands in no directory yet."""
    rows = table.to_pylist()
    data = {
        "measures": [{"name": m.name, "label": m.label, "form": m.form, "better": m.better} for m in MEASURES],
        "pairs": [_pair_data(pair, rows) for pair in summary["rules"]],
    }
    return page(
        "diff.html.j2",
        data,
        summary=summary,
        names=[_name(summary[side]) for side in ("a", "b")],
        verdict=verdict(summary),
        facts=[_fact(fact) for fact in summary["facts"]],
        pairs=[
            {"title": _title(pair), "facts": _pair_facts(pair, summary), "rows": _lines(pair)}
            for pair in summary["rules"]
        ],
        columns=HEADINGS,
        measures=MEASURES,
    )


def _pair_data(pair: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the plots of a pair draw, measure by measure: heads and layers."""
    mine = [row for row in rows if (row["rule_a"], row["rule_b"]) == (pair["rule_a"], pair["rule_b"])]
    return {
        measure.name: {
            scope: [
                {
                    key: row[key]
                    for key in (
                        "layer",
                        "kv_head",
                        "value_a",
                        "value_b",
                        "change",
                        "low",
                        "high",
                        "beyond_noise",
                        "same",
                    )
                }
                for row in mine
                if row["scope"] == scope and row["measure"] == measure.name
            ]
            for scope in ("head", "layer")
        }
        for measure in MEASURES
    }


def verdict(summary: dict[str, Any]) -> str:
    """Return whether the results are equal, and where they first are not."""
    if summary["identical"]:
        return "Identical: every table is equal, to the bit."
    cell = summary["first_difference"]
    if cell is None:
        return "All tables are equal; two rules of theirs are compared."
    unequal = [name for name, equal in summary["tables"].items() if not equal]
    which = f"{len(unequal)} of {len(summary['tables'])} tables differ"
    if cell["what"] == "columns":
        return f"{which}; {cell['table']} has other columns: {_short(cell['a'])} and {_short(cell['b'])}."
    if cell["what"] == "rows":
        if cell["row"] is None:
            return f"{which}; only one of the two has the table {cell['table']}."
        return f"{which}; {cell['table']} is equal up to row {cell['row']}, but has {cell['a']} rows and {cell['b']}."
    place = ", ".join(
        f"{name.replace('_', ' ')} {printable(value)}"
        for name, value in cell["place"].items()
        if value is not None and name != cell["column"]
    )
    where = f"{cell['table']}, row {cell['row']} ({place})" if place else f"{cell['table']}, row {cell['row']}"
    return f"{which}, first in {where}: {printable(cell['column'])} is {_short(cell['a'])} and {_short(cell['b'])}."


def _short(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value), 60)


def _name(about: dict[str, Any]) -> str:
    dump = f", {printable(about['dump'])}" if about["dump"] else ""
    return f"{printable(about['name'])} ({printable(about['kind'].partition('.')[2])}, precalign {printable(about['precalign'])}{dump})"


def _fact(fact: dict[str, Any]) -> tuple[str, str, str]:
    return printable(fact["fact"]), _short(fact["a"]), _short(fact["b"])


def _title(pair: dict[str, Any]) -> str:
    a, b = printable(pair["rule_a"]), printable(pair["rule_b"])
    return a if a == b else f"{a} → {b}"


def _pair_facts(pair: dict[str, Any], summary: dict[str, Any]) -> str:
    units = (
        f"{pair['units_a']:,}" if pair["units_a"] == pair["units_b"] else f"{pair['units_a']:,} and {pair['units_b']:,}"
    )
    return f"{pair['n_heads']} heads in both, {units} {summary['unit']}s"


HEADINGS = ("figure", "A", "B", "change", "95 % interval", "heads better", "worse", "same")


def _lines(pair: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of each figure, in the order of `HEADINGS`."""
    lines = []
    for measure in MEASURES:
        held = pair["measures"].get(measure.name)
        if held is None:
            continue
        counts = (held["heads_better"], held["heads_worse"], held["heads_same"])
        lines.append(
            (
                measure.label,
                figure(measure, held["value_a"]),
                figure(measure, held["value_b"]),
                change(measure, held["change"]) + ("" if held["beyond_noise"] else " ·"),
                interval(measure, held["low"], held["high"]),
                *map(str, counts),
            )
        )
    return lines


def figure(measure: Measure, value: float | None) -> str:
    """26.4 %, 13.81 or 9.1e-04."""
    if value is None:
        return "–"
    return (
        words.percent(value)
        if measure.form == "saving"
        else f"{value:.2f}"
        if measure.form == "bits"
        else f"{value:.1e}"
    )


def change(measure: Measure, value: float | None) -> str:
    """+3.20 points, −0.34 bits or ×1.06."""
    if value is None:
        return "–"
    if measure.relative:
        return f"×{value:.3f}" if value < 100 else f"×{value:.3g}"
    text = f"{100 * value:+.2f}" if measure.form == "saving" else f"{value:+.3f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def interval(measure: Measure, low: float | None, high: float | None) -> str:
    """+1.64 to +4.77."""
    return "–" if low is None or high is None else f"{change(measure, low)} to {change(measure, high)}"


def terminal(result: TableResult) -> str:
    """Return plain text."""
    from rich.console import Console

    text = io.StringIO()
    show(result, Console(file=text, width=140, highlight=False))
    return text.getvalue()


def show(result: TableResult, out: Console) -> None:
    """Print a difference."""
    show_of(result.summary, result.table, out)


def show_of(summary: dict[str, Any], table: pa.Table, out: Console) -> None:
    """Print a difference that stands in no directory yet: the verdict, facts that differ, figures, layers, heads."""
    from rich.markup import escape

    for side in ("a", "b"):
        out.print(f"[bold]{side.upper()}[/]  {escape(_name(summary[side]))}")
    out.print(escape(verdict(summary)))
    for name, a, b in map(_fact, summary["facts"][:MOST_FACTS]):
        out.print(f"  {escape(name)}: {escape(a)} → {escape(b)}", soft_wrap=True)
    if len(summary["facts"]) > MOST_FACTS:
        out.print(f"  and {len(summary['facts']) - MOST_FACTS} more facts; --json has them all")
    rows = table.to_pylist()
    for pair in summary["rules"]:
        if pair["measures"]:
            _show_pair(pair, rows, summary, out)
    if summary["identical"]:
        return
    for text in (*summary["notes"], *summary["method"]):
        out.print(escape(text))
    if summary["rules"]:
        out.print(
            "Savings change in points of a percent, bits in bits, errors by a factor. · within noise, or too few to tell."
        )


def _show_pair(pair: dict[str, Any], rows: Sequence[dict[str, Any]], summary: dict[str, Any], out: Console) -> None:
    from rich.markup import escape

    out.print(f"\n[bold]{escape(_title(pair))}[/]  {_pair_facts(pair, summary)}")
    if all(held["same"] and held["heads_same"] == pair["n_heads"] for held in pair["measures"].values()):
        out.print(f"Every figure is the same in every {summary['unit']} of every head.")
        return
    _table(HEADINGS, _lines(pair), out)
    mine = [row for row in rows if (row["rule_a"], row["rule_b"]) == (pair["rule_a"], pair["rule_b"])]
    layers: dict[int, dict[str, dict[str, Any]]] = {}
    for row in mine:
        if row["scope"] == "layer":
            layers.setdefault(row["layer"], {})[row["measure"]] = row
    cells = [
        (str(layer), *(change(BY_NAME[name], held[name]["change"]) + _mark(held[name]) for name in LAYER_MEASURES))
        for layer, held in layers.items()
    ]
    _table(("layer", *(BY_NAME[name].label for name in LAYER_MEASURES)), cells, out)
    worst = _most(mine)
    if worst:
        out.print("Heads that changed most, beyond noise: " + "; ".join(worst) + ".")


def _mark(row: dict[str, Any]) -> str:
    return "" if row["beyond_noise"] else " ·"


def _most(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the heads whose saving in bytes changed most."""
    measure = BY_NAME["bytes_saving"]
    heads = [r for r in rows if r["scope"] == "head" and r["measure"] == measure.name and r["beyond_noise"]]
    heads.sort(key=lambda row: -abs(row["change"]))
    return [
        f"{row['layer']}/{row['kv_head']} {change(measure, row['change'])} ({interval(measure, row['low'], row['high'])})"
        for row in heads[:MOST_HEADS]
    ]


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], out: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    out.print(table)
