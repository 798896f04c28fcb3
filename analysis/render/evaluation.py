"""An evaluation as a table for the terminal and as one self-contained page; over eval.json alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from precalign.analysis.render import words

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = (
    "rule",
    "bits k / v",
    "bytes saved",
    "perplexity",
    "95 %",
    "same token",
    "95 %",
    "KL mean",
    "KL p99",
    "KL worst",
    "diverges after",
)


def rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of each rule, in the order of `COLUMNS`."""
    return [
        (
            rule["rule"],
            f"{rule['totals']['key_bits_mean']:.2f} / {rule['totals']['value_bits_mean']:.2f}",
            _saved(rule["totals"]["bytes_saving"]),
            *_change(rule["perplexity_change"]),
            *_share(rule["agreement"]),
            *(f"{rule['kl'][name]:.1e}" for name in ("mean", "p99", "worst")),
            divergence(rule["diverged_at"], summary["generated"]),
        )
        for rule in summary["rules"]
    ]


def headline(summary: dict[str, Any]) -> str:
    """Return what was evaluated, in a line."""
    reference = summary["reference"]["perplexity"]
    spread = "" if reference["low"] is None else f" (95 %: {reference['low']:.2f} to {reference['high']:.2f})"
    return (
        f"{summary['model']}  {summary['windows']} windows of {summary['context']} tokens, cache in {summary['format']}; "
        f"perplexity with the full cache {reference['mean']:.3f}{spread}"
    )


def divergence(at: list[int | None], generated: int) -> str:
    """Say after how many tokens greedy text differs first, and in how many prompts: "12 (2 of 4)", "never in 64"."""
    if not at:
        return "–"
    found = [token for token in at if token is not None]
    return f"{min(found)} ({len(found)} of {len(at)})" if found else f"never in {generated}"


def show(summary: dict[str, Any], out: Console) -> None:
    """Print the table."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    out.print(escape(headline(summary)))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        first = name == "rule"
        table.add_column(name, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for cells in rows(summary):
        table.add_row(*map(escape, cells))
    out.print(table)


def page(summary: dict[str, Any]) -> str:
    """Return the page; it loads nothing and runs no script."""
    environment = Environment(
        loader=PackageLoader("precalign.analysis.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text: str = environment.get_template("evaluation.html.j2").render(
        summary=summary,
        headline=headline(summary),
        columns=COLUMNS,
        rows=rows(summary),
        bars=[_bar(rule, summary["rules"]) for rule in summary["rules"]],
    )
    return text


def _change(estimate: dict[str, float | None]) -> tuple[str, str]:
    mean, low, high = (_signed(estimate[name]) for name in ("mean", "low", "high"))
    return f"{mean} %", "–" if estimate["low"] is None else f"{low} to {high}"


def _share(estimate: dict[str, float | None]) -> tuple[str, str]:
    mean, low, high = (100 * (estimate[name] or 0.0) for name in ("mean", "low", "high"))
    return f"{mean:.2f} %", f"{low:.2f} to {high:.2f}"


def _saved(share: float) -> str:
    return words.percent(share if abs(share) >= 5e-4 else 0.0)


def _signed(share: float | None) -> str:
    """+0.0012, in percent; what rounds to zero has no sign."""
    text = f"{100 * (share or 0.0):+.4f}".replace("-", "−")
    return "0.0000" if text[1:] == "0.0000" else text


def _bar(rule: dict[str, Any], rules: list[dict[str, Any]]) -> dict[str, Any]:
    """Return where the interval of a perplexity change lies on a scale that all rules share, in percent of its width."""
    ends = [rules[0]["perplexity_change"][name] or 0.0 for name in ("low", "high")]
    for other in rules:
        ends += [other["perplexity_change"][name] or other["perplexity_change"]["mean"] for name in ("low", "high")]
    least, most = min(0.0, *ends), max(0.0, *ends)
    width = (most - least) or 1.0
    change = rule["perplexity_change"]
    low, high = (change[name] if change[name] is not None else change["mean"] for name in ("low", "high"))
    return {
        "rule": rule["rule"],
        "left": 100 * (low - least) / width,
        "width": max(0.5, 100 * (high - low) / width),
        "mean": 100 * (change["mean"] - least) / width,
        "zero": 100 * (0.0 - least) / width,
        "text": "{} ({})".format(*_change(change)),
    }
