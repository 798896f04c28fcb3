"""What summary.json says about the dump and the request: nothing here depends on the data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
    scales = {(task.layer.index, task.kv_head): task.scale for task in plan.tasks}
    layers = [
        {"layer": layer.index, "window": dump.window_of(layer)} | {name: getattr(layer, name) for name in SHAPE}
        for layer in plan.layers
    ]
    return {
        "name": plan.name,
        "reader": dump.reader,
        "stored_format": _common(layer.format.name for layer in plan.layers),
        "storage_format": plan.format.name,
        "query_format": plan.query_format.name,
        "scaled_cache": any(layer.key_scales or layer.value_scales for layer in plan.layers),
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


def layout_facts(plan: Plan) -> dict[str, Any]:
    """Return the object `layout`."""
    layout = plan.layout
    return {
        "name": layout.name,
        "format": layout.format.name,
        "format_bits": layout.format.total_bits,
        "exponent_bits": layout.format.exponent_bits,
        "rebased": layout.rebased,
        "widths_bits": list(layout.widths),
        "levels_bits": list(layout.levels),
        "skip": layout.skip,
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


def notes(plan: Plan, conversions: Mapping[str, Conversion], cache: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the list `notes`: what a reader of the figures must know."""
    said = [*_scale_notes(plan)]
    if plan.layout.rebased:
        total, escaped = (sum(held[what] or 0 for held in cache.values()) for what in ("numbers", "escaped"))
        said.append(
            f"Exponents are stored relative to the largest of a key channel's page, or of a token's values, in {plan.layout.exponent_bits} of "
            f"{plan.format.exponent_bits} bits: {escaped:,} of {total:,} numbers lie below and are read whole from a list, so a full read is exact. "
            "References and escapes are counted as metadata."
        )
    if conversions:
        formats = {"queries": plan.query_format.name}
        parts = [
            f"{did.inexact:,} of {did.elements:,} numbers of the {role} changed"
            + (f" ({did.overflowed:,} became infinite)" if did.overflowed else "")
            for role, did in conversions.items()
        ]
        to = " and ".join(dict.fromkeys(formats.get(role, plan.format.name) for role in conversions))
        what = "The dump is binary32; it was" if "keys" in conversions else "The queries are binary32; they were"
        said.append(f"{what} rounded to {to}: {', '.join(parts)}.")
    batch_size = max(layer.batch_size for layer in plan.layers)
    if batch_size > 1:
        said.append(f"The dump holds {batch_size} sequences; this is sequence {plan.options.batch} (--batch).")
    return said


def _scale_notes(plan: Plan) -> Iterator[str]:
    """Say what scales the dump states: those of keys are in the scores, those of values change nothing that is relative."""
    stated = {
        "keys": [s for layer in plan.layers for s in layer.key_scales or ()],
        "values": [s for layer in plan.layers for s in layer.value_scales or ()],
    }
    if stated["keys"]:
        yield f"Stored keys are scaled by {_span(stated['keys'])}; the factor of the scores includes it."
    if stated["values"]:
        yield (
            f"Stored values are scaled by {_span(stated['values'])}; bits read and relative errors are the same with and without, "
            "absolute output errors are in units of the stored values."
        )


def _span(scales: list[float]) -> str:
    low, high = min(scales), max(scales)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
