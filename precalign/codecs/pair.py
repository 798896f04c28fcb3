"""Codecs that code keys and values together, and `CodedPair`: both sides of one layer under whichever codecs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from precalign.codecs.base import CacheShape, Codec
from precalign.codecs.half import half_codes, half_values
from precalign.codecs.store import CodedCache, check_tokens
from precalign.errors import InputError, UsageError
from precalign.specs import spec_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTHS_BYTES = 12
"""Three 32-bit lengths in front of what a pair codec stores, whose parts depend on the data."""


@dataclass(frozen=True)
class Coded:
    """What a pair codec has made of the tokens that left the window.

    Attributes
    ----------
    keys, values : ndarray[uint8]
        Bytes of the coded tokens of each side.
    common : ndarray[uint8]
        Bytes that belong to both: pools of tokens, tables.
    order : ndarray[int64], (n_tokens,)
        Which token stands at each place. Not stored: attention over rotated keys does not depend on it.
    """

    keys: NDArray[np.uint8]
    values: NDArray[np.uint8]
    common: NDArray[np.uint8]
    order: NDArray[np.int64]


def damaged(codec: PairCodec, n_tokens: int) -> InputError:
    """Return the error for bytes that no such codec has made."""
    return InputError(
        f"{codec}: these are not the bytes of {n_tokens} coded tokens",
        hint="they are damaged, or of another codec, shape or number of tokens",
    )


@dataclass(frozen=True)
class PairCodec(ABC):
    """A codec whose coding of values depends on the keys, or the other way round; parameters are the fields of the subclass.

    Subclasses are frozen dataclasses, one file each, with one line in the registry of `precalign.codecs`.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @property
    def disclaims(self) -> dict[str, str]:
        """Checks of the conformance kit that the codec does not claim to pass, with the reason."""
        return {}

    @abstractmethod
    def coded_tokens(self, n_tokens: int, shape: CacheShape) -> int:
        """Return how many of `n_tokens` tokens are coded, the others are the window; whole blocks."""

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError if the codec cannot hold caches of this shape (of either side)."""
        del shape

    @abstractmethod
    def extend(
        self, before: Coded | None, keys: NDArray[np.float32], values: NDArray[np.float32], shape: CacheShape
    ) -> Coded:
        """Return what is kept after tokens have left the window.

        Parameters
        ----------
        before : Coded or None
            What was kept until now.
        keys, values : ndarray[float32], (n_tokens, n_kv_heads, head_dim)
        shape : CacheShape
            Of the keys; values have the same.
        """

    @abstractmethod
    def decode(self, coded: Coded, n_tokens: int, shape: CacheShape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return keys and values, each (n_tokens, n_kv_heads, head_dim), in the stored order.

        Raises
        ------
        InputError
            If the bytes are not those of so many tokens.
        """

    def __str__(self) -> str:
        return spec_text(self)


