"""What a codec is: it turns the keys or values of one layer into bytes and back, all at once or as tokens come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from precalign.errors import UsageError
from precalign.formats import BFLOAT16, BINARY16
from precalign.specs import spec_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format

SIDES = ("keys", "values")


@dataclass(frozen=True)
class CacheShape:
    """One side of one layer of a cache.

    Attributes
    ----------
    n_kv_heads, head_dim : int
    side : str
        "keys" or "values".
    format : Format
        Of the uncompressed cache, binary16 or bfloat16: of the window, and of scales that a codec keeps in the cache's own format.

    Raises
    ------
    UsageError
        If a number is below 1, or the side or the format is none of these.
    """

    n_kv_heads: int
    head_dim: int
    side: str
    format: Format = BINARY16

    def __post_init__(self) -> None:
        if min(self.n_kv_heads, self.head_dim) < 1:
            raise UsageError(f"a cache has at least one head and channel, not {self.n_kv_heads} x {self.head_dim}")
        if self.side not in SIDES:
            raise UsageError(f"no side {self.side!r} of a cache", hint="sides: keys, values")
        if self.format not in (BINARY16, BFLOAT16):
            raise UsageError(f"codecs take binary16 or bfloat16 caches, not {self.format.name}")

    @property
    def token_numbers(self) -> int:
        """Numbers of one token."""
        return self.n_kv_heads * self.head_dim

    @property
    def token_bytes(self) -> int:
        """Bytes of one uncompressed token."""
        return self.token_numbers * self.format.total_bits // 8


@dataclass(frozen=True)
class Codec(ABC):
    """A codec with its parameters, which are the fields of the subclass.

    A cache under a codec is a run of coded tokens followed by a *window* of recent ones in full precision. How many of n tokens are coded
    depends on n alone (`coded_tokens`), so a prompt coded at once and the same tokens coming one by one give the same bytes, unless
    `disclaims` says otherwise.

    Subclasses are frozen dataclasses, one file each, with one line in the registry of `precalign.codecs`.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    """Where the codec is published or shipped."""

    @property
    def disclaims(self) -> dict[str, str]:
        """Checks of the conformance kit that the codec does not claim to pass, with the reason."""
        return {}

    def coded_tokens(self, n_tokens: int, shape: CacheShape) -> int:
        """Return how many of `n_tokens` tokens are coded; the others are the window. Never falls as `n_tokens` grows."""
        del shape
        return n_tokens

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError if the codec cannot hold caches of this shape."""
        del shape

    def start(self, tokens: NDArray[np.float32], shape: CacheShape) -> NDArray[np.uint8]:
        """Return what is stored once per cache (a scale per tensor), decided from the tokens that are coded first.

        Parameters
        ----------
        tokens : ndarray[float32], (n_tokens, n_kv_heads, head_dim)
        shape : CacheShape
        """
        del tokens, shape
        return np.empty(0, np.uint8)

    def start_bytes(self, shape: CacheShape) -> int:
        """Return the length of what `start` returns."""
        del shape
        return 0

    def table_bytes(self, shape: CacheShape) -> int:
        """Return the size of tables that are the same for every cache of a model and are drawn from a seed, not stored."""
        del shape
        return 0

    @abstractmethod
    def coded_bytes(self, n_tokens: int, shape: CacheShape) -> int:
        """Return the bytes of `n_tokens` coded tokens."""

    @abstractmethod
    def encode(self, tokens: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the bytes of tokens that leave the window; those of later ones are appended.

        Parameters
        ----------
        tokens : ndarray[float32], (n_tokens, n_kv_heads, head_dim)
            Values of the cache's format; as many as lie between two answers of `coded_tokens`.
        header : ndarray[uint8]
            From `start`.
        shape : CacheShape
        """

    @abstractmethod
    def decode(
        self, octets: NDArray[np.uint8], n_tokens: int, header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return (n_tokens, n_kv_heads, head_dim) from what `encode` returned for as many tokens."""

    def __str__(self) -> str:
        return spec_text(self)


@dataclass(frozen=True)
class RowCodec(Codec):
    """A codec that codes each head of each token by itself, into rows of a fixed number of bytes: [token][kv head][row]."""

    @abstractmethod
    def row_bytes(self, head_dim: int) -> int:
        """Return the bytes of a row."""

    @abstractmethod
    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return (n_rows, row_bytes) of (n_rows, head_dim)."""

    @abstractmethod
    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return (n_rows, head_dim) of (n_rows, row_bytes)."""

    def coded_bytes(self, n_tokens: int, shape: CacheShape) -> int:
        """Return the bytes of `n_tokens` coded tokens."""
        return n_tokens * shape.n_kv_heads * self.row_bytes(shape.head_dim)

    def encode(self, tokens: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Code row by row."""
        rows = np.ascontiguousarray(tokens.reshape(-1, shape.head_dim))
        return self.encode_rows(rows, header, shape).reshape(-1)

    def decode(
        self, octets: NDArray[np.uint8], n_tokens: int, header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Decode row by row."""
        rows = octets.reshape(n_tokens * shape.n_kv_heads, self.row_bytes(shape.head_dim))
        return self.decode_rows(rows, header, shape).reshape(n_tokens, shape.n_kv_heads, shape.head_dim)


FIRST_TOKENS = "a scale is found from the tokens coded first"


def require_multiple(codec: Codec, shape: CacheShape, of: int, what: str) -> None:
    """Raise UsageError unless head_dim is a multiple of `of`."""
    if shape.head_dim % of:
        raise UsageError(
            f"codec {codec}: head_dim {shape.head_dim} is no multiple of {of}, {what}",
            hint="such caches need another codec or parameter",
        )
