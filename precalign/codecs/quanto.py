"""`quanto`: the quantised cache of transformers with the quanto backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precalign.codecs.base import CacheShape, RowCodec, require_multiple
from precalign.codecs.groups import decode_groups, encode_groups, group_bytes
from precalign.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Quanto(RowCodec):
    """Groups of consecutive channels of one token: step and minimum in the cache's format, then the packed codes.

    Attributes
    ----------
    bits, group : int
        Width of a code; channels that share step and minimum.
    window : int
        Recent tokens in full precision. When it overflows it is coded whole, as the cache of transformers does.
    """

    name = "quanto"
    source = "transformers (QuantizedCache, quanto)"

    bits: int = 4
    group: int = 64
    window: int = 128

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError for widths and groups that there are not."""
        if not 1 <= self.bits <= 8 or self.group < 1 or self.window < 0:
            raise UsageError(f"codec {self}: takes 1 to 8 bits, groups of at least 1 and a window of at least 0")
        require_multiple(self, shape, self.group, "the channels of a group")

    def coded_tokens(self, n_tokens: int, shape: CacheShape) -> int:
        """Return all but what came since the window was last coded."""
        del shape
        return n_tokens - n_tokens % (self.window + 1) if self.window else n_tokens

    def row_bytes(self, head_dim: int) -> int:
        """Return steps, minima and codes."""
        return head_dim // self.group * group_bytes(self.group, self.bits)

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the groups of each row."""
        del header
        octets = encode_groups(rows.reshape(-1, self.group), self.bits, shape.format)
        return octets.reshape(len(rows), self.row_bytes(shape.head_dim))

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return minimum + code * step."""
        del header
        groups = octets.reshape(-1, group_bytes(self.group, self.bits))
        return decode_groups(groups, self.group, self.bits, shape.format).reshape(len(octets), shape.head_dim)
