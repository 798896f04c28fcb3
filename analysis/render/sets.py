"""A set as a page and for the terminal: what its dumps have in common, and where they differ."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from precalign.analysis.render import words
from precalign.analysis.render.html import page
from precalign.analysis.sets.agreement import LOGARITHMIC, MEASURES

if TYPE_CHECKING:
    from rich.console import Console

    from precalign.analysis.sets.reader import SetResult

MOST_HEADS = 10
"""Heads named on a terminal."""
MOST_HEADS_ON_PAGE = 200
MOST_DUMPS_ON_PAGE = 500
DIGITS = 5


def html(result: SetResult) -> str:
    """Return the page: heat maps of mean and spread over dumps, layers with intervals, heads by disagreement, dumps."""
    summary, agreement = result.summary, result.agreement()
    rules = [rule["rule"] for rule in summary["rules"]]
    heads = {rule: agreement.by_head(rule) for rule in rules}
    layers = {rule: agreement.by_layer(rule) for rule in rules}
    dumps = result.dumps()
    return page(
        "set.html.j2",
        {
            "full_bits": summary["layout"]["format_bits"],
            "rules": [
                {"rule": rule, "heat": _heat_maps(heads[rule]), "layers": _lines(layers[rule])} for rule in rules
            ],
        },
        {"figure": figure, "factor": factor},
        summary=summary,
        title=title(summary),
        sentences=[sentence(summary, rule) for rule in rules],
        rules=rules,
        heads={rule: found[:MOST_HEADS_ON_PAGE] for rule, found in heads.items()},
        n_heads={rule: len(found) for rule, found in heads.items()},
        layers=layers,
        dumps=dumps.slice(0, MOST_DUMPS_ON_PAGE).to_pylist(),
        n_dumps=dumps.num_rows,
    )


def title(summary: dict[str, Any]) -> str:
    """Return what the set holds, in a line."""
    held = summary["set"]
    return f"{held['n_analysed']:,} of {held['n_dumps']:,} dumps"


def facts(summary: dict[str, Any]) -> str:
    """Return sizes, format and steps."""
    held, form = summary["set"], summary["layout"]
    return (
        f"{held['n_heads']:,} kv heads, {held['n_steps']:,} decode steps, {words.size(held['size_bytes'])}, "
        f"{form['format']}, layout {form['name']}"
    )


def sentence(summary: dict[str, Any], rule: str) -> str:
    """Return what a rule does over all dumps, with its interval."""
    found = next(row for row in summary["over_dumps"]["rules"] if row["rule"] == rule)
    key, value, saving, error = (
        found[name] for name in ("key_bits_mean", "value_bits_mean", "bytes_saving", LOGARITHMIC)
    )
    text = (
        f"Over {saving['n']:,} {'dump' if saving['n'] == 1 else 'dumps'}, decode attention under the rule {rule} read "
        f"{key['mean']:.1f} of the {summary['layout']['format_bits']} bits of each key and {value['mean']:.1f} of each value: "
        f"{words.percent(saving['mean'])} fewer bytes{_interval(saving)}, at a relative output error of {words.error(error['mean'])}."
    )
    if saving["spread"] is None:
        return text
    return f"{text} From dump to dump the saving spreads by {points(saving['spread'])}."


def _interval(saving: dict[str, Any]) -> str:
    if saving["low"] is None:
        return ""
    return f" (95 % interval of the mean: {words.percent(saving['low'])} to {words.percent(saving['high'])})"


def points(share: float | None) -> str:
    """1.3 points: a difference of shares, in hundredths."""
    return "–" if share is None else f"{100 * share:.1f} points"


def figure(found: dict[str, Any]) -> str:
    """12.3 ± 0.4: a mean and half its interval, bits."""
    if found["mean"] is None:
        return "–"
    half = "" if found["low"] is None else f" ± {(found['high'] - found['low']) / 2:.2f}"
    return f"{found['mean']:.2f}{half}"


def share(found: dict[str, Any]) -> str:
    """26.4 % ± 0.8: the same of shares."""
    if found["mean"] is None:
        return "–"
    half = "" if found["low"] is None else f" ± {50 * (found['high'] - found['low']):.1f}"
    return f"{words.percent(found['mean'])}{half}"


def factor(spread: float | None) -> str:
    """1.3×: a spread of errors."""
    return words.times(spread)


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _heat_maps(heads: list[dict[str, Any]]) -> dict[str, Any]:
    layers = sorted({head["layer"] for head in heads})
    columns = sorted({head["kv_head"] for head in heads})
    maps: dict[str, dict[str, list[list[float | None]]]] = {
        name: {what: [[None] * len(columns) for _ in layers] for what in ("mean", "spread")} for name in MEASURES
    }
    for head in heads:
        row, column = layers.index(head["layer"]), columns.index(head["kv_head"])
        for name in MEASURES:
            for what in ("mean", "spread"):
                maps[name][what][row][column] = _number(head[name][what])
    return {"layers": layers, "kv_heads": columns, "maps": maps}


def _lines(layers: list[dict[str, Any]]) -> dict[str, Any]:
    lines: dict[str, Any] = {"layers": [row["layer"] for row in layers]}
    for name in ("key_bits_mean", "value_bits_mean"):
        lines[name] = {what: [_number(row[name][what]) for row in layers] for what in ("mean", "low", "high")}
    return lines


def terminal(result: SetResult) -> str:
    """Return plain text."""
    from rich.console import Console

    text = io.StringIO()
    show(result, Console(file=text, width=120, highlight=False))
    return text.getvalue()


def show(result: SetResult, out: Console) -> None:
    """Print what each rule does over all dumps, layers with intervals, the heads that disagree most, and what was left out."""
    from rich.markup import escape

    summary, agreement = result.summary, result.agreement()
    out.print(f"[bold]{title(summary)}[/]  {escape(facts(summary))}")
    for rule in summary["rules"]:
        out.print()
        out.print(escape(sentence(summary, rule["rule"])))
        out.print(_layers(agreement.by_layer(rule["rule"])))
        heads = agreement.by_head(rule["rule"])
        if heads and heads[0]["bits_mean"]["spread"] is not None:
            out.print("Heads that differ most from dump to dump, by the spread of the bits they need:")
            out.print(_heads(heads[:MOST_HEADS]))
    if not summary["rules"]:
        out.print("No dump holds queries, so no decode step could be taken; tables/cache tells what codes alone do.")
    _show_refused(summary, out)


def _show_refused(summary: dict[str, Any], out: Console) -> None:
    from rich.markup import escape

    held = summary["set"]
    if held["n_skipped_heads"]:
        out.print(f"Left out: {held['n_skipped_heads']:,} kv heads with infinities or NaNs; dumps.parquet names them.")
    for refused in summary["refused"]:
        out.print(f"Refused: {escape(refused['dump'])}: {escape(refused['reason'])}")
    more = held["n_refused"] - len(summary["refused"])
    if more:
        out.print(f"Refused: {more:,} more; dumps.parquet has them all.")


def _grid(*headings: str) -> Any:  # noqa: ANN401 - rich is imported lazily
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _layers(rows: list[dict[str, Any]]) -> Any:  # noqa: ANN401
    table = _grid("layer", "dumps", "key bits", "value bits", "bytes saved", "spread", "output error", "spread")
    for row in rows:
        table.add_row(
            str(row["layer"]),
            str(row["bytes_saving"]["n"]),
            figure(row["key_bits_mean"]),
            figure(row["value_bits_mean"]),
            share(row["bytes_saving"]),
            points(row["bytes_saving"]["spread"]),
            words.error(row[LOGARITHMIC]["mean"]) if row[LOGARITHMIC]["n"] else "–",
            factor(row[LOGARITHMIC]["spread"]),
        )
    return table


def _heads(rows: list[dict[str, Any]]) -> Any:  # noqa: ANN401
    table = _grid("layer", "kv head", "dumps", "bits needed", "spread", "bytes saved", "output error", "spread")
    for row in rows:
        table.add_row(
            str(row["layer"]),
            str(row["kv_head"]),
            str(row["bits_mean"]["n"]),
            figure(row["bits_mean"]),
            f"{row['bits_mean']['spread'] or 0:.2f}",
            share(row["bytes_saving"]),
            words.error(row[LOGARITHMIC]["mean"]) if row[LOGARITHMIC]["n"] else "–",
            factor(row[LOGARITHMIC]["spread"]),
        )
    return table
