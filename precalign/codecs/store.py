"""`CodedCache`: one side of one layer under a codec, growing token by token; what it holds is bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.half import half_codes, half_values
from precalign.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.codecs.base import CacheShape, Codec


class CodedCache:
    """A cache under a codec.

    Parameters
    ----------
    codec : Codec
    shape : CacheShape

    Raises
    ------
    UsageError
        If the codec cannot hold such caches.
    """

    def __init__(self, codec: Codec, shape: CacheShape) -> None:
        codec.check(shape)
        self.codec, self.shape = codec, shape
        self.n_tokens = 0
        self._header: NDArray[np.uint8] | None = None
        self._coded: list[NDArray[np.uint8]] = []
        self._window = np.empty((0, shape.n_kv_heads, shape.head_dim), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept: the length of `to_bytes`."""
        header = 0 if self._header is None else self._header.size
        window = len(self._window) * self.shape.token_bytes
        return header + sum(part.size for part in self._coded) + window

    @property
    def n_coded(self) -> int:
        """Tokens that have left the window."""
        return self.n_tokens - len(self._window)

    @property
    def window(self) -> NDArray[np.float32]:
        """The recent tokens in full precision, (n_tokens, n_kv_heads, head_dim)."""
        return self._window

    def coded(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the bytes of the coded tokens, and what is stored once; there must be coded tokens."""
        assert self._header is not None  # noqa: S101 - made when the first block was coded
        self._coded = [np.concatenate(self._coded)] if len(self._coded) > 1 else self._coded
        return self._coded[0], self._header

    def append(self, tokens: NDArray[np.float32]) -> None:
        """Add tokens; those that leave the window are coded.

        Parameters
        ----------
        tokens : ndarray[float32], (n_tokens, n_kv_heads, head_dim)
            Values of the cache's format.

        Raises
        ------
        InputError
            If the shape or dtype is not as stated, or a number is an infinity or NaN.
        """
        check_tokens(tokens, self.shape)
        held = np.concatenate([self._window, tokens])
        before = self.n_tokens - len(self._window)
        self.n_tokens += len(tokens)
        due = self.codec.coded_tokens(self.n_tokens, self.shape) - before
        if due:
            if self._header is None:
                self._header = self.codec.start(held[:due], self.shape)
            self._coded.append(self.codec.encode(held[:due], self._header, self.shape))
        self._window = held[due:].copy()  # a view would keep the coded tokens in memory

    def decode(self) -> NDArray[np.float32]:
        """Return what is kept, (n_tokens, n_kv_heads, head_dim); of bytes that no encoder made, infinities and NaNs too."""
        if not self.n_coded:
            return self._window.copy()
        octets, header = self.coded()
        with np.errstate(over="ignore", invalid="ignore"):
            return np.concatenate([self.codec.decode(octets, self.n_coded, header, self.shape), self._window])

    def to_bytes(self) -> bytes:
        """Return what is kept: the window, what is stored once, the coded tokens."""
        window = half_codes(self._window, self.shape.format)
        header = b"" if self._header is None else self._header.tobytes()
        return window.tobytes() + header + b"".join(part.tobytes() for part in self._coded)

    @classmethod
    def from_bytes(cls, codec: Codec, shape: CacheShape, n_tokens: int, data: bytes) -> CodedCache:
        """Take what `to_bytes` returned.

        Raises
        ------
        InputError
            If the length is not that of `n_tokens` tokens.
        """
        cache = cls(codec, shape)
        n_coded = codec.coded_tokens(n_tokens, shape)
        expected = predicted_bytes(codec, shape, n_tokens)
        if len(data) != expected:
            raise InputError(
                f"{codec}: {n_tokens} tokens of {shape.side} take {expected} bytes, got {len(data)}",
            )
        octets = np.frombuffer(data, np.uint8)
        window_bytes = (n_tokens - n_coded) * shape.token_bytes
        cache.n_tokens = n_tokens
        numbers = half_values(octets[:window_bytes].view("<u2"), shape.format)
        cache._window = numbers.reshape(-1, shape.n_kv_heads, shape.head_dim)
        if n_coded:
            begin = window_bytes + codec.start_bytes(shape)
            cache._header = octets[window_bytes:begin]
            cache._coded = [octets[begin:]]
        return cache


def check_tokens(tokens: NDArray[np.float32], shape: CacheShape) -> None:
    """Raise InputError unless these are finite float32 tokens of the shape."""
    expected = (shape.n_kv_heads, shape.head_dim)
    if tokens.dtype != np.float32 or tokens.ndim != 3 or tokens.shape[1:] != expected:
        raise InputError(
            f"{shape.side}: expected float32 (n_tokens, {expected[0]}, {expected[1]}), got {tokens.dtype} {tokens.shape}"
        )
    if not np.isfinite(tokens).all():
        raise InputError(f"{shape.side}: holds infinities or NaNs, which codecs do not keep")


def predicted_bytes(codec: Codec, shape: CacheShape, n_tokens: int) -> int:
    """Return the length of `CodedCache.to_bytes` for `n_tokens` tokens."""
    n_coded = codec.coded_tokens(n_tokens, shape)
    window = (n_tokens - n_coded) * shape.token_bytes
    return window + (codec.start_bytes(shape) + codec.coded_bytes(n_coded, shape) if n_coded else 0)
