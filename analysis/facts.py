"""What summary.json says about the dump and the request: nothing here depends on the data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from precalign.analysis.plan import Plan
    from precalign.analysis.readers.conversion import Conversion

SHAPE = ("n_kv_heads", "n_q_heads", "head_dim", "seq_len", "n_queries")
HOW_TO_CAPTURE_QUERIES = (
    "save the queries after rotary embedding, as the attention kernel gets them, under layers.{i}.queries with shape "
    "(1, n_q_heads, n_queries, head_dim); the last query belongs to the last token"
)


def dump_facts(plan: Plan) -> dict[str, Any]:
    """Return the object `dump`."""
    dump = plan.dump
    scales = {task.layer.index: task.scale for task in plan.tasks}
    layers = [
        {"layer": layer.index, "window": dump.window_of(layer)} | {name: getattr(layer, name) for name in SHAPE}
        for layer in plan.layers
    ]
    return {
        "name": plan.name,
        "reader": dump.reader,
        "stored_format": _common(layer.format.name for layer in plan.layers),
        "storage_format": plan.format.name,
        "scale": _common(scales.values()),
        "scale_source": plan.scale_source,
        "window": _common(dump.window_of(layer) for layer in plan.layers),
        "batch_size": _common(layer.batch_size for layer in plan.layers),
        "batch": plan.options.batch,
        "n_layers": len(layers),
        **{name: _common(layer[name] for layer in layers) for name in SHAPE},
        "layers": layers,
    }


def _common(values: Iterable[Any]) -> Any:  # noqa: ANN401 - a number or None
    different = set(values)
    return different.pop() if len(different) == 1 else None


def options_facts(plan: Plan) -> dict[str, Any]:
    """Return the object `options`; the number of jobs is not in it, because no result depends on it."""
    options = asdict(plan.options)
    return {
        "layers": [layer.index for layer in plan.layers],
        "kv_heads": sorted({task.kv_head for task in plan.tasks}),
        "steps": options["steps"],
        "n_steps": sum(len(task.steps) for task in plan.tasks if task.steps is not None),
        "attention": "causal" if options["causal"] else "full",
        "rules": list(plan.rule_names),
        "split_tokens": options["split_tokens"],
    }


def missing(plan: Plan) -> list[dict[str, Any]]:
    """Return the list `missing`."""
    layers = [layer.index for layer in plan.layers if layer.n_queries is None]
    if not layers:
        return []
    return [
        {
            "what": "queries",
            "layers": layers,
            "effect": "no decode step could be taken: bits read, savings, wasted bits and errors are unknown; "
            "exponent ranges, unused format bits and the layout's traffic are given",
            "how": HOW_TO_CAPTURE_QUERIES,
        }
    ]


def notes(plan: Plan, conversions: Mapping[str, Conversion]) -> list[str]:
    """Return the list `notes`: what a reader of the figures must know."""
    said = []
    if conversions:
        parts = [
            f"{what.inexact:,} of {what.elements:,} numbers of the {role} changed"
            + (f" ({what.overflowed:,} became infinite)" if what.overflowed else "")
            for role, what in conversions.items()
        ]
        said.append(f"The dump is binary32; it was rounded to {plan.format.name}: {', '.join(parts)}.")
    batch_size = max(layer.batch_size for layer in plan.layers)
    if batch_size > 1:
        said.append(f"The dump holds {batch_size} sequences; this is sequence {plan.options.batch} (--batch).")
    return said
