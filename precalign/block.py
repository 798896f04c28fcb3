"""One block of decode steps: scores, probabilities and outputs in full, reduced and exact, and what is counted on the way."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.beside import Beside
from precalign.bounds.steps import value_rounding
from precalign.counts import window_max
from precalign.decode.codes import to_binary32
from precalign.decode.output import add_outputs
from precalign.decode.scores import TILE, scores
from precalign.decode.softmax import softmax
from precalign.memory import aligned_empty
from precalign.rebase import escaped_keys, escaped_values, read_binary32
from precalign.rules.base import KeyView, ValueView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from precalign.inputs import HeadInputs, Steps
    from precalign.layouts import Layout
    from precalign.rules.base import Attempt, KeyReading

CHUNK_TOKENS = 4096
DIM_MULTIPLE = 16


def _padded(array: NDArray[Any], axis: int, multiple: int) -> NDArray[Any]:
    """Return the array with zeros up to a multiple along an axis."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % multiple)
    return np.pad(array, widths)


def _tiled(array: NDArray[Any]) -> NDArray[Any]:
    """Return (seq_len, head_dim) as (n_tiles, head_dim, TILE)."""
    padded = _padded(array, 0, TILE)
    return np.ascontiguousarray(padded.reshape(-1, TILE, array.shape[1]).transpose(0, 2, 1))


def _powers(exponents: NDArray[np.signedinteger]) -> NDArray[np.float32]:
    sizes = aligned_empty(exponents.shape, np.float32)
    sizes[:] = np.ldexp(np.float32(1), exponents.astype(np.int32))
    return sizes


def _wide(array: NDArray[Any]) -> NDArray[np.float64]:
    wide = aligned_empty(array.shape, np.float64)
    wide[:] = array
    return wide


