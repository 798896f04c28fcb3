"""Codes of b bits to bytes and back: a row is one stream of bits, the first code in the lowest bits of the first byte."""

from __future__ import annotations

import numpy as np

from precalign.jit import Array, inline, kernel


@inline
def _pack_row(codes: Array, width: int, out: Array) -> None:
    if width == 8:
        for i in range(len(codes)):
            out[i] = np.uint8(codes[i])
        return
    if width == 4 and len(codes) % 2 == 0:
        for i in range(len(codes) // 2):
            out[i] = np.uint8(codes[2 * i] | (codes[2 * i + 1] << np.uint8(4)))
        return
    held, n_held, at = np.uint64(0), 0, 0
    for i in range(len(codes)):
        held |= np.uint64(codes[i]) << np.uint64(n_held)
        n_held += width
        while n_held >= 8:
            out[at] = np.uint8(held & np.uint64(255))
            held >>= np.uint64(8)
            n_held -= 8
            at += 1
    if n_held:
        out[at] = np.uint8(held & np.uint64(255))


@inline
def unpack_row(octets: Array, width: int, out: Array) -> None:
    """Unpack one row."""
    if width == 8:
        for i in range(len(out)):
            out[i] = octets[i]
        return
    if width == 4 and len(out) % 2 == 0:
        for i in range(len(out) // 2):
            out[2 * i] = octets[i] & np.uint8(15)
            out[2 * i + 1] = octets[i] >> np.uint8(4)
        return
    held, n_held, at = np.uint64(0), 0, 0
    mask = np.uint64((1 << width) - 1)
    for i in range(len(out)):
        while n_held < width:
            held |= np.uint64(octets[at]) << np.uint64(n_held)
            n_held += 8
            at += 1
        out[i] = held & mask
        held >>= np.uint64(width)
        n_held -= width


@kernel
def pack_rows(codes: Array, width: int, out: Array) -> None:
    """Pack codes (n_rows, n) below 2^width into out (n_rows, ceil(n width / 8)), uint8."""
    for row in range(codes.shape[0]):
        _pack_row(codes[row], width, out[row])


@kernel
def unpack_rows(octets: Array, width: int, out: Array) -> None:
    """Unpack rows (n_rows, ceil(n width / 8)) into out (n_rows, n), of any unsigned type."""
    for row in range(octets.shape[0]):
        unpack_row(octets[row], width, out[row])


def packed_bytes(n_codes: int, width: int) -> int:
    """Return the bytes of a row of `n_codes` codes."""
    return -(-n_codes * width // 8)
