"""The packs of `packkv`: 16 tokens of one channel as a minimum, a width and 16 fields; and orders of tokens that make them narrow."""

from __future__ import annotations

import numpy as np

from precalign.jit import Array, inline, kernel, reinterpret

BLOCK_TOKENS = 64
PACK_TOKENS = 16
MOST_CODE_BITS = 24
LARGEST_CODE = (1 << MOST_CODE_BITS) - 1
WORD_BITS = 32
STRIDE = 1024
"""Channels after which a token that widens a pack too much is given up."""


@inline
def bit_length(x: Array) -> Array:
    """Return the bits of an integer >= 0: ceil(log2(x + 1))."""
    bits = 0
    while x > 0:
        bits += 1
        x >>= 1
    return bits


@inline
def _width(span: Array) -> Array:
    """Return the bits of an integer from 0 to LARGEST_CODE, which binary32 holds exactly: its exponent tells."""
    return max((reinterpret(np.float32(span)) >> np.int32(23)) - np.int32(126), np.int32(0))


@inline
def _put_word(out: Array, at: Array, held: Array) -> None:
    for i in range(WORD_BITS // 8):
        out[at + i] = np.uint8((held >> np.uint64(8 * i)) & np.uint64(255))


@inline
def _get(octets: Array, at: Array, width: Array) -> Array:
    value = 0
    for i in range(width):
        place = at + i
        value |= ((np.int64(octets[place >> 3]) >> (place & 7)) & 1) << i
    return value


@kernel
def pack_block(codes: Array, out: Array) -> int:
    """Pack codes (64, n_channels), int32 from 0 to LARGEST_CODE, in this order of tokens, into bytes; return how many were used.

    One byte holds B, the bits of the largest code; a pack is its minimum (B bits), its width (the bits of B) and 16 fields.
    """
    n_channels = codes.shape[1]
    least, most = np.empty(n_channels, np.int32), np.empty(n_channels, np.int32)
    widest = np.int64(bit_length(codes.max()))
    out[0] = widest
    of_width, at = np.int64(bit_length(widest)), 1
    held, n_held = np.uint64(0), np.int64(0)  # fewer than 32 bits between fields, and no field has more than 24
    for first in range(0, BLOCK_TOKENS, PACK_TOKENS):
        least[:], most[:] = codes[first], codes[first]
        for t in range(first + 1, first + PACK_TOKENS):
            row = codes[t]
            for c in range(n_channels):
                least[c], most[c] = min(least[c], row[c]), max(most[c], row[c])
        for c in range(n_channels):
            width = np.int64(_width(most[c] - least[c]))
            held |= np.uint64(np.int64(least[c]) | (width << widest)) << np.uint64(n_held)
            n_held += widest + of_width
            if n_held >= WORD_BITS:
                _put_word(out, at, held)
                held, n_held, at = held >> np.uint64(WORD_BITS), n_held - WORD_BITS, at + WORD_BITS // 8
            for t in range(first, first + PACK_TOKENS):
                held |= np.uint64(codes[t, c] - least[c]) << np.uint64(n_held)
                n_held += width
                if n_held >= WORD_BITS:
                    _put_word(out, at, held)
                    held, n_held, at = held >> np.uint64(WORD_BITS), n_held - WORD_BITS, at + WORD_BITS // 8
    _put_word(out, at, held)
    return int(at + (n_held + 7) // 8)


@kernel
def unpack_block(octets: Array, codes: Array) -> bool:
    """Undo `pack_block`; codes (64, n_channels), int64. Return whether the bytes are those of a block: nothing beyond them is read."""
    bits = 8 * np.int64(len(octets))
    if bits < 8 or octets[0] > MOST_CODE_BITS:
        return False
    widest = np.int64(octets[0])
    of_width, at = bit_length(widest), 8
    for first in range(0, BLOCK_TOKENS, PACK_TOKENS):
        for c in range(codes.shape[1]):
            if at + widest + of_width > bits:
                return False
            least = _get(octets, at, widest)
            width = _get(octets, at + widest, of_width)
            at += widest + of_width
            if width > widest or at + PACK_TOKENS * width > bits:
                return False
            for t in range(first, first + PACK_TOKENS):
                codes[t, c] = least + _get(octets, at, width)
                at += width
    return True


def pack_limit(n_channels: int, widest: int) -> int:
    """Return bytes that a block never exceeds."""
    per_pack = widest + 64 + PACK_TOKENS * widest
    return 2 + n_channels * (BLOCK_TOKENS // PACK_TOKENS) * per_pack // 8 + 8


@kernel
def greedy_order(codes: Array) -> Array:
    """Return an order of 64 tokens: packs are begun with the token most like the mean of the rest and filled with those that widen least.

    Parameters
    ----------
    codes : ndarray[int32], (64, n_channels)
        Of keys and values side by side, 0 to LARGEST_CODE.

    Returns
    -------
    ndarray[int64], (64,)
    """
    n_channels = codes.shape[1]
    order, free = np.empty(BLOCK_TOKENS, np.int64), np.ones(BLOCK_TOKENS, np.bool_)
    bounds = np.empty(BLOCK_TOKENS, np.int32)
    least, most, mean = np.empty(n_channels, np.int32), np.empty(n_channels, np.int32), np.empty(n_channels)
    for place in range(BLOCK_TOKENS):
        if place % PACK_TOKENS == 0:
            chosen = _most_like_the_mean(codes, free, mean)
            least[:], most[:] = codes[chosen], codes[chosen]
            bounds[:] = 0
        else:
            chosen = _widens_least(codes, free, least, most, bounds)
            for c in range(n_channels):
                least[c], most[c] = min(least[c], codes[chosen, c]), max(most[c], codes[chosen, c])
        order[place] = chosen
        free[chosen] = False
    return order


@inline
def _most_like_the_mean(codes: Array, free: Array, mean: Array) -> Array:
    mean[:] = 0
    for t in range(BLOCK_TOKENS):
        if free[t]:
            mean += codes[t]
    best, chosen = -np.inf, -1
    for t in range(BLOCK_TOKENS):
        if free[t]:
            inner, square = 0.0, 0.0
            for c in range(len(mean)):
                inner += mean[c] * codes[t, c]
                square += np.float64(codes[t, c]) * codes[t, c]
            cosine = inner / np.sqrt(square) if square > 0 else 0.0  # the norm of the mean is common to all
            if cosine > best:
                best, chosen = cosine, t
    return chosen


@inline
def _bits_with(row: Array, least: Array, most: Array, limit: Array) -> Array:
    """Return the bits of a pack's widths with a row added, or of its first channels as soon as they exceed the limit."""
    bits = np.int32(0)
    for begin in range(0, len(row), STRIDE):
        x, low, high = row[begin : begin + STRIDE], least[begin : begin + STRIDE], most[begin : begin + STRIDE]
        for c in range(len(x)):
            bits += _width(max(high[c], x[c]) - min(low[c], x[c]))
        if bits > limit:
            break
    return bits


@inline
def _widens_least(codes: Array, free: Array, least: Array, most: Array, bounds: Array) -> Array:
    """Return the first of the free tokens that widen least.

    A pack only grows, so what a token asked for before bounds what it asks for now (`bounds`): one that cannot win is not looked at.
    """
    best, chosen = np.int32((1 << 31) - 1), -1
    likely = -1
    for t in range(BLOCK_TOKENS):
        if free[t] and (likely < 0 or bounds[t] < bounds[likely]):
            likely = t
    for i in range(-1, BLOCK_TOKENS):
        t = likely if i < 0 else i
        if not free[t] or i == likely or bounds[t] > best or (bounds[t] == best and t > chosen):
            continue
        bits = _bits_with(codes[t], least, most, best)
        bounds[t] = max(bounds[t], bits)
        if bits < best or (bits == best and t < chosen):
            best, chosen = bits, t
    return chosen
