"""The fast Walsh-Hadamard transform, orthonormal, with seeded signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def _transform(rows: Array) -> None:
    n = rows.shape[1]
    norm = np.float32(1 / np.sqrt(n))
    for r in range(rows.shape[0]):
        row = rows[r]
        half = 1
        while half < n:
            for begin in range(0, n, 2 * half):
                for i in range(begin, begin + half):
                    a, b = row[i], row[i + half]
                    row[i], row[i + half] = a + b, a - b
            half *= 2
        for i in range(n):
            row[i] *= norm


def signs(head_dim: int, seed: int) -> NDArray[np.float32]:
    """Return the diagonal of signs that a seed draws, (head_dim,); all +1 for seed 0."""
    if seed == 0:
        return np.ones(head_dim, np.float32)
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), head_dim)


def rotate(rows: NDArray[np.float32], diagonal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return H D x for each row, float32 (n_rows, head_dim); head_dim a power of two."""
    rotated: NDArray[np.float32] = rows * diagonal
    _transform(rotated)
    return rotated


def rotate_back(rows: NDArray[np.float32], diagonal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return D H x for each row: the inverse of `rotate`."""
    rotated = rows.copy()
    _transform(rotated)
    back: NDArray[np.float32] = rotated * diagonal
    return back


def is_power_of_two(n: int) -> bool:
    """Whether the transform takes rows of n."""
    return n & (n - 1) == 0
