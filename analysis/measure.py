"""What settings do to a kv head, reduced to what choosing between them needs: output errors, their bounds, traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.head import profile_blocks
from precalign.analysis.results.rows import reads_of
from precalign.bounds.scores import round_up
from precalign.errors import InputError
from precalign.inputs import HeadInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from precalign.analysis.plan import Plan, Task
    from precalign.inputs import Steps
    from precalign.layouts import Layout
    from precalign.rules import Rule

READ = ("key", "value", "metadata", "prepass")
"""What the bytes of a decode step consist of; a full read has the first two alone."""

NO_QUERIES_HINT = "docs/dump-formats.md says how to capture queries"


@dataclass(frozen=True)
class Measured:
    """One rule on one kv head over a number of decode steps.

    Attributes
    ----------
    rule : Rule
    errors, bounds : ndarray[float32], (n_steps, group)
        Relative output error against exact arithmetic, and the bound that is proven of it; as the table `errors` holds them.
    sums : dict[str, int]
        The columns `READS` of the result tables, and the yardstick `optimal_bits`, summed over steps.
    """

    rule: Rule
    errors: NDArray[np.float32]
    bounds: NDArray[np.float32]
    sums: dict[str, int]

    def read(self, unit: str) -> int:
        """Return the "bytes", "sectors" or "bits" read; bits are those of keys and values alone."""
        if unit == "bits":
            return self.sums["key_ideal_bits"] + self.sums["value_ideal_bits"]
        return sum(self.sums[f"{part}_{unit}"] for part in READ)

    def full(self, unit: str) -> int:
        """Return what a full read of the plain cache takes."""
        if unit == "bits":
            return self.sums["full_ideal_bits"]
        return self.sums[f"full_key_{unit}"] + self.sums[f"full_value_{unit}"]


def read_inputs(plan: Plan, task: Task) -> HeadInputs:
    """Read one kv head with its queries.

    Raises
    ------
    InputError
        If it has no queries, or holds infinities or NaNs.
    """
    codes = plan.dump.read_head(task.layer, task.kv_head, plan.options.batch)
    name = f"{plan.name}: layer {task.layer.index}, kv head {task.kv_head}"
    if codes.queries is None:
        raise InputError(f"{name}: has no queries, so no decode step can be taken", hint=NO_QUERIES_HINT)
    return HeadInputs(codes.keys, codes.values, codes.queries, plan.format, task.scale, name, codes.query_format)


def check_queries(plan: Plan) -> None:
    """Refuse a dump in which a layer has no queries, before anything is computed.

    Raises
    ------
    InputError
        Naming the first such layer.
    """
    for task in plan.tasks:
        if task.steps is None:
            raise InputError(
                f"{plan.name}: layer {task.layer.index} has no queries, so no decode step can be taken",
                hint=NO_QUERIES_HINT,
            )


def measure(
    inputs: HeadInputs,
    steps: Steps,
    rules: Sequence[Rule],
    layout: Layout,
    split_tokens: int,
    advance: Callable[[int], None],
) -> list[Measured]:
    """Apply rules to decode steps of one kv head; what they share is computed once.

    Parameters
    ----------
    inputs : HeadInputs
    steps : Steps
    rules : sequence of Rule
    layout : Layout
    split_tokens : int
    advance : callable
        Told how many steps are done, block by block; it may raise to stop the work.

    Returns
    -------
    list of Measured
        One per rule, in their order.
    """
    held: list[list[Measured]] = [[] for _ in rules]
    for profiles in profile_blocks(inputs, steps, rules, layout, split_tokens, advance):
        for parts, profile, rule in zip(held, profiles, rules, strict=True):
            reads = reads_of(profile, inputs.keys.shape[1], inputs.format)
            errors, bounds = profile.output_error_vs_exact.astype(np.float32), round_up(profile.output_bound)
            sums = {name: int(counts.sum()) for name, counts in reads.items()}
            sums["optimal_bits"] = int(profile.optimal_bits.sum())
            parts.append(Measured(rule, errors, bounds, sums))
    return [joined(parts) for parts in held]


def joined(parts: Sequence[Measured]) -> Measured:
    """Return one rule's figures over several lots of steps as one."""
    return Measured(
        parts[0].rule,
        np.concatenate([part.errors for part in parts]),
        np.concatenate([part.bounds for part in parts]),
        {name: sum(part.sums[name] for part in parts) for name in parts[0].sums},
    )
