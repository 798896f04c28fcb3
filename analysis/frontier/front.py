"""Which settings no other one beats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pareto(savings: NDArray[np.float64], errors: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which settings are on the front, (n,).

    A setting is on it if its error is finite and no other setting saves at least as much with at most the error
    and is better in one of the two. Equals are on it together.

    Parameters
    ----------
    savings : ndarray[float64], (n,)
        More is better.
    errors : ndarray[floating], (n,)
        Less is better.
    """
    front = np.zeros(len(savings), bool)
    candidates = np.flatnonzero(np.isfinite(errors))
    best = -np.inf
    for error in np.unique(errors[candidates]):
        equal = candidates[errors[candidates] == error]
        most = savings[equal].max()
        if most > best:
            front[equal[savings[equal] == most]] = True
            best = most
    return front
