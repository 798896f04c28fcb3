"""Unit vectors under a shared random rotation: what `fibquant` and `turboquant` build on."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, fma, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

NORM_BYTES = 2
LARGEST_NORM = np.float32(65504)


@lru_cache(maxsize=64)
def haar_rotation(n: int, seed: int) -> NDArray[np.float32]:
    """Return an orthogonal matrix drawn from the Haar measure, float32 (n, n), read-only.

    QR of a Gaussian matrix, columns multiplied with the signs of R's diagonal (Mezzadri, math-ph/0609050).
    """
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    rotation: NDArray[np.float32] = (q * np.sign(np.diagonal(r))).astype(np.float32)
    rotation.flags.writeable = False
    return rotation


@kernel
def _multiply(rows: Array, matrix: Array, out: Array) -> None:
    for r in range(rows.shape[0]):
        row, to = rows[r], out[r]
        to[:] = 0
        for j in range(matrix.shape[0]):
            x, line = row[j], matrix[j]
            for i in range(len(to)):
                to[i] = fma(x, line[i], to[i])


def multiply(rows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows @ matrix in binary32, every row by itself and in one order.

    A BLAS sums in an order that depends on how many rows there are: then a token coded alone is not the token coded among others.
    """
    out = np.empty((len(rows), matrix.shape[1]), np.float32)
    _multiply(rows, np.ascontiguousarray(matrix), out)
    return out


def split_norm(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return binary16 norms, uint8 (n_rows, 2), saturating, and unit vectors; a row of zeros stays one."""
    norms = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    units = (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
    stored = np.minimum(norms, LARGEST_NORM).astype("<f2")
    return stored.view(np.uint8), units


def read_norm(octets: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the norms, float32 (n_rows, 1), of uint8 (n_rows, 2)."""
    return np.ascontiguousarray(octets).view("<f2").astype(np.float32)
