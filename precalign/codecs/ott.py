"""`ott` (arXiv 2505.10938): KIVI's groups, with tokens of small keys kept out of them in full precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape
from precalign.codecs.half import half_codes, half_values
from precalign.codecs.kivi import Kivi
from precalign.codecs.pair import Coded, PairCodec, damaged
from precalign.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE_POOL = 32
"""Tokens that may leave the pool before tracking stops."""


@dataclass(frozen=True)
class Ott(PairCodec):
    """Keys and values leave the window together, `group` tokens at a time; each time the `outliers` tokens of smallest keys stay exact.

    Candidates are the group's tokens and those of the pool; a token that leaves the pool goes to a side pool of 32, and when that
    cannot take another, tracking stops. In its group an outlier's place holds the mean of the group's other tokens; what is read there
    is the exact token. Common bytes: two counts, then of each pool token its position (32 bits), key and value.

    Attributes
    ----------
    bits, group, window : int
        As published: 2 bits, groups of 128, 32 recent tokens in full precision.
    outliers : int
        0 for the first two layers, as published; the caller chooses by layer.
    norm : int
        1 or 2: which norm of a token's keys, over all kv heads together (the paper leaves both open).
    value_group : int
        Channels of a group of values; 0 for a whole head.
    """

    name = "ott"
    source = "OTT (arXiv 2505.10938)"

    bits: int = 2
    group: int = 128
    window: int = 32
    outliers: int = 3
    norm: int = 1
    value_group: int = 0

    @property
    def disclaims(self) -> dict[str, str]:
        """Outliers are chosen by all heads of a token together."""
        return {"heads": "a token is an outlier by all its heads together"}

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError where the groups do not fit."""
        if not 0 <= self.outliers < self.group or self.norm not in (1, 2) or self.window < 0:
            raise UsageError(
                f"codec {self}: takes fewer outliers than a group has tokens, norm 1 or 2, window at least 0"
            )
        self._side(shape).check(shape)

    def _side(self, shape: CacheShape) -> Kivi:
        of_values = self.value_group or shape.head_dim
        return Kivi(self.bits, self.group if shape.side == "keys" else of_values, 0)

    def coded_tokens(self, n_tokens: int, shape: CacheShape) -> int:
        """Return whole groups of what is older than the window."""
        del shape
        return max(0, n_tokens - self.window) // self.group * self.group

    def extend(
        self, before: Coded | None, keys: NDArray[np.float32], values: NDArray[np.float32], shape: CacheShape
    ) -> Coded:
        """Code group by group."""
        pools = _Pools.start(shape) if before is None else _Pools.read(before.common, shape)
        n_before = 0 if before is None else len(before.order)
        parts: dict[str, list[NDArray[np.uint8]]] = {
            "keys": [] if before is None else [before.keys],
            "values": [] if before is None else [before.values],
        }
        for begin in range(0, len(keys), self.group):
            block = slice(begin, begin + self.group)
            chosen = pools.track(keys[block], values[block], n_before + begin, self)
            for side, tokens in (("keys", keys[block]), ("values", values[block])):
                of_side = CacheShape(shape.n_kv_heads, shape.head_dim, side, shape.format)
                filled = _with_means(tokens, chosen, shape)
                parts[side].append(self._side(of_side).encode(filled, np.empty(0, np.uint8), of_side))
        joined = [np.concatenate(parts[side]) for side in ("keys", "values")]
        return Coded(joined[0], joined[1], pools.write(shape), np.arange(n_before + len(keys)))

    def decode(self, coded: Coded, n_tokens: int, shape: CacheShape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode the groups and put the pools' tokens in their places."""
        if not _Pools.fits(coded.common, n_tokens, shape):
            raise damaged(self, n_tokens)
        pools, sides = _Pools.read(coded.common, shape), []
        for side, octets in (("keys", coded.keys), ("values", coded.values)):
            of_side = CacheShape(shape.n_kv_heads, shape.head_dim, side, shape.format)
            if len(octets) != self._side(of_side).coded_bytes(n_tokens, of_side):
                raise damaged(self, n_tokens)
            tokens = self._side(of_side).decode(octets, n_tokens, np.empty(0, np.uint8), of_side)
            tokens[pools.positions] = pools.keys if side == "keys" else pools.values
            sides.append(tokens)
        return sides[0], sides[1]


def _with_means(tokens: NDArray[np.float32], chosen: NDArray[np.int64], shape: CacheShape) -> NDArray[np.float32]:
    """Return a group in which the chosen places hold the mean of the others, rounded to the cache's format."""
    if not len(chosen):
        return tokens
    filled = tokens.copy()
    mean = np.delete(tokens, chosen, axis=0).astype(np.float64).mean(axis=0).astype(np.float32)
    filled[chosen] = half_values(half_codes(_rounded(mean, shape), shape.format), shape.format)
    return filled


def _rounded(x: NDArray[np.float32], shape: CacheShape) -> NDArray[np.float32]:
    from precalign.formats.codes import decode
    from precalign.rounding import encode

    return decode(encode(x, shape.format), shape.format).astype(np.float32)


class _Pools:
    """The tokens that are kept exact: the first `n_active` are the pool, the others have left it."""

    def __init__(
        self, n_active: int, positions: NDArray[np.int64], keys: NDArray[np.float32], values: NDArray[np.float32]
    ) -> None:
        self.n_active, self.positions, self.keys, self.values = n_active, positions, keys, values

    @classmethod
    def start(cls, shape: CacheShape) -> _Pools:
        empty = np.empty((0, shape.n_kv_heads, shape.head_dim), np.float32)
        return cls(0, np.empty(0, np.int64), empty, empty)

    @staticmethod
    def fits(octets: NDArray[np.uint8], n_tokens: int, shape: CacheShape) -> bool:
        """Whether these are the bytes of pools of a cache of so many coded tokens."""
        n_active, n = (int(count) for count in octets[:8].view("<u4")) if len(octets) >= 8 else (0, -1)
        if not 0 <= n_active <= n or len(octets) != 8 + n * (4 + 2 * shape.token_bytes):
            return False
        return bool((octets[8 : 8 + 4 * n].view("<u4") < n_tokens).all())

    @classmethod
    def read(cls, octets: NDArray[np.uint8], shape: CacheShape) -> _Pools:
        n_active, n = (int(count) for count in octets[:8].view("<u4"))
        positions = octets[8 : 8 + 4 * n].view("<u4").astype(np.int64)
        numbers = half_values(octets[8 + 4 * n :].view("<u2"), shape.format)
        both = numbers.reshape(2, n, shape.n_kv_heads, shape.head_dim)
        return cls(n_active, positions, both[0], both[1])

    def write(self, shape: CacheShape) -> NDArray[np.uint8]:
        counts = np.array([self.n_active, len(self.positions)], "<u4")
        codes = half_codes(np.stack([self.keys, self.values]), shape.format)
        parts = (counts, self.positions.astype("<u4"), codes)
        return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])

    def track(
        self, keys: NDArray[np.float32], values: NDArray[np.float32], begin: int, codec: Ott
    ) -> NDArray[np.int64]:
        """Update the pool with a group; return which of the group's tokens entered it."""
        if codec.outliers == 0 or len(self.positions) - self.n_active + codec.outliers > SIDE_POOL:
            return np.empty(0, np.int64)
        active = slice(0, self.n_active)
        all_keys = np.concatenate([self.keys[active], keys])
        size = (np.abs(all_keys.astype(np.float64)) ** codec.norm).sum(axis=(1, 2))
        best = np.sort(np.argsort(size, kind="stable")[: codec.outliers])
        entered = best[best >= self.n_active] - self.n_active
        stays = best[best < self.n_active]
        leaves = np.setdiff1d(np.arange(self.n_active), stays)
        places = np.concatenate([stays, leaves, np.arange(self.n_active, len(self.positions))])
        kept, left = places[: len(stays)], places[len(stays) :]
        self.positions = np.concatenate([self.positions[kept], begin + entered, self.positions[left]])
        self.keys = np.concatenate([self.keys[kept], keys[entered], self.keys[left]])
        self.values = np.concatenate([self.values[kept], values[entered], self.values[left]])
        self.n_active = len(best)
        return entered
