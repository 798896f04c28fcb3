"""`turboquant` (arXiv 2504.19874): a norm, a random rotation, and Lloyd-Max centroids coordinate by coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec
from precalign.codecs.bits import pack_rows, packed_bytes, unpack_row, unpack_rows
from precalign.codecs.ggml import get_half
from precalign.codecs.packed import LANES, PackedRows, add_scaled, growth, put_dots
from precalign.codecs.sphere import NORM_BYTES, haar_rotation, multiply, read_norm, split_norm
from precalign.errors import UsageError
from precalign.jit import Array, inline, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID_POINTS = 1 << 16


@lru_cache(maxsize=64)
def lloyd_max_centroids(head_dim: int, bits: int) -> NDArray[np.float64]:
    """Return the 2^bits centroids of a coordinate of a random unit vector, ascending, (2^bits,).

    The density is proportional to (1 - x^2)^((head_dim - 3) / 2); Lloyd's iteration on a fine grid, to its fixed point.
    """
    x = np.cos((np.arange(GRID_POINTS) + 0.5) * pi / GRID_POINTS)[::-1]
    weights = np.sqrt(1 - x**2) ** (head_dim - 2)  # density times the spacing of the grid, which goes with sin
    mass, moment = np.cumsum(weights), np.cumsum(weights * x)
    n = 1 << bits
    centroids = x[np.searchsorted(mass, (np.arange(n) + 0.5) / n * mass[-1])]
    for _ in range(10_000):
        ends = np.append(np.searchsorted(x, (centroids[1:] + centroids[:-1]) / 2), GRID_POINTS) - 1
        found = np.diff(moment[ends], prepend=0) / np.diff(mass[ends], prepend=0)
        if np.array_equal(found, centroids):
            break
        centroids = found
    symmetric: NDArray[np.float64] = (centroids - centroids[::-1]) / 2
    return symmetric


@inline
def _load(octets: Array, width: int, centroids: Array, codes: Array, x: Array) -> Array:
    """Write the rotated unit vector of a row; return its norm."""
    unpack_row(octets[NORM_BYTES:], width, codes)
    for i in range(len(x)):
        x[i] = centroids[codes[i]]
    return get_half(octets)


@inline
def _load_signs(octets: Array, x: Array) -> Array:
    """Write the signs of the residual; return its norm."""
    for i in range(len(x)):
        x[i] = np.float32(2 * ((octets[NORM_BYTES + (i >> 3)] >> (i & 7)) & 1)) - np.float32(1)
    return get_half(octets)


@kernel
def _scores(octets: Array, width: int, centroids: Array, queries: Array, out: Array) -> None:
    head_dim = queries.shape[2]
    x, codes, lanes = np.empty(head_dim, np.float32), np.empty(head_dim, np.uint8), np.empty(LANES, np.float32)
    for t in range(octets.shape[0]):
        for h in range(octets.shape[1]):
            norm = _load(octets[t, h], width, centroids, codes, x)
            put_dots(x, norm, queries[h], lanes, out[h, :, t])


@kernel
def _sum(octets: Array, width: int, centroids: Array, weights: Array, out: Array) -> None:
    head_dim = out.shape[2]
    x, codes = np.empty(head_dim, np.float32), np.empty(head_dim, np.uint8)
    for t in range(octets.shape[0]):
        for h in range(octets.shape[1]):
            norm = _load(octets[t, h], width, centroids, codes, x)
            add_scaled(x, norm, weights[h, :, t], out[h])


@kernel
def _add_sign_scores(octets: Array, factor: Array, queries: Array, out: Array) -> None:
    """Add what the residuals' signs give; octets from the residual's norm on."""
    x, lanes = np.empty(queries.shape[2], np.float32), np.empty(LANES, np.float32)
    dots = np.empty(queries.shape[1], np.float32)
    for t in range(octets.shape[0]):
        for h in range(octets.shape[1]):
            left = _load_signs(octets[t, h], x)
            put_dots(x, factor * left, queries[h], lanes, dots)
            for g in range(len(dots)):
                out[h, g, t] += dots[g]


@kernel
def _sign_sum(octets: Array, factor: Array, weights: Array, out: Array) -> None:
    x = np.empty(out.shape[2], np.float32)
    for t in range(octets.shape[0]):
        for h in range(octets.shape[1]):
            left = _load_signs(octets[t, h], x)
            add_scaled(x, factor * left, weights[h, :, t], out[h])


@dataclass(frozen=True)
class TurboQuant(RowCodec, PackedRows):
    """Rows: binary16 norm, codes; with `inner` one bit less per code, the residual's norm and one sign per coordinate of S r.

    Attributes
    ----------
    bits : int
        Per coordinate, the sign bit included.
    inner : int
        1 for the inner-product form: decoded + sqrt(pi/2) / head_dim * |r| * S^T sign(S r), S Gaussian; unbiased for q.k.
    seed : int
        Of the rotation and of S.
    """

    name = "turboquant"
    source = "TurboQuant (arXiv 2504.19874)"

    bits: int = 4
    inner: int = 0
    seed: int = 1

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError for widths and head_dims that there are not."""
        if not 1 + self.inner <= self.bits <= 8 or self.inner not in (0, 1) or shape.head_dim < 4:
            raise UsageError(
                f"codec {self}: takes 1 (inner=1: 2) to 8 bits, inner 0 or 1, and head_dim 4 or more, not {shape.head_dim}"
            )

    @property
    def disclaims(self) -> dict[str, str]:
        """The inner-product form adds the residual's estimate, which is unbiased, not near."""
        return {"stable": "decoded numbers carry the noise of an unbiased estimate"} if self.inner else {}

    @property
    def _code_bits(self) -> int:
        return self.bits - self.inner

    def row_bytes(self, head_dim: int) -> int:
        """Return norms, codes and signs."""
        signs = (NORM_BYTES + packed_bytes(head_dim, 1)) * self.inner
        return NORM_BYTES + packed_bytes(head_dim, self._code_bits) + signs

    def table_bytes(self, shape: CacheShape) -> int:
        """Return rotation, centroids and S in binary32."""
        return 4 * ((1 + self.inner) * shape.head_dim**2 + (1 << self._code_bits))

    def _gaussian(self, head_dim: int) -> NDArray[np.float32]:
        return _gaussian(head_dim, self.seed + 1)

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the rows."""
        del header
        norms, units = split_norm(rows)
        rotated = multiply(units, haar_rotation(shape.head_dim, self.seed).T)
        centroids = lloyd_max_centroids(shape.head_dim, self._code_bits).astype(np.float32)
        codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, rotated).astype(np.uint8)
        out = np.empty((len(rows), self.row_bytes(shape.head_dim)), np.uint8)
        out[:, :NORM_BYTES] = norms
        end = NORM_BYTES + packed_bytes(shape.head_dim, self._code_bits)
        pack_rows(codes, self._code_bits, out[:, NORM_BYTES:end])
        if self.inner:
            left, directions = split_norm((rotated - centroids[codes]) * read_norm(norms))
            out[:, end : end + NORM_BYTES] = left
            positive = multiply(directions, self._gaussian(shape.head_dim).T) >= 0
            out[:, end + NORM_BYTES :] = np.packbits(positive, axis=1, bitorder="little")
        return out

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return the rows."""
        del header
        head_dim = shape.head_dim
        codes = np.empty((len(octets), head_dim), np.uint8)
        end = NORM_BYTES + packed_bytes(head_dim, self._code_bits)
        unpack_rows(octets[:, NORM_BYTES:end], self._code_bits, codes)
        centroids = lloyd_max_centroids(head_dim, self._code_bits).astype(np.float32)
        rotated = centroids[codes] * read_norm(octets[:, :NORM_BYTES])
        if self.inner:
            left = read_norm(octets[:, end : end + NORM_BYTES])
            bits = np.unpackbits(octets[:, end + NORM_BYTES :], axis=1, count=head_dim, bitorder="little")
            signs = bits.astype(np.float32) * 2 - 1
            rotated += _sign_factor(head_dim) * left * multiply(signs, self._gaussian(head_dim))
        return multiply(rotated, haar_rotation(head_dim, self.seed))

    def score_rows(
        self, octets: NDArray[np.uint8], queries: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Rotate the query once, then gather centroids; of the residual, S times that query meets the signs."""
        head_dim = queries.shape[2]
        rotated = multiply(queries.reshape(-1, head_dim), haar_rotation(head_dim, self.seed).T)
        centroids = lloyd_max_centroids(head_dim, self._code_bits).astype(np.float32)
        end = NORM_BYTES + packed_bytes(head_dim, self._code_bits)
        _scores(octets[:, :, :end], self._code_bits, centroids, rotated.reshape(queries.shape), out)
        if self.inner:
            projected = multiply(rotated, self._gaussian(head_dim).T).reshape(queries.shape)
            _add_sign_scores(octets[:, :, end:], _sign_factor(head_dim), projected, out)
        return out

    def sum_rows(
        self, octets: NDArray[np.uint8], weights: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Add centroids and signs as they are coded, and rotate the sum back once."""
        head_dim = out.shape[2]
        centroids = lloyd_max_centroids(head_dim, self._code_bits).astype(np.float32)
        end = NORM_BYTES + packed_bytes(head_dim, self._code_bits)
        _sum(octets[:, :, :end], self._code_bits, centroids, weights, out)
        if self.inner:
            signs = np.zeros_like(out)
            _sign_sum(octets[:, :, end:], _sign_factor(head_dim), weights, signs)
            out += multiply(signs.reshape(-1, head_dim), self._gaussian(head_dim)).reshape(out.shape)
        return multiply(out.reshape(-1, head_dim), haar_rotation(head_dim, self.seed)).reshape(out.shape)

    def packed_error(self, shape: CacheShape) -> float:
        """Return three sums of head_dim terms, whose magnitudes a rotation spreads by sqrt(head_dim) at most, S by as much again."""
        return sqrt(shape.head_dim) ** (1 + self.inner) * growth(3 * shape.head_dim + 32)


def _sign_factor(head_dim: int) -> np.float32:
    return np.float32(sqrt(pi / 2) / head_dim)


@lru_cache(maxsize=16)
def _gaussian(n: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, n)).astype(np.float32)
