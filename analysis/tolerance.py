"""Tolerances over a dump: every element of the chosen heads and steps, summed up in one pair per quantity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.readers.base import printable
from precalign.decode.codes import all_finite, to_binary32
from precalign.errors import InputError
from precalign.tolerance import Fit, Tolerance, attention
from precalign.tolerance.defects import Case, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from precalign.analysis.plan import Plan, Task
    from precalign.tolerance import Side

QUANTITIES = ("scores", "probs", "outputs")
PER_OCTAVE = 64
OCTAVES = 400


@dataclass
class Summary:
    """One quantity over all elements.

    Attributes
    ----------
    largest, largest_ulps : float
        The largest tolerance, absolute and in ulp of the kernel's result.
    counts : ndarray[int64]
        Of elements by tolerance in ulp, 64 classes an octave: for the median.
    fit : Fit
    """

    largest: float = 0.0
    largest_ulps: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PER_OCTAVE * OCTAVES, np.int64))
    fit: Fit = field(default_factory=Fit)

    def add(self, part: Tolerance) -> None:
        """Add the elements of one step."""
        ulps = part.ulps.ravel()
        self.largest = max(self.largest, float(part.absolute.max()))
        self.largest_ulps = max(self.largest_ulps, float(ulps.max()))
        finite = ulps[np.isfinite(ulps) & (ulps > 0)]
        place = np.clip((np.log2(finite) + OCTAVES / 2) * PER_OCTAVE, 0, len(self.counts) - 1).astype(np.int64)
        self.counts += np.bincount(place, minlength=len(self.counts))
        self.fit.add(part.size, part.absolute)

    @property
    def median_ulps(self) -> float:
        """Median of the finite tolerances in ulp, to 1 %."""
        if not self.counts.any():
            return 0.0 if not self.fit.endless else float("inf")
        place = int(np.searchsorted(self.counts.cumsum(), self.counts.sum() / 2))
        return float(2.0 ** ((place + 0.5) / PER_OCTAVE - OCTAVES / 2))


@dataclass
class DumpTolerance:
    """All quantities of a dump.

    Attributes
    ----------
    steps : int
        Queries looked at.
    summaries : dict of str to Summary
    """

    steps: int = 0
    summaries: dict[str, Summary] = field(default_factory=lambda: {name: Summary() for name in QUANTITIES})


def n_queries(plan: Plan) -> int:
    """Return how many queries a plan looks at.

    Raises
    ------
    InputError
        If a layer has no queries.
    """
    total = 0
    for task in plan.tasks:
        if task.steps is None or task.layer.group is None:
            raise InputError(
                f"{plan.name}: layer {task.layer.index} has no queries, and a tolerance is of scores and outputs",
                hint="record queries too (docs/dump-formats.md), choose --layers that have them, or give ranges with --spec",
            )
        total += len(task.steps) * task.layer.group
    return total


def dump_tolerance(plan: Plan, kernel: Side, reference: Side) -> Iterator[DumpTolerance]:
    """Yield the tolerances so far, step by step of every query head.

    Raises
    ------
    InputError
        Layers without queries; NaNs or infinities.
    """
    n_queries(plan)
    found = DumpTolerance()
    for task in plan.tasks:
        for query, keys, values, scale, storage in _cases(plan, task):
            part = attention(query, keys, values, kernel=kernel, reference=reference, scale=scale, storage=storage)
            found.steps += 1
            for name in QUANTITIES:
                found.summaries[name].add(getattr(part, name))
            yield found


def dump_defects(plan: Plan, kernel: Side) -> Iterator[dict[str, Verdict]]:
    """Yield, query by query, what the customary tolerance and this one say so far of the kernel and of its defects.

    Raises
    ------
    InputError
        Layers without queries; NaNs or infinities.
    """
    n_queries(plan)
    verdicts: dict[str, Verdict] = {}
    for task in plan.tasks:
        for case in _cases(plan, task):
            judge(case, kernel, verdicts)
            yield verdicts


def _cases(plan: Plan, task: Task) -> Iterator[Case]:
    tensors = plan.dump.read_head(task.layer, task.kv_head, plan.options.batch)
    steps, queries = task.steps, tensors.queries
    assert steps is not None  # noqa: S101 - n_queries refused it
    assert queries is not None  # noqa: S101
    named = {"keys": tensors.keys, "values": tensors.values, "queries": queries}
    for role, codes in named.items():
        if not all_finite(codes, tensors.format):
            raise InputError(
                f"{plan.name}: {printable(task.layer.names[role])}, kv head {task.kv_head}: holds infinities or NaNs,"
                " for which there is no tolerance",
                hint="choose other --layers or --heads",
            )
    k, v, q = (to_binary32(codes, tensors.format).astype(np.float64) for codes in named.values())
    for index, first, visible in zip(steps.queries.tolist(), steps.first.tolist(), steps.visible.tolist(), strict=True):
        for head in range(len(q)):
            yield Case(q[head, index], k[first:visible], v[first:visible], task.scale, tensors.format)
