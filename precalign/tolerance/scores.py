"""Scores of one side: s_t = scale * sum_d q_d k_td in its order, with the error of each."""

from __future__ import annotations

from math import frexp, sqrt
from typing import TYPE_CHECKING

import numpy as np

from precalign.matrix_units import MatrixUnit
from precalign.tolerance.rounding import SAFETY, errors_of, rounding_to
from precalign.tolerance.sums import Sums, sum_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.tolerance.side import Side


def operand_exponents(x: NDArray[np.float64], fmt: Format) -> NDArray[np.int64]:
    """E(x) in a format: emin for subnormals and zeros."""
    _, after_point = np.frexp(x)
    return np.where(x == 0, fmt.emin, np.maximum(after_point - 1, fmt.emin)).astype(np.int64)


def constant_error(x: float, fmt: Format) -> float:
    """Return |fl(x) / x - 1| at most for a constant stored in a format, 0 for a power of two."""
    return 0.0 if frexp(x)[0] == 0.5 else fmt.unit_roundoff * (1 + 2.0**-20)


def scaled_operand(
    x: NDArray[np.float64], factor: float, extra: int, side: Side
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return |x| factor, and the error of fl(x fl(factor)) in the accumulator's format; `extra` roundings made the factor before."""
    to, constant = side.to_accumulator, constant_error(factor, side.accumulator)
    size = np.abs(x) * factor
    if constant == 0:  # a power of two changes no significand, but below the normal numbers
        return size, np.where(size < 2.0**to.emin, to.unit * 2.0**to.emin, 0.0)
    lost = size * constant * (1 + extra) * (1 + SAFETY)
    return size, lost + errors_of(size + lost, to)


def lost_before(side: Side, query: NDArray[np.float64], keys: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return what scaling the factors first may change each product scale q_d k_td by, (n_tokens, head_dim)."""
    if side.scale == "before":
        _, q_lost = scaled_operand(query, scale, 0, side)
        found = q_lost * np.abs(keys)
    else:
        q, q_lost = scaled_operand(query, sqrt(scale), 1, side)
        k, k_lost = scaled_operand(keys, sqrt(scale), 1, side)
        found = q_lost * k + (q + q_lost) * k_lost
    return np.where(np.isnan(found), np.inf, found)


def scores_of(side: Side, query: NDArray[np.float64], keys: NDArray[np.float64], scale: float, storage: Format) -> Sums:
    """Return the scores in binary64, and what this side's differ from them at most.

    Parameters
    ----------
    side : Side
    query : ndarray[float64], (head_dim,)
    keys : ndarray[float64], (n_tokens, head_dim)
        Values of binary32 or narrower, so that products are exact.
    scale : float
    storage : Format
        Of queries and keys.

    Returns
    -------
    Sums, (n_tokens,)
        `lost` is the bound; it includes the rounding of the binary64 scores, which is all that `exact` has. `loose` is zero.
    """
    products = keys * query
    centre = products.sum(axis=1) * scale
    doubt = np.abs(products).sum(axis=1) * scale * (len(query) + 4) * 2.0**-51
    if side.exact:
        return Sums(centre, np.zeros_like(centre), doubt)
    exponents = None
    if isinstance(side.score_order, MatrixUnit):
        exponents = operand_exponents(keys, storage) + operand_exponents(query, storage)
    before, after = np.zeros_like(products), side.scale == "after"
    if not after:
        products, before = products * scale, lost_before(side, query, keys, scale)
    sums = sum_of(
        products,
        np.zeros(1),
        side.score_order,
        side.to_accumulator,
        before=before,
        product=side.to_product,
        exponents=exponents,
    )
    if side.accumulator.precision_bits > side.softmax_format.precision_bits:
        sums = sums.rounded(side.to_softmax)
    if after:
        sums = scaled(side, sums, scale)
    if side.score_format is not None:
        sums = sums.rounded(rounding_to(side.score_format))
    return Sums(centre, sums.loose, sums.lost * (1 + SAFETY) + doubt)


def scaled(side: Side, sums: Sums, scale: float) -> Sums:
    """Return fl(sum * fl(scale)) in the format of the softmax; a power of two loses nothing but below the normal numbers."""
    to = side.to_softmax
    constant = constant_error(scale, side.softmax_format)
    size = (np.abs(sums.value) + sums.loose) * scale
    lost = sums.lost * scale * (1 + constant) + size * constant
    size = size + lost
    return Sums(
        sums.value * scale, sums.loose * scale, lost + (errors_of(size, to) if constant else to.unit * 2.0**to.emin)
    )
