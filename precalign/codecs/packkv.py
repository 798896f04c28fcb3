"""`packkv` (arXiv 2512.24449): one scale per token, then tokens of a block reordered so that their codes pack narrowly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.pair import Coded, PairCodec, damaged
from precalign.codecs.repack import BLOCK_TOKENS, greedy_order, pack_block, pack_limit, unpack_block
from precalign.errors import UsageError
from precalign.jit import Array, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.codecs.base import CacheShape

ORDERS = ("greedy", "median", "none")
LENGTH_BYTES, SCALE_BYTES, ZERO_BYTES = 4, 4, 4
LEAST_STEP = 1e-7
"""Of a token's range: codes stay below `repack.LARGEST_CODE`."""
BLOCK_HEADER_BYTES = LENGTH_BYTES + BLOCK_TOKENS * (SCALE_BYTES + ZERO_BYTES)


@dataclass(frozen=True)
class PackKV(PairCodec):
    """s = rel (max - min) over all kv heads of a token, z = RNE(min / s), code = RNE(x / s) - z; decoded (code + z) s.

    Blocks of 64 tokens: length (32 bits), 64 binary32 scales, 64 zeros (32 bits), then packs (`precalign.codecs.repack`). One order of
    tokens per block, shared by keys, values and heads, is not stored: what is decoded stands in that order, which attention over rotated keys does
    not depend on. Cropping a cache to its first tokens and masks by position do; order=none keeps them possible.

    Attributes
    ----------
    rel_keys, rel_values : float
        Steps as a share of a token's range; published: 0.06 to 0.24 and 0.12 to 0.68.
    order : str
        greedy, median (by the median of a token's value codes) or none.
    window : int
        Fewest recent tokens in full precision; up to 63 more.
    """

    name = "packkv"
    source = "PackKV (arXiv 2512.24449)"

    rel_keys: float = 0.1
    rel_values: float = 0.2
    order: str = "greedy"
    window: int = 128

    @property
    def disclaims(self) -> dict[str, str]:
        """Heads share scales and the order of tokens, and reordered tokens cannot be cropped."""
        shared = {"heads": "all heads of a token share a scale"}
        return shared if self.order == "none" else shared | {"prefix": "tokens of a block are reordered"}

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError for parameters that there are not."""
        del shape
        steps = (self.rel_keys, self.rel_values)
        if not all(LEAST_STEP <= rel <= 1 for rel in steps) or self.order not in ORDERS or self.window < 0:
            raise UsageError(
                f"codec {self}: takes rel_keys and rel_values from {LEAST_STEP:g} to 1, order {'|'.join(ORDERS)}, window at least 0"
            )

    def coded_tokens(self, n_tokens: int, shape: CacheShape) -> int:
        """Return whole blocks of what is older than the window."""
        del shape
        return max(0, n_tokens - self.window) // BLOCK_TOKENS * BLOCK_TOKENS

    def extend(
        self, before: Coded | None, keys: NDArray[np.float32], values: NDArray[np.float32], shape: CacheShape
    ) -> Coded:
        """Code block by block."""
        begin = 0 if before is None else len(before.order)
        parts: list[list[NDArray[np.uint8]]] = [[], []] if before is None else [[before.keys], [before.values]]
        orders = [] if before is None else [before.order]
        sides = [_quantise(x.reshape(len(x), -1), rel) for x, rel in ((keys, self.rel_keys), (values, self.rel_values))]
        for first in range(0, len(keys), BLOCK_TOKENS):
            block = slice(first, first + BLOCK_TOKENS)
            order = self._order(*(codes[block] for _, _, codes in sides))
            orders.append(begin + first + order)
            for part, (scales, zeros, codes) in zip(parts, sides, strict=True):
                part.append(_packed(scales[block][order], zeros[block][order], codes[block][order]))
        del shape
        return Coded(np.concatenate(parts[0]), np.concatenate(parts[1]), np.empty(0, np.uint8), np.concatenate(orders))

    def _order(self, key_codes: NDArray[np.int32], value_codes: NDArray[np.int32]) -> NDArray[np.int64]:
        if self.order == "none":
            return np.arange(BLOCK_TOKENS)
        if self.order == "median":
            return np.argsort(np.median(value_codes, axis=1), kind="stable")
        found: NDArray[np.int64] = greedy_order(np.concatenate([key_codes, value_codes], axis=1))
        return found

    def decode(self, coded: Coded, n_tokens: int, shape: CacheShape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode block by block, in the stored order."""
        sides = [_unpacked(octets, n_tokens, shape) for octets in (coded.keys, coded.values)]
        keys, values = sides
        if keys is None or values is None:
            raise damaged(self, n_tokens)
        return keys, values


