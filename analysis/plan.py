"""What will be analysed: every choice checked against the dump before anything is computed or written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

from precalign.analysis.policies import check_policies, with_policies
from precalign.analysis.readers.base import printable
from precalign.analysis.selection import parse_indices, parse_steps, visible_range
from precalign.errors import InputError, UsageError
from precalign.inputs import Steps
from precalign.layouts import Layout, default_layout, parse_layout
from precalign.profile import DEFAULT_SPLIT_TOKENS
from precalign.rules import Rule, get_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from precalign.analysis.readers import Dump, LayerInfo
    from precalign.formats import Format
    from precalign.policy import Policy

DEFAULT_RULES = ("alignedkv",)
MOST_JOBS = 6
"""Not more by default: each job holds a head and its working arrays, about 0.2 GB for 32k tokens; six stay under 2 GB."""


def default_jobs() -> int:
    """Return how many heads are worked on at once where the user does not say: the cores this process may use, at most 6."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST_JOBS)


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes
    ----------
    layers, kv_heads : str or None
        "0,2,4-6"; None for all.
    steps : str
        all, last, every:N or A:B.
    causal : bool
        Query t of n sees the tokens up to its own, the last query all; else every query sees every token.
    layout : str or None
        Plane widths; None for the format's default.
    rules : tuple of str
        "name" or "name:parameter=value".
    split_tokens : int
        Tokens of a split in the stated order.
    scale : float or None
        Factor of the scores; None for the dump's own, or else 1 / sqrt(head_dim).
    batch : int
        Which sequence of a dump that holds several.
    jobs : int
        Heads worked on at once.
    skip_nonfinite : bool
        Leave out heads that hold infinities or NaNs, instead of refusing the dump.
    """

    layers: str | None = None
    kv_heads: str | None = None
    steps: str = "all"
    causal: bool = True
    layout: str | None = None
    rules: tuple[str, ...] = DEFAULT_RULES
    split_tokens: int = DEFAULT_SPLIT_TOKENS
    scale: float | None = None
    batch: int = 0
    jobs: int = field(default_factory=default_jobs)
    skip_nonfinite: bool = False


@dataclass(frozen=True)
class Task:
    """One kv head of one layer.

    Attributes
    ----------
    layer : LayerInfo
    kv_head : int
    scale : float
        Factor of the scores, the scale of the stored keys included.
    steps : Steps or None
        None where the layer has no queries.
    """

    layer: LayerInfo
    kv_head: int
    scale: float
    steps: Steps | None


@dataclass(frozen=True)
class Plan:
    """What will be analysed.

    Attributes
    ----------
    dump : Dump
    options : Options
    format, query_format : Format
        Of all keys and values, and of all queries.
    scale_source : str
        Where the factor of the scores comes from.
    layout : Layout
    rules : tuple of Rule
        Applied to every head.
    layers : tuple of LayerInfo
        Ascending.
    tasks : tuple of Task
        By layer and kv head, ascending: the order of all rows.
    policies : dict of str to Policy
        Applied beside the rules, under their names.
    """

    dump: Dump
    options: Options
    format: Format
    query_format: Format
    scale_source: str
    layout: Layout
    rules: tuple[Rule, ...]
    layers: tuple[LayerInfo, ...]
    tasks: tuple[Task, ...]
    policies: Mapping[str, Policy] = field(default_factory=dict)

    @property
    def rule_names(self) -> tuple[str, ...]:
        """What tables call the rules, and then the policies."""
        return (*map(str, self.rules), *self.policies)

    def rules_of(self, task: Task) -> tuple[Rule, ...]:
        """Return the rules of one kv head, in the order of `rule_names`."""
        place = (task.layer.index, task.kv_head)
        return (*self.rules, *(policy.rule(*place) for policy in self.policies.values()))

    @property
    def name(self) -> str:
        """The dump's file name, as it may be shown."""
        return printable(self.dump.path.name)

    @property
    def n_steps(self) -> int:
        """Decode steps of all tasks; a head without queries counts as one."""
        return sum(1 if task.steps is None else len(task.steps) for task in self.tasks)


