r"""Codes to planes and back, and truncated reads.

Packing, which the kernels share:

- A plane of width w holds, for each code, w bits: bits ``[n - end, n - end + w)`` of the n-bit code, where ``end`` is the sum
  of the widths up to and with this plane.
- The codes of a *row* follow each other from the least significant bit of the first byte on: in a 4-bit plane, code 0 is
  the low nibble of byte 0, code 1 its high nibble. A row is padded with zero bits to a whole byte.
- keys: a row is one channel of a page of 64 tokens; rows are ordered [page][head_dim], so a plane is
  ``(n_pages, head_dim, 8 * w)`` bytes. Tokens of the last page that do not exist are zero bits.
- values: a row is one token; a plane is ``(seq_len, ceil(head_dim * w / 8))`` bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout

PAGE_TOKENS = 64


def _pack_rows(parts: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    bits = (parts[..., None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    packed: NDArray[np.uint8] = np.packbits(
        bits.astype(np.uint8).reshape(*parts.shape[:-1], -1), axis=-1, bitorder="little"
    )
    return packed


def _unpack_rows(packed: NDArray[np.uint8], width: int, row_length: int) -> NDArray[np.uint64]:
    bits = np.unpackbits(packed, axis=-1, count=row_length * width, bitorder="little")
    bits = bits.reshape(*packed.shape[:-1], row_length, width)
    parts: NDArray[np.uint64] = (bits.astype(np.uint64) << np.arange(width, dtype=np.uint64)).sum(-1, np.uint64)
    return parts


def _split_rows(rows: NDArray[Any], layout: Layout) -> list[NDArray[np.uint8]]:
    wide = rows.astype(np.uint64)
    planes = []
    for width, end in zip(layout.widths, layout.plane_ends, strict=True):
        part = (wide >> np.uint64(layout.total_bits - end)) & np.uint64((1 << width) - 1)
        planes.append(_pack_rows(part, width))
    return planes


def _join_rows(planes: list[NDArray[np.uint8]], layout: Layout, row_length: int) -> NDArray[Any]:
    joined = np.zeros((*planes[0].shape[:-1], row_length), np.uint64)
    for packed, width, end in zip(planes, layout.widths, layout.plane_ends, strict=False):
        joined |= _unpack_rows(packed, width, row_length) << np.uint64(layout.total_bits - end)
    return joined.astype(layout.format.code_dtype)


def split_keys(keys: NDArray[Any], layout: Layout) -> list[NDArray[np.uint8]]:
    """Cut keys into planes.

    Parameters
    ----------
    keys : ndarray[unsigned], (seq_len, head_dim)
        Codes.
    layout : Layout

    Returns
    -------
    list of ndarray[uint8], (n_pages, head_dim, 8 * width)
        One per plane, most significant first.
    """
    seq_len, head_dim = keys.shape
    n_pages = -(-seq_len // PAGE_TOKENS)
    padded = np.zeros((n_pages * PAGE_TOKENS, head_dim), keys.dtype)
    padded[:seq_len] = keys
    return _split_rows(padded.reshape(n_pages, PAGE_TOKENS, head_dim).transpose(0, 2, 1), layout)


def join_keys(planes: list[NDArray[np.uint8]], layout: Layout, seq_len: int) -> NDArray[Any]:
    """Join the first planes of keys to codes (seq_len, head_dim); bits of planes that are not given are 0."""
    rows = _join_rows(planes, layout, PAGE_TOKENS)
    return np.ascontiguousarray(rows.transpose(0, 2, 1).reshape(-1, rows.shape[1])[:seq_len])


def split_values(values: NDArray[Any], layout: Layout) -> list[NDArray[np.uint8]]:
    """Cut values, codes (seq_len, head_dim), into planes (seq_len, ceil(head_dim * width / 8)) of bytes."""
    return _split_rows(values, layout)


def join_values(planes: list[NDArray[np.uint8]], layout: Layout, head_dim: int) -> NDArray[Any]:
    """Join the first planes of values to codes (seq_len, head_dim); bits of planes that are not given are 0."""
    return _join_rows(planes, layout, head_dim)


def truncate(codes: NDArray[Any], layout: Layout, level: int) -> NDArray[Any]:
    """Return what a read at a level gives: the bits read, and the midpoint of those that are not.

    The first missing bit is 1, the others 0; a full read is exact. With t trailing significand bits kept,
    |x - x_read| <= 2^(E(x) - t - 1).

    Parameters
    ----------
    codes : ndarray[unsigned]
        Any shape.
    layout : Layout
    level : int
        Index into ``layout.levels``; not the skipped level, which reads nothing.

    Returns
    -------
    ndarray of the shape and dtype of `codes`
    """
    dropped = int(layout.dropped_bits[level])
    if dropped == layout.total_bits:
        raise ValueError("a skipped code has no value")
    if dropped == 0:
        return codes.copy()
    kept = ((1 << layout.total_bits) - 1) ^ ((1 << dropped) - 1)
    read: NDArray[Any] = (codes & codes.dtype.type(kept)) | codes.dtype.type(1 << (dropped - 1))
    return read
