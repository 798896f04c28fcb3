"""The cheapest setting of every kv head that keeps a promise on the calibration steps, verified on the steps held back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign import __version__
from precalign.analysis.measure import Measured, check_queries, joined, measure, read_inputs
from precalign.analysis.parallel import in_order
from precalign.analysis.results.quantiles import quantiles_of
from precalign.analysis.tuning.figures import HeadFigures, summed_up
from precalign.analysis.tuning.holdout import select
from precalign.errors import UsageError
from precalign.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.analysis.plan import Plan, Task
    from precalign.analysis.tuning.holdout import Holdout
    from precalign.analysis.tuning.promise import Promise
    from precalign.inputs import HeadInputs, Steps
    from precalign.rules import Rule

    Progress = Callable[[int], None]

STAGES = (16, 4, 1)
"""Strides at which calibration steps are gone through; a setting that exceeds the tolerance too often is dropped after each."""


@dataclass(frozen=True)
class Tuning:
    """What the user asked for.

    Attributes
    ----------
    promise : Promise
    holdout : Holdout
    candidates : tuple of Rule
        In the order in which equals are preferred.
    """

    promise: Promise
    holdout: Holdout
    candidates: tuple[Rule, ...]


def tune(plan: Plan, tuning: Tuning, progress: Progress | None = None) -> Policy:
    """Find and verify a policy.

    Parameters
    ----------
    plan : Plan
        Its rules are not looked at.
    tuning : Tuning
    progress : callable, optional
        Told how many steps are done.

    Returns
    -------
    Policy
        Its report holds the promise, the split, and the figures of calibration and verification.

    Raises
    ------
    InputError
        If a layer has no queries, or too few steps to calibrate on, or any to verify.
    UsageError
        If no candidate keeps the promise on the calibration steps of a head.
    """
    check_queries(plan)
    for task in plan.tasks:
        calibration, _ = _split(plan, task, tuning)
        tuning.promise.check(len(calibration), f"{plan.name}: layer {task.layer.index}")

    def work(task: Task, advance: Progress) -> tuple[HeadFigures, HeadFigures]:
        return _tune_head(plan, task, tuning, advance)

    pairs = list(in_order(plan.tasks, plan.options.jobs, work, progress))
    rules = {(chosen.layer, chosen.kv_head): chosen.measured.rule for chosen, _ in pairs}
    return Policy(plan.layout, plan.options.split_tokens, rules, _report(plan, tuning, pairs))


def verify(plan: Plan, policy: Policy, promise: Promise, progress: Progress | None = None) -> dict[str, Any]:
    """Return the figures of a policy on all steps of a plan, as in a policy's report.

    Raises
    ------
    InputError
        If a layer has no queries.
    """
    check_queries(plan)

    def work(task: Task, advance: Progress) -> HeadFigures:
        assert task.steps is not None  # noqa: S101 - check_queries has looked
        rule = policy.rule(task.layer.index, task.kv_head)
        place = (read_inputs(plan, task), task.steps, [rule], plan.layout, plan.options.split_tokens)
        return HeadFigures(task.layer.index, task.kv_head, *measure(*place, advance))

    return summed_up(list(in_order(plan.tasks, plan.options.jobs, work, progress)), promise)


def _split(plan: Plan, task: Task, tuning: Tuning) -> tuple[Steps, Steps]:
    assert task.steps is not None  # noqa: S101 - check_queries has looked
    return tuning.holdout.split(task.steps, f"{plan.name}: layer {task.layer.index}")


def _tune_head(plan: Plan, task: Task, tuning: Tuning, advance: Progress) -> tuple[HeadFigures, HeadFigures]:
    calibration, held_back = _split(plan, task, tuning)
    inputs, place = read_inputs(plan, task), (task.layer.index, task.kv_head)
    chosen = _cheapest(plan, inputs, calibration, tuning, advance)
    rule = [chosen.rule]
    (verified,) = measure(inputs, held_back, rule, plan.layout, plan.options.split_tokens, advance)
    return HeadFigures(*place, chosen), HeadFigures(*place, verified)


def _cheapest(plan: Plan, inputs: HeadInputs, steps: Steps, tuning: Tuning, advance: Progress) -> Measured:
    """Return the candidate of the fewest bytes, then bits, that keeps the promise on `steps`.

    Steps are gone through in stages; only candidates that have exceeded the tolerance more often than allowed in all steps are dropped
    on the way, so the answer is that of measuring every candidate on every step.
    """
    allowed = tuning.promise.allowed_in_calibration(len(steps))
    left: dict[str, list[Measured]] = {str(rule): [] for rule in tuning.candidates}
    rules = {str(rule): rule for rule in tuning.candidates}
    above = dict.fromkeys(left, 0)
    for chosen in _stages(len(steps)):
        now = [rules[name] for name in left]
        found = measure(inputs, select(steps, chosen), now, plan.layout, plan.options.split_tokens, advance)
        for measured in found:
            name = str(measured.rule)
            left[name].append(measured)
            above[name] += tuning.promise.above(measured)
        fit = {name: parts for name, parts in left.items() if above[name] <= allowed}
        if not fit:
            raise _unreachable(inputs.name, tuning, left, above, allowed)
        left = fit
    complete = [joined(parts) for parts in left.values()]
    return min(complete, key=lambda measured: (measured.read("bytes"), measured.read("bits")))


def _stages(n_steps: int) -> list[Any]:
    """Return indices of steps, stage by stage: together each once."""
    index = np.arange(n_steps)
    stages, done = [], np.zeros(n_steps, bool)
    for stride in STAGES:
        new = (index % stride == stride // 2) & ~done
        done |= new
        stages.append(index[new])
    return [stage for stage in stages if len(stage)]


def _unreachable(
    name: str, tuning: Tuning, left: dict[str, list[Measured]], above: dict[str, int], allowed: int
) -> UsageError:
    promise = tuning.promise
    seen = {rule: joined(parts) for rule, parts in left.items()}
    figures = {rule: quantiles_of(promise.by_step(seen[rule]), (promise.quantile,))[0] for rule in left}
    best = min(left, key=lambda rule: (above[rule], figures[rule]))
    return UsageError(
        f"--tolerance {promise.tolerance:g} cannot be reached: {name}: even {best} exceeds it in {above[best]} of "
        f"{len(seen[best].errors)} steps, where {allowed} are allowed in all; its quantile {promise.quantile:g} is {figures[best]:.2g}",
        hint="raise --tolerance, lower --quantile, or let --rule choose among more settings",
    )


def _report(plan: Plan, tuning: Tuning, pairs: Sequence[tuple[HeadFigures, HeadFigures]]) -> dict[str, Any]:
    splits = [_split(plan, task, tuning) for task in plan.tasks]
    return {
        "precalign": __version__,
        "dump": plan.name,
        "promise": tuning.promise.to_json(),
        "sentence": tuning.promise.sentence,
        "split": {
            "steps": plan.options.steps,
            "attention": "causal" if plan.options.causal else "full",
            "holdout": str(tuning.holdout),
            "calibration_steps": sum(len(calibration) for calibration, _ in splits),
            "verification_steps": sum(len(held_back) for _, held_back in splits),
        },
        "candidates": [str(rule) for rule in tuning.candidates],
        "calibration": summed_up([calibrated for calibrated, _ in pairs], tuning.promise),
        "verification": summed_up([verified for _, verified in pairs], tuning.promise),
    }