def make_plan(dump: Dump, options: Options, policies: Mapping[str, Policy] | None = None) -> Plan:
    """Check every choice against the dump.

    Parameters
    ----------
    dump : Dump
    options : Options
    policies : mapping of str to Policy, optional
        Applied beside the rules; they bring the layout and the split with them.

    Raises
    ------
    UsageError
        If a choice is not there or not understood.
    InputError
        If the dump has more queries than tokens where causal attention is asked for, or layers of several formats, or a policy is of
        another model.
    """
    policies = {} if policies is None else policies
    options = with_policies(options, policies)
    rules = tuple({str(rule): rule for rule in map(get_rule, options.rules)}.values())
    by_index = {layer.index: layer for layer in dump.layers}
    chosen = sorted(by_index) if options.layers is None else parse_indices(options.layers, by_index, "layers")
    layers = tuple(by_index[index] for index in chosen)
    _check_batch(layers, options.batch)
    fmt, query_fmt = _common_format(dump, layers, dump.format_of), _common_format(dump, layers, dump.query_format_of)
    scales, source = _scales(dump, layers, options)
    tasks = tuple(
        Task(layer, kv_head, scale * (layer.key_scales[kv_head] if layer.key_scales else 1), steps)
        for layer, scale in zip(layers, scales, strict=True)
        for steps in [_steps(dump, layer, options)]
        for kv_head in _kv_heads(layer, options)
    )
    check_policies(policies, rules, fmt, layers, tasks)
    layout = _layout(fmt, options, rules)
    return Plan(dump, options, fmt, query_fmt, source, layout, rules, layers, tasks, policies)


def _check_batch(layers: tuple[LayerInfo, ...], batch: int) -> None:
    size = min(layer.batch_size for layer in layers)
    if not 0 <= batch < size:
        raise UsageError(f"--batch {batch}: the dump holds {size} sequences", hint=f"give 0 .. {size - 1}")


def _common_format(dump: Dump, layers: tuple[LayerInfo, ...], format_of: Callable[[LayerInfo], Format]) -> Format:
    formats = {format_of(layer).name: format_of(layer) for layer in layers}
    if len(formats) > 1:
        raise InputError(
            f"{dump.path}: layers are stored in several formats: {', '.join(sorted(formats))}",
            hint="analyze those of one format at a time: --layers",
        )
    return next(iter(formats.values()))


def _scales(dump: Dump, layers: tuple[LayerInfo, ...], options: Options) -> tuple[list[float], str]:
    if options.scale is not None:
        if not (isfinite(options.scale) and options.scale > 0):
            raise UsageError(f"--scale {options.scale}: must be a positive number")
        return [options.scale] * len(layers), "--scale"
    found = [dump.scale_of(layer) for layer in layers]
    return [scale for scale, _ in found], found[0][1]


def _layout(fmt: Format, options: Options, rules: tuple[Rule, ...]) -> Layout:
    skip = any(rule.needs_skip for rule in rules)
    layout = default_layout(fmt, skip=skip) if options.layout is None else parse_layout(options.layout, fmt)
    for rule in rules:
        rule.check(layout)
    return layout


def _kv_heads(layer: LayerInfo, options: Options) -> list[int]:
    there = range(layer.n_kv_heads)
    return list(there) if options.kv_heads is None else parse_indices(options.kv_heads, there, "heads")


def _steps(dump: Dump, layer: LayerInfo, options: Options) -> Steps | None:
    if layer.n_queries is None:
        return None
    if options.causal and layer.n_queries > layer.seq_len:
        raise InputError(
            f"{dump.path}: {printable(layer.names['queries'])}: causal attention needs at most one query per token: "
            f"{layer.n_queries} queries vs {layer.seq_len} tokens",
            hint="--full lets every query see every token",
        )
    queries = parse_steps(options.steps, layer.n_queries)
    first, visible = visible_range(
        queries, layer.n_queries, layer.seq_len, causal=options.causal, window=dump.window_of(layer)
    )
    return Steps(queries, first, visible)
