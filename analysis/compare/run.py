"""From a dump to a comparison directory: layer by layer, every contender on the same steps."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from precalign import __version__
from precalign.analysis.compare.measure import LayerData, measure
from precalign.analysis.compare.memory import encode_peak
from precalign.analysis.compare.ranking import ranking
from precalign.analysis.compare.schema import COMPARE_FILE, COMPARE_PAGE, COMPARE_SCHEMA, compare_schema
from precalign.analysis.facts import dump_facts
from precalign.analysis.measure import check_queries, read_inputs
from precalign.analysis.measure import measure as measure_rules
from precalign.analysis.parallel import in_order
from precalign.analysis.results.directory import check_target, result_directory
from precalign.analysis.results.single import write_table_result
from precalign.decode.codes import to_binary32
from precalign.layouts import default_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from precalign.analysis.compare.contenders import Contender
    from precalign.analysis.plan import Plan, Task
    from precalign.inputs import HeadInputs
    from precalign.layouts import Layout

    Progress = Callable[[int], None]


def compare(
    plan: Plan,
    contenders: Sequence[Contender],
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    render: Callable[[Path], str] | None = None,
) -> dict[str, Any]:
    """Measure codecs, and the plan's rules, on every layer and write a directory, whole or not at all.

    Parameters
    ----------
    plan : Plan
        Its rules are compared too, in the format's default planes.
    contenders : sequence of Contender
    target : Path
        The directory to make.
    overwrite : bool
        Whether an earlier result there may be replaced.
    progress : callable, optional
        Told how many contenders of how many layers are done.
    render : callable, optional
        Makes the page of the finished files.

    Returns
    -------
    dict
        What summary.json holds.

    Raises
    ------
    InputError
        If a layer has no queries, or holds infinities or NaNs.
    UsageError
        If a codec cannot hold a layer.
    OutputError
        If the directory cannot be written.
    """
    check_target(target, overwrite=overwrite)
    check_queries(plan)
    with result_directory(target, overwrite=overwrite) as directory:
        layers = [list(tasks) for _, tasks in groupby(plan.tasks, key=lambda task: task.layer.index)]

        # One after the other, before layers are worked on side by side: what is traced is the whole process.
        peaks = _encode_peaks(plan, layers[0], contenders)

        def work(tasks: list[Task], advance: Progress) -> list[dict[str, Any]]:
            return [
                row | {"encode_peak": peaks.get(row["contender"])}
                for row in _layer_rows(plan, tasks, contenders, advance)
            ]

        rows = [row for part in in_order(layers, plan.options.jobs, work, progress) for row in part]
        order = {name: i for i, name in enumerate(dict.fromkeys(row["contender"] for row in rows))}
        rows.sort(key=lambda row: (order[row["contender"]], row["layer"], row["kv_head"]))
        table = pa.Table.from_pylist(rows, schema=compare_schema())
        summary = _summary(plan, rows)
        return write_table_result(directory, target, summary, (COMPARE_FILE, table), (COMPARE_PAGE, render))


def _encode_peaks(plan: Plan, tasks: list[Task], contenders: Sequence[Contender]) -> dict[str, float]:
    keys, values = _tokens(plan, [read_inputs(plan, task) for task in tasks])
    return {contender.name: encode_peak(contender, keys, values, plan.format) for contender in contenders}


def _tokens(plan: Plan, inputs: list[HeadInputs]) -> list[NDArray[np.float32]]:
    """Return keys and values, (seq_len, n_kv_heads, head_dim)."""
    return [
        np.stack([to_binary32(getattr(head, side), plan.format) for head in inputs], axis=1)
        for side in ("keys", "values")
    ]


def _layer_rows(
    plan: Plan, tasks: list[Task], contenders: Sequence[Contender], advance: Progress
) -> list[dict[str, Any]]:
    inputs = [read_inputs(plan, task) for task in tasks]
    data = _layer_data(plan, tasks, inputs)
    heads = [task.kv_head for task in tasks]
    rows = []
    for contender in contenders:
        rows += [row | {"kv_head": heads[row["kv_head"]]} for row in measure(data, contender)]
        advance(1)
    if plan.rules:
        layout = default_layout(plan.format, skip=any(rule.needs_skip for rule in plan.rules))
        for task, head in zip(tasks, inputs, strict=True):
            rows += _rule_rows(plan, task, head, layout, data)
        advance(len(plan.rules))
    return rows


def _layer_data(plan: Plan, tasks: list[Task], inputs: list[HeadInputs]) -> LayerData:
    steps = tasks[0].steps
    assert steps is not None  # noqa: S101 - check_queries has looked
    keys, values = _tokens(plan, inputs)
    queries = np.stack(
        [to_binary32(np.ascontiguousarray(head.queries[:, steps.queries]), plan.query_format) for head in inputs]
    )
    return LayerData.make(
        tasks[0].layer.index,
        keys,
        values,
        queries.astype(np.float64),
        steps,
        tasks[0].scale,
        plan.format,
        plan.query_format,
    )


def _rule_rows(plan: Plan, task: Task, head: HeadInputs, layout: Layout, data: LayerData) -> list[dict[str, Any]]:
    """Return the rows of the rules: everything is stored, fewer bits are read."""
    rows, bits = [], plan.format.total_bits
    found = measure_rules(head, data.steps, plan.rules, layout, plan.options.split_tokens, lambda _: None)
    for one in found:
        errors = one.errors.astype(np.float64)
        rows.append(
            {
                "contender": str(one.rule),
                "kind": "rule",
                "layer": task.layer.index,
                "kv_head": task.kv_head,
                "n_steps": len(data.steps),
                "key_bits_per_number": bits,
                "value_bits_per_number": bits,
                "bits_per_number": bits,
                "stored_bytes": 2 * head.keys.size * bits / 8,
                "moved_bytes_per_step": 32 * one.read("sectors") / len(data.steps),
                "full_bytes_per_step": data.full_bytes_per_step,
                "output_error_median": float(np.median(errors)),
                "output_error_p99": float(np.quantile(errors, 0.99)),
                "output_error_max": float(errors.max()),
            }
        )
    return rows


def _summary(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": COMPARE_SCHEMA,
        "precalign": __version__,
        "dump": dump_facts(plan),
        "options": {
            "layers": [layer.index for layer in plan.layers],
            "steps": plan.options.steps,
            "n_steps": plan.n_steps,
            "attention": "causal" if plan.options.causal else "full",
        },
        "contenders": ranking(rows),
    }
