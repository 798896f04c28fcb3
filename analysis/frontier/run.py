"""From a dump to a frontier directory: heads streamed, settings measured together, curves and the table at equal error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precalign import __version__
from precalign.analysis.facts import dump_facts
from precalign.analysis.frontier.accepted import accepted
from precalign.analysis.frontier.collect import Collected
from precalign.analysis.frontier.equal import equal_error
from precalign.analysis.frontier.schema import FRONTIER_FILE, FRONTIER_PAGE, FRONTIER_SCHEMA
from precalign.analysis.frontier.table import frontier_table
from precalign.analysis.measure import Measured, check_queries, measure, read_inputs
from precalign.analysis.parallel import in_order
from precalign.analysis.results.directory import check_target, result_directory
from precalign.analysis.results.single import write_table_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from precalign.analysis.frontier.grid import Grid
    from precalign.analysis.plan import Plan, Task

    Progress = Callable[[int], None]
    Render = Callable[[Path], str]


def frontier(
    plan: Plan,
    grid: Grid,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    render: Render | None = None,
) -> dict[str, Any]:
    """Measure every setting on every head and write a frontier directory, whole or not at all.

    Parameters
    ----------
    plan : Plan
        Its rules and layout are not looked at.
    grid : Grid
    target : Path
        The directory to make.
    overwrite : bool
        Whether an earlier result there may be replaced.
    progress : callable, optional
        Told how many steps are done; every layout takes them once.
    render : callable, optional
        Makes the page of the finished files.

    Returns
    -------
    dict
        What summary.json holds.

    Raises
    ------
    InputError
        If a layer has no queries, or a head holds infinities or NaNs.
    OutputError
        If the directory cannot be written.
    """
    check_target(target, overwrite=overwrite)
    check_queries(plan)
    with result_directory(target, overwrite=overwrite) as directory:
        with Collected(directory) as collected:
            for task, measured in zip(plan.tasks, _measured(plan, grid, progress), strict=True):
                collected.add(task.layer.index, task.kv_head, measured)
            table = frontier_table(collected, grid, plan.format.total_bits)
            summary = _summary(plan, grid)
            summary |= {"equal_error": equal_error(table, collected, grid), "accepted": accepted(table)}
        return write_table_result(directory, target, summary, (FRONTIER_FILE, table), (FRONTIER_PAGE, render))


def _measured(plan: Plan, grid: Grid, progress: Progress | None) -> Iterator[list[Measured]]:
    def work(task: Task, advance: Progress) -> list[Measured]:
        assert task.steps is not None  # noqa: S101 - check_queries has looked
        inputs, found = read_inputs(plan, task), []
        for layout, rules in zip(grid.layouts, grid.rules, strict=True):
            found += measure(inputs, task.steps, rules, layout, plan.options.split_tokens, advance)
        return found

    return in_order(plan.tasks, plan.options.jobs, work, progress)


def _summary(plan: Plan, grid: Grid) -> dict[str, Any]:
    layout, rule = grid.settings[grid.reference]
    return {
        "schema": FRONTIER_SCHEMA,
        "precalign": __version__,
        "dump": dump_facts(plan),
        "options": {
            "layers": [layer.index for layer in plan.layers],
            "steps": plan.options.steps,
            "n_steps": plan.n_steps,
            "attention": "causal" if plan.options.causal else "full",
            "layouts": [layout.name for layout in grid.layouts],
            "n_settings": len(grid.settings),
            "split_tokens": plan.options.split_tokens,
        },
        "reference": {"layout": layout.name, "rule": str(rule)},
    }
