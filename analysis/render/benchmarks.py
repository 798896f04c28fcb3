"""Benchmarks as one self-contained page that opens offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precalign.analysis.benchmarks.timing import machine
from precalign.analysis.render.html import page

if TYPE_CHECKING:
    from precalign.analysis.benchmarks.suite import Suite
    from precalign.analysis.benchmarks.timing import Benchmark, Plot


def render(suite: Suite) -> str:
    """Return the page: what was checked, the aims, plots, and a table of each benchmark."""
    plots = [_figure(plot) for benchmark in suite.benchmarks for plot in benchmark.plots]
    sections = [_section(benchmark) for benchmark in suite.benchmarks]
    return page("benchmarks.html.j2", plots, machine=machine(), benchmarks=sections, missing=suite.missing)


def _section(benchmark: Benchmark) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in benchmark.rows for name in row.figures))
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in benchmark.rows:
        figures = [f"{row.figures[name]:.4g}" if name in row.figures else "" for name in names]
        times = [f"{number:.3f}" for number in (row.median_ms, row.best_ms, row.spread_ms)]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cases.setdefault(row.case, []).append({"contender": row.contender, "cells": [*times, ratio, *figures]})
    return {"benchmark": benchmark, "figures": names, "cases": cases}


def _figure(plot: Plot) -> dict[str, Any]:
    """Return what plotly draws."""
    data = [
        {
            "type": "scatter",
            "mode": "lines" if series.line else "markers",
            "name": series.name,
            "x": series.x,
            "y": series.y,
            "text": series.labels,
        }
        for series in plot.series
    ]
    layout = {
        "title": {"text": plot.title},
        "xaxis": {"title": {"text": plot.x_title}},
        "yaxis": {"title": {"text": plot.y_title}},
        "legend": {"orientation": "h", "y": -0.2},
    }
    return {"data": data, "layout": layout}
