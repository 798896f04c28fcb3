"""Exponents stored relative to a maximum: what the planes hold, what escapes them, and what a read gives.

Inside a key channel or a token's values exponents span few binades, so e bits hold them where the format spends more. With m trailing
significand bits, a number x and its reference R, the largest exponent of its group, the stored code of 1 + e + m bits is

- the sign;
- a field: 0 for zero, else f = 2^e - 1 - (R - floor(log2 |x|)), so f = 2^e - 1 is the binade of the largest number;
- the m bits after the leading one, with subnormals of the format normalised: the leading one is hidden in every number that is not zero.

One of the 2^e fields is zero's: 2^e - 1 binades are held exactly. What lies further below is *escaped*: the planes hold a zero of its sign, and
a list holds its code and its place; a read of its row at any level takes it from there, whole. So a full read is exact, always, and a read of
t trailing bits is within 2^(E(x) - t - 1) as in any layout: zeros and escaped numbers have no error at all.

Groups: keys, one channel of a page of 64 tokens; values, one token. A page is final when it is full, so no reference ever changes under
written codes. References are one byte each (the biased exponent), escapes four (code and place in the page), and each page has a
four-byte index into the list of its escapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.decode.codes import exponents, to_binary32
from precalign.planes import PAGE_TOKENS, truncate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.layouts import Layout

BINARY64_TRAILING_BITS = 52
ESCAPE_BYTES = 4
INDEX_BYTES = 4
REFERENCE_BYTES = 1
MOST_HEAD_DIM = 1024
"""An escape's place, channel and token of the page, takes 16 bits."""


@dataclass(frozen=True)
class Rebased:
    """Codes of a rebased layout, and what stands beside the planes.

    Attributes
    ----------
    codes : ndarray[unsigned], shape of the original codes
        Of ``layout.total_bits`` bits.
    references : ndarray[int16]
        R of each group: (n_pages, head_dim) for keys, (seq_len,) for values.
    escaped : ndarray[bool], shape of `codes`
        Numbers that the planes do not hold.
    escapes : ndarray[unsigned], (n_escaped,)
        Their codes in the format, in the order of `numpy.flatnonzero`.
    """

    codes: NDArray[Any]
    references: NDArray[np.int16]
    escaped: NDArray[np.bool_]
    escapes: NDArray[Any]


def key_references(keys: NDArray[Any], fmt: Format) -> NDArray[np.int16]:
    """Return the largest E(k_td) of each channel in each page, (n_pages, head_dim); the last page is that of the tokens there are."""
    starts = np.arange(0, len(keys), PAGE_TOKENS)
    return np.maximum.reduceat(exponents(keys, fmt).astype(np.int16), starts, axis=0)


def value_references(values: NDArray[Any], fmt: Format) -> NDArray[np.int16]:
    """Return the largest E(v_tc) of each token, (seq_len,)."""
    largest: NDArray[np.int16] = exponents(values, fmt).max(axis=1).astype(np.int16)
    return largest


def _by_number(references: NDArray[np.int16], n_tokens: int, *, keys: bool) -> NDArray[np.int16]:
    """Return references in a shape that broadcasts against codes (seq_len, head_dim)."""
    return np.repeat(references, PAGE_TOKENS, axis=0)[:n_tokens] if keys else references[:, None]


def _below(codes: NDArray[Any], references: NDArray[np.int16], layout: Layout, *, keys: bool) -> NDArray[np.int64]:
    """Return R - floor(log2 |x|) of every number, not negative; -1 for zeros."""
    values = to_binary32(codes, layout.format).astype(np.float64)
    _, after_point = np.frexp(values)
    distance = _by_number(references, len(codes), keys=keys) - (after_point.astype(np.int64) - 1)
    return np.where(values == 0, -1, distance)


def escaped_keys(keys: NDArray[Any], layout: Layout) -> NDArray[np.bool_]:
    """Return which keys (seq_len, head_dim) the planes do not hold; the first token begins a page."""
    below = _below(keys, key_references(keys, layout.format), layout, keys=True)
    return below > (1 << layout.exponent_bits) - 2


def escaped_values(values: NDArray[Any], layout: Layout) -> NDArray[np.bool_]:
    """Return which values (seq_len, head_dim) the planes do not hold."""
    below = _below(values, value_references(values, layout.format), layout, keys=False)
    return below > (1 << layout.exponent_bits) - 2


