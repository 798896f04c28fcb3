"""A layer of a live cache under codecs: what has left the window is what the codec gives back, and the bytes read are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.codecs import CacheShape, Codec, CodedPair, PairCodec, predicted_bytes
from precalign.codecs.attention import MixedHead, mixed_steps
from precalign.decode.codes import all_finite, to_binary32
from precalign.errors import InputError
from precalign.inputs import Steps
from precalign.live.counter import add_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.live.layer import LayerShape

BLOCK_NUMBERS = 1 << 23
"""Scores of a block of steps, which bounds memory."""


class CodedLayer:
    """One layer behind the interface of `precalign.live.layer.LayerCache`, binary64 arithmetic over decoded numbers.

    Parameters
    ----------
    shape : LayerShape
    keys, values : Codec or PairCodec
        A pair codec stands on both sides.
    fmt : Format
        Of the codes that come in, binary16 or bfloat16.
    batch_size : int

    Raises
    ------
    UsageError
        If a codec cannot hold such a layer.
    """

    def __init__(
        self, shape: LayerShape, keys: Codec | PairCodec, values: Codec | PairCodec, fmt: Format, batch_size: int
    ) -> None:
        self.shape, self._format = shape, fmt
        self._codecs = {"keys": keys, "values": values}
        of_cache = CacheShape(shape.n_kv_heads, shape.head_dim, "keys", fmt)
        self._sequences = [_Sequence(CodedPair(keys, values, of_cache)) for _ in range(batch_size)]
        self._totals: dict[str, int] = {}

    def append(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Add tokens, codes (batch_size, n_kv_heads, n_tokens, head_dim)."""
        if not (all_finite(keys, self._format) and all_finite(values, self._format)):
            raise InputError(f"layer {self.shape.index}: the model wrote infinities or NaNs into its cache")
        for sequence, k, v in zip(self._sequences, keys, values, strict=True):
            sequence.append(*(to_binary32(x.transpose(1, 0, 2).copy(), self._format) for x in (k, v)))

    def attend(self, queries: NDArray[Any]) -> NDArray[np.float32]:
        """Take decode steps with queries, codes (batch_size, n_q_heads, n_steps, head_dim)."""
        wide = to_binary32(queries, self._format).astype(np.float64)
        grouped = wide.reshape(len(queries), self.shape.n_kv_heads, self.shape.group, *queries.shape[2:])
        out = np.empty(grouped.shape, np.float32)
        for sequence, of_sequence, to in zip(self._sequences, grouped, out, strict=True):
            self._attend(sequence, of_sequence, to)
        return out.reshape(queries.shape)

    def _attend(self, sequence: _Sequence, queries: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        n_steps, seq_len = queries.shape[2], sequence.seq_len
        visible = np.arange(seq_len - n_steps + 1, seq_len + 1)
        first = np.zeros_like(visible) if self.shape.window is None else np.maximum(visible - self.shape.window, 0)
        coded = {side: self._coded(side, visible) for side in self._codecs}
        size = max(1, BLOCK_NUMBERS // (self.shape.group * seq_len))
        for begin in range(0, n_steps, size):
            block = slice(begin, begin + size)
            steps = Steps(np.arange(len(visible))[block], first[block], visible[block])
            for head in range(self.shape.n_kv_heads):
                cache = sequence.head(head, coded["keys"][block], coded["values"][block])
                out[head, :, block] = mixed_steps(queries[head][:, block], cache, steps, self.shape.scale)[1]
        self._count(sequence, first, visible)

    def _coded(self, side: str, visible: NDArray[np.int64]) -> NDArray[np.int64]:
        codec = self._codecs[side]
        shape = CacheShape(self.shape.n_kv_heads, self.shape.head_dim, side, self._format)
        return np.array([codec.coded_tokens(int(n), shape) for n in visible], np.int64)

    def _count(self, sequence: _Sequence, first: NDArray[np.int64], visible: NDArray[np.int64]) -> None:
        """Add the layer's bytes: a step reads all that is stored of the tokens it sees."""
        numbers = int((visible - first).sum()) * self.shape.n_kv_heads * self.shape.head_dim
        share = (visible - first) / visible
        counted = {"steps": len(visible) * self.shape.n_kv_heads, "metadata_bytes": 0, "prepass_bytes": 0}
        counted["full_ideal_bits"] = 2 * numbers * self._format.total_bits
        counted[f"key_channels_at_{self._format.total_bits}_bits"] = 0
        for side, stem in (("keys", "key"), ("values", "value")):
            moved = round(float((self._stored(sequence, side, visible) * share).sum()))
            counted |= {f"{stem}_bytes": moved, f"{stem}_ideal_bits": 8 * moved}
            counted[f"full_{stem}_bytes"] = numbers * self._format.total_bits // 8
        self._totals = add_counts(self._totals, counted)

    def _stored(self, sequence: _Sequence, side: str, visible: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the bytes of a side when so many tokens are there; of a pair codec in proportion to what it stores now."""
        codec = self._codecs[side]
        shape = CacheShape(self.shape.n_kv_heads, self.shape.head_dim, side, self._format)
        if isinstance(codec, Codec):
            return np.array([predicted_bytes(codec, shape, int(n)) for n in visible], np.float64)
        pair = sequence.pair
        of_side = pair.key_bytes if side == "keys" else pair.value_bytes
        n_coded = codec.coded_tokens(sequence.seq_len, shape)
        per_coded = (of_side - (sequence.seq_len - n_coded) * shape.token_bytes) / max(n_coded, 1)
        coded = self._coded(side, visible)
        stored: NDArray[np.float64] = coded * per_coded + (visible - coded) * shape.token_bytes
        return stored

    def totals(self) -> list[dict[str, int]]:
        """Return what the layer has read, over the batch; it is counted for all its heads together, under the first."""
        return [dict(self._totals)]


class _Sequence:
    """One sequence: exact numbers for the window, and what the codecs give back, decoded again only when more is coded."""

    def __init__(self, pair: CodedPair) -> None:
        self.pair = pair
        self._exact: list[NDArray[np.float64]] = []
        self._decoded: list[NDArray[np.float64]] = []
        self._n_coded = -1

    @property
    def seq_len(self) -> int:
        """Tokens."""
        return self.pair.n_tokens

    def append(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Add tokens (n_tokens, n_kv_heads, head_dim)."""
        self.pair.append(keys, values)
        new = [x.astype(np.float64) for x in (keys, values)]
        self._exact = [np.concatenate(pair) for pair in zip(self._exact, new, strict=True)] if self._exact else new
        if self.pair.n_coded != self._n_coded:
            back = np.argsort(self.pair.order)
            self._decoded = [side[back].astype(np.float64) for side in self.pair.decode()]
            self._n_coded = self.pair.n_coded
        else:  # the new tokens are in the window
            self._decoded = [np.concatenate(pair) for pair in zip(self._decoded, new, strict=True)]

    def head(self, head: int, coded_keys: NDArray[np.int64], coded_values: NDArray[np.int64]) -> MixedHead:
        """Return one kv head for steps that see so many coded tokens."""
        (keys, values), (decoded_keys, decoded_values) = (
            [x[:, head] for x in both] for both in (self._exact, self._decoded)
        )
        return MixedHead(keys, values, decoded_keys, decoded_values, coded_keys, coded_values)
