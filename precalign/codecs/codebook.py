"""The codebook of `fibquant`: Fibonacci-like points in k dimensions, refined by Lloyd's algorithm on the exact source."""

from __future__ import annotations

from functools import lru_cache
from math import pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, inline, kernel, reinterpret

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESTARTS = 3
ITERATIONS = 40
ENOUGH = 1e-4
"""Relative gain of an iteration below which the refinement ends."""
SAMPLES_PER_CODEWORD = 64
LEAST_SAMPLES = 1 << 14


@inline
def _ordered(x: Array) -> Array:
    """Return an integer that is larger where x is larger: integers have a vector maximum, floats with their NaNs do not."""
    bits = reinterpret(x)
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@inline
def _score(block: Array, offsets: Array, book: Array, score: Array, ordered: Array) -> None:
    """Write x.c - |c|^2/2 of every codeword, ordered, one rounding after the other in the order of the coordinates."""
    x, y, a, b = block[0], block[1], book[0], book[1]
    if len(block) == 2:
        for i in range(len(ordered)):
            ordered[i] = _ordered((offsets[i] + x * a[i]) + y * b[i])
        return
    if len(block) == 4:
        z, w, c, d = block[2], block[3], book[2], book[3]
        for i in range(len(ordered)):
            ordered[i] = _ordered((((offsets[i] + x * a[i]) + y * b[i]) + z * c[i]) + w * d[i])
        return
    for i in range(len(score)):
        score[i] = (offsets[i] + x * a[i]) + y * b[i]
    for j in range(2, len(block)):
        x, a = block[j], book[j]
        for i in range(len(score)):
            score[i] += x * a[i]
    for i in range(len(score)):
        ordered[i] = _ordered(score[i])


@kernel
def nearest_codewords(blocks: Array, book: Array, out: Array) -> None:
    """Write the index of the nearest codeword of each block: of largest x.c - |c|^2/2, the first of equals.

    Parameters
    ----------
    blocks : ndarray[float32], (n_blocks, k)
        k at least 2.
    book : ndarray[float32], (k, n)
        Transposed, so that the codewords lie side by side.
    out : ndarray[uint16], (n_blocks,)
    """
    k, n = book.shape
    offsets = np.zeros(n, np.float32)
    for j in range(k):
        for i in range(n):
            offsets[i] += book[j, i] * book[j, i] * np.float32(0.5)
    offsets[:] = -offsets
    score, ordered = np.empty(n, np.float32), np.empty(n, np.int32)
    for b in range(blocks.shape[0]):
        _score(blocks[b], offsets, book, score, ordered)
        top = ordered[0]
        for i in range(n):
            top = max(top, ordered[i])
        top = np.int32(-1) if top == 0 else top  # +0 and -0 are equal scores
        first = np.int32(n)
        for i in range(n):
            first = min(first, np.int32(i) if ordered[i] >= top else np.int32(n))
        out[b] = first


def directions(k: int, n: int) -> NDArray[np.float64]:
    """Return n well spread unit vectors of k dimensions, (n, k).

    k = 2: angles at multiples of the golden section; k = 3: the same angles at equally spaced heights; else normalised Gaussian
    quantiles of the Roberts-Kronecker sequence.
    """
    from scipy.special import ndtri

    index = np.arange(1, n + 1)
    golden = 2 * pi * index * (1 - 2 / (1 + sqrt(5)))
    if k == 2:
        return np.stack([np.cos(golden), np.sin(golden)], axis=1)
    if k == 3:
        height = 1 - (2 * np.arange(n) + 1) / n
        radius = np.sqrt(1 - height**2)
        return np.stack([radius * np.cos(golden), radius * np.sin(golden), height], axis=1)
    root = 2.0
    for _ in range(64):  # the root of x^(k+1) = x + 1, a contraction
        root = (1 + root) ** (1 / (k + 1))
    places = np.mod((index[:, None] - 0.5) * root ** -np.arange(1.0, k + 1), 1)
    points = ndtri(np.clip(places, 2.0**-40, 1 - 2.0**-40))
    spread: NDArray[np.float64] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return spread


def radii(head_dim: int, k: int, n: int) -> NDArray[np.float64]:
    """Return the initial radii r_i = sqrt(BetaInv((i - 1/2) / n; k/2, beta)), beta = k/(k+2) (head_dim - k - 2)/2 + 1."""
    from scipy.special import betaincinv

    beta = k / (k + 2) * (head_dim - k - 2) / 2 + 1
    found: NDArray[np.float64] = np.sqrt(betaincinv(k / 2, beta, (np.arange(n) + 0.5) / n))
    return found


def source(head_dim: int, k: int, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw n blocks of k coordinates of random unit vectors: R^2 ~ Beta(k/2, (head_dim - k)/2), direction uniform; (n, k)."""
    gaussian = rng.standard_normal((n, k))
    radius = np.sqrt(rng.beta(k / 2, (head_dim - k) / 2, (n, 1)))
    blocks: NDArray[np.float32] = (gaussian / np.linalg.norm(gaussian, axis=1, keepdims=True) * radius).astype(
        np.float32
    )
    return blocks


def _refined(start: NDArray[np.float64], samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return the codebook after Lloyd's iterations, and its mean squared error on the samples."""
    book, n = start.astype(np.float32), len(start)
    cells = np.empty(len(samples), np.uint16)
    error = np.inf
    for _ in range(ITERATIONS):
        nearest_codewords(samples, np.ascontiguousarray(book.T), cells)
        errors = ((samples - book[cells]) ** 2).sum(axis=1)
        if error - errors.mean() <= ENOUGH * errors.mean():
            break
        error = float(errors.mean())
        counts = np.bincount(cells, minlength=n)
        sums = np.stack([np.bincount(cells, column, n) for column in samples.T], axis=1)
        book = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], book).astype(np.float32)
        empty = np.nonzero(counts == 0)[0]
        if len(empty):  # an empty cell takes over the worst represented samples
            book[empty] = samples[np.argsort(errors)[-len(empty) :]]
    return book, error


@lru_cache(maxsize=16)
def fibonacci_codebook(head_dim: int, k: int, n: int, seed: int) -> NDArray[np.float32]:
    """Return the codebook, float32 (n, k), read-only: of several restarts, each from another rotation, the one of least error."""
    from precalign.codecs.sphere import haar_rotation

    rng = np.random.default_rng((seed, head_dim, k, n))
    samples = source(head_dim, k, max(LEAST_SAMPLES, SAMPLES_PER_CODEWORD * n), rng)
    start = directions(k, n) * radii(head_dim, k, n)[:, None]
    found = [_refined(start @ haar_rotation(k, seed + i).astype(np.float64), samples) for i in range(RESTARTS)]
    book = min(found, key=lambda pair: pair[1])[0]
    book.flags.writeable = False
    return book
