"""`kivi` (arXiv 2402.02750): keys by channel, values by token, uniform, with a window in full precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, Codec, require_multiple
from precalign.codecs.bits import unpack_row
from precalign.codecs.groups import PARAMETER_BYTES, decode_groups, encode_groups, group_bytes
from precalign.codecs.half import get_half_value, is_bfloat16
from precalign.codecs.packed import PackedCodec, growth
from precalign.errors import UsageError
from precalign.formats import BFLOAT16
from precalign.jit import Array, fma, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORD_BITS = 32


@kernel
def _scores(groups: Array, width: int, is_bfloat16: Array, queries: Array, out: Array) -> None:
    """Fold step and minimum of each channel's tokens into the query: q (low + code step) = q low + (q step) code."""
    n_groups, n_kv_heads, head_dim, _ = groups.shape
    size = out.shape[2] // n_groups
    codes, x = np.empty(size, np.uint8), np.empty(size, np.float32)
    out[:] = 0
    for block in range(n_groups):
        for h in range(n_kv_heads):
            for c in range(head_dim):
                octets = groups[block, h, c]
                step, low = get_half_value(octets, is_bfloat16), get_half_value(octets[2:], is_bfloat16)
                unpack_row(octets[PARAMETER_BYTES:], width, codes)
                for i in range(size):
                    x[i] = np.float32(codes[i])
                for g in range(queries.shape[1]):
                    to = out[h, g, block * size : (block + 1) * size]
                    folded, offset = queries[h, g, c] * step, queries[h, g, c] * low
                    for i in range(size):
                        to[i] += fma(folded, x[i], offset)


@kernel
def _sum(groups: Array, width: int, is_bfloat16: Array, weights: Array, out: Array) -> None:
    """Fold step and minimum of each token's channels into its weight."""
    n_tokens, n_kv_heads, n_groups, _ = groups.shape
    size = out.shape[2] // n_groups
    codes, x = np.empty(size, np.uint8), np.empty(size, np.float32)
    for t in range(n_tokens):
        for h in range(n_kv_heads):
            for block in range(n_groups):
                octets = groups[t, h, block]
                step, low = get_half_value(octets, is_bfloat16), get_half_value(octets[2:], is_bfloat16)
                unpack_row(octets[PARAMETER_BYTES:], width, codes)
                for i in range(size):
                    x[i] = np.float32(codes[i])
                for g in range(out.shape[1]):
                    to = out[h, g, block * size : (block + 1) * size]
                    folded, offset = weights[h, g, t] * step, weights[h, g, t] * low
                    for i in range(size):
                        to[i] += fma(folded, x[i], offset)


@dataclass(frozen=True)
class Kivi(Codec, PackedCodec):
    """Groups of `group` tokens of one channel (keys) or `group` channels of one token (values): step, minimum, codes in 32-bit words.

    Keys: the window is coded whole when it holds `window` tokens. Values: exactly the `window` most recent tokens stay.

    Attributes
    ----------
    bits, group, window : int
        The published settings are 2 bits, window 128 and groups of 32 (or 128).
    """

    name = "kivi"
    source = "KIVI (arXiv 2402.02750)"

    bits: int = 2
    group: int = 32
    window: int = 128

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError unless groups fill whole words and windows or heads whole groups."""
        if self.bits not in (1, 2, 4, 8) or self.group < 1 or self.group * self.bits % WORD_BITS:
            raise UsageError(f"codec {self}: takes 1, 2, 4 or 8 bits, and groups that fill 32-bit words")
        if self.window < 0 or self.window % self.group:
            raise UsageError(f"codec {self}: the window must be a multiple of the group")
        if shape.side == "values":
            require_multiple(self, shape, self.group, "the channels of a group")

    def coded_tokens(self, n_tokens: int, shape: CacheShape) -> int:
        """Return what has left the window of values; keys leave it `window` (or, without one, a group) at a time."""
        if shape.side == "values":
            return max(0, n_tokens - self.window)
        at_once = self.window or self.group
        return n_tokens // at_once * at_once

    @property
    def _group_bytes(self) -> int:
        return group_bytes(self.group, self.bits)

    def coded_bytes(self, n_tokens: int, shape: CacheShape) -> int:
        """Return steps, minima and codes."""
        return n_tokens * shape.token_numbers // self.group * self._group_bytes

    def encode(self, tokens: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the groups: [token group][kv head][channel] of keys, [token][kv head][channel group] of values."""
        del header
        groups = tokens.reshape(-1, self.group)
        if shape.side == "keys":
            grouped = tokens.reshape(-1, self.group, shape.token_numbers)
            groups = np.ascontiguousarray(grouped.transpose(0, 2, 1)).reshape(-1, self.group)
        return encode_groups(groups, self.bits, shape.format).reshape(-1)

    def decode(
        self, octets: NDArray[np.uint8], n_tokens: int, header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return minimum + code * step."""
        del header
        groups = octets.reshape(-1, self._group_bytes)
        rows = decode_groups(groups, self.group, self.bits, shape.format)
        if shape.side == "keys":
            rows = np.ascontiguousarray(rows.reshape(-1, shape.token_numbers, self.group).transpose(0, 2, 1))
        return rows.reshape(n_tokens, shape.n_kv_heads, shape.head_dim)

    def packed_scores(
        self,
        octets: NDArray[np.uint8],
        n_tokens: int,
        header: NDArray[np.uint8],
        shape: CacheShape,
        queries: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return q . k of coded keys."""
        del header
        groups = octets.reshape(-1, shape.n_kv_heads, shape.head_dim, self._group_bytes)
        out = np.empty((*queries.shape[:2], n_tokens), np.float32)
        _scores(groups, self.bits, is_bfloat16(shape.format), queries, out)
        return out

    def packed_sum(
        self,
        octets: NDArray[np.uint8],
        n_tokens: int,
        header: NDArray[np.uint8],
        shape: CacheShape,
        weights: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return the weighted sum of coded values."""
        del header
        groups = octets.reshape(n_tokens, shape.n_kv_heads, -1, self._group_bytes)
        out = np.zeros((*weights.shape[:2], shape.head_dim), np.float32)
        _sum(groups, self.bits, is_bfloat16(shape.format), weights, out)
        return out

    def packed_error(self, shape: CacheShape) -> float:
        """Return the two roundings to 16 bits that `decode` does and folding does not, and those of the sums.

        |code step| is at most twice the largest magnitude of its group, so the terms of a sum are at most three times it.
        """
        u = 2.0**-8 if shape.format == BFLOAT16 else 2.0**-11
        return 3.1 * u + 2.0**-24 + 3 * growth(2 * shape.head_dim + 8)
