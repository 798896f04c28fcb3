"""The arrays of one kv head of a live cache: written once per token, never computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.block import DIM_MULTIPLE
from precalign.decode.codes import exponents, to_binary32
from precalign.decode.scores import TILE
from precalign.memory import aligned_empty
from precalign.planes import truncate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout


class Store:
    """Codes of a number of tokens, what each level reads of them, and their exponents.

    Parameters
    ----------
    layout : Layout
    head_dim, capacity : int
        The capacity is a multiple of TILE.

    Attributes
    ----------
    keys, values : ndarray[unsigned], (capacity, head_dim)
    key_exponents, value_exponents : ndarray[int8 or int16], (capacity, head_dim)
    token_maxima : ndarray[int8 or int16], (capacity,)
        max_c E(v_tc).
    key_rows : ndarray[float32], (capacity / TILE, n_rows, head_dim, TILE)
        Key values by reading level, as `precalign.decode.scores.scores` takes them.
    value_rows : ndarray[float32], (n_rows, capacity, padded_dim)
        Values by reading level, as `precalign.decode.output.add_outputs` takes them.
    """

    def __init__(self, layout: Layout, head_dim: int, capacity: int) -> None:
        fmt = layout.format
        kind = exponents(np.zeros(1, fmt.code_dtype), fmt).dtype
        self._layout, self._levels, self.capacity = layout, range(layout.first_read, len(layout.levels)), capacity
        self.keys, self.values = (np.zeros((capacity, head_dim), fmt.code_dtype) for _ in range(2))
        self.key_exponents, self.value_exponents = (np.zeros((capacity, head_dim), kind) for _ in range(2))
        self.token_maxima: NDArray[Any] = np.zeros(capacity, kind)
        padded_dim = head_dim + -head_dim % DIM_MULTIPLE
        self.key_rows = _zeros((capacity // TILE, len(self._levels), head_dim, TILE))
        self.value_rows = _zeros((len(self._levels), capacity, padded_dim))

    def write(self, token: int, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Put codes (n_tokens, head_dim) at the tokens from `token` on."""
        fmt, new, head_dim = self._layout.format, slice(token, token + len(keys)), keys.shape[1]
        both = np.stack([keys, values])  # one call on both is half the time of a call on each
        binades = exponents(both, fmt)
        self.keys[new], self.values[new] = both
        self.key_exponents[new], self.value_exponents[new] = binades
        self.token_maxima[new] = binades[1].max(axis=1)
        reads = np.stack([truncate(both, self._layout, level) for level in self._levels])
        key_reads, value_reads = to_binary32(reads, fmt).swapaxes(0, 1)
        self.value_rows[:, new, :head_dim] = value_reads
        for tile in range(token // TILE, -(-new.stop // TILE)):
            low, high = max(token, tile * TILE), min(new.stop, (tile + 1) * TILE)
            place = slice(low - tile * TILE, high - tile * TILE)
            self.key_rows[tile, :, :, place] = key_reads[:, low - token : high - token].swapaxes(1, 2)

    def take(self, other: Store) -> None:
        """Copy what a smaller store holds."""
        n = other.capacity
        for name in ("keys", "values", "key_exponents", "value_exponents", "token_maxima"):
            getattr(self, name)[:n] = getattr(other, name)
        self.key_rows[: n // TILE] = other.key_rows
        self.value_rows[:, :n] = other.value_rows


def _zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    rows = aligned_empty(shape, np.float32)
    rows[:] = 0
    return rows
