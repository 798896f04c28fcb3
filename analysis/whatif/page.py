"""The study as one self-contained page: speed-up against context for each GPU, and the trend that was measured."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from precalign.analysis.render import words
from precalign.analysis.render.html import plotly_script, script_json


def render(held: dict[str, Any]) -> str:
    """Return the page of a study's plain data. Everything from a dump is escaped; the page loads nothing."""
    environment = Environment(
        loader=PackageLoader("precalign.analysis.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount, "bytes_of": bytes_of, "percent_of": percent_of, "times_of": times_of}
    page: str = environment.get_template("whatif.html.j2").render(
        held=held, data=script_json(json.loads(json.dumps(held))), plotly=plotly_script()
    )
    return page


def mark(number: dict[str, Any], text: str) -> str:
    """Return a number as shown: extrapolated ones begin with ~."""
    return f"~{text}" if number["extrapolated"] else text


def amount(number: dict[str, Any], digits: int = 1) -> str:
    """~12.3; a count of tokens with separators; "none" where there is no such number."""
    value = number["value"]
    if value is None:
        return "none"
    return mark(number, f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}")


def bytes_of(number: dict[str, Any]) -> str:
    """~1.2 MB."""
    return mark(number, words.size(number["value"]))


def percent_of(number: dict[str, Any]) -> str:
    """~26.4 %."""
    return mark(number, words.percent(number["value"]))


def times_of(number: dict[str, Any]) -> str:
    """~1.23×."""
    return mark(number, f"{number['value']:.2f}×")
