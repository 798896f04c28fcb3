"""`alignedkv`: keys by channel and values by expected output, as published (arXiv 2409.16546)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, fma, inline, kernel
from precalign.rules.aligned_keys import aligned_key_levels
from precalign.rules.base import NEVER, KeyView, Metadata, Rule, ValueView, levels_by_probability, prob_exponent

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUPS = 32


@inline
def _offer(best: Array, where: Array, row: Array, low: int, high: int) -> None:
    for t in range(low, high):
        if row[t] > best[t % GROUPS]:
            best[t % GROUPS] = row[t]
            where[t % GROUPS] = t


@kernel
def strongest_tokens(probs: Array, first: Array, visible: Array) -> Array:
    """Return the token with the largest p of each class t mod 32, int32 (group, n_steps, 32).

    The earliest wins a tie; -1 where a step sees no token of the class.
    """
    group, n_steps, _ = probs.shape
    out = np.empty((group, n_steps, GROUPS), np.int32)
    best, where = np.empty(GROUPS, np.float32), np.empty(GROUPS, np.int32)
    for head in range(group):
        for step in range(n_steps):
            low, high = first[step], visible[step]
            begin = min(-(-low // GROUPS) * GROUPS, high)
            end = max(high // GROUPS * GROUPS, begin)
            best[:] = -1
            where[:] = -1
            _offer(best, where, probs[head, step], low, begin)
            rows = probs[head, step, begin:end].reshape(-1, GROUPS)
            for i in range(rows.shape[0]):
                for j in range(GROUPS):
                    better = rows[i, j] > best[j]
                    best[j] = rows[i, j] if better else best[j]
                    where[j] = np.int32(begin + i * GROUPS + j) if better else where[j]
            _offer(best, where, probs[head, step], end, high)
            out[head, step] = where
    return out


@kernel
def output_margins(probs: Array, tokens: Array, values: Array, value_max_exponents: Array) -> Array:
    """Return min_c (E(o_c) - max_t E(v_tc)), (group, n_steps), with o = sum p_t |v_t| over `tokens` in class order."""
    group, n_steps, n_groups = tokens.shape
    head_dim = values.shape[1]
    out = np.empty((group, n_steps), np.int32)
    estimate = np.empty(head_dim, np.float32)
    for head in range(group):
        for step in range(n_steps):
            estimate[:] = 0
            for j in range(n_groups):
                t = tokens[head, step, j]
                if t >= 0:
                    p = probs[head, step, t]
                    for c in range(head_dim):
                        estimate[c] = fma(p, values[t, c], estimate[c])
            margin = np.int32(NEVER)
            for c in range(head_dim):
                exponent = prob_exponent(estimate[c])
                margin = min(margin, np.int32(exponent - np.int32(value_max_exponents[step, c])))
            out[head, step] = margin
    return out


def _first_reads(view: ValueView, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return |v_tc| at the first level where `tokens` names the token, (seq_len, head_dim); undefined elsewhere."""
    wanted = np.zeros(len(view.values), np.bool_)
    wanted[tokens[tokens >= 0]] = True
    reads = np.empty(view.values.shape, np.float32)
    reads[wanted] = np.abs(view.peek(np.flatnonzero(wanted)))
    return reads


@dataclass(frozen=True)
class AlignedKV(Rule):
    """The published rule: the value margin is the expected exponent of the output above the largest value.

    margin_c = E(o_c) - max_t E(v_tc) with o = sum p_t |v_t| over the strongest token of each of 32 strided groups, read at the
    first level; margin = min_c margin_c; diff_t = margin - E(p_t). The published kernel clears the signs before it adds: what
    it expects is the size of the terms, and no channel that happens to cancel asks for every bit.

    Attributes
    ----------
    guard_bits : int
        Bits kept beyond the alignment, keys and values alike.
    """

    name = "alignedkv"
    metadata = Metadata(key_channels=True, value_channels=True)

    guard_bits: int = 0

    def key_levels(self, view: KeyView) -> NDArray[np.uint8]:
        """Apply the published key rule."""
        return aligned_key_levels(view, self.guard_bits)

    def prepass_tokens(self, view: ValueView) -> NDArray[np.int32]:
        """Return the strongest token of each strided group, (group, n_steps, 32)."""
        tokens: NDArray[np.int32] = strongest_tokens(view.probs, view.first, view.visible)
        return tokens

    def value_levels(self, view: ValueView, prepass: NDArray[np.int32] | None) -> NDArray[np.uint8]:
        """Align each token's values to the expected output."""
        layout = view.layout
        tokens = self.prepass_tokens(view) if prepass is None else prepass
        margins = output_margins(view.probs, tokens, _first_reads(view, tokens), view.value_max_exponents)
        dropped = (layout.dropped_bits[layout.first_read : -1] + self.guard_bits).astype(np.int32)
        levels = np.empty(view.probs.shape[1:], np.uint8)
        offsets = np.zeros(len(view.token_max_exponents), np.int32)
        levels_by_probability(
            margins, offsets, view.probs, view.first, view.visible, dropped, layout.first_read, NEVER, levels
        )
        return levels
