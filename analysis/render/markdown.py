"""The result as Markdown, to paste into an issue or a pull request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from precalign.analysis.render import words
from precalign.analysis.render.layers import by_layer

if TYPE_CHECKING:
    from precalign.analysis.results.reader import Result


def render(result: Result) -> str:
    """Return the sentence, the numbers and a table of layers, rule by rule."""
    summary = result.summary
    dump = summary["dump"]
    facts = (
        f"{dump['n_layers']} layers, {dump['n_kv_heads']} kv heads, {dump['seq_len']} tokens, head_dim {dump['head_dim']}, "
        f"{dump['storage_format']}, layout {escape(summary['layout']['name'])}; {summary['options']['n_steps']} decode steps, "
        f"{summary['options']['attention']} attention; precalign {summary['precalign']}."
    )
    lines = [f"# {escape(words.title(summary))}", "", facts]
    if summary["waste"] is None:
        lines += ["", escape(words.sentence_without_queries(summary))]
    else:
        for rule in summary["rules"]:
            lines += ["", f"## Rule {escape(rule['rule'])}", "", escape(words.sentence(summary, rule)), ""]
            lines += [f"- **{number.text}** {number.label}" for number in words.numbers(summary, rule)]
            lines += ["", *_table(result, rule["rule"]), "", words.memory_sentence(rule)]
            lines += ["", words.yardstick_sentence(rule, summary["options"]["n_steps"])]
    lines += [f"\n> {escape(note)}" for note in summary["notes"]]
    lines += [
        f"\n> Missing: {lack['what']}. {lack['effect']}. To capture them: {escape(lack['how'])}."
        for lack in summary["missing"]
    ]
    return "\n".join(lines) + "\n"


def _table(result: Result, rule: str) -> list[str]:
    head = (
        "layer",
        "key bits",
        "value bits",
        "bits saved",
        "bytes saved",
        "output error (median)",
        "(p99)",
        "rounding alone",
    )
    return ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head), *(_row(row) for row in by_layer(result, rule))]


def _row(row: dict[str, Any]) -> str:
    cells = (
        str(row["layer"]),
        f"{row['key_bits_mean']:.1f}",
        f"{row['value_bits_mean']:.1f}",
        words.percent(row["bits_saving"]),
        words.percent(row["bytes_saving"]),
        words.error(row["output_relative_error_to_exact_median"]),
        words.error(row["output_relative_error_to_exact_p99"]),
        words.error(row["rounding_relative_error_median"]),
    )
    return "| " + " | ".join(cells) + " |"


def escape(text: str) -> str:
    """Escape what Markdown or HTML inside it would obey."""
    return re.sub(r"([\\`*_\[\]<>#|&])", r"\\\1", text)
