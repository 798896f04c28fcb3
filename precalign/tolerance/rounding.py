"""What one rounding can do at most, anywhere on the number line.

A number of magnitude at most x rounds to nearest with an error of at most u max(ufp(x), 2^emin), where ufp(x) = 2^E(x) and u = 2^-p: half the
spacing there (Rump, Ogita and Oishi 2008). It is up to twice as sharp as u x, and covers subnormals without a term of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from precalign.jit import Array, inline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format

SAFETY = 2.0**-20
"""Relative allowance for the evaluation of the bounds themselves in binary64, whose roundings are 2^-53 each."""


class Rounding(NamedTuple):
    """A format to round into, in the shape that kernels take.

    Attributes
    ----------
    precision, emin : int
        Significand bits with the hidden bit, and the exponent of the smallest normal number.
    unit : float
        Largest error over ufp: 2^-p to nearest, 2^(1 - p) in the directed modes; 0 where nothing is rounded.
    largest : float
        What is larger overflows, and then nothing is promised.
    """

    precision: int
    emin: int
    unit: float
    largest: float


EXACT = Rounding(0, 0, 0.0, float("inf"))


def rounding_to(fmt: Format | None, *, directed: bool = False) -> Rounding:
    """Return how a format rounds; None is exact."""
    if fmt is None:
        return EXACT
    return Rounding(fmt.precision_bits, fmt.emin, fmt.unit_roundoff * (2 if directed else 1), fmt.largest)


@inline
def binade(x: Array) -> Array:
    """2^E(x) of a binary64; 0 for zeros and numbers below 2^-1022."""
    return np.int64(np.float64(x).view(np.int64) & 0x7FF0000000000000).view(np.float64)


@inline
def error_of(size: Array, to: Array) -> Array:
    """Return the largest error of rounding a number of magnitude at most `size`; infinite where it may overflow."""
    if to.unit == 0.0:
        return 0.0
    if not size <= to.largest:
        return np.inf
    return to.unit * max(binade(size), 2.0**to.emin) if size > 0.0 else 0.0


@inline
def is_exact(x: Array, to: Array) -> Array:
    """Tell whether a binary64 is a number of the format."""
    if to.unit == 0.0 or x == 0.0:
        return True
    scaled = abs(x) / (max(binade(x), 2.0**to.emin) * 2.0 ** (1 - to.precision))
    return scaled == np.rint(scaled) and abs(x) <= to.largest


def errors_of(sizes: NDArray[np.float64], to: Rounding) -> NDArray[np.float64]:
    """Return `error_of` each element."""
    if to.unit == 0:
        return np.zeros_like(sizes)
    _, after_point = np.frexp(sizes)
    found = to.unit * np.ldexp(1.0, np.maximum(after_point - 1, to.emin))
    return np.where(sizes <= to.largest, np.where(sizes > 0, found, 0.0), np.inf)
