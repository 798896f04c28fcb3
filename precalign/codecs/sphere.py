"""Unit vectors under a shared random rotation: what `fibquant` and `turboquant` build on."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

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


def split_norm(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return binary16 norms, uint8 (n_rows, 2), saturating, and unit vectors; a row of zeros stays one."""
    norms = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    units = (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
    stored = np.minimum(norms, LARGEST_NORM).astype("<f2")
    return stored.view(np.uint8), units


def read_norm(octets: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the norms, float32 (n_rows, 1), of uint8 (n_rows, 2)."""
    return np.ascontiguousarray(octets).view("<f2").astype(np.float32)
