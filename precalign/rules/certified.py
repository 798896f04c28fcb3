"""`certified`: the fewest bytes whose proven bound on the output meets a tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.bounds.rounding import gamma
from precalign.bounds.scores import half_widths
from precalign.errors import UsageError
from precalign.jit import Array, kernel
from precalign.rules.alignedkv import strongest_tokens
from precalign.rules.allocate import Prices, cover
from precalign.rules.base import Attempt, KeyReading, KeyView, Metadata, Rule, ValueView
from precalign.rules.plan import binades, key_tops, size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout

KEY_SHARE = 0.4
"""Share of the tolerance that keys are planned to take; values get what they leave. Bytes depend little on it: half or twice the share is one bit
of every key that is not read whole."""
TRUST = 0.2
"""Share of their length that the mean of few tokens is given where they hold little of the attention: the others may point elsewhere."""
WEAKEST = 1 / 16
"""A token is looked at if it has this much of the strongest one's probability."""
MISSED = 1.25
"""What scores do to all tokens, over what they do to the strongest ones."""
FIRST = 0.8
"""Share of the tolerance that a first attempt aims at."""
SECOND = 0.95
"""Share of the tolerance that a second attempt aims at: it knows what the first one found."""
KEYS_AT_MOST = 0.6
"""Share of the tolerance above which a second attempt reads more of the keys, not of the values alone."""
LAST_ATTEMPT = 3
"""The attempt that reads everything."""
LEAST_SHARE = 0.1
"""Share of the tolerance that values are given at least, whatever keys seem to have used."""
ACCEPTED = 1 - 2.0**-22
"""A bound is met with room for the rounding of the tables to binary32."""


LARGEST = 1e30


