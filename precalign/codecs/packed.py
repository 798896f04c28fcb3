"""Decode attention straight from what a codec stores: the query is brought to the codes, the codes are never brought back to a cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from precalign.errors import UsageError
from precalign.jit import Array, fma, inline, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.codecs.base import CacheShape
    from precalign.codecs.store import CodedCache

LANES = 16
UNIT_ROUNDOFF = 2.0**-24


class PackedCodec(ABC):
    """What a codec adds to be read in its packed form: scores over coded keys, weighted sums over coded values, in binary32.

    Every coded byte is read once. A rotation of the codec is applied to the query, or to the sum, once.
    """

    @abstractmethod
    def packed_scores(
        self,
        octets: NDArray[np.uint8],
        n_tokens: int,
        header: NDArray[np.uint8],
        shape: CacheShape,
        queries: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return q . k, float32 (n_kv_heads, group, n_tokens), of queries (n_kv_heads, group, head_dim) and what `encode` made of keys."""

    @abstractmethod
    def packed_sum(
        self,
        octets: NDArray[np.uint8],
        n_tokens: int,
        header: NDArray[np.uint8],
        shape: CacheShape,
        weights: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return sum_t w_t v_t, float32 (n_kv_heads, group, head_dim), of weights (n_kv_heads, group, n_tokens) and what `encode` made of values."""

    @abstractmethod
    def packed_error(self, shape: CacheShape) -> float:
        """Return e of the bound against exact arithmetic over decoded numbers x, whose largest magnitude is top.

        |score - q.x| <= e |q|_2 sqrt(head_dim) top, and in the 2-norm |sum - sum_t w_t x_t| <= (e + g(n_tokens)) sum_t |w_t| sqrt(head_dim) top,
        with g(n) = `growth(n)`.
        """


class PackedRows(PackedCodec):
    """The same of a codec whose rows are each head of each token by itself: octets (n_tokens, n_kv_heads, row_bytes)."""

    @abstractmethod
    def score_rows(
        self, octets: NDArray[np.uint8], queries: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return scores (n_kv_heads, group, n_tokens); `out` has that shape and may be filled."""

    @abstractmethod
    def sum_rows(
        self, octets: NDArray[np.uint8], weights: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return sums (n_kv_heads, group, head_dim); `out` has that shape, is zero and may be added to."""

    def packed_scores(
        self,
        octets: NDArray[np.uint8],
        n_tokens: int,
        header: NDArray[np.uint8],
        shape: CacheShape,
        queries: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return q . k of all tokens."""
        del header
        rows = octets.reshape(n_tokens, shape.n_kv_heads, -1)
        return self.score_rows(rows, queries, np.empty((*queries.shape[:2], n_tokens), np.float32))

    def packed_sum(
        self,
        octets: NDArray[np.uint8],
        n_tokens: int,
        header: NDArray[np.uint8],
        shape: CacheShape,
        weights: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return the weighted sum of all tokens."""
        del header
        rows = octets.reshape(n_tokens, shape.n_kv_heads, -1)
        return self.sum_rows(rows, weights, np.zeros((*weights.shape[:2], shape.head_dim), np.float32))


def growth(n: int) -> float:
    """Return gamma_n = n u / (1 - n u) of binary32: what n roundings one after the other do at most."""
    return n * UNIT_ROUNDOFF / (1 - n * UNIT_ROUNDOFF)


@inline
def put_dots(x: Array, factor: Array, queries: Array, lanes: Array, out: Array) -> None:
    """Write factor * (q . x) for each query (group, n) into out (group,); 16 lanes, added as a tree."""
    n = len(x)
    whole = n - n % LANES
    for g in range(queries.shape[0]):
        row = queries[g]
        lanes[:] = 0
        for i in range(0, whole, LANES):
            for j in range(LANES):
                lanes[j] = fma(x[i + j], row[i + j], lanes[j])
        for j in range(n - whole):
            lanes[j] = fma(x[whole + j], row[whole + j], lanes[j])
        half = LANES // 2
        while half:
            for j in range(half):
                lanes[j] += lanes[j + half]
            half //= 2
        out[g] = lanes[0] * factor


@inline
def add_scaled(x: Array, factor: Array, weights: Array, out: Array) -> None:
    """Add (w factor) x to each row of out (group, n), weights (group,)."""
    for g in range(out.shape[0]):
        w, to = weights[g] * factor, out[g]
        for i in range(len(x)):
            to[i] = fma(w, x[i], to[i])


@kernel
def plain_scores(rows: Array, queries: Array, out: Array) -> None:
    """Write q . k of float32 rows (n_tokens, n_kv_heads, head_dim) into out (n_kv_heads, group, n_tokens)."""
    lanes = np.empty(LANES, np.float32)
    for t in range(rows.shape[0]):
        for h in range(rows.shape[1]):
            put_dots(rows[t, h], np.float32(1), queries[h], lanes, out[h, :, t])


@kernel
def plain_sum(rows: Array, weights: Array, out: Array) -> None:
    """Add sum_t w_t v_t of float32 rows (n_tokens, n_kv_heads, head_dim) to out (n_kv_heads, group, head_dim)."""
    for t in range(rows.shape[0]):
        for h in range(rows.shape[1]):
            add_scaled(rows[t, h], np.float32(1), weights[h, :, t], out[h])


def attend(keys: CodedCache, values: CodedCache, queries: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Return the outputs of one decode step, float32 (n_kv_heads, group, head_dim), read from the packed form.

    Parameters
    ----------
    keys, values : CodedCache
        Of codecs that are `PackedCodec`s, equally many tokens; their windows are read as they are.
    queries : ndarray[float32], (n_kv_heads, group, head_dim)
    scale : float
        Of the scores.

    Raises
    ------
    UsageError
        If a codec has no packed form for attention.
    """
    scores = np.concatenate([_scores(keys, queries), _window_scores(keys, queries)], axis=2) * np.float32(scale)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
    coded = weights[:, :, : values.n_coded]
    out = _sum(values, np.ascontiguousarray(coded))
    plain_sum(values.window, np.ascontiguousarray(weights[:, :, values.n_coded :]), out)
    return out


def bytes_read(keys: CodedCache, values: CodedCache) -> int:
    """Return what `attend` reads of the cache: everything stored, once, and the tables that are shared."""
    tables = sum(cache.codec.table_bytes(cache.shape) for cache in (keys, values))
    return keys.nbytes + values.nbytes + tables


def _scores(cache: CodedCache, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    if not cache.n_coded:
        return np.empty((*queries.shape[:2], 0), np.float32)
    octets, header = cache.coded()
    return _packed(cache).packed_scores(octets, cache.n_coded, header, cache.shape, queries)


def _window_scores(cache: CodedCache, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty((*queries.shape[:2], len(cache.window)), np.float32)
    plain_scores(cache.window, queries, out)
    return out


def _sum(cache: CodedCache, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    if not cache.n_coded:
        return np.zeros((*weights.shape[:2], cache.shape.head_dim), np.float32)
    octets, header = cache.coded()
    return _packed(cache).packed_sum(octets, cache.n_coded, header, cache.shape, weights)


def _packed(cache: CodedCache) -> PackedCodec:
    if not isinstance(cache.codec, PackedCodec):
        raise UsageError(f"codec {cache.codec}: attention does not read its packed form", hint="decode it first")
    return cache.codec
