"""`fibquant` (arXiv 2605.11478): a norm, a random rotation, and blocks of k coordinates to the nearest of N codewords."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec, require_multiple
from precalign.codecs.bits import pack_rows, packed_bytes, unpack_rows
from precalign.codecs.codebook import fibonacci_codebook, nearest_codewords
from precalign.codecs.sphere import NORM_BYTES, haar_rotation, multiply, read_norm, split_norm
from precalign.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CODEWORDS = 1 << 16


@dataclass(frozen=True)
class FibQuant(RowCodec):
    """Rows: binary16 norm, then ceil(log2 n) bits for each block of k rotated coordinates of the unit vector.

    Any token alone can be read; scores need the query rotated once, outputs are rotated back once.

    Attributes
    ----------
    k, n : int
        Coordinates of a block, codewords.
    seed : int
        Of the rotation and of the codebook's training.
    """

    name = "fibquant"
    source = "FibQuant (arXiv 2605.11478)"

    k: int = 4
    n: int = 256
    seed: int = 1

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError unless head_dim is whole blocks, more than one, and there are 2 to 65,536 codewords."""
        if not 2 <= self.k <= 16 or not 2 <= self.n <= MOST_CODEWORDS:
            raise UsageError(f"codec {self}: takes k of 2 to 16 and n of 2 to {MOST_CODEWORDS}")
        require_multiple(self, shape, self.k, "the block")
        if shape.head_dim <= self.k + 2:
            raise UsageError(f"codec {self}: head_dim {shape.head_dim} must exceed k + 2")

    @property
    def _index_bits(self) -> int:
        return (self.n - 1).bit_length()

    def row_bytes(self, head_dim: int) -> int:
        """Return norm and indices."""
        return NORM_BYTES + packed_bytes(head_dim // self.k, self._index_bits)

    def table_bytes(self, shape: CacheShape) -> int:
        """Return rotation and codebook in binary32."""
        return 4 * (shape.head_dim**2 + self.n * self.k)

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the rows."""
        del header
        norms, units = split_norm(rows)
        rotated = multiply(units, haar_rotation(shape.head_dim, self.seed).T)
        book = fibonacci_codebook(shape.head_dim, self.k, self.n, self.seed)
        indices = np.empty(rotated.size // self.k, np.uint16)
        nearest_codewords(rotated.reshape(-1, self.k), np.ascontiguousarray(book.T), indices)
        out = np.empty((len(rows), self.row_bytes(shape.head_dim)), np.uint8)
        out[:, :NORM_BYTES] = norms
        pack_rows(indices.reshape(len(rows), -1), self._index_bits, out[:, NORM_BYTES:])
        return out

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return the rows, rotated back."""
        del header
        indices = np.empty((len(octets), shape.head_dim // self.k), np.uint16)
        unpack_rows(octets[:, NORM_BYTES:], self._index_bits, indices)
        book = fibonacci_codebook(shape.head_dim, self.k, self.n, self.seed)
        rotated = book[indices].reshape(len(octets), shape.head_dim) * read_norm(octets[:, :NORM_BYTES])
        return multiply(rotated, haar_rotation(shape.head_dim, self.seed))
