"""What a live cache has read so far; decode steps are kept a while and counted together, because counting one by one is slow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.counts import count_levels
from precalign.traffic import step_traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout
    from precalign.rules import Rule
    from precalign.traffic import StepTraffic

KEPT_STEPS = 64


@dataclass(frozen=True)
class Decision:
    """What a rule decided for a block of decode steps of one kv head.

    Attributes
    ----------
    first, visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    key_levels : ndarray[uint8], (n_steps, head_dim)
    value_levels : ndarray[uint8], (n_steps, >= visible)
        Defined where a step sees the token.
    prepass : ndarray[int32], (group, n_steps, n), or None
        Tokens that a pre-pass read at the first level.
    """

    first: NDArray[np.int64]
    visible: NDArray[np.int64]
    key_levels: NDArray[np.uint8]
    value_levels: NDArray[np.uint8]
    prepass: NDArray[np.int32] | None


@dataclass(frozen=True)
class Tally:
    """What a block of decode steps of one kv head has read.

    Attributes
    ----------
    first, visible : ndarray[int64], (n_steps,)
    traffic : StepTraffic
    key_channels, value_tokens : ndarray[int64], (n_steps, n_levels)
        Channels, and visible tokens, read at each level.
    """

    first: NDArray[np.int64]
    visible: NDArray[np.int64]
    traffic: StepTraffic
    key_channels: NDArray[np.int64]
    value_tokens: NDArray[np.int64]


class Counter:
    """Sums over decode steps of one kv head, under the names that result tables use (docs/results.md).

    Parameters
    ----------
    layout : Layout
    rule : Rule
    head_dim, group : int
    """

    def __init__(self, layout: Layout, rule: Rule, head_dim: int, group: int) -> None:
        self._layout, self._rule, self._head_dim, self._group = layout, rule, head_dim, group
        self._kept: list[Decision] = []
        self._n_kept = 0
        self._totals: dict[str, int] = {}

    def add(self, decision: Decision | Tally) -> None:
        """Count a block of steps, now or with those that follow."""
        if isinstance(decision, Tally):
            self.tally(decision)
            return
        self._kept.append(decision)
        self._n_kept += len(decision.first)
        if self._n_kept >= KEPT_STEPS:
            self._count()

    def totals(self) -> dict[str, int]:
        """Return the sums over all steps so far."""
        self._count()
        return dict(self._totals)

    def _count(self) -> None:
        if not self._kept:
            return
        joined, self._kept, self._n_kept = _join(self._kept), [], 0
        window, n_levels = (joined.first, joined.visible), len(self._layout.levels)
        by_level = joined.key_levels[:, :, None] == np.arange(n_levels, dtype=np.uint8)
        key_channels = by_level.sum(axis=1, dtype=np.int64)
        value_tokens, _ = count_levels(joined.value_levels, *window, n_levels, joined.value_levels.shape[1])
        traffic = step_traffic(
            self._layout,
            self._rule.metadata,
            joined.key_levels,
            joined.value_levels,
            key_channels,
            value_tokens,
            joined.prepass,
            self._group,
            *window,
            one_pass=self._rule.one_pass,
        )
        self.tally(Tally(*window, traffic, key_channels, value_tokens))

    def tally(self, counted: Tally) -> None:
        """Add steps whose traffic is known."""
        tokens = int((counted.visible - counted.first).sum())
        counts = {name: int(part.sum()) for name, part in counted.traffic.columns().items()}
        counts["steps"] = len(counted.first)
        counts["full_ideal_bits"] = 2 * tokens * self._head_dim * self._layout.format.total_bits
        for level, bits in enumerate(self._layout.levels):
            counts[f"key_channels_at_{bits}_bits"] = int(counted.key_channels[:, level].sum())
            counts[f"value_tokens_at_{bits}_bits"] = int(counted.value_tokens[:, level].sum())
        self._totals = add_counts(self._totals, counts)


def add_counts(totals: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Return the sums, name by name."""
    return {name: totals.get(name, 0) + more.get(name, 0) for name in totals | more}


def _join(kept: list[Decision]) -> Decision:
    width = max(decision.value_levels.shape[1] for decision in kept)
    levels = [np.pad(d.value_levels, ((0, 0), (0, width - d.value_levels.shape[1]))) for d in kept]
    prepass = [d.prepass for d in kept if d.prepass is not None]
    return Decision(
        np.concatenate([d.first for d in kept]),
        np.concatenate([d.visible for d in kept]),
        np.concatenate([d.key_levels for d in kept]),
        np.ascontiguousarray(np.concatenate(levels)),
        np.concatenate(prepass, axis=1) if prepass else None,
    )
