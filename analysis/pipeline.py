"""From a dump to a result directory: heads are worked on side by side and written in order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from precalign import __version__
from precalign.analysis.facts import dump_facts, layout_facts, missing, notes, options_facts
from precalign.analysis.head import HeadResult, analyze_head
from precalign.analysis.parallel import in_order
from precalign.analysis.results.directory import check_target, result_directory, writing
from precalign.analysis.results.schema import REPORT_FILE, SUMMARY_FILE, SUMMARY_SCHEMA
from precalign.analysis.results.summary import CacheTotals, RuleTotals, WasteTotals
from precalign.analysis.results.tables import TableSet
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from precalign.analysis.plan import Plan, Task
    from precalign.analysis.readers.conversion import Conversion

    Progress = Callable[[int], None]
    Render = Callable[[Path], str]


def analyze(
    plan: Plan,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    render: Render | None = None,
) -> dict[str, Any]:
    """Analyse a dump and write the result directory, whole or not at all.

    Parameters
    ----------
    plan : Plan
    target : Path
        The directory to make.
    overwrite : bool
        Whether an earlier result there may be replaced.
    progress : callable, optional
        Called with the number of steps that were finished since the last call, from worker threads.
    render : callable, optional
        Makes the page report.html of the finished tables.

    Returns
    -------
    dict
        What summary.json holds.

    Raises
    ------
    InputError
        If the dump cannot be used after all, e.g. holds NaNs.
    OutputError
        If the directory cannot be written.
    """
    check_target(target, overwrite=overwrite)
    with result_directory(target, overwrite=overwrite) as directory:
        totals = _Totals(plan)
        with TableSet(directory, plan.layout.levels, target) as tables:
            for result in _heads(plan, tables, progress):
                for name, rows in result.tables:
                    tables.add(name, rows)
                totals.add(result)
        plan.dump.check_unchanged()
        summary = totals.summary(directory)
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        with writing(target):
            (directory / SUMMARY_FILE).write_text(text, encoding="utf-8")
        if render is not None:
            page = render(directory)
            with writing(target):
                (directory / REPORT_FILE).write_text(page, encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _heads(plan: Plan, tables: TableSet, progress: Progress | None) -> Iterator[HeadResult]:
    """Yield every head's result in the order of the plan."""

    def work(task: Task, advance: Progress) -> HeadResult:
        return analyze_head(plan, task, tables.schemas, advance)

    return in_order(plan.tasks, plan.options.jobs, work, progress)


class _Totals:
    """summary.json in the making."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rules = [RuleTotals(name) for name in plan.rule_names]
        self._waste, self._cache = WasteTotals(), CacheTotals(plan.layout)
        self._skipped: list[dict[str, Any]] = []
        self._conversions: dict[str, Conversion] = {}

    def add(self, result: HeadResult) -> None:
        """Count one kv head."""
        shape = (result.seq_len, result.head_dim)
        self._cache.add(result.stats, *shape, result.exponent_waste, result.escaped)
        if result.skipped is not None:
            self._skipped.append(result.place.index | {"reason": result.skipped})
        if result.profiles:
            self._waste.add(result.profiles[0])
        for role, what in result.conversions.items():
            self._conversions[role] = self._conversions[role] + what if role in self._conversions else what
        for totals, profile in zip(self._rules, result.profiles, strict=bool(result.profiles)):
            totals.add(result.place, profile, result.head_dim)

    def summary(self, directory: Path) -> dict[str, Any]:
        """Return summary.json; the tables in `directory` are finished."""
        plan = self._plan
        if len(self._skipped) == len(plan.tasks):
            raise InputError(f"{plan.name}: every head holds infinities or NaNs: nothing is left to analyse")
        total_bits = plan.layout.format.total_bits
        waste, cache = self._waste.figures(total_bits), self._cache.figures()
        errors = [directory / "errors.parquet"]
        return {
            "schema": SUMMARY_SCHEMA,
            "precalign": __version__,
            "dump": dump_facts(plan),
            "options": options_facts(plan),
            "layout": layout_facts(plan),
            "missing": missing(plan),
            "notes": notes(plan, self._conversions, cache),
            "skipped": self._skipped,
            "cache": cache,
            "layout_traffic": self._cache.traffic(),
            "waste": waste,
            "rules": [] if waste is None else [totals.figures(total_bits, errors) for totals in self._rules],
        }
