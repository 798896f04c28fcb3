"""One kv head of a live cache, emulated: what each level makes of a token is computed once, when the token comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.counts import window_max
from precalign.decode.codes import all_finite, exponents, to_binary32
from precalign.decode.output import add_outputs
from precalign.decode.scores import TILE, scores
from precalign.decode.softmax import softmax
from precalign.errors import InputError
from precalign.live.counter import Decision
from precalign.live.store import Store
from precalign.memory import aligned_empty
from precalign.profile import DEFAULT_SPLIT_TOKENS
from precalign.rules.base import KeyView, ValueView

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.layouts import Layout
    from precalign.rules import Rule

FIRST_CAPACITY = 512
BLOCK_BYTES = 64 << 20
MOST_STEPS = 256


class HeadCache:
    """Keys and values of one kv head, and decode attention of its query heads under a rule, in the stated order.

    The result and every decision are those of `precalign.profile.profile_head` on the same codes; nothing is computed twice: codes,
    the values that each level reads, exponents and running maxima grow with the cache. It takes 4 bytes a number and level.

    Parameters
    ----------
    layout : Layout
        Of keys and values; its format is that of all codes.
    rule : Rule
    head_dim : int
    scale : float
        Factor of the scores, rounded to binary32.
    split_tokens : int
        Tokens of a split in the stated order.
    window : int, optional
        Tokens that a query sees, its own among them; all if not given.
    name : str
        What error messages call it.

    Raises
    ------
    UsageError
        If the rule needs a level that the layout has not.
    """

    def __init__(
        self,
        layout: Layout,
        rule: Rule,
        head_dim: int,
        *,
        scale: float,
        split_tokens: int = DEFAULT_SPLIT_TOKENS,
        window: int | None = None,
        name: str = "head",
    ) -> None:
        rule.check(layout)
        self.layout, self.rule, self.head_dim, self.window, self.name = layout, rule, head_dim, window, name
        self.seq_len = 0
        self._scale, self._split_tokens = scale, split_tokens
        self._scale32: Any = np.float32(scale)
        self._row_of_level = np.arange(len(layout.levels)) - layout.first_read
        self._store = Store(layout, head_dim, FIRST_CAPACITY)
        kind = self._store.token_maxima.dtype
        self._key_maximum, self._value_maximum = (np.full(head_dim, layout.format.emin, kind) for _ in range(2))

    @property
    def keys(self) -> NDArray[Any]:
        """Codes, (seq_len, head_dim)."""
        return self._store.keys[: self.seq_len]

    @property
    def values(self) -> NDArray[Any]:
        """Codes, (seq_len, head_dim)."""
        return self._store.values[: self.seq_len]

    def append(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Add tokens.

        Parameters
        ----------
        keys, values : ndarray[unsigned], (n_tokens, head_dim)
            Codes of the layout's format.

        Raises
        ------
        InputError
            If a code is an infinity or a NaN.
        """
        fmt, begin, end = self.layout.format, self.seq_len, self.seq_len + len(keys)
        if not (all_finite(keys, fmt) and all_finite(values, fmt)):
            raise InputError(
                f"{self.name}: the model wrote infinities or NaNs into its cache",
                hint=f"{fmt.name} may be too narrow for this model; try another storage format",
            )
        if end > self._store.capacity:
            grown = Store(self.layout, self.head_dim, 1 << (end - 1).bit_length())
            grown.take(self._store)
            self._store = grown
        store, new = self._store, slice(begin, end)
        store.write(begin, keys, values)
        np.maximum(self._key_maximum, store.key_exponents[new].max(axis=0), out=self._key_maximum)
        np.maximum(self._value_maximum, store.value_exponents[new].max(axis=0), out=self._value_maximum)
        self.seq_len = end

    def attend(self, queries: NDArray[Any], record: Callable[[Decision], None]) -> NDArray[np.float32]:
        """Take a decode step with each query; the last belongs to the last token, the one before it to the token before.

        Parameters
        ----------
        queries : ndarray[unsigned], (group, n_steps, head_dim)
            Codes; at most as many steps as tokens.
        record : callable
            Told what the rule decided, block by block.

        Returns
        -------
        ndarray[float32], (group, n_steps, head_dim)

        Raises
        ------
        InputError
            If a code is an infinity or a NaN.
        """
        group, n_steps, _ = queries.shape
        if not all_finite(queries, self.layout.format):
            raise InputError(f"{self.name}: the model's queries hold infinities or NaNs")
        visible = np.arange(self.seq_len - n_steps + 1, self.seq_len + 1)
        first = np.zeros_like(visible) if self.window is None else np.maximum(visible - self.window, 0)
        size = max(1, min(MOST_STEPS, BLOCK_BYTES // (10 * group * self.seq_len)))
        out = np.empty(queries.shape, np.float32)
        for begin in range(0, n_steps, size):
            block = slice(begin, begin + size)
            out[:, block] = self._attend(np.ascontiguousarray(queries[:, block]), first[block], visible[block], record)
        return out

    def _maxima(
        self, running: NDArray[Any], by_token: NDArray[Any], first: NDArray[Any], visible: NDArray[Any]
    ) -> NDArray[Any]:
        """Return the maxima over what each step sees, (n_steps, head_dim); those over everything are at hand."""
        if len(first) == 1 and first[0] == 0:
            return running[None]
        maxima: NDArray[Any] = window_max(by_token[: visible[-1]], first, visible)
        return maxima

    def _peek(self, tokens: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return what the first level of tokens' values gives."""
        reads: NDArray[np.float32] = self._store.value_rows[0, tokens, : self.head_dim]
        return reads

    def _attend(
        self,
        queries: NDArray[Any],
        first: NDArray[np.int64],
        visible: NDArray[np.int64],
        record: Callable[[Decision], None],
    ) -> NDArray[np.float32]:
        layout, rule, window = self.layout, self.rule, (first, visible)
        seen, (group, n_steps, _) = int(visible[-1]), queries.shape
        values32 = to_binary32(queries, layout.format)
        key_levels = rule.key_levels(
            KeyView(
                layout=layout,
                queries=values32,
                query_exponents=exponents(queries, layout.format),
                key_max_exponents=self._maxima(self._key_maximum, self._store.key_exponents, *window),
                first=first,
                visible=visible,
                scale=self._scale,
                value_top_exponents=self._maxima(self._value_maximum, self._store.value_exponents, *window).max(axis=1),
                beside_bytes=np.zeros_like(first),
            )
        )
        probs = aligned_empty((group, n_steps, -(-seen // TILE) * TILE), np.float32)
        tiles = self._store.key_rows[: probs.shape[2] // TILE]
        scores(tiles, self._row_of_level, key_levels, values32, *window, 0, self._scale32, _uniform(key_levels), probs)
        raw = probs.copy() if rule.reads_scores else None
        softmax(probs, *window, self._split_tokens)
        view = ValueView(
            layout=layout,
            probs=probs,
            value_max_exponents=self._maxima(self._value_maximum, self._store.value_exponents, *window),
            token_max_exponents=self._store.token_maxima[:seen],
            values=self._store.values[:seen],
            first=first,
            visible=visible,
            split_tokens=self._split_tokens,
            peek=self._peek,
            value_rounding=float("nan"),  # for rules that prove what they read: `precalign.live.proven`
            scores=raw,
        )
        prepass = rule.prepass_tokens(view)
        value_levels = rule.value_levels(view, prepass)
        out = np.zeros((group, n_steps, self._store.value_rows.shape[2]), np.float32)
        where = (*window, 0, self._split_tokens, _uniform(value_levels))
        add_outputs(self._store.value_rows, self._row_of_level, value_levels, probs, *where, out)
        record(Decision(first, visible, key_levels, value_levels[:, :seen], prepass))
        return out[..., : self.head_dim]


def _uniform(levels: NDArray[np.uint8]) -> bool:
    """Whether all steps have the same levels; they then share loads, which changes no bit."""
    return len(levels) > 1 and levels.min() == levels.max()
