"""What was measured: the counts of an average decode step of an average kv head, as exact fractions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from precalign.analysis.results.reader import as_written
from precalign.errors import InputError, UsageError
from precalign.formats import get_format
from precalign.layouts import Layout, parse_layout
from precalign.rules import Rule, get_rule
from precalign.traffic import UNITS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from precalign.analysis.results.reader import Result

PARTS = ("key", "value", "metadata", "prepass", "full_key", "full_value")
AROUND = ("scores_bytes", "probs_bytes", "queries_bytes", "outputs_bytes")
IDEAL = ("key_ideal_bits", "value_ideal_bits")


@dataclass(frozen=True)
class Shape:
    """The shape of a model's decode attention.

    Attributes
    ----------
    head_dim, group, n_kv_heads, layers, batch : int
    context : Fraction
        Tokens that a step sees; of a measured profile the mean over its steps.
    """

    head_dim: int
    group: int
    n_kv_heads: int
    layers: int
    batch: int
    context: Fraction

    @property
    def heads(self) -> int:
        """Caches of one kv head that a step reads."""
        return self.layers * self.n_kv_heads * self.batch

    def changed(self, other: Shape) -> list[str]:
        """Return the names of the sizes in which two shapes differ."""
        return [name for name in vars(self) if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Basis:
    """An average step of a kv head under one rule.

    Attributes
    ----------
    rule : Rule
    layout : Layout
    shape : Shape
        Of the measured heads; batch is 1.
    counts : dict[str, Fraction]
        Columns of the table `steps`, mean over steps and heads.
    escaped_share : Fraction
        Of all numbers, those that a rebased layout reads from a list.
    n_steps : int
        Steps averaged.
    """

    rule: Rule
    layout: Layout
    shape: Shape
    counts: dict[str, Fraction]
    escaped_share: Fraction
    n_steps: int


def measured_basis(result: Result, rule: str | None = None) -> tuple[Basis, list[Basis]]:
    """Return the basis of a result, and those of all contexts that were measured, from short to long.

    The first is the mean over the steps that see more than half of the longest context; the others over steps whose contexts lie
    between one power of two and the next.

    Parameters
    ----------
    result : Result
    rule : str, optional
        One of those analysed; needed if there are several.

    Raises
    ------
    UsageError
        If the rule was not analysed.
    InputError
        If no decode step was analysed, or layers differ in shape.
    """
    with as_written(result.path):
        return _measured_basis(result, rule)


def _measured_basis(result: Result, rule: str | None) -> tuple[Basis, list[Basis]]:
    summary = result.summary
    name = _rule(summary, rule)
    steps = result.table("steps").filter(pc.field("rule") == name)
    visible = steps.column("visible_tokens").to_numpy()
    whole = _empty_basis(summary, name, steps, result)
    longest = int(visible.max())
    main = _mean(whole, steps, visible, visible > longest // 2)
    edges = [1 << n for n in range(longest.bit_length() + 1)]
    bins = [(visible >= low) & (visible < 2 * low) for low in edges]
    return main, [_mean(whole, steps, visible, chosen) for chosen in bins if chosen.any()]


def _rule(summary: dict[str, Any], rule: str | None) -> str:
    if not summary["rules"]:
        raise InputError(
            f"{summary['dump']['name']}: no decode step was analysed, so there is nothing to scale",
            hint="the dump holds no queries; precalign inspect tells how to capture them",
        )
    names = [held["rule"] for held in summary["rules"]]
    if rule is None and len(names) > 1:
        raise UsageError("the result holds several rules", hint="pick one with --rule: " + ", ".join(names))
    if rule is not None and (wanted := str(get_rule(rule))) not in names:
        raise UsageError(f"--rule {wanted} was not analysed", hint="the result holds: " + ", ".join(names))
    return names[0] if rule is None else str(get_rule(rule))


def _empty_basis(summary: dict[str, Any], rule: str, steps: pa.Table, result: Result) -> Basis:
    dump, held = summary["dump"], result.table("heads", ["rule", "layer", "kv_head", "n_query_heads"])
    heads = held.filter(pc.field("rule") == rule).to_pylist()
    layers = {head["layer"] for head in heads}
    groups = {head["n_query_heads"] for head in heads}
    if dump["head_dim"] is None or len(groups) > 1 or len(heads) % len(layers):
        raise InputError(
            f"{dump['name']}: layers or heads that were analysed differ in shape, so there is no one shape to scale",
            hint="analyze layers of one shape: --layers",
        )
    layout = parse_layout(summary["layout"]["name"], get_format(summary["layout"]["format"]))
    shape = Shape(dump["head_dim"], groups.pop(), len(heads) // len(layers), len(layers), 1, Fraction(0))
    cache = summary["cache"].values()
    escaped = Fraction(sum(kind["escaped"] or 0 for kind in cache), max(1, sum(kind["numbers"] for kind in cache)))
    counts = dict.fromkeys(_columns(layout), Fraction(0))
    missing = counts.keys() - set(steps.column_names)
    if missing:
        raise InputError(f"{result.path}: the table steps lacks {min(missing)}", hint="analyze the dump again")
    return Basis(get_rule(rule), layout, shape, counts, escaped, 0)


def _columns(layout: Layout) -> list[str]:
    moved = [f"{part}_{unit}" for part in PARTS for unit in UNITS]
    by_level = [f"{stem}_at_{level}_bits" for stem in ("key_channels", "value_tokens") for level in layout.levels]
    return [*IDEAL, "full_ideal_bits", *moved, *AROUND, *by_level]


def _mean(basis: Basis, steps: pa.Table, visible: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any]) -> Basis:
    rows = int(chosen.sum())

    def mean(column: np.ndarray[Any, Any]) -> Fraction:
        return Fraction(int(column[chosen].sum()), rows)

    counts = {name: mean(steps.column(name).to_numpy()) for name in basis.counts}
    heads = basis.shape.heads
    return replace(
        basis, counts=counts, shape=replace(basis.shape, context=mean(visible)), n_steps=max(1, rows // heads)
    )
