"""The points that validation proves, and the tally of each: how many equalities were checked, and the first that failed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

POINTS = {
    "planes": "stored planes, byte for byte",
    "maxima": "running maxima of exponents",
    "key-bits": "bits decided for each key channel",
    "scores": "scores, bit for bit",
    "probs": "probabilities, bit for bit",
    "seeds": "one pass: where the running maximum begins",
    "value-bits": "bits decided for each token's values",
    "partials": "one pass: each split's maximum, sum and output, bit for bit",
    "outputs": "outputs, bit for bit",
    "sectors": "32-byte sectors read = sectors modelled",
    "memory": "accesses in bounds, aligned, initialised, free of races",
    "order": "the same bits in other orders of blocks and warps",
    "invariance": "the same bits alone, in a batch, in another slot, with other pages",
    "splits": "another size of split changes outputs by no more than its bound",
    "passes": "one pass changes outputs by no more than its bound",
}
"""Name -> what is equal; in the order in which a decode step reaches them."""


@dataclass(frozen=True)
class Difference:
    """The first element that differs.

    Attributes
    ----------
    case : str
    where : dict of str to int
        Named indices: sequence, kv head, token, channel ...
    expected, got : str
    history : tuple of str
        What went into the element.
    """

    case: str
    where: dict[str, int]
    expected: str
    got: str
    history: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return it as lines of text."""
        place = ", ".join(f"{name} {index}" for name, index in self.where.items())
        return [
            self.case,
            f"  {place}: expected {self.expected}, got {self.got}",
            *(f"  {line}" for line in self.history),
        ]


@dataclass
class Tally:
    """How many equalities of a point were checked, how many failed, and the first that did."""

    checked: int = 0
    failed: int = 0
    first: Difference | None = None

    def add(self, other: Tally) -> None:
        """Add another tally of the same point."""
        self.checked += other.checked
        self.failed += other.failed
        self.first = self.first or other.first


@dataclass
class Tallies:
    """A tally for each point that was looked at."""

    points: dict[str, Tally] = field(default_factory=dict)

    def __getitem__(self, point: str) -> Tally:
        if point not in POINTS:
            raise KeyError(point)
        return self.points.setdefault(point, Tally())

    def add(self, other: Tallies) -> None:
        """Add the tallies of another case."""
        for point, tally in other.points.items():
            self[point].add(tally)

    @property
    def failed(self) -> bool:
        """Whether any equality failed."""
        return any(tally.failed for tally in self.points.values())

    def first_failure(self) -> tuple[str, Tally] | None:
        """Return the failed point that a decode step reaches first."""
        failures = [
            (point, self.points[point]) for point in POINTS if point in self.points and self.points[point].failed
        ]
        return failures[0] if failures else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {point: asdict(self.points[point]) for point in POINTS if point in self.points}


def different(expected: NDArray[Any], got: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where two arrays differ: integers by value, binary32 by bits, NaN as a class."""
    if expected.dtype == np.float32:
        unequal = expected.view(np.uint32) != got.view(np.uint32)
        both_nan: NDArray[np.bool_] = np.isnan(expected) & np.isnan(got)
        unequal_bits: NDArray[np.bool_] = unequal & ~both_nan
        return unequal_bits
    unequal_integers: NDArray[np.bool_] = expected != got
    return unequal_integers


def shown(value: Any) -> str:  # noqa: ANN401 - a NumPy scalar
    """Return a value as text; binary32 with its bits."""
    if isinstance(value, np.float32):
        return f"{float(value):.9g} ({float(value).hex()}, 0x{value.view(np.uint32):08x})"
    return str(value)


def compare(
    tally: Tally,
    case: str,
    place: Mapping[str, int],
    axes: tuple[str, ...],
    expected: NDArray[Any],
    got: NDArray[Any],
    history: Any = None,  # noqa: ANN401 - a function of the index, or None
) -> None:
    """Compare two arrays of one shape and keep the first difference.

    Parameters
    ----------
    place : mapping
        Indices that hold for the whole array: sequence, kv head.
    axes : tuple of str
        Names of the array's axes.
    history : callable, optional
        From the index of the first difference to lines that tell what went into the element.
    """
    expected, got = np.ascontiguousarray(expected), np.ascontiguousarray(got)
    unequal = different(expected, got)
    tally.checked += expected.size
    if not unequal.any():
        return
    tally.failed += int(unequal.sum())
    if tally.first is None:
        index = tuple(int(i) for i in np.argwhere(unequal)[0])
        where = {**place, **dict(zip(axes, index, strict=True))}
        lines = () if history is None else tuple(history(index))
        tally.first = Difference(case, where, shown(expected[index]), shown(got[index]), lines)