def _needs(weights: NDArray[Any], allowed: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return weights times sizes (n,) in units of what they may do, (group, n_steps, n); not defined where a step does not see an item."""
    with np.errstate(invalid="ignore", over="ignore"):
        needs = weights * (sizes / np.maximum(allowed, 1 / LARGEST)[..., None])
        return np.minimum(needs, LARGEST).astype(np.float32)


@kernel
def _likeness(probs: Array, first: Array, visible: Array) -> Array:
    """Return max_g p_gt / max_t' p_gt', (1, n_steps, n_tokens): 1 for each head's strongest token, 0 where a step does not see it."""
    group, n_steps, n_tokens = probs.shape
    out = np.zeros((1, n_steps, n_tokens), np.float32)
    for step in range(n_steps):
        for head in range(group):
            row, best = probs[head, step, first[step] : visible[step]], out[0, step, first[step] : visible[step]]
            largest = row.max()
            for t in range(len(row)):
                best[t] = max(best[t], row[t] / largest)
    return out


@kernel
def _sums_by_level(
    probs: Array, tops: Array, levels: Array, h: Array, first: Array, visible: Array, first_read: int
) -> tuple[Array, Array]:
    """Return sum_t p_t top_t h(l_t) over the tokens that are read, and sum_t p_t top_t over the others, (group, n_steps)."""
    group, n_steps, _ = probs.shape
    read, unread = np.zeros((group, n_steps)), np.zeros((group, n_steps))
    for head in range(group):
        for step in range(n_steps):
            for t in range(first[step], visible[step]):
                term, level = probs[head, step, t] * tops[t], levels[step, t]
                if level >= first_read:
                    read[head, step] += term * h[level]
                else:
                    unread[head, step] += term
    return read, unread


def _key_reading(view: ValueView) -> KeyReading:
    assert view.keys is not None  # noqa: S101 - a step reads its keys first
    return view.keys


def _rest(bound: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what values make of a bound; all of it where nothing is proven."""
    proven = np.isfinite(bound)
    return np.where(proven, bound - np.where(proven, moved, 0), np.inf)


@dataclass(frozen=True)
class Certified(Rule):
    """Fewest bytes with a proven bound on every query head's output within `tolerance`.

    The order in which it gets to know things (docs/certified.md):

    1. keys, from queries and running maxima: the fewest bits with which no score moves by more than a share of the tolerance over `spread`;
    2. the scores' own errors are proven then; the strongest tokens' values at the first level, a pre-pass, tell about what they do to the output;
    3. values, from probabilities and token maxima: the fewest bytes for what the scores leave of the tolerance;
    4. the bound of what was read is proven. Where it exceeds the tolerance, a second attempt reads more, knowing what each part did; a third reads
       everything. What an attempt has read that must be read again is counted as pre-pass.

    Attributes
    ----------
    tolerance : float
        On ||o - exact||_2 / ||exact||_2, or on max_c |o_c - exact_c|.
    relative : int
        1: relative to the exact output's norm; 0: absolute.
    spread : float
        By how much the output is taken to move, relative to its norm (absolute: to the largest binade of a value), if scores move by at most 1. It
        decides how many bits keys get at first, not whether the tolerance is met.
    """

    name = "certified"
    metadata = Metadata(key_channels=True, value_tokens=True)

    tolerance: float = 0.01
    relative: int = 1
    spread: float = 2.0

    def check(self, layout: Layout) -> None:
        """Raise UsageError unless the tolerance is positive and finite, and `relative` 0 or 1."""
        super().check(layout)
        if not 0 < self.tolerance < np.inf:
            raise UsageError(
                f"rule {self}: tolerance must be positive and finite", hint="certified:tolerance=0.01 allows 1 %"
            )
        if not 0 < self.spread < np.inf:
            raise UsageError(f"rule {self}: spread must be positive and finite", hint="it is 2 where none is given")
        if self.relative not in (0, 1):
            raise UsageError(f"rule {self}: relative must be 1 or 0", hint="relative=0 makes the tolerance absolute")

    @property
    def _limit(self) -> float:
        """What the norm of the error may be of the computed output's: |e| <= tau |exact| holds if |e| <= tau / (1 + tau) |o|."""
        return self.tolerance / (1 + self.tolerance) if self.relative else self.tolerance

    def _parts(self, attempt: Attempt) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the limit, and the parts of the bound that scores and values made, (group, n_steps)."""
        bounds = attempt.bounds
        if self.relative:
            return self._limit * attempt.output_norms, bounds.moved_norm, _rest(bounds.output_norm, bounds.moved_norm)
        limit = np.full(attempt.output_norms.shape, self._limit)
        return limit, bounds.moved_max, _rest(bounds.output_max, bounds.moved_max)

    def accepts(self, attempt: Attempt) -> NDArray[np.bool_]:
        """Accept a step whose bound meets the tolerance for every query head, and what was read whole."""
        bound = attempt.bounds.output_relative if self.relative else attempt.bounds.output_max
        met: NDArray[np.bool_] = np.all(bound <= self.tolerance * ACCEPTED, axis=0)
        return met if attempt.number < LAST_ATTEMPT else np.ones_like(met)

    def key_levels(self, view: KeyView) -> NDArray[np.uint8]:
        """Return the fewest bits with which scores take no more than their share."""
        layout, head_dim = view.layout, view.queries.shape[-1]
        h = half_widths(layout) + 2 * gamma(head_dim)
        before = view.previous
        if before is not None and before.number + 1 == LAST_ATTEMPT:
            return np.full(before.key_levels.shape, len(layout.levels) - 1, np.uint8)
        channels = np.zeros(len(view.first), np.int64), np.full(len(view.first), head_dim)
        prices = Prices.of_bits(layout)
        tops = key_tops(view)
        if before is None:
            return cover(_needs(tops, self._planned(view), np.ones(head_dim)), h, prices, *channels)
        limit, moved, _ = self._parts(before)
        did = (tops * h[before.key_levels]).sum(axis=-1)
        wanted = did * np.minimum(1, KEYS_AT_MOST * SECOND * limit / np.maximum(moved, 1e-300))
        wanted = np.where(np.isfinite(moved), wanted, 0)
        again: NDArray[np.bool_] = np.any(moved > KEYS_AT_MOST * limit, axis=0)
        levels = cover(_needs(tops, wanted, np.ones(head_dim)), h, prices, *channels)
        return np.where(again[:, None], np.maximum(levels, before.key_levels), before.key_levels)

    def _planned(self, view: KeyView) -> NDArray[np.float64]:
        """Return by how much scores may move in a first attempt, (1, n_steps)."""
        if self.relative:
            return np.full((1, len(view.first)), KEY_SHARE * self._limit / self.spread)
        tops = np.ldexp(1.0, view.value_top_exponents.astype(np.int32))
        return KEY_SHARE * self._limit / (self.spread * tops)[None]

    def prepass_tokens(self, view: ValueView) -> NDArray[np.int32] | None:
        """Return the strongest tokens by the largest probability of the group, (1, n_steps, 32); none for a later attempt."""
        if _key_reading(view).view.previous is not None:
            return None
        likeness = _likeness(view.probs, view.first, view.visible)
        tokens: NDArray[np.int32] = strongest_tokens(likeness, view.first, view.visible)
        found = np.take_along_axis(likeness, np.maximum(tokens, 0).astype(np.int64), axis=2)
        return np.where(found >= WEAKEST, tokens, np.int32(-1))

    def value_levels(self, view: ValueView, prepass: NDArray[np.int32] | None) -> NDArray[np.uint8]:
        """Return the fewest bytes for what the scores leave of the tolerance."""
        layout, before = view.layout, _key_reading(view).view.previous
        n_tokens = view.probs.shape[2]
        if before is not None and before.number + 1 == LAST_ATTEMPT:
            return np.full((len(view.first), n_tokens), len(layout.levels) - 1, np.uint8)
        h = half_widths(layout) + view.value_rounding
        tops = np.zeros(n_tokens)
        tops[: len(view.token_max_exponents)] = np.ldexp(1.0, view.token_max_exponents.astype(np.int32))
        if before is None:
            limit, moved, per_top = self._estimates(view, prepass)
        else:
            limit, moved, per_top = self._known(view, before, h, tops)
        left = np.maximum(limit - moved, LEAST_SHARE * limit)
        if layout.skip:
            h = np.repeat(h[None], len(view.first), axis=0)
            h[:, 0] = self._unread(view) / np.maximum(per_top.mean(axis=0), 1e-300)
        needs = _needs(view.probs, left / np.maximum(per_top, 1e-300), tops)
        prices = Prices.of_rows(layout, view.values.shape[1])
        return cover(needs, h, prices, view.first, view.visible)

    def _estimates(
        self, view: ValueView, tokens: NDArray[np.int32] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return from the strongest tokens what the error may be, what scores make of it, and the size of values in units of 2^max_c E(v_tc)."""
        assert tokens is not None  # noqa: S101 - asked for in the first attempt
        relative, there = bool(self.relative), tokens[0] >= 0
        chosen = np.maximum(tokens[0], 0)
        rows = np.arange(len(chosen))[:, None]
        probs = np.where(there, view.probs[:, rows, chosen], 0).astype(np.float64)
        errors = probs * np.where(there, _key_reading(view).log_errors[:, rows, chosen], 0)  # undefined where not seen
        values = view.peek(chosen).astype(np.float64)
        mass = probs.sum(axis=-1)[..., None]
        mean = np.einsum("gsj,sjc->gsc", probs, values) / mass
        spread, scatter = np.zeros_like(mean), np.zeros_like(mean)
        for j in range(chosen.shape[1]):
            away = np.abs(values[:, j] - mean)
            spread += errors[..., j, None] * away
            scatter += (probs[..., j, None] * away) ** 2
        # The mean of few tokens is longer than that of all by what they scatter; and the others, as long, point elsewhere.
        share = np.minimum(mass[..., 0], 1)
        norm = (mean**2).sum(axis=-1) - (1 - share) * (scatter / mass**2).sum(axis=-1)
        norm = np.sqrt(np.maximum(norm, (mean**2).sum(axis=-1) / 4)) if relative else np.ones(mass.shape[:2])
        norm *= TRUST + (1 - TRUST) * np.sqrt(share) if relative else 1
        least = 2.0**view.layout.format.emin
        sizes = (probs * size(binades(values, least), relative=relative)).sum(axis=-1)
        tops = np.ldexp(1.0, view.token_max_exponents.astype(np.int32))[chosen]
        per_top = sizes / np.maximum((probs * tops).sum(axis=-1), 1e-300)
        return FIRST * self._limit * norm, MISSED * size(spread / mass, relative=relative), per_top

    def _known(
        self, view: ValueView, before: Attempt, h: NDArray[np.float64], tops: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the same from what the last attempt found."""
        limit, moved, rest = self._parts(before)
        keys = _key_reading(view)
        terms = key_tops(keys.view)
        widths = half_widths(view.layout) + 2 * gamma(view.values.shape[1])
        now, then = ((terms * widths[levels]).sum(axis=-1) for levels in (keys.levels, before.key_levels))
        levels = before.value_levels[:, : len(tops)]
        did, unread = _sums_by_level(view.probs, tops, levels, h, view.first, view.visible, view.layout.first_read)
        unread *= self._unread(view)
        per_top = np.maximum(rest - unread, 0.1 * rest) / np.maximum(did, 1e-300)
        return SECOND * limit, moved * now / np.maximum(then, 1e-300), per_top

    def _unread(self, view: ValueView) -> float:
        """Return the size of values of which nothing is known but that each is below 2 * 2^max_c E(v_tc)."""
        return 2 * np.sqrt(view.values.shape[1]) if self.relative else 2.0