@kernel
def _code_tokens(tokens: Array, rel: float, scales: Array, zeros: Array, codes: Array) -> None:
    """Write scales, zeros (n_tokens,) and codes (n_tokens, n_channels), divided and rounded in binary64."""
    for t in range(tokens.shape[0]):
        row, to = tokens[t], codes[t]
        least, most = row[0], row[0]
        for c in range(len(row)):
            least, most = min(least, row[c]), max(most, row[c])
        scale = np.float32(rel * (np.float64(most) - np.float64(least)))
        # A constant token has no range: its own magnitude is the scale, and the zero its sign. A range lost beside the offset likewise.
        if np.float64(scale) < abs(np.float64(least)) * 2.0**-30:
            scale = abs(least)
        if scale == 0:
            scale = np.float32(1)
        zero = np.rint(np.float64(least) / np.float64(scale))
        scales[t], zeros[t] = scale, np.int32(zero)
        for c in range(len(row)):
            to[c] = np.int32(np.rint(np.float64(row[c]) / np.float64(scale)) - zero)


def _quantise(
    tokens: NDArray[np.float32], rel: float
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """Return scales, zeros (n_tokens,) and codes (n_tokens, n_channels)."""
    n = len(tokens)
    found = np.empty(n, np.float32), np.empty(n, np.int32), np.empty(tokens.shape, np.int32)
    _code_tokens(tokens, rel, *found)
    return found


def _packed(scales: NDArray[np.float32], zeros: NDArray[np.int32], codes: NDArray[np.int32]) -> NDArray[np.uint8]:
    widest = int(codes.max()).bit_length()
    out = np.empty(BLOCK_HEADER_BYTES + pack_limit(codes.shape[1], widest), np.uint8)
    end = BLOCK_HEADER_BYTES + pack_block(codes, out[BLOCK_HEADER_BYTES:])
    header = (np.array([end], "<u4"), scales.astype("<f4"), zeros.astype("<i4"))
    out[:BLOCK_HEADER_BYTES] = np.concatenate([part.view(np.uint8) for part in header])
    return out[:end]


def _unpacked(octets: NDArray[np.uint8], n_tokens: int, shape: CacheShape) -> NDArray[np.float32] | None:
    """Return the tokens, or None where the bytes are not those of so many."""
    tokens = np.empty((n_tokens, shape.token_numbers), np.float32)
    codes = np.empty((BLOCK_TOKENS, shape.token_numbers), np.int64)
    for first in range(0, n_tokens, BLOCK_TOKENS):
        end = int(octets[:LENGTH_BYTES].view("<u4")[0]) if len(octets) >= LENGTH_BYTES else 0
        if not BLOCK_HEADER_BYTES < end <= len(octets):
            return None
        numbers = octets[LENGTH_BYTES:BLOCK_HEADER_BYTES]
        scales = numbers[: BLOCK_TOKENS * SCALE_BYTES].view("<f4")
        zeros = numbers[BLOCK_TOKENS * SCALE_BYTES :].view("<i4")
        if not unpack_block(octets[BLOCK_HEADER_BYTES:end], codes):
            return None
        tokens[first : first + BLOCK_TOKENS] = (codes + zeros[:, None]) * scales[:, None].astype(np.float64)
        octets = octets[end:]
    return None if len(octets) else tokens.reshape(n_tokens, shape.n_kv_heads, shape.head_dim)