class CodedPair:
    """Keys and values of one layer.

    Parameters
    ----------
    keys, values : Codec or PairCodec
        A pair codec stands on both sides.
    shape : CacheShape
        Of either side.

    Raises
    ------
    UsageError
        If a codec cannot hold such caches, or a pair codec meets another.
    """

    def __init__(self, keys: Codec | PairCodec, values: Codec | PairCodec, shape: CacheShape) -> None:
        self.shapes = {side: replace(shape, side=side) for side in ("keys", "values")}
        self.joint: PairCodec | None = None
        self.sides: dict[str, CodedCache] = {}
        if isinstance(keys, Codec) and isinstance(values, Codec):
            self.sides = {
                "keys": CodedCache(keys, self.shapes["keys"]),
                "values": CodedCache(values, self.shapes["values"]),
            }
        elif isinstance(keys, PairCodec) and keys == values:
            for of_side in self.shapes.values():
                keys.check(of_side)
            self.joint = keys
        else:
            both = keys if isinstance(keys, PairCodec) else values
            raise UsageError(f"codec {both} codes keys and values together: give it for both")
        self.n_tokens = 0
        self._coded: Coded | None = None
        empty = np.empty((0, shape.n_kv_heads, shape.head_dim), np.float32)
        self._window = (empty, empty)

    @property
    def key_bytes(self) -> int:
        """Bytes kept for the keys; of what is common, half."""
        if self.joint is None:
            return self.sides["keys"].nbytes
        window, coded = len(self._window[0]) * self.shapes["keys"].token_bytes, self._coded
        return window + (0 if coded is None else coded.keys.size + (LENGTHS_BYTES + coded.common.size) // 2)

    @property
    def value_bytes(self) -> int:
        """Bytes kept for the values."""
        return self.nbytes - self.key_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept: the length of `to_bytes`."""
        if self.joint is None:
            return sum(side.nbytes for side in self.sides.values())
        window = 2 * len(self._window[0]) * self.shapes["keys"].token_bytes
        coded = self._coded
        return window + (
            0 if coded is None else LENGTHS_BYTES + coded.keys.size + coded.values.size + coded.common.size
        )

    def append(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Add tokens, (n_tokens, n_kv_heads, head_dim) each.

        Raises
        ------
        InputError
            If shapes or dtypes are not as stated, lengths differ, or a number is an infinity or NaN.
        """
        if len(keys) != len(values):
            raise InputError(f"keys and values: as many tokens each, got {len(keys)} and {len(values)}")
        if self.joint is None:
            self.sides["keys"].append(keys)
            self.sides["values"].append(values)
            self.n_tokens += len(keys)
            return
        check_tokens(keys, self.shapes["keys"])
        check_tokens(values, self.shapes["values"])
        held = [np.concatenate(pair) for pair in zip(self._window, (keys, values), strict=True)]
        before = self.n_tokens - len(self._window[0])
        self.n_tokens += len(keys)
        due = self.joint.coded_tokens(self.n_tokens, self.shapes["keys"]) - before
        if due:
            self._coded = self.joint.extend(self._coded, held[0][:due], held[1][:due], self.shapes["keys"])
        self._window = (held[0][due:].copy(), held[1][due:].copy())  # views would keep the coded tokens in memory

    @property
    def n_coded(self) -> int:
        """Tokens that have left a window, of both sides together."""
        if self.joint is None:
            return sum(side.n_coded for side in self.sides.values())
        return 2 * (self.n_tokens - len(self._window[0]))

    @property
    def order(self) -> NDArray[np.int64]:
        """Which token stands at each place of what `decode` returns, (n_tokens,)."""
        if self._coded is None:
            return np.arange(self.n_tokens)
        return np.concatenate([self._coded.order, np.arange(len(self._coded.order), self.n_tokens)])

    def decode(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return keys and values, (n_tokens, n_kv_heads, head_dim) each, in the stored order."""
        if self.joint is None:
            return self.sides["keys"].decode(), self.sides["values"].decode()
        if self._coded is None:
            return self._window[0].copy(), self._window[1].copy()
        n_coded = self.n_tokens - len(self._window[0])
        with np.errstate(over="ignore", invalid="ignore"):  # of bytes that no encoder made
            keys, values = self.joint.decode(self._coded, n_coded, self.shapes["keys"])
        return np.concatenate([keys, self._window[0]]), np.concatenate([values, self._window[1]])

    def to_bytes(self) -> bytes:
        """Return what is kept."""
        if self.joint is None:
            return self.sides["keys"].to_bytes() + self.sides["values"].to_bytes()
        windows = b"".join(half_codes(w, self.shapes["keys"].format).tobytes() for w in self._window)
        if self._coded is None:
            return windows
        parts = (self._coded.common, self._coded.keys, self._coded.values)
        return (
            windows
            + np.array([part.size for part in parts], "<u4").tobytes()
            + b"".join(part.tobytes() for part in parts)
        )

    @classmethod
    def from_bytes(cls, codec: PairCodec, shape: CacheShape, n_tokens: int, data: bytes) -> CodedPair:
        """Take what `to_bytes` of a pair codec returned; the order of tokens is then the stored one.

        Raises
        ------
        InputError
            If the lengths do not fit.
        """
        pair = cls(codec, codec, shape)
        n_coded = codec.coded_tokens(n_tokens, shape)
        octets, window = np.frombuffer(data, np.uint8), (n_tokens - n_coded) * shape.token_bytes
        rest = octets[2 * window :]
        lengths = rest[:LENGTHS_BYTES] if len(rest) >= LENGTHS_BYTES else np.zeros(LENGTHS_BYTES, np.uint8)
        sizes = lengths.view("<u4").astype(np.int64)
        expected = LENGTHS_BYTES + int(sizes.sum()) if n_coded else 0
        too_many = n_coded > 8 * len(rest)  # not a bit for each: a claim for which nothing must be laid out
        if len(octets) < 2 * window or len(rest) != expected or too_many:
            raise InputError(f"{codec}: {len(data)} bytes are not those of {n_tokens} tokens")
        codes = octets[: 2 * window].view("<u2")
        numbers = half_values(codes, shape.format).reshape(2, -1, shape.n_kv_heads, shape.head_dim)
        pair.n_tokens, pair._window = n_tokens, (numbers[0], numbers[1])
        if n_coded:
            common, keys, values = np.split(rest[LENGTHS_BYTES:], np.cumsum(sizes[:2]))
            pair._coded = Coded(keys, values, common, np.arange(n_coded))
        return pair
