"""The result as one self-contained page that opens offline."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from precalign.analysis.render import figures, words

if TYPE_CHECKING:
    from precalign.analysis.results.reader import Result


def render(result: Result) -> str:
    """Return the page. Everything that comes from a dump is escaped; the page loads nothing and runs only its own scripts."""
    summary = result.summary
    return page(
        "report.html.j2",
        _plots(result),
        summary=summary,
        title=words.title(summary),
        rules=[_rule_section(summary, rule) for rule in summary["rules"]] if summary["waste"] else [],
        sentence_without_queries=words.sentence_without_queries,
        full_bits=words.summary_bits(summary),
    )


def page(template: str, data: object, **values: Any) -> str:  # noqa: ANN401 - whatever the template shows
    """Return a self-contained page: a template with its values, and data that its scripts may read as JSON."""
    environment = Environment(
        loader=PackageLoader("precalign.analysis.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bits": words.bits, "percent": words.percent, "error": words.error, "size": words.size}
    environment.filters["times"] = words.times
    text: str = environment.get_template(template).render(data=script_json(data), plotly=plotly_script(), **values)
    return text


def _rule_section(summary: dict[str, Any], rule: dict[str, Any]) -> dict[str, Any]:
    return {
        "rule": rule,
        "sentence": words.sentence(summary, rule),
        "numbers": words.numbers(summary, rule),
        "yardstick": words.yardstick_sentence(rule, summary["options"]["n_steps"]),
    }


def _plots(result: Result) -> dict[str, Any]:
    summary = result.summary
    if summary["waste"] is None:
        return {"rules": [], "waste": None}
    points = figures.points_per_head(result)
    return {
        "waste": {kind: summary["waste"][kind]["share_by_position"] for kind in ("key", "value")},
        "full_bits": words.summary_bits(summary),
        "rules": [
            {
                "rule": rule["rule"],
                "heat": figures.heat_maps(result, rule["rule"]),
                "levels": figures.levels(result, rule),
                "savings": figures.savings(rule),
                "errors": figures.error_histograms(result, rule["rule"]),
                "tightness": figures.tightness_histograms(result, rule["rule"]),
                "tokens": figures.tokens(result, rule["rule"], points),
                "channels": figures.channels(result, rule["rule"]),
            }
            for rule in summary["rules"]
        ],
    }


def script_json(data: object) -> str:
    """Return JSON that may stand inside <script>: it cannot end the element or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII, so no line separators either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def plotly_script() -> str:
    """Return the text of plotly.js, which every page carries in itself."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script
