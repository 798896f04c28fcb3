"""The result as a table for the terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from precalign.analysis.render import words
from precalign.analysis.render.layers import by_layer

if TYPE_CHECKING:
    from rich.console import Console

    from precalign.analysis.results.reader import Result

BAR = " ▏▎▍▌▋▊▉█"
BAR_CELLS = 8


def render(result: Result) -> str:
    """Return plain text."""
    from rich.console import Console

    text = io.StringIO()
    show(result, Console(file=text, width=110, highlight=False))
    return text.getvalue()


def show(result: Result, out: Console) -> None:
    """Print headline, one table per rule, and what is missing."""
    from rich.markup import escape

    summary = result.summary
    out.print(f"[bold]{escape(words.title(summary))}[/]  {escape(_shape(summary))}")
    for rule in summary["rules"]:
        if summary["waste"] is not None:
            out.print()
            out.print(escape(words.sentence(summary, rule)))
            out.print(_table(result, rule["rule"]))
            out.print(words.memory_sentence(rule))
            out.print(words.yardstick_sentence(rule, summary["options"]["n_steps"]))
    if summary["waste"] is None:
        out.print(escape(words.sentence_without_queries(summary)))
    for note in summary["notes"]:
        out.print(f"Note: {escape(note)}")
    for lack in summary["missing"]:
        out.print(f"Missing: {lack['what']} of {_layers(lack['layers'])}: {escape(lack['effect'])}.")
        out.print(f"To capture them: {escape(lack['how'])}.")
    for head in summary["skipped"]:
        out.print(f"Left out: layer {head['layer']}, kv head {head['kv_head']}: {escape(head['reason'])}")


def _shape(summary: dict[str, Any]) -> str:
    dump = summary["dump"]
    shape = f"{dump['n_layers']} layers × {dump['n_kv_heads']} kv heads × {dump['seq_len']} tokens × {dump['head_dim']}"
    return (
        f"{shape}, {dump['storage_format']}, layout {summary['layout']['name']}, {summary['options']['n_steps']} steps"
    )


def _layers(layers: list[int]) -> str:
    return f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers"


def _table(result: Result, rule: str) -> Any:  # noqa: ANN401 - rich is imported lazily
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (
        "layer",
        "key bits",
        "value bits",
        "wasted k/v",
        "bits saved",
        "bytes saved",
        "",
        "output error",
        "p99",
        "rounding",
    ):
        table.add_column(name, justify="left" if name == "" else "right")
    for row in by_layer(result, rule):
        table.add_row(
            str(row["layer"]),
            f"{row['key_bits_mean']:.1f}",
            f"{row['value_bits_mean']:.1f}",
            f"{row['key_wasted_bits_mean']:.1f}/{row['value_wasted_bits_mean']:.1f}",
            words.percent(row["bits_saving"]),
            words.percent(row["bytes_saving"]),
            bar(row["bytes_saving"]),
            words.error(row["output_relative_error_to_exact_median"]),
            words.error(row["output_relative_error_to_exact_p99"]),
            words.error(row["rounding_relative_error_median"]),
        )
    return table


def bar(share: float) -> str:
    """Return a bar of eighths; a full bar is 50 %."""
    eighths = max(0, min(BAR_CELLS * 8, round(share * 2 * BAR_CELLS * 8)))
    return "█" * (eighths // 8) + BAR[eighths % 8].strip()
