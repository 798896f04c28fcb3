"""What settings did to every kv head, held so that any scope can be summed up exactly: counts in memory, errors on disk."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from precalign.analysis.measure import Measured

UNITS = ("bytes", "sectors", "bits")
COUNTS = (*UNITS, *(f"full_{unit}" for unit in UNITS), "key_bits", "value_bits", "optimal_bits")


@dataclass(frozen=True)
class Head:
    """One kv head.

    Attributes
    ----------
    layer, kv_head : int
    n_steps : int
    counts : ndarray[int64], (n_settings, len(COUNTS))
    """

    layer: int
    kv_head: int
    n_steps: int
    counts: NDArray[np.int64]
    _offset: int = field(repr=False)
    _shape: tuple[int, int, int] = field(repr=False)


class Collected:
    """Heads with their settings; errors and bounds of single steps lie in a scratch file that vanishes with it."""

    def __init__(self, folder: Path) -> None:
        self.heads: list[Head] = []
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with this object
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, layer: int, kv_head: int, measured: Sequence[Measured]) -> None:
        """Append a head, measured under every setting in their order."""
        numbers = np.stack([np.stack([m.errors.ravel(), m.bounds.ravel()]) for m in measured])
        counts = np.array([_counts(m) for m in measured], np.int64)
        self.heads.append(Head(layer, kv_head, len(measured[0].errors), counts, self._end, numbers.shape))
        self._file.write(numbers.tobytes())
        self._end += numbers.nbytes

    def errors(self, heads: Sequence[Head], setting: int) -> NDArray[np.float32]:
        """Return errors and bounds of a setting over all steps and query heads of some kv heads, (2, n)."""
        parts = []
        for head in heads:
            _, two, n = head._shape  # noqa: SLF001 - its own record
            self._file.seek(head._offset + setting * two * n * 4)  # noqa: SLF001
            parts.append(np.frombuffer(self._file.read(two * n * 4), np.float32).reshape(two, n))
        return np.concatenate(parts, axis=1)


def _counts(measured: Measured) -> list[int]:
    read, full = ([getattr(measured, kind)(unit) for unit in UNITS] for kind in ("read", "full"))
    return [*read, *full, *(measured.sums[name] for name in ("key_ideal_bits", "value_ideal_bits", "optimal_bits"))]
