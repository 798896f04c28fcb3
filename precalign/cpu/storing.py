"""Splitting new tokens into planes, or keeping them whole, and the maxima of exponents that rules read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import inline, kernel
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from precalign.jit import Array


@inline
def _pack(codes: Array, first: Array, second: Array, third: Array, at: int) -> None:
    """Write a row of codes to the planes, from code `at` of the first on."""
    for i in range(len(codes)):
        first[at + i] = codes[i] >> 8
    for i in range(len(codes) // 2):
        low, high = codes[2 * i], codes[2 * i + 1]
        second[at // 2 + i] = ((low >> 4) & 0xF) | (high & 0xF0)
        third[at // 2 + i] = (low & 0xF) | ((high & 0xF) << 4)


@inline
def _unpack(codes: Array, first: Array, second: Array, third: Array, at: int) -> None:
    """Read a row of codes back from the planes."""
    for i in range(len(codes)):
        shift = 4 * (i % 2)
        high, low = second[at // 2 + i // 2] >> shift, third[at // 2 + i // 2] >> shift
        codes[i] = (np.uint16(first[at + i]) << 8) | ((high & 0xF) << 4) | (low & 0xF)


@inline
def _exponent(shape: Array, code: Array) -> Array:
    """Return the biased exponent of a code's binade; 1 for subnormals and zero."""
    return np.uint8(max((np.int64(code) >> shape.exponent_shift) & shape.exponent_mask, 1))


@inline
def _store_keys(
    shape: Array, store: Array, keys: Array, kv_head: int, at: int, begin: int, n: int, plain: Array
) -> None:
    """Put tokens `begin` on of a page, (n, n_kv_heads, head_dim), into it; those that it holds already stay."""
    row = np.empty(PAGE_TOKENS, np.uint16)
    for d in range(shape.head_dim):
        place = at + d * PAGE_TOKENS
        if plain is None:
            row[:] = 0
            if begin > 0:
                _unpack(row, store.key_first, store.key_second, store.key_third, place)
            for t in range(n):
                row[begin + t] = keys[t, kv_head, d]
            _pack(row, store.key_first, store.key_second, store.key_third, place)
        else:
            for t in range(n):
                store.key_first[place + begin + t] = keys[t, kv_head, d]


@inline
def _store_values(
    shape: Array, store: Array, values: Array, kv_head: int, at: int, begin: int, n: int, plain: Array
) -> None:
    """Put tokens `begin` on of a page, (n, n_kv_heads, head_dim), into it, with their maxima."""
    for t in range(n):
        for d in range(0, shape.head_dim, shape.row_codes):
            place = at + d * PAGE_TOKENS + (begin + t) * shape.row_codes
            row = values[t, kv_head, d : d + shape.row_codes]
            if plain is None:
                _pack(row, store.value_first, store.value_second, store.value_third, place)
            else:
                store.value_first[place : place + shape.row_codes] = row
        largest = np.uint8(1)
        for code in values[t, kv_head]:
            largest = max(largest, _exponent(shape, code))
        store.token_maxima[at // shape.head_dim + begin + t] = largest


@kernel
def append(shape: Array, store: Array, keys: Array, values: Array, starts: Array, kv_head: int, plain: Array) -> None:
    """Add new tokens of one kv head to all sequences; `Store.lengths` still holds the tokens before.

    Parameters
    ----------
    shape, store : Shape, Store
    keys, values : uint16, (n_new, n_kv_heads, head_dim)
    starts : int64, (batch_size + 1,)
        Where each sequence's new tokens begin.
    kv_head : int
    plain : None or int
        A marker: None for planes, else codes are kept whole.
    """
    for sequence in range(len(starts) - 1):
        head = sequence * shape.n_kv_heads + kv_head
        new, end = starts[sequence], starts[sequence + 1]
        position = store.lengths[sequence]
        while new < end:
            begin = position % PAGE_TOKENS
            n = min(PAGE_TOKENS - begin, end - new)
            physical = np.int64(store.block_table[sequence, position // PAGE_TOKENS])
            at = (kv_head * shape.n_pages + physical) * (PAGE_TOKENS * shape.head_dim)
            _store_keys(shape, store, keys[new : new + n], kv_head, at, begin, n, plain)
            _store_values(shape, store, values[new : new + n], kv_head, at, begin, n, plain)
            new, position = new + n, position + n
        for codes, maxima in ((keys, store.key_maxima), (values, store.value_maxima)):
            own = maxima[head * shape.head_dim : (head + 1) * shape.head_dim]
            for t in range(starts[sequence], end):
                for d in range(shape.head_dim):
                    own[d] = max(own[d], _exponent(shape, codes[t, kv_head, d]))
