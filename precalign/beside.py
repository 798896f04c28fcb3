"""What stands beside the planes of a rebased layout, and what reading it moves: references, escapes, and the index of the escapes.

Geometry (docs/definitions.md#rebased-exponents): key references are an array [page][head_dim] of bytes, value references one of [token]. The
escapes of keys, and those of values, follow each other page by page, four bytes each; an index of four bytes per page, and one more, says
where those of a page begin. A step reads all of it for the pages that it sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.errors import InputError
from precalign.planes import PAGE_TOKENS
from precalign.rebase import ESCAPE_BYTES, INDEX_BYTES, MOST_HEAD_DIM, REFERENCE_BYTES
from precalign.traffic import Transfer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _page_offsets(escaped: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many escapes precede each page, and how many there are, (n_pages + 1,)."""
    by_token = escaped.sum(axis=1, dtype=np.int64)
    by_page = np.add.reduceat(by_token, np.arange(0, len(by_token), PAGE_TOKENS))
    return np.concatenate([[0], np.cumsum(by_page)])


@dataclass(frozen=True)
class Beside:
    """The bytes beside the planes of one kv head.

    Attributes
    ----------
    head_dim : int
    key_offsets, value_offsets : ndarray[int64], (n_pages + 1,)
        Escapes before each page.
    """

    head_dim: int
    key_offsets: NDArray[np.int64]
    value_offsets: NDArray[np.int64]

    @classmethod
    def of(cls, escaped_keys: NDArray[np.bool_], escaped_values: NDArray[np.bool_]) -> Beside:
        """Count the escapes of a head, (seq_len, head_dim) each.

        Raises
        ------
        InputError
            If a place in a page does not fit the 16 bits of an escape.
        """
        head_dim = escaped_keys.shape[1]
        if head_dim > MOST_HEAD_DIM:
            raise InputError(
                f"rebased layouts hold head_dim up to {MOST_HEAD_DIM}, not {head_dim}",
                hint="choose a layout without rebased exponents",
            )
        return cls(head_dim, _page_offsets(escaped_keys), _page_offsets(escaped_values))

    def keys(self, first: NDArray[np.int64], visible: NDArray[np.int64]) -> Transfer:
        """Return what steps that see tokens [first, visible) read beside the key planes."""
        begin, end = first // PAGE_TOKENS, -(-visible // PAGE_TOKENS)
        row = self.head_dim * REFERENCE_BYTES
        return Transfer.range(begin * row, end * row) + _escapes(self.key_offsets, begin, end)

    def values(self, first: NDArray[np.int64], visible: NDArray[np.int64], *, references: bool) -> Transfer:
        """Return the same beside the value planes; `references` is false where the rule's metadata are the references."""
        begin, end = first // PAGE_TOKENS, -(-visible // PAGE_TOKENS)
        escapes = _escapes(self.value_offsets, begin, end)
        return escapes + Transfer.range(first * REFERENCE_BYTES, visible * REFERENCE_BYTES) if references else escapes


def _escapes(offsets: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]) -> Transfer:
    index = Transfer.range(begin * INDEX_BYTES, (end + 1) * INDEX_BYTES)
    return index + Transfer.range(offsets[begin] * ESCAPE_BYTES, offsets[end] * ESCAPE_BYTES)