class Reads:
    """What every level makes of a chunk of keys or values, in binary32, and the full read in binary64.

    The last chunk of each is kept: blocks of a sequence of one chunk ask for no other.
    """

    def __init__(self, inputs: HeadInputs, layout: Layout) -> None:
        self.inputs, self.layout = inputs, layout
        self._kept: dict[str, tuple[slice, NDArray[np.float32], NDArray[np.float64]]] = {}

    @cached_property
    def escaped(self) -> dict[str, NDArray[np.bool_]] | None:
        """Return which keys and values the planes of a rebased layout do not hold, (seq_len, head_dim) each."""
        if not self.layout.rebased:
            return None
        codes = {"keys": self.inputs.keys, "values": self.inputs.values}
        masks = escaped_keys(codes["keys"], self.layout), escaped_values(codes["values"], self.layout)
        return dict(zip(codes, masks, strict=True))

    @cached_property
    def beside(self) -> Beside | None:
        """Return what stands beside the planes of a rebased layout."""
        return None if self.escaped is None else Beside.of(self.escaped["keys"], self.escaped["values"])

    @cached_property
    def value_norms(self) -> NDArray[np.float32]:
        """Return |2^E(v_t)| / head_dim, in 2-norm over channels, (seq_len,)."""
        exponents = self.inputs.value_exponents
        norms = np.sqrt((4.0 ** exponents.astype(np.float64)).sum(axis=1)) / exponents.shape[1]
        below: NDArray[np.float32] = np.minimum(norms, np.finfo(np.float32).max).astype(np.float32)
        return below

    def peek(self, tokens: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return what the first level of tokens' values gives, (*tokens.shape, head_dim)."""
        escaped = None if self.escaped is None else self.escaped["values"][tokens]
        return read_binary32(self.inputs.values[tokens], self.layout, self.layout.first_read, escaped)

    def _levels_of(
        self, what: str, chunk: slice, arranged: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> NDArray[np.float32]:
        """Return what every reading level makes of a chunk, (n_rows, ...); the last row is the full read."""
        codes = arranged(getattr(self.inputs, what)[chunk])
        escaped = None if self.escaped is None else arranged(self.escaped[what][chunk])
        levels = range(self.layout.first_read, len(self.layout.levels))
        rows = aligned_empty((len(levels), *codes.shape), np.float32)
        for row, level in zip(rows, levels, strict=True):
            row[:] = read_binary32(codes, self.layout, level, escaped)
        return rows

    def _keep(self, what: str, chunk: slice, arrange: Callable[[], NDArray[np.float32]]) -> tuple[NDArray[Any], ...]:
        if what not in self._kept or self._kept[what][0] != chunk:
            self._kept.pop(what, None)
            rows = arrange()
            full = {"keys": rows[:, -1:], "values": rows[-1:]}.get(what)
            self._kept[what] = chunk, rows, rows[:0].astype(np.float64) if full is None else _wide(full)
        return self._kept[what][1:]

    def keys(self, chunk: slice) -> tuple[NDArray[Any], ...]:
        """Return (n_tiles, n_rows, head_dim, TILE), and the same with one row."""

        def arrange() -> NDArray[np.float32]:
            by_level = self._levels_of("keys", chunk, _tiled)
            rows = aligned_empty((by_level.shape[1], len(by_level), *by_level.shape[2:]), np.float32)
            rows[:] = by_level.swapaxes(0, 1)
            return rows

        return self._keep("keys", chunk, arrange)

    def key_sizes(self, chunk: slice) -> NDArray[np.float32]:
        """Return 2^E(k_td), (n_tiles, 1, head_dim, TILE)."""

        def arrange() -> NDArray[np.float32]:
            return _powers(self.inputs.key_exponent_tiles[chunk.start // TILE : -(-chunk.stop // TILE), None])

        return self._keep("key_sizes", chunk, arrange)[0]

    def key_size_rows(self, chunk: slice) -> NDArray[np.float32]:
        """Return 2^E(k_td), (1, n_tokens, padded_dim)."""

        def arrange() -> NDArray[np.float32]:
            return _powers(_padded(self.inputs.key_exponents[chunk], 1, DIM_MULTIPLE)[None])

        return self._keep("key_size_rows", chunk, arrange)[0]

    def value_tiles(self, chunk: slice) -> NDArray[np.float32]:
        """Return the full read of values, (n_tiles, 1, head_dim, TILE)."""

        def arrange() -> NDArray[np.float32]:
            tiles = _tiled(self.values(chunk)[0][-1])[:, None, : self.inputs.values.shape[1]]
            rows = aligned_empty(tiles.shape, np.float32)
            rows[:] = tiles
            return rows

        return self._keep("value_tiles", chunk, arrange)[0]

    def values(self, chunk: slice) -> tuple[NDArray[Any], ...]:
        """Return (n_rows, n_tokens, padded_dim), and the same with one row."""
        return self._keep(
            "values", chunk, lambda: self._levels_of("values", chunk, lambda values: _padded(values, 1, DIM_MULTIPLE))
        )


class Block:
    """A block of steps of one head; every method keeps the group and step axes first."""

    def __init__(self, reads: Reads, steps: Steps, split_tokens: int) -> None:
        inputs, layout = reads.inputs, reads.layout
        self.reads, self.inputs, self.steps, self.layout, self.split_tokens = reads, inputs, steps, layout, split_tokens
        self.seq_len = int(steps.visible.max())
        self.queries = to_binary32(np.ascontiguousarray(inputs.queries[:, steps.queries]), inputs.outside_format)
        self.group, self.n_steps, self.head_dim = self.queries.shape
        self.row_of_level = np.arange(len(layout.levels)) - layout.first_read
        self.window = (steps.first, steps.visible)
        full = len(layout.levels) - 1
        self.full_key_levels = np.full((self.n_steps, self.head_dim), full, np.uint8)
        self.padded_len = -(-self.seq_len // TILE) * TILE
        self.full_value_levels = np.full((self.n_steps, self.padded_len), full, np.uint8)

    def chunks(self) -> Iterator[tuple[int, slice]]:
        """Yield the chunks that cover what the steps see, each with its first token: whole splits.

        A chunk may go beyond the last token seen, so that all blocks of a head have the same ones.
        """
        size = -(-CHUNK_TOKENS // self.split_tokens) * self.split_tokens
        for token0 in range(0, self.seq_len, size):
            yield token0, slice(token0, min(len(self.inputs.keys), token0 + size))

    def scores(self, levels: Sequence[NDArray[np.uint8]]) -> tuple[list[NDArray[np.float32]], NDArray[np.float64]]:
        """Return the scores for each array of key levels, and in binary64."""
        shape = (self.group, self.n_steps, self.padded_len)
        reduced = [aligned_empty(shape, np.float32) for _ in levels]
        exact = aligned_empty(shape, np.float64)
        scale: Any = np.float32(self.inputs.scale)
        last_row, queries = np.zeros_like(self.row_of_level), self.queries.astype(np.float64)
        for token0, chunk in self.chunks():
            rows, wide = self.reads.keys(chunk)
            place = (*self.window, token0)
            for out, choice in zip(reduced, levels, strict=True):
                uniform = choice is self.full_key_levels
                scores(rows, self.row_of_level, choice, self.queries, *place, scale, uniform, out)
            scores(wide, last_row, self.full_key_levels, queries, *place, self.inputs.scale, True, exact)  # noqa: FBT003
        return reduced, exact

    def key_sizes(self, weights: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return sum_d c_d 2^E(k_td), (group, n_steps, padded_len), for each array of weights (group, n_steps, head_dim)."""
        sums = [aligned_empty((self.group, self.n_steps, self.padded_len), np.float32) for _ in weights]
        one: Any = np.float32(1)
        first_row = np.zeros_like(self.row_of_level)
        for token0, chunk in self.chunks():
            sizes = self.reads.key_sizes(chunk)
            for c, out in zip(weights, sums, strict=True):
                place = (*self.window, token0)
                scores(sizes, first_row, self.full_key_levels, c, *place, one, True, out)  # noqa: FBT003
        return sums

    def softmax(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn scores into probabilities, in place."""
        softmax(scores, *self.window, self.split_tokens)
        return scores

    def outputs(
        self, probs: Sequence[NDArray[np.float32]], levels: Sequence[NDArray[np.uint8]], exact: NDArray[np.float64]
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.float64]]:
        """Return the outputs for each array of probabilities with its value levels, and in binary64."""
        shape = (self.group, self.n_steps, self.head_dim + -self.head_dim % DIM_MULTIPLE)
        reduced = [np.zeros(shape, np.float32) for _ in probs]
        wide_out = np.zeros(shape, np.float64)
        last_row = np.zeros_like(self.row_of_level)
        for token0, chunk in self.chunks():
            rows, wide = self.reads.values(chunk)
            place = (*self.window, token0, self.split_tokens)
            for out, p, choice in zip(reduced, probs, levels, strict=True):
                uniform = choice is self.full_value_levels
                add_outputs(rows, self.row_of_level, choice, p, *place, uniform, out)
            add_outputs(wide, last_row, self.full_value_levels, exact, *place, True, wide_out)  # noqa: FBT003
        cut = [np.ascontiguousarray(out[..., : self.head_dim]) for out in (*reduced, wide_out)]
        return cut[:-1], cut[-1]

    def key_view(self, previous: Attempt | None = None) -> KeyView:
        """Return what rules may know of the keys."""
        inputs, steps = self.inputs, self.steps
        return KeyView(
            layout=self.layout,
            queries=self.queries,
            query_exponents=inputs.query_exponents[:, steps.queries],
            key_max_exponents=window_max(inputs.key_exponents, *self.window),
            first=steps.first,
            visible=steps.visible,
            scale=inputs.scale,
            value_top_exponents=window_max(inputs.value_exponents.max(axis=1, keepdims=True), *self.window)[:, 0],
            beside_bytes=self._beside_bytes(),
            previous=previous,
        )

    def _beside_bytes(self) -> NDArray[np.int64]:
        beside = self.reads.beside
        if beside is None:
            return np.zeros(self.n_steps, np.int64)
        return (beside.keys(*self.window) + beside.values(*self.window, references=True)).bytes

    def value_view(
        self,
        probs: NDArray[np.float32],
        value_max_exponents: NDArray[np.signedinteger],
        scores: NDArray[np.float32] | None = None,
        keys: KeyReading | None = None,
    ) -> ValueView:
        """Return what rules may know of the values, given the probabilities from their own scores."""
        return ValueView(
            layout=self.layout,
            probs=probs,
            value_max_exponents=value_max_exponents,
            token_max_exponents=self.inputs.value_exponents[: self.seq_len].max(axis=1),
            values=self.inputs.values[: self.seq_len],
            first=self.steps.first,
            visible=self.steps.visible,
            split_tokens=self.split_tokens,
            peek=self.reads.peek,
            value_rounding=value_rounding(self),
            scores=scores,
            keys=keys,
        )
