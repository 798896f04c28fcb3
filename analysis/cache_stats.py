"""What codes alone tell: exponent ranges, and bits of the format that a cache never uses. Needs no queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.formats.codes import Kind, kinds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format

CHUNK_NUMBERS = 1 << 20
"""Codes looked at together; bounds the working arrays."""


@dataclass(frozen=True)
class CacheStats:
    """Counts over the codes of keys or of values; two add up to those of both.

    Attributes
    ----------
    format : Format
    exponent_histogram : ndarray[int64], (2^exponent_bits,)
        Codes by biased exponent.
    zeros, nonfinite : int
    used_trailing_bits : int
        The trailing significands of all finite codes, or-ed.
    """

    format: Format
    exponent_histogram: NDArray[np.int64]
    zeros: int
    nonfinite: int
    used_trailing_bits: int

    def __add__(self, other: CacheStats) -> CacheStats:
        return CacheStats(
            self.format,
            self.exponent_histogram + other.exponent_histogram,
            self.zeros + other.zeros,
            self.nonfinite + other.nonfinite,
            self.used_trailing_bits | other.used_trailing_bits,
        )

    def figures(self) -> dict[str, int | float | None]:
        """Return the columns of the table `cache`, but for the histogram."""
        histogram, fmt = self.exponent_histogram, self.format
        numbers, nonfinite = int(histogram.sum()), self.nonfinite
        finite = histogram.copy()
        # Infinities and NaNs have the largest exponent, but for the one NaN where minus zero would be.
        finite[-1 if fmt.has_minus_zero else 0] -= nonfinite
        subnormals = int(finite[0]) - self.zeros
        fields = [int(f) for f in np.flatnonzero(finite[1:]) + 1] or [1] * (subnormals > 0)
        highest = fields[-1] - fmt.bias if fields else None
        lowest = None if not fields else fmt.emin if subnormals else fields[0] - fmt.bias
        # One more code than binades: zero has none of its own.
        binades = 0 if highest is None or lowest is None else highest - lowest + 1
        shares = histogram[histogram > 0] / numbers
        trailing = self.used_trailing_bits | 1 << fmt.trailing_significand_bits
        return {
            "numbers": numbers,
            "zeros": self.zeros,
            "subnormals": subnormals,
            "nonfinite": nonfinite,
            "max_exponent": highest,
            "min_exponent": lowest,
            "exponent_entropy_bits": abs(float(-(shares * np.log2(shares)).sum())),
            "exponent_wasted_bits": fmt.exponent_bits - binades.bit_length() if nonfinite == 0 else 0,
            "trailing_zero_bits": (trailing & -trailing).bit_length() - 1,
        }


def cache_stats(codes: NDArray[Any], fmt: Format) -> CacheStats:
    """Count over codes of any shape; working memory does not grow with them."""
    trailing_mask = (1 << fmt.trailing_significand_bits) - 1
    histogram, zeros, nonfinite, used = np.zeros(1 << fmt.exponent_bits, np.int64), 0, 0, 0
    is_special = kinds(np.arange(1 << fmt.total_bits), fmt) >= Kind.INFINITY
    for chunk in _chunks(codes.reshape(-1)):
        fields = (chunk >> fmt.trailing_significand_bits) & ((1 << fmt.exponent_bits) - 1)
        trailing = chunk & trailing_mask
        histogram += np.bincount(fields, minlength=len(histogram))
        special = is_special[chunk]
        nonfinite += int(special.sum())
        zeros += int((((fields | trailing) == 0) & ~special).sum())
        finite = ~special
        used |= int(np.bitwise_or.reduce(trailing, where=finite, initial=0))
    return CacheStats(fmt, histogram, zeros, nonfinite, used)


def _chunks(flat: NDArray[Any]) -> list[NDArray[Any]]:
    return [flat[begin : begin + CHUNK_NUMBERS] for begin in range(0, len(flat), CHUNK_NUMBERS)]


@dataclass(frozen=True)
class Magnitudes:
    """Exponents of the largest and the smallest magnitude along each axis, as nullable columns.

    Attributes
    ----------
    channel_max, channel_min : ndarray, (head_dim,), masked
        E(x) over tokens; the minimum over numbers that are not zero; masked where all are zero.
    token_max, token_min : ndarray, (seq_len,), masked
        E(x) over channels.
    exponent_bits : int
        Of the format.
    """

    channel_max: np.ma.MaskedArray[Any, Any]
    channel_min: np.ma.MaskedArray[Any, Any]
    token_max: np.ma.MaskedArray[Any, Any]
    token_min: np.ma.MaskedArray[Any, Any]
    exponent_bits: int

    @property
    def channel_wasted_bits(self) -> NDArray[np.int64]:
        """Return the exponent bits that the numbers of each channel do not need, (head_dim,)."""
        return _unneeded_bits(self.channel_max, self.channel_min, self.exponent_bits)

    @property
    def token_wasted_bits(self) -> NDArray[np.int64]:
        """Return the exponent bits that the numbers of each token do not need, (seq_len,)."""
        return _unneeded_bits(self.token_max, self.token_min, self.exponent_bits)


def _unneeded_bits(
    largest: np.ma.MaskedArray[Any, Any], smallest: np.ma.MaskedArray[Any, Any], exponent_bits: int
) -> NDArray[np.int64]:
    """Return exponent bits less those that count the binades from smallest to largest, and zero: all where every number is zero."""
    binades = np.ma.filled(largest - smallest + 1, 0).astype(np.int64)
    _, needed = np.frexp(binades.astype(np.float64))  # n binades and zero are n + 1 codes: the bits of n
    return exponent_bits - needed.astype(np.int64)


def magnitudes(codes: NDArray[Any], fmt: Format) -> Magnitudes:
    """Return the exponent ranges of keys or values (seq_len, head_dim) by channel and by token.

    Magnitudes are ordered as their codes without the sign are, so the extremes are found among integers.
    """
    mask = codes.dtype.type((1 << (fmt.total_bits - 1)) - 1)
    seq_len, head_dim = codes.shape
    largest, smallest = np.zeros(head_dim, codes.dtype), np.full(head_dim, mask)
    by_token, least_by_token = np.zeros(seq_len, codes.dtype), np.zeros(seq_len, codes.dtype)
    rows = max(1, CHUNK_NUMBERS // head_dim)
    for begin in range(0, seq_len, rows):
        size = codes[begin : begin + rows] & mask
        by_token[begin : begin + rows] = size.max(axis=1)
        np.maximum(largest, size.max(axis=0), out=largest)
        not_zero = np.where(size == 0, mask, size)
        np.minimum(smallest, not_zero.min(axis=0), out=smallest)
        least_by_token[begin : begin + rows] = not_zero.min(axis=1)
    return Magnitudes(
        _exponents(largest, largest == 0, fmt),
        _exponents(smallest, largest == 0, fmt),
        _exponents(by_token, by_token == 0, fmt),
        _exponents(least_by_token, by_token == 0, fmt),
        fmt.exponent_bits,
    )


def _exponents(sizes: NDArray[Any], absent: NDArray[np.bool_], fmt: Format) -> np.ma.MaskedArray[Any, Any]:
    fields = (sizes >> fmt.trailing_significand_bits).astype(np.int32)
    return np.ma.MaskedArray(np.maximum(fields, 1) - fmt.bias, mask=absent)
