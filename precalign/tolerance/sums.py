"""Sums of one side, in its order and formats, with what their roundings can do at most."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from precalign.accumulate.orders import Order, Sequential
from precalign.matrix_units import MatrixUnit
from precalign.tolerance.rounding import EXACT, Rounding, errors_of
from precalign.tolerance.sum_kernels import enter_terms, ordered_sums, unit_sums, unordered_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.accumulate.schedule import Schedule


class Sums(NamedTuple):
    """Exact sums, and how far a side's are from them: `loose` through its inputs, `lost` through roundings.

    Attributes
    ----------
    value, loose, lost : ndarray[float64], (n_problems,)
    """

    value: NDArray[np.float64]
    loose: NDArray[np.float64]
    lost: NDArray[np.float64]

    @property
    def size(self) -> NDArray[np.float64]:
        """The largest magnitude that the side's sum may have."""
        return np.abs(self.value) + self.loose + self.lost

    def scaled(self, factor: float, most: float) -> Sums:
        """Return the sums times a factor that is known to lie within `most` / `factor` of what the side uses."""
        return Sums(self.value * factor, self.loose * most + np.abs(self.value) * (most - factor), self.lost * most)

    def rounded(self, to: Rounding) -> Sums:
        """Return the sums after one more rounding."""
        return self._replace(lost=self.lost + errors_of(self.size, to))


@lru_cache(maxsize=256)
def _schedule(order: Order, n_terms: int) -> Schedule:
    return order.schedule(n_terms)


def sum_of(
    terms: NDArray[np.float64],
    loose: NDArray[np.float64],
    order: Order | MatrixUnit | None,
    to: Rounding,
    *,
    before: NDArray[np.float64] | None = None,
    product: Rounding = EXACT,
    lost: NDArray[np.float64] | None = None,
    exponents: NDArray[np.int64] | None = None,
    carry: Sums | None = None,
) -> Sums:
    """Bound the roundings of sums of products.

    Parameters
    ----------
    terms, loose : ndarray[float64], (n_problems, n_terms)
        Exact products, and by how much those of the side may differ from them.
    order : Order, MatrixUnit or None
        None: any order.
    to : Rounding
        Of the partial sums; not looked at for a matrix unit, which has its own.
    before : ndarray[float64], optional
        What roundings of the factors have changed the products by.
    product : Rounding
        Of products; exact for a fused multiply-add.
    lost : ndarray[float64], optional
        Roundings that made the terms, which are numbers of the accumulator's format already; in place of `before` and `product`.
    exponents : ndarray[int64], optional
        E(a) + E(b) of each product, for a matrix unit.
    carry : Sums, optional
        A partial sum that the terms are added to: as the first addend in the orders `sequential` and any and in a matrix unit;
        elsewhere the terms are summed first.
    """
    terms, loose = np.ascontiguousarray(terms), np.ascontiguousarray(np.broadcast_to(loose, terms.shape))
    if lost is None:
        lost = np.zeros_like(terms) if before is None else before
        enter_terms(terms, loose, EXACT if isinstance(order, MatrixUnit) else product, lost)
        entered = 0
    else:
        entered = terms.shape[1]
    out = np.empty((3, len(terms)))
    if isinstance(order, MatrixUnit):
        _unit_sums(order, terms, loose, lost, exponents, carry, out)
        return Sums(*out)
    chained = carry is not None and (order is None or order == Sequential())
    if chained and carry is not None:
        terms, loose, lost = (
            np.ascontiguousarray(np.concatenate([first[:, None], rest], axis=1))
            for first, rest in zip(carry, (terms, loose, lost), strict=True)
        )
        entered += 1
    if order is None:
        unordered_sums(terms, loose, lost, entered, to, out)
    elif terms.shape[1] == 0:
        out[:] = 0
    else:
        schedule = _schedule(order, terms.shape[1])
        ordered_sums(terms, loose, lost, entered, schedule.left, schedule.right, to, out)
    found = Sums(*out)
    if carry is None or chained:
        return found
    return Sums(*(a + b for a, b in zip(carry, found, strict=True))).rounded(to)


def unit_rounding(unit: MatrixUnit) -> Rounding:
    """Return how a group's result is rounded: to nearest into binary16, else cut."""
    output = unit.output_format
    emin = 1 - output.bias
    largest = (2 - 2.0**-output.trailing_bits) * 2.0**output.bias
    return Rounding(unit.kept_bits, emin, 2.0 ** -(unit.kept_bits - (0 if output.to_nearest else 1)), largest)


def _unit_sums(
    unit: MatrixUnit,
    terms: NDArray[np.float64],
    loose: NDArray[np.float64],
    lost: NDArray[np.float64],
    exponents: NDArray[np.int64] | None,
    carry: Sums | None,
    out: NDArray[np.float64],
) -> None:
    if exponents is None:
        raise ValueError("a matrix unit aligns by the exponents of its operands: give them")
    start = np.zeros((3, len(terms))) if carry is None else np.array(carry)
    stages = unit.stages(terms.shape[1])
    unit_sums(
        terms, loose, lost, exponents, stages, unit.fraction_bits, unit.min_exponent, unit_rounding(unit), start, out
    )
