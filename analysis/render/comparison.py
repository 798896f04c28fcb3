"""A comparison as a page and for the terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from precalign.analysis.compare.ranking import match, verdict
from precalign.analysis.render import words
from precalign.analysis.render.figures import finite
from precalign.analysis.render.html import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from rich.console import Console

    from precalign.analysis.compare.reader import Comparison

HEAT = ("output_error_median", "output_error_p99", "key_relative_error", "value_relative_error", "bits_per_number")
POINT = (
    *("contender", "kind", "bits_per_number", "moved_share", "output_error_median", "output_error_p99"),
    *("output_cosine_mean", "on_front_stored", "on_front_moved"),
)


def html(comparison: Comparison) -> str:
    """Return the page: fronts, heat maps, the table."""
    summary = comparison.summary
    rows = summary["contenders"]
    data = {"contenders": [{name: row[name] for name in POINT} for row in rows], "heat": _heat(comparison.table)}
    return page(
        "compare.html.j2",
        data,
        summary=summary,
        title=words.title(summary),
        sentence=sentence(summary),
        rows=rows,
        verdict=verdict(rows),
        layers=sorted(set(comparison.table.column("layer").to_pylist())),
    )


def _heat(table: pa.Table) -> dict[str, Any]:
    """Return, for each contender, layers x kv heads of the columns of `HEAT`."""
    held: dict[str, Any] = {}
    for row in table.to_pylist():
        of_one = held.setdefault(row["contender"], {name: {} for name in HEAT})
        for name in HEAT:
            value = row[name]
            of_one[name].setdefault(row["layer"], []).append(None if value is None else finite(float(f"{value:.4g}")))
    return {
        contender: {name: [of_one[name][layer] for layer in sorted(of_one[name])] for name in HEAT}
        for contender, of_one in held.items()
    }


def sentence(summary: dict[str, Any]) -> str:
    """Return the answer in one sentence: the smallest within two errors."""
    parts = []
    for limit in (0.01, 0.1):
        _, within = match([row for row in summary["contenders"] if row["kind"] == "codec"], f"error={limit}")
        if within:
            best = within[0]
            parts.append(
                f"within a median output error of {limit:g} {best['contender']} stores least, {best['bits_per_number']:.2f} bits a number"
            )
    if not parts:
        return "No codec here stays within a median output error of 0.1."
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def terminal(comparison: Comparison) -> str:
    """Return plain text."""
    from rich.console import Console

    text = io.StringIO()
    show(comparison, Console(file=text, width=160, highlight=False))
    return text.getvalue()


def show(comparison: Comparison, out: Console) -> None:
    """Print the answer and the table of contenders."""
    from rich.markup import escape

    summary = comparison.summary
    options = summary["options"]
    out.print(
        f"[bold]{escape(words.title(summary))}[/]  {len(summary['contenders'])} contenders, {options['n_steps']:,} decode steps"
    )
    out.print(escape(sentence(summary)))
    _show_verdict(summary["contenders"], out)
    show_rows(summary["contenders"], out)
    out.print(
        "Stored: bits a number, everything included. Moved: 32-byte sectors of a step, of those of the plain cache. *: nothing else is better in both. "
        "Peak: memory while encoding, of the plain cache's bytes."
    )


def _show_verdict(rows: Sequence[dict[str, Any]], out: Console) -> None:
    """Print who answers the questions of a reader."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("to", no_wrap=True)
    table.add_column("least error", no_wrap=True)
    for heading in ("stored", "moved", "output, median", "99 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for question, row in verdict(rows):
        figures = (f"{row['bits_per_number']:.2f}", words.percent(row["moved_share"]))
        errors = (_number(row["output_error_median"]), _number(row["output_error_p99"]))
        table.add_row(question, row["contender"], *figures, *errors)
    out.print(table)


def show_rows(rows: Sequence[dict[str, Any]], out: Console) -> None:
    """Print contenders as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    headings = (
        "stored",
        "moved",
        "peak",
        "key error",
        "value error",
        "output, median",
        "99 %",
        "cosine",
        "worst head",
    )
    table.add_column("contender", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        star = {name: " *" if row[f"on_front_{name}"] else "  " for name in ("stored", "moved")}
        worst = row["worst"]
        table.add_row(
            row["contender"],
            f"{row['bits_per_number']:.2f}{star['stored']}",
            f"{words.percent(row['moved_share'])}{star['moved']}",
            "–" if row.get("encode_peak") is None else f"{row['encode_peak']:.1f}",
            _number(row["key_relative_error"]),
            _number(row["value_relative_error"]),
            _number(row["output_error_median"]),
            _number(row["output_error_p99"]),
            "–" if row["output_cosine_mean"] is None else f"{row['output_cosine_mean']:.5f}",
            f"{worst['layer']}/{worst['kv_head']}: {_number(worst['output_error_p99'])}",
        )
    out.print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}" if value else "0"
