"""`kivi` (arXiv 2402.02750): keys by channel, values by token, uniform, with a window in full precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, Codec, require_multiple
from precalign.codecs.groups import decode_groups, encode_groups, group_bytes
from precalign.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORD_BITS = 32


@dataclass(frozen=True)
class Kivi(Codec):
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
