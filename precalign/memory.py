"""Working arrays for vector code."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNMENT_BYTES = 64


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:  # noqa: ANN401  # whatever numpy takes as a dtype
    """Return an uninitialised array whose data begins on a cache line: vectors of 64 bytes then touch one line, not two."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(n_bytes + ALIGNMENT_BYTES, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT_BYTES
    aligned: NDArray[Any] = raw[begin : begin + n_bytes].view(dtype).reshape(shape)
    return aligned


def aligned_zeros(n: int, dtype: Any) -> NDArray[Any]:  # noqa: ANN401  # whatever numpy takes as a dtype
    """Return `n` zeros whose data begins on a cache line; the system gives memory only where something is written."""
    n_bytes = n * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + ALIGNMENT_BYTES, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT_BYTES
    aligned: NDArray[Any] = raw[begin : begin + n_bytes].view(dtype)
    return aligned
