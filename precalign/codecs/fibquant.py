"""`fibquant` (arXiv 2605.11478): a norm, a random rotation, and blocks of k coordinates to the nearest of N codewords."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec, require_multiple
from precalign.codecs.bits import pack_rows, packed_bytes, unpack_row, unpack_rows
from precalign.codecs.codebook import fibonacci_codebook, nearest_codewords
from precalign.codecs.ggml import get_half
from precalign.codecs.packed import LANES, PackedRows, add_scaled, growth, put_dots
from precalign.codecs.sphere import NORM_BYTES, haar_rotation, multiply, read_norm, split_norm
from precalign.errors import UsageError
from precalign.jit import Array, inline, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CODEWORDS = 1 << 16


@inline
def _load(octets: Array, width: int, book: Array, indices: Array, x: Array) -> Array:
    """Write the rotated unit vector of a row; return its norm."""
    k = book.shape[1]
    unpack_row(octets[NORM_BYTES:], width, indices)
    for b in range(len(indices)):
        word = book[indices[b]]
        for j in range(k):
            x[b * k + j] = word[j]
    return get_half(octets)


@kernel
def _scores(octets: Array, width: int, book: Array, queries: Array, out: Array) -> None:
    head_dim = queries.shape[2]
    x, lanes = np.empty(head_dim, np.float32), np.empty(LANES, np.float32)
    indices = np.empty(head_dim // book.shape[1], np.uint16)
    for t in range(octets.shape[0]):
        for h in range(octets.shape[1]):
            norm = _load(octets[t, h], width, book, indices, x)
            put_dots(x, norm, queries[h], lanes, out[h, :, t])


@kernel
def _sum(octets: Array, width: int, book: Array, weights: Array, out: Array) -> None:
    head_dim = out.shape[2]
    x, indices = np.empty(head_dim, np.float32), np.empty(head_dim // book.shape[1], np.uint16)
    for t in range(octets.shape[0]):
        for h in range(octets.shape[1]):
            norm = _load(octets[t, h], width, book, indices, x)
            add_scaled(x, norm, weights[h, :, t], out[h])


@dataclass(frozen=True)
class FibQuant(RowCodec, PackedRows):
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

    def score_rows(
        self, octets: NDArray[np.uint8], queries: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Rotate the query once, then gather codewords."""
        head_dim = queries.shape[2]
        rotated = multiply(queries.reshape(-1, head_dim), haar_rotation(head_dim, self.seed).T)
        book = fibonacci_codebook(head_dim, self.k, self.n, self.seed)
        _scores(octets, self._index_bits, book, rotated.reshape(queries.shape), out)
        return out

    def sum_rows(
        self, octets: NDArray[np.uint8], weights: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Add codewords as they are coded, and rotate the sum back once."""
        head_dim = out.shape[2]
        _sum(octets, self._index_bits, fibonacci_codebook(head_dim, self.k, self.n, self.seed), weights, out)
        return multiply(out.reshape(-1, head_dim), haar_rotation(head_dim, self.seed)).reshape(out.shape)

    def packed_error(self, shape: CacheShape) -> float:
        """Return three sums of head_dim terms, whose magnitudes a rotation spreads by sqrt(head_dim) at most."""
        return sqrt(shape.head_dim) * growth(3 * shape.head_dim + 16)
