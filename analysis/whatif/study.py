"""The answer of `precalign whatif`: measured and extrapolated numbers apart, by GPU, with the curve over contexts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from precalign import __version__
from precalign.analysis.whatif.roofline import Timing, timing
from precalign.analysis.whatif.scaling import scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.whatif.basis import Basis, Shape
    from precalign.analysis.whatif.roofline import Overheads
    from precalign.gpus import Gpu

WHATIF_SCHEMA = "precalign.whatif/1"
CONTEXTS = [1 << n for n in range(7, 21)]
"""128 tokens to a million."""

ASSUMPTIONS = {
    "context": "The share of key channels and of tokens' values at each width stays that of the measured steps with more than half of the "
    "longest context. Longer contexts spread attention over more tokens, so values usually need fewer bits and keys about as many; "
    "the measured contexts show the trend of this very profile. How a model attends beyond what was measured cannot be known.",
    "head_dim": "The shares stay, per channel and per token. A model trained with another head_dim has other channels: that cannot be known. "
    "Where rows of values are narrower than what memory hands out, the tokens that are read are taken to lie anywhere.",
    "group": "The shares stay. A group reads the widest need of its query heads, so more of them can only need more: for a larger group "
    "the saving is an upper bound as far as the group goes, for a smaller one a lower bound.",
    "n_kv_heads": "More heads are like the mean of the measured ones.",
    "layers": "More layers are like the mean of the measured ones.",
    "batch": "Every sequence is like the measured one, and as long.",
    "gpu": "A share of the peak bandwidth, instructions at the peak of binary32, and a fixed time for every kernel. Nothing of the cache stays "
    "in L2 from one step to the next; scores and probabilities of a layer stay there where they fit. Imbalance between multiprocessors, latency at "
    "short contexts and everything of a decode step but attention are left out.",
}
"""Size -> what is assumed where it differs from the measured one; "gpu" for every time."""


@dataclass(frozen=True)
class Study:
    """What-if numbers of one profile.

    Attributes
    ----------
    dump : str
        Name of the dump.
    basis : Basis
        What was measured.
    by_context : list of Basis
        The same by context, short to long.
    shape : Shape
        Asked for.
    gpus : list of Gpu
    overheads : Overheads
    """

    dump: str
    basis: Basis
    by_context: Sequence[Basis]
    shape: Shape
    gpus: Sequence[Gpu]
    overheads: Overheads

    @property
    def changed(self) -> list[str]:
        """Sizes that differ from the measured ones; empty if bytes and bits are measured."""
        return self.shape.changed(self.basis.shape)

    def timings(self, basis: Basis, shape: Shape, gpu: Gpu) -> tuple[Timing, Timing]:
        """Return the times of reduced access and of the full read."""
        counts, one_pass = scaled(basis, shape), basis.rule.one_pass
        reduced, full = (
            timing(counts, shape, gpu, self.overheads, full=full, one_pass=one_pass) for full in (False, True)
        )
        return reduced, full

    def speedup(self, gpu: Gpu, context: int) -> float:
        """Return the time of the full read over that of reduced access at another context."""
        reduced, full = self.timings(self.basis, replace(self.shape, context=Fraction(context)), gpu)
        return full.total_us / reduced.total_us if reduced.total_us else 1.0

    def crossover(self, gpu: Gpu) -> int | None:
        """Return the shortest context from which reduced access is faster at all longer ones looked at; None if there is none."""
        above: int | None = None
        for context in reversed(CONTEXTS):
            if self.speedup(gpu, context) <= 1:
                break
            above = context
        if above is None or above == CONTEXTS[0]:
            return above
        low = above // 2
        while above - low > 1:
            middle = (low + above) // 2
            low, above = (low, middle) if self.speedup(gpu, middle) > 1 else (middle, above)
        return above

    def to_json(self) -> dict[str, Any]:
        """Return plain data: every number that was not measured is in an object with "extrapolated": true."""
        counts, extrapolated = scaled(self.basis, self.shape), bool(self.changed)
        return {
            "schema": WHATIF_SCHEMA,
            "precalign": __version__,
            "dump": self.dump,
            "rule": str(self.basis.rule),
            "format": self.basis.layout.format.name,
            "layout": self.basis.layout.name,
            "measured": _shape_json(self.basis.shape) | {"n_steps": self.basis.n_steps},
            "asked": _shape_json(self.shape),
            "changed": self.changed,
            "overheads": vars(self.overheads)
            | {
                "launches": self.overheads.launches_of(one_pass=self.basis.rule.one_pass),
                "full_launches": self.overheads.launches_of_full_read,
            },
            "bits": {
                "key_bits_mean": _number(_mean_bits(self.basis, counts, "key"), extrapolated=extrapolated),
                "value_bits_mean": _number(_mean_bits(self.basis, counts, "value"), extrapolated=extrapolated),
            },
            "bytes_per_step": {
                name: _number(amount * self.shape.heads, extrapolated=extrapolated)
                for name, amount in _totals(counts).items()
            },
            "gpus": [self._gpu_json(gpu, extrapolated=extrapolated) for gpu in self.gpus],
            "measured_by_context": [self._context_json(held) for held in self.by_context],
            "assumptions": {name: ASSUMPTIONS[name] for name in (*self.changed, "gpu")},
        }

    def _gpu_json(self, gpu: Gpu, *, extrapolated: bool) -> dict[str, Any]:
        reduced, full = self.timings(self.basis, self.shape, gpu)
        return {
            "gpu": gpu.name,
            "product": gpu.product,
            "architecture": gpu.architecture,
            "bandwidth_gb_per_s": gpu.bandwidth_gb_per_s,
            "fetch_bytes": gpu.fetch_bytes,
            "fetch_basis": gpu.fetch_basis,
            "moved_bytes": _number(reduced.moved_bytes, extrapolated=extrapolated),
            "full_moved_bytes": _number(full.moved_bytes, extrapolated=extrapolated),
            "moved_saving": _number(1 - reduced.moved_bytes / full.moved_bytes, extrapolated=extrapolated),
            **{
                f"{stem}{name}_us": _number(getattr(held, f"{name}_us"))
                for stem, held in (("", reduced), ("full_", full))
                for name in ("memory", "compute", "launch", "total")
            },
            "bound_by": reduced.bound_by,
            "full_bound_by": full.bound_by,
            "speedup": _number(full.total_us / reduced.total_us if reduced.total_us else 1.0),
            "crossover_context": _number(self.crossover(gpu)),
            "curve": [
                {"context": context, "speedup": self.speedup(gpu, context), "extrapolated": True}
                for context in CONTEXTS
            ],
            "measured_contexts": [self._measured_speedup(held, gpu) for held in self.by_context],
        }

    def _measured_speedup(self, held: Basis, gpu: Gpu) -> dict[str, Any]:
        """Return a point of the curve whose bits were measured at its context."""
        reduced, full = self.timings(held, replace(self.shape, context=held.shape.context), gpu)
        ratio = full.total_us / reduced.total_us if reduced.total_us else 1.0
        return {"context": float(held.shape.context), "speedup": ratio, "extrapolated": True}

    @staticmethod
    def _context_json(held: Basis) -> dict[str, Any]:
        moved = _totals(held.counts)
        return {
            "context": float(held.shape.context),
            "n_steps": held.n_steps,
            "key_bits_mean": float(_mean_bits(held, held.counts, "key")),
            "value_bits_mean": float(_mean_bits(held, held.counts, "value")),
            "bytes_saving": float(1 - moved["read_bytes"] / moved["full_read_bytes"]),
        }


def study(
    dump: str, bases: tuple[Basis, Sequence[Basis]], shape: Shape, gpus: Sequence[Gpu], overheads: Overheads
) -> Study:
    """Return the what-if study of a measured basis (`measured_basis`) for a shape."""
    return Study(dump, *bases, shape, gpus, overheads)


def _number(value: Fraction | float | None, *, extrapolated: bool = True) -> dict[str, Any]:
    exact = int(value) if isinstance(value, Fraction) and value.denominator == 1 else value
    return {"value": float(exact) if isinstance(exact, Fraction) else exact, "extrapolated": extrapolated}


def _shape_json(shape: Shape) -> dict[str, Any]:
    context = shape.context
    return vars(shape) | {"context": int(context) if context.denominator == 1 else float(context)}


def _mean_bits(basis: Basis, counts: dict[str, Fraction], kind: str) -> Fraction:
    numbers = counts["full_ideal_bits"] / (2 * basis.layout.format.total_bits)
    return counts[f"{kind}_ideal_bits"] / numbers


def _totals(counts: dict[str, Fraction]) -> dict[str, Fraction]:
    parts = {f"{part}_bytes": counts[f"{part}_bytes"] for part in ("key", "value", "metadata", "prepass")}
    around = {name: counts[name] for name in ("scores_bytes", "probs_bytes", "queries_bytes", "outputs_bytes")}
    full = counts["full_key_bytes"] + counts["full_value_bytes"]
    return parts | {"read_bytes": sum(parts.values(), Fraction(0)), "full_read_bytes": full} | around
