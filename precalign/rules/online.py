"""`online`: values aligned to the largest addend met so far, for kernels that go over keys and values in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.decode.exp2 import LOG2E
from precalign.jit import Array, inline, kernel
from precalign.planes import PAGE_TOKENS
from precalign.rules.aligned_keys import aligned_key_levels
from precalign.rules.base import KeyView, Metadata, Rule, ValueView

if TYPE_CHECKING:
    from numpy.typing import NDArray

FARTHEST = np.float32(1 << 24)
"""Scores are clamped to this many binades either way, so that their floor fits 32 bits; -2^24 is what a token beyond counts as."""


@inline
def addend_exponents(scores: Array, offsets: Array, out: Array) -> None:
    """Write e_t = floor(clamp(s_t * LOG2E)) + max_c E(v_tc), int32, for tokens side by side."""
    for i in range(len(out)):
        binades = min(max(scores[i] * LOG2E, -FARTHEST), FARTHEST)
        out[i] = np.int32(np.floor(binades)) + offsets[i]


@kernel
def running_differences(
    scores: Array, offsets: Array, first: Array, visible: Array, split_tokens: int, running: Array, out: Array
) -> None:
    """Write diff_t, the smallest of the group; `Online` defines it.

    Parameters
    ----------
    scores : ndarray[float32], (group, n_steps, padded_len)
    offsets : ndarray[int32], (seq_len,)
        max_c E(v_tc).
    first, visible : ndarray[int64], (n_steps,)
    split_tokens : int
        A multiple of 64.
    running : bool
        Whether a page knows only what came before it; else every page knows the final maximum.
    out : ndarray[int32], (n_steps, padded_len)
        Written where a step sees the token.
    """
    group, n_steps, _ = scores.shape
    exponents = np.empty(len(offsets), np.int32)
    for step in range(n_steps):
        low, high = first[step], visible[step]
        newest = max(low, (high - 1) // PAGE_TOKENS * PAGE_TOKENS)
        for head in range(group):
            addend_exponents(scores[head, step, low:high], offsets[low:high], exponents[low:high])
            seed = exponents[newest:high].max()
            largest = seed if running else exponents[low:high].max()
            begin = low
            while begin < high:
                if running and begin % split_tokens == 0:
                    largest = seed
                end = min(high, begin // PAGE_TOKENS * PAGE_TOKENS + PAGE_TOKENS)
                largest = max(largest, exponents[begin:end].max())
                for t in range(begin, end):
                    difference = np.int32(largest - exponents[t])
                    out[step, t] = difference if head == 0 else min(out[step, t], difference)
                begin = end


@kernel
def levels_of_differences(
    differences: Array, first: Array, visible: Array, dropped: Array, first_read: int, out: Array
) -> None:
    """Write `first_read` plus how many of `dropped` exceed the difference, (n_steps, padded_len), where a step sees the token."""
    for step in range(len(first)):
        for t in range(first[step], visible[step]):
            level = first_read
            for bits in dropped:
                level += differences[step, t] < bits
            out[step, t] = level


@dataclass(frozen=True)
class Online(Rule):
    """The largest addend met so far takes the place of the largest of all; one pass over the cache, no softmax before it.

    Everything in integers but one multiplication and one floor in binary32, so every implementation gets the same levels:

    - a token's addend has the exponent e_t = floor(clamp(fl(s_t * LOG2E), -2^24, 2^24)) + max_c E(v_tc), with the score s_t and
      LOG2E of the stated order; the maximum and the normaliser of the softmax would shift all e_t alike, so neither is needed;
    - seed = max e_t over the visible tokens of the newest page (64 tokens; the page of the last visible token);
    - splits are independent. In each, pages come in ascending order with M = seed before the first; at a page
      M = max(M, max e_t over the visible tokens of the page), and then its tokens have diff_t = M - e_t;
    - each query head has its own e_t and M; the group takes the smallest diff_t of its heads, and reads the narrowest level whose
      dropped bits plus `guard_bits` do not exceed it.

    M only grows towards the maximum over all tokens, so no token is read at fewer bits than with that maximum (`two_pass`). The seed
    is what keeps a split of little weight from being read as if it stood alone: recent tokens tend to be heavy.

    Attributes
    ----------
    guard_bits : int
        Bits kept beyond the alignment, keys and values alike.
    two_pass : int
        1: every page knows the maximum over all tokens. For comparison: it takes a pass of its own.
    """

    name = "online"
    metadata = Metadata(key_channels=True, value_tokens=True)
    reads_scores = True

    guard_bits: int = 0
    two_pass: int = 0

    @property
    def one_pass(self) -> bool:
        """Whether scores and probabilities stay inside the kernel."""
        return not self.two_pass

    def key_levels(self, view: KeyView) -> NDArray[np.uint8]:
        """Apply the published key rule."""
        return aligned_key_levels(view, self.guard_bits)

    def value_levels(self, view: ValueView, prepass: NDArray[np.int32] | None) -> NDArray[np.uint8]:
        """Align each token's values to the largest term met so far."""
        del prepass
        assert view.scores is not None  # noqa: S101 - `reads_scores` asks for them
        layout, window = view.layout, (view.first, view.visible)
        offsets = view.token_max_exponents.astype(np.int32)
        differences = np.empty(view.scores.shape[1:], np.int32)
        running_differences(view.scores, offsets, *window, view.split_tokens, not self.two_pass, differences)
        dropped = (layout.dropped_bits[layout.first_read : -1] + self.guard_bits).astype(np.int32)
        levels = np.empty(differences.shape, np.uint8)
        levels_of_differences(differences, *window, dropped, layout.first_read, levels)
        return levels