def _rebase(codes: NDArray[Any], layout: Layout, references: NDArray[np.int16], *, keys: bool) -> Rebased:
    fmt, m = layout.format, layout.format.trailing_significand_bits
    below = _below(codes, references, layout, keys=keys)
    top = (1 << layout.exponent_bits) - 1
    escaped = below > top - 1
    held = (below >= 0) & ~escaped
    values = np.abs(to_binary32(codes, fmt).astype(np.float64))
    trailing = (values.view(np.uint64) >> np.uint64(BINARY64_TRAILING_BITS - m)) & np.uint64((1 << m) - 1)
    magnitude = np.where(held, ((top - below).astype(np.uint64) << np.uint64(m)) | trailing, 0)
    sign = (codes >> (fmt.total_bits - 1)).astype(np.uint64) << np.uint64(layout.total_bits - 1)
    return Rebased((sign | magnitude).astype(codes.dtype), references, escaped, codes[escaped])


def rebase_keys(keys: NDArray[Any], layout: Layout) -> Rebased:
    """Turn keys, codes of the format (seq_len, head_dim), into codes of a rebased layout."""
    return _rebase(keys, layout, key_references(keys, layout.format), keys=True)


def rebase_values(values: NDArray[Any], layout: Layout) -> Rebased:
    """Turn values, codes of the format (seq_len, head_dim), into codes of a rebased layout."""
    return _rebase(values, layout, value_references(values, layout.format), keys=False)


def restore(rebased: Rebased, layout: Layout) -> NDArray[Any]:
    """Return the codes of the format: the exact inverse of `rebase_keys` and `rebase_values`."""
    fmt, m = layout.format, layout.format.trailing_significand_bits
    codes = rebased.codes.astype(np.int64)
    field = (codes >> m) & ((1 << layout.exponent_bits) - 1)
    keys = rebased.references.ndim == 2
    exponent = _by_number(rebased.references, len(codes), keys=keys) - ((1 << layout.exponent_bits) - 1) + field
    significand = (codes & ((1 << m) - 1)) | (1 << m)
    # Below emin the hidden one of a normalised subnormal comes back out, shifted to its place; no bit is lost.
    shift = np.clip(fmt.emin - exponent, 0, m + 1)
    magnitude = np.where(shift > 0, significand >> shift, ((exponent + fmt.bias) << m) | (significand & ((1 << m) - 1)))
    sign = (codes >> (layout.total_bits - 1)) << (fmt.total_bits - 1)
    whole: NDArray[Any] = (sign | np.where(field > 0, magnitude, 0)).astype(rebased.codes.dtype)
    whole[rebased.escaped] = rebased.escapes
    return whole


def read_binary32(
    codes: NDArray[Any], layout: Layout, level: int, escaped: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Return the numbers that a read of codes at a level gives, exact in binary32.

    Parameters
    ----------
    codes : ndarray[unsigned], any shape
        Of the format, finite.
    layout : Layout
    level : int
        Index into ``layout.levels``; not the skipped level, which reads nothing.
    escaped : ndarray[bool], shape of `codes`, optional
        For a rebased layout: numbers read whole at every level.

    Notes
    -----
    What the planes of a rebased layout hold is a sign, a binade and leading significand bits, so what is read does not depend on the reference:
    the bits after the first t are replaced by their midpoint, zeros stay zeros.
    """
    if not layout.rebased:
        return to_binary32(truncate(codes, layout, level), layout.format)
    exact = to_binary32(codes, layout.format)
    dropped = int(layout.dropped_bits[level])
    if dropped == layout.total_bits:
        raise ValueError("a skipped code has no value")
    if dropped == 0:
        return exact
    missing = BINARY64_TRAILING_BITS - layout.kept_trailing_bits(level)
    bits = exact.astype(np.float64).view(np.uint64)  # every number is normal in binary64
    midpoint = (bits >> np.uint64(missing) << np.uint64(missing)) | np.uint64(1 << (missing - 1))
    whole = exact == 0 if escaped is None else (exact == 0) | escaped
    read: NDArray[np.float32] = np.where(whole, exact, midpoint.view(np.float64).astype(np.float32))
    return read
