"""`budget`: the least bound that a number of bytes can buy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.bounds.scores import half_widths
from precalign.errors import UsageError
from precalign.planes import PAGE_TOKENS
from precalign.rules.allocate import Prices, fill
from precalign.rules.base import KeyView, Metadata, Rule, ValueView
from precalign.rules.plan import key_bytes, key_tops
from precalign.traffic import key_transfer, metadata_transfer, plain_transfer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout


@dataclass(frozen=True)
class Budget(Rule):
    """Least error within a budget of bytes: no step moves more than 1 - `saving` of its full read, what it reads besides included.

    1. keys, from queries and running maxima: their share of the bytes is what would be best if attention fell off like 1 / rank; within it the
       least largest bound on scores;
    2. values, from probabilities and token maxima: the least bound for all the bytes that are left, each head's in units of what it would be at
       equal widths.

    Nothing is read twice. A step for which even the narrowest levels are too much reads these.

    Attributes
    ----------
    saving : float
        Share of the full read's bytes that every step saves.
    spread : float
        By how much the output is taken to move, relative to its norm, if scores move by at most 1; it weighs keys against values.
    """

    name = "budget"
    metadata = Metadata(key_channels=True, value_tokens=True)

    saving: float = 0.25
    spread: float = 1.0

    def check(self, layout: Layout) -> None:
        """Raise UsageError unless the layout can save as much."""
        super().check(layout)
        most = 1 - layout.levels[0] / layout.format.total_bits
        if not 0 <= self.saving < most:
            raise UsageError(
                f"rule {self}: saving must be at least 0 and below {most:g}, what the narrowest level of {layout.name} saves",
                hint="" if layout.skip else f"{layout.name}+skip can save more",
            )
        if not 0 < self.spread < np.inf:
            raise UsageError(f"rule {self}: spread must be positive and finite", hint="it is 1 where none is given")

    def _bytes(self, view: KeyView) -> NDArray[np.int64]:
        """Return the bytes that keys and values may take, (n_steps,)."""
        window, head_dim = (view.first, view.visible), view.queries.shape[-1]
        full = 2 * plain_transfer(view.layout, head_dim, *window).bytes
        besides = metadata_transfer(self.metadata, head_dim, *window).bytes + view.beside_bytes
        allowed: NDArray[np.int64] = np.floor((1 - self.saving) * full).astype(np.int64) - besides
        return np.maximum(allowed, 0)

    def key_levels(self, view: KeyView) -> NDArray[np.uint8]:
        """Return the levels of the least largest bound on scores within the keys' share."""
        layout, tokens, head_dim = view.layout, view.visible - view.first, view.queries.shape[-1]
        h, tops = half_widths(layout), key_tops(view)
        allowed = self._bytes(view)
        share = key_bytes(self.spread * tops.max(axis=0), tokens, allowed.astype(np.float64), layout, h)
        # Rows of pages that are seen in part end within a byte: at most one more for each end and plane.
        ends = np.stack([view.first % PAGE_TOKENS, view.visible % PAGE_TOKENS])
        loose = sum((ends * width % 8 > 0).sum(axis=0) for width in layout.widths)
        bits = np.maximum((np.minimum(share, allowed) - head_dim * loose) * 8 // tokens, 0).astype(np.int64)
        channels = np.zeros(len(tokens), np.int64), np.full(len(tokens), head_dim)
        return fill(_normal(tops), h, Prices.of_bits(layout), bits, *channels)

    def value_levels(self, view: ValueView, prepass: NDArray[np.int32] | None) -> NDArray[np.uint8]:
        """Return the levels of the least bound for the bytes that are left."""
        del prepass
        assert view.keys is not None  # noqa: S101 - a step reads its keys first
        keys, layout = view.keys, view.layout
        left = self._bytes(keys.view) - key_transfer(keys.levels, layout, view.first, view.visible).bytes
        tops = np.zeros(view.probs.shape[2], np.float32)
        tops[: len(view.token_max_exponents)] = np.ldexp(np.float32(1), view.token_max_exponents.astype(np.int32))
        tokens = np.arange(len(tops))
        seen = (tokens >= view.first[:, None]) & (tokens < view.visible[:, None])
        weights = np.where(seen, view.probs, np.float32(0)) * tops
        prices = Prices.of_rows(layout, view.values.shape[1])
        return fill(_normal(weights), half_widths(layout), prices, left, view.first, view.visible)


def _normal(weights: NDArray[Any]) -> NDArray[np.float32]:
    """Return each head's weights (group, n_steps, n) as shares of their sum."""
    sums = weights.sum(axis=-1, keepdims=True, dtype=np.float64)
    shares: NDArray[np.float32] = (weights * (1 / np.maximum(sums, 1e-300))).astype(np.float32)
    return shares
