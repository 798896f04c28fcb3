"""The analysis of one kv head: read it, profile it in blocks of steps, make its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from precalign.analysis.cache_stats import CacheStats, cache_stats, magnitudes
from precalign.analysis.results.rows import Place, Schemas, cache_table, rule_tables, tables_without_queries
from precalign.errors import InputError
from precalign.inputs import HeadInputs
from precalign.profile import merge, profile_head
from precalign.rebase import escaped_keys, escaped_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from precalign.analysis.plan import Plan, Task
    from precalign.analysis.readers import HeadTensors
    from precalign.analysis.readers.conversion import Conversion
    from precalign.inputs import Steps
    from precalign.layouts import Layout
    from precalign.profile import HeadProfile
    from precalign.rules import Rule

BLOCK_PAIRS = 1 << 23
"""(step, token, query head) of a block of steps: up to a second of work, after which an interruption is heard."""
RULES_AT_ONCE = 8
"""With so many times more rules a block has so many times fewer steps."""
MERGE_BLOCKS = 16
"""Blocks held before they are added up; their arrays are as long as the sequence."""
MEMORY_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class HeadResult:
    """One kv head, analysed.

    Attributes
    ----------
    place : Place
    seq_len, head_dim : int
    tables : list of (table name, rows)
        In the order in which they are written.
    stats : dict[str, CacheStats]
        "key" and "value".
    profiles : list of HeadProfile
        One per rule; none where there are no queries or the head was left out.
    conversions : dict[str, Conversion]
        What rounding to the storage format did, by role.
    exponent_waste : dict[str, float]
        "key": exponent bits that a channel does not need, mean over channels; "value": a token, over tokens. Empty if left out.
    escaped : dict[str, int]
        "key" and "value": numbers that a rebased layout does not hold in its planes. Empty for other layouts.
    skipped : str or None
        Why the head was left out.
    """

    place: Place
    seq_len: int
    head_dim: int
    tables: list[tuple[str, pa.Table]]
    stats: dict[str, CacheStats]
    profiles: list[HeadProfile]
    conversions: dict[str, Conversion]
    exponent_waste: dict[str, float]
    escaped: dict[str, int]
    skipped: str | None = None


def analyze_head(plan: Plan, task: Task, schemas: Schemas, advance: Callable[[int], None]) -> HeadResult:
    """Analyse one kv head.

    Parameters
    ----------
    plan : Plan
    task : Task
    schemas : mapping
        Of the tables.
    advance : callable
        Told how many steps are done, block by block; it may raise to stop the work.

    Raises
    ------
    InputError
        If the head holds infinities or NaNs and these are not to be skipped.
    """
    layer, fmt = task.layer, plan.format
    codes = plan.dump.read_head(layer, task.kv_head, plan.options.batch)
    group = 0 if codes.queries is None else len(codes.queries)
    place = Place(layer.index, task.kv_head, range(task.kv_head * group, (task.kv_head + 1) * group), fmt)
    stats = {"key": cache_stats(codes.keys, fmt), "value": cache_stats(codes.values, fmt)}
    shape = (layer.seq_len, layer.head_dim)
    name = f"{plan.name}: layer {layer.index}, kv head {task.kv_head}"
    if reason := _nonfinite(codes, stats):
        if not plan.options.skip_nonfinite:
            raise InputError(
                f"{name}: {reason}; no decode step can be judged by them",
                hint="--skip-nonfinite leaves such heads out and says so in the report",
            )
        advance(1 if task.steps is None else len(task.steps))
        tables = [("cache", cache_table(schemas["cache"], place, stats, {}, {}))]
        return HeadResult(place, *shape, tables, stats, [], codes.conversions, {}, {}, reason)
    ranges = {"key": magnitudes(codes.keys, fmt), "value": magnitudes(codes.values, fmt)}
    waste = {
        "key": float(ranges["key"].channel_wasted_bits.mean()),
        "value": float(ranges["value"].token_wasted_bits.mean()),
    }
    escaped = _escaped(plan, codes)
    tables = [("cache", cache_table(schemas["cache"], place, stats, waste, escaped))]
    if codes.queries is None or task.steps is None:
        tables += tables_without_queries(schemas, place, ranges).items()
        advance(1)
        return HeadResult(place, *shape, tables, stats, [], codes.conversions, waste, escaped)
    profiles = _profiles(plan, codes, task, name, advance)
    for profile in profiles:
        tables += rule_tables(schemas, place, profile, task.steps.queries, task.steps.first, ranges).items()
    return HeadResult(place, *shape, tables, stats, profiles, codes.conversions, waste, escaped)


def _escaped(plan: Plan, codes: HeadTensors) -> dict[str, int]:
    if not plan.layout.rebased:
        return {}
    masks = {"key": escaped_keys(codes.keys, plan.layout), "value": escaped_values(codes.values, plan.layout)}
    return {kind: int(mask.sum()) for kind, mask in masks.items()}


def _nonfinite(codes: HeadTensors, stats: dict[str, CacheStats]) -> str | None:
    counted = {kind: held.nonfinite for kind, held in stats.items()}
    if codes.queries is not None:
        counted["query"] = cache_stats(codes.queries, codes.query_format).nonfinite
    names = {"key": "keys", "value": "values", "query": "queries"}
    found = [f"{count} in its {names[kind]}" for kind, count in counted.items() if count]
    return "infinities or NaNs: " + ", ".join(found) if found else None


def _profiles(
    plan: Plan, codes: HeadTensors, task: Task, name: str, advance: Callable[[int], None]
) -> list[HeadProfile]:
    assert codes.queries is not None  # noqa: S101 - the caller has looked
    assert task.steps is not None  # noqa: S101
    inputs = HeadInputs(codes.keys, codes.values, codes.queries, plan.format, task.scale, name, codes.query_format)
    rules = plan.rules_of(task)
    held: list[list[HeadProfile]] = [[] for _ in rules]
    for done in profile_blocks(inputs, task.steps, rules, plan.layout, plan.options.split_tokens, advance):
        for profiles, profile in zip(held, done, strict=True):
            profiles.append(profile)
            if len(profiles) == MERGE_BLOCKS:
                profiles[:] = [merge(profiles)]
    merged = (merge(profiles) for profiles in held)
    return [replace(profile, rule=name) for profile, name in zip(merged, plan.rule_names, strict=True)]


def profile_blocks(
    inputs: HeadInputs,
    steps: Steps,
    rules: Sequence[Rule],
    layout: Layout,
    split_tokens: int,
    advance: Callable[[int], None],
) -> Iterator[list[HeadProfile]]:
    """Yield the profiles of every rule, block of steps by block, and tell `advance` how many steps are done."""
    size = max(1, min(256, BLOCK_PAIRS // (len(inputs.queries) * len(inputs.keys) * -(-len(rules) // RULES_AT_ONCE))))
    for begin in range(0, len(steps), size):
        block = steps[begin : begin + size]
        yield profile_head(
            inputs,
            steps=block.queries,
            first=block.first,
            visible=block.visible,
            rules=rules,
            layout=layout,
            split_tokens=split_tokens,
            memory_limit_bytes=MEMORY_LIMIT_BYTES,
        )
        advance(len(block))
