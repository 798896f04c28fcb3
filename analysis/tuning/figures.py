"""What was seen of a setting on some decode steps of a kv head, against what is promised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from precalign.analysis.results.quantiles import quantiles_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.analysis.measure import Measured
    from precalign.analysis.tuning.promise import Promise


@dataclass(frozen=True)
class HeadFigures:
    """One kv head with its setting, measured on some steps.

    Attributes
    ----------
    layer, kv_head : int
    measured : Measured
    """

    layer: int
    kv_head: int
    measured: Measured

    def to_json(self, promise: Promise) -> dict[str, Any]:
        """Return the figures: spreads over steps of the largest of the group's query heads."""
        measured, n_steps = self.measured, len(self.measured.errors)
        above = promise.above(measured)
        return {
            "layer": self.layer,
            "kv_head": self.kv_head,
            "rule": str(measured.rule),
            "n_steps": n_steps,
            "error": _spread(measured.errors.max(axis=1), promise.quantile),
            "bound": _spread(measured.bounds.max(axis=1), promise.quantile),
            "steps_above": above,
            "share_above": above / n_steps,
            "steps_allowed": promise.allowed(n_steps),
            "kept": above <= promise.allowed(n_steps),
            **_traffic([measured]),
        }


def summed_up(figures: Sequence[HeadFigures], promise: Promise) -> dict[str, Any]:
    """Return the figures of all heads, and what they add up to."""
    heads = [head.to_json(promise) for head in figures]
    n_steps, above = (sum(head[key] for head in heads) for key in ("n_steps", "steps_above"))
    worst = max(heads, key=lambda head: (head["share_above"], _or_infinite(head[promise.about]["at_quantile"])))
    return {
        "kept": all(head["kept"] for head in heads),
        "heads_kept": sum(head["kept"] for head in heads),
        "n_heads": len(heads),
        "n_steps": n_steps,
        "steps_above": above,
        "share_above": above / n_steps,
        "worst_head": {key: worst[key] for key in ("layer", "kv_head", "share_above")},
        **_traffic([head.measured for head in figures]),
        "heads": heads,
    }


def _traffic(parts: Sequence[Measured]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for unit in ("bytes", "bits"):
        read, full = sum(part.read(unit) for part in parts), sum(part.full(unit) for part in parts)
        held |= {unit: read, f"full_{unit}": full, f"{unit}_saving": 1 - read / full}
    return held


def _spread(by_step: NDArray[Any], quantile: float) -> dict[str, float | None]:
    found = quantiles_of(by_step, (0.5, quantile, 1.0))
    return {
        name: value if math.isfinite(value) else None
        for name, value in zip(("median", "at_quantile", "max"), found, strict=True)
    }


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value
