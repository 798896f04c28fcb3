"""Time of a decode step's attention from what it moves and computes: the slower of the two, and the launches beside it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from precalign.errors import UsageError

if TYPE_CHECKING:
    from precalign.analysis.whatif.basis import Shape
    from precalign.gpus import Gpu

MOVED = ("key", "value", "metadata", "prepass")
FULL = ("full_key", "full_value")


@dataclass(frozen=True)
class Overheads:
    """What is assumed of kernels, the same on every GPU.

    Attributes
    ----------
    launch_us : float
        Time of one kernel launch that nothing hides.
    bandwidth_share : float
        What of the peak bandwidth a kernel reaches.
    launches, full_launches : int or None
        Kernels per layer with reduced access, and for the full read; None for 4 (2 for a one-pass rule) and 2.
    unpack_operations : float
        Instructions to put a number together from its planes.
    """

    launch_us: float = 2.0
    bandwidth_share: float = 0.85
    launches: int | None = None
    full_launches: int | None = None
    unpack_operations: float = 8.0

    def __post_init__(self) -> None:
        if self.launch_us < 0 or self.unpack_operations < 0:
            raise UsageError("--launch-us and --unpack-operations must not be negative")
        if not 0 < self.bandwidth_share <= 1:
            raise UsageError(f"--bandwidth-share {self.bandwidth_share:g}: must be above 0 and at most 1")

    def launches_of(self, *, one_pass: bool) -> int:
        """Return the kernels per layer with reduced access: scores, softmax, values, sum of the splits; or one pass and the sum."""
        return self.launches if self.launches is not None else 2 if one_pass else 4

    @property
    def launches_of_full_read(self) -> int:
        """Return the kernels per layer of the full read: one pass and the sum of the splits."""
        return 2 if self.full_launches is None else self.full_launches


@dataclass(frozen=True)
class Timing:
    """One decode step's attention, all layers and sequences.

    Attributes
    ----------
    moved_bytes : Fraction
        From and to memory, in whole fetches.
    memory_us, compute_us, launch_us : float
    """

    moved_bytes: Fraction
    memory_us: float
    compute_us: float
    launch_us: float

    @property
    def total_us(self) -> float:
        """Memory and computation side by side, launches one after the other."""
        return max(self.memory_us, self.compute_us) + self.launch_us

    @property
    def bound_by(self) -> str:
        """The largest of the three."""
        parts = {"memory": self.memory_us, "compute": self.compute_us, "launches": self.launch_us}
        return max(parts, key=lambda name: parts[name])


def fetched_bytes(counts: dict[str, Fraction], gpu: Gpu, *, full: bool) -> Fraction:
    """Return the bytes that memory moves for keys and values of one kv head, metadata and pre-pass included, in whole fetches."""
    parts = FULL if full else MOVED
    return sum((counts[f"{part}_{gpu.fetch_unit}"] for part in parts), Fraction(0)) * gpu.fetch_bytes


def timing(
    counts: dict[str, Fraction], shape: Shape, gpu: Gpu, overheads: Overheads, *, full: bool, one_pass: bool
) -> Timing:
    """Return the time of a step.

    Parameters
    ----------
    counts : dict
        Of one kv head of the shape.
    shape : Shape
    gpu : Gpu
    overheads : Overheads
    full : bool
        The full read, by a one-pass kernel, in place of reduced access.
    one_pass : bool
        Whether the rule needs no scores and probabilities in memory.
    """
    moved = fetched_bytes(counts, gpu, full=full) + counts["queries_bytes"] + counts["outputs_bytes"]
    arrays = Fraction(0) if full else counts["scores_bytes"] + counts["probs_bytes"]
    # Half of these bytes are the arrays themselves: each is written once and read once.
    if arrays / 2 * shape.n_kv_heads * shape.batch > gpu.l2_bytes:
        moved += arrays
    numbers = 2 * shape.context * shape.head_dim
    operations = numbers * (shape.group + (Fraction(1) if full else Fraction(overheads.unpack_operations)))
    launches = overheads.launches_of_full_read if full else overheads.launches_of(one_pass=one_pass)
    return Timing(
        moved * shape.heads,
        float(moved * shape.heads) / (gpu.bytes_per_second * overheads.bandwidth_share) * 1e6,
        float(operations * shape.heads) / gpu.lane_operations_per_second * 1e6,
        shape.layers * launches * overheads.launch_us,
    )
