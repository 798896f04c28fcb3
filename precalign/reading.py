"""What rules make of a block of decode steps, in the order in which a kernel gets to know it; and asking again where a rule wants that."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.block import Block
from precalign.bounds.steps import output_bounds, score_bounds
from precalign.counts import count_levels, window_max
from precalign.decode.errors import largest_difference
from precalign.decode.exact import softmax_binary64
from precalign.rules.base import Attempt, KeyReading
from precalign.traffic import StepTraffic, Transfer, step_traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.bounds import Bounds
    from precalign.rules import Rule


@dataclass(frozen=True)
class LevelCounts:
    """How much is read at each level.

    Attributes
    ----------
    channels, tokens : ndarray[int64], (n_steps, n_levels)
        Key channels, and visible tokens' values.
    channel_steps, token_steps : ndarray[int64], (head_dim, n_levels) and (seq_len, n_levels)
        Steps that read the channel, or see the token and read it, at the level.
    """

    channels: NDArray[np.int64]
    channel_steps: NDArray[np.int64]
    tokens: NDArray[np.int64]
    token_steps: NDArray[np.int64]

    @classmethod
    def of(cls, block: Block, key_levels: NDArray[np.uint8], value_levels: NDArray[np.uint8]) -> LevelCounts:
        """Count levels of keys (n_steps, head_dim) and of values (n_steps, padded_len)."""
        n_levels, all_channels = len(block.layout.levels), np.full(block.n_steps, block.head_dim)
        channels = count_levels(key_levels, np.zeros_like(all_channels), all_channels, n_levels, block.head_dim)
        tokens = count_levels(value_levels, *block.window, n_levels, len(block.inputs.keys))
        return cls(*channels, *tokens)


@dataclass
class Reading:
    """What one rule makes of a block; `group` and `n_steps` lead.

    Attributes
    ----------
    key_levels : ndarray[uint8], (n_steps, head_dim)
    value_levels : ndarray[uint8], (n_steps, padded_len)
    probs : ndarray[float32], (group, n_steps, padded_len)
    outputs : ndarray[float32], (group, n_steps, head_dim)
    score_errors : pair of ndarray[float64], (group, n_steps)
        Against the full read and against binary64.
    bounds : Bounds
    traffic : StepTraffic
        Of all attempts.
    attempts : ndarray[int64], (n_steps,)
    """

    key_levels: NDArray[np.uint8]
    value_levels: NDArray[np.uint8]
    probs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    score_errors: tuple[NDArray[np.float64], NDArray[np.float64]]
    bounds: Bounds
    traffic: StepTraffic
    _counts: LevelCounts | None = None
    attempts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.attempts = np.ones(len(self.key_levels), np.int64)

    def attempt(self, number: int) -> Attempt:
        """Return what the rule may know of it."""
        norms = np.sqrt((self.outputs.astype(np.float64) ** 2).sum(axis=-1))
        return Attempt(number, self.key_levels, self.value_levels, norms, self.bounds)

    def counts(self, block: Block) -> LevelCounts:
        """Return what is read at each level."""
        if self._counts is None:
            self._counts = LevelCounts.of(block, self.key_levels, self.value_levels)
        return self._counts

    def put(self, steps: NDArray[np.int64], other: Reading) -> None:
        """Take the steps of a later attempt, and add what this one has moved for them."""
        self.traffic = _with_lost(self, steps, other)
        self._counts = None
        self.probs = self.probs.copy()  # rules that read keys alike share them
        width = other.value_levels.shape[1]
        self.key_levels[steps], self.value_levels[steps, :width] = other.key_levels, other.value_levels
        self.probs[:, steps, :width], self.outputs[:, steps] = other.probs, other.outputs
        for mine, others in zip(self.score_errors, other.score_errors, strict=True):
            mine[:, steps] = others
        for part in fields(self.bounds):
            getattr(self.bounds, part.name)[:, steps] = getattr(other.bounds, part.name)
        self.attempts[steps] += 1


@dataclass(frozen=True)
class BlockReadings:
    """The readings of a block, and the full and exact results beside them: (group, n_steps, ..)."""

    readings: list[Reading]
    full_probs: NDArray[np.float32]
    exact_probs: NDArray[np.float64]
    full_outputs: NDArray[np.float32]
    exact_outputs: NDArray[np.float64]


def _with_lost(reading: Reading, steps: NDArray[np.int64], later: Reading) -> StepTraffic:
    """Return the traffic with later attempts at some steps; what the first has read counts as pre-pass.

    Keys whose levels stay are not read again: then their scores stay, too.
    """
    before, after = reading.traffic, later.traffic
    again = (reading.key_levels[steps] != later.key_levels).any(axis=1)
    lost = before.prepass.take(steps) + before.values.take(steps) + before.metadata.take(steps)
    lost += before.keys.take(steps).where(again)
    columns: dict[str, Any] = {}
    for part in fields(StepTraffic):
        old, new = getattr(before, part.name), getattr(after, part.name)
        if isinstance(old, Transfer):
            columns[part.name] = old.replaced(steps, new + lost if part.name == "prepass" else new)
            continue
        merged = old.copy()
        # Scores and probabilities are written anew where keys are.
        stored = part.name in ("scores_bytes", "probs_bytes")
        merged[steps] = np.where(again, old[steps], 0) + new if stored else new
        columns[part.name] = merged
    return StepTraffic(**columns)


def _traffic(
    block: Block,
    rule: Rule,
    key_levels: NDArray[np.uint8],
    value_levels: NDArray[np.uint8],
    counts: LevelCounts,
    prepass: NDArray[np.int32] | None,
) -> StepTraffic:
    return step_traffic(
        block.layout,
        rule.metadata,
        key_levels,
        value_levels,
        counts.channels,
        counts.tokens,
        prepass,
        block.group,
        *block.window,
        one_pass=rule.one_pass,
        beside=block.reads.beside,
        query_bits=block.inputs.outside_format.total_bits,
    )


def read_block(block: Block, rules: Sequence[Rule], previous: Attempt | None = None) -> BlockReadings:
    """Decide and read a block of steps under each rule.

    Parameters
    ----------
    block : Block
    rules : sequence of Rule
    previous : Attempt, optional
        What the last attempt of the only rule at these steps led to.
    """
    key_view = block.key_view(previous)
    key_levels = [rule.key_levels(key_view) for rule in rules]
    distinct, which = _distinct([block.full_key_levels, *key_levels])
    scored, exact = block.scores(distinct)
    full, used = scored[0], sorted(set(which[1:]))
    score_errors = {
        i: (largest_difference(scored[i], full, *block.window), largest_difference(scored[i], exact, *block.window))
        for i in used
    }
    log_errors = dict(
        zip(used, score_bounds(block, [distinct[i] for i in used], [scored[i] for i in used]), strict=True)
    )
    kept = {i: scored[i].copy() for rule, i in zip(rules, which[1:], strict=True) if rule.reads_scores}
    for s in scored:
        block.softmax(s)
    softmax_binary64(exact, *block.window)

    value_max = window_max(block.inputs.value_exponents, *block.window)
    views = [
        block.value_view(
            scored[i],
            value_max,
            kept[i] if rule.reads_scores else None,
            KeyReading(key_view, levels, log_errors[i][1]),
        )
        for rule, i, levels in zip(rules, which[1:], key_levels, strict=True)
    ]
    prepasses = [rule.prepass_tokens(view) for rule, view in zip(rules, views, strict=True)]
    decisions = zip(rules, views, prepasses, strict=True)
    value_levels = [rule.value_levels(view, prepass) for rule, view, prepass in decisions]
    probs = [scored[i] for i in which]
    (full_out, *outs), exact_out = block.outputs(probs, [block.full_value_levels, *value_levels], exact)
    bounds = output_bounds(block, scored, log_errors, which[1:], value_levels, outs)
    readings = []
    for n, rule in enumerate(rules):
        levels = key_levels[n], value_levels[n]
        counts = LevelCounts.of(block, *levels)
        traffic = _traffic(block, rule, *levels, counts, prepasses[n])
        errors = tuple(error.copy() for error in score_errors[which[n + 1]])
        readings.append(Reading(*levels, probs[n + 1], outs[n], errors, bounds[n], traffic, counts))
    return BlockReadings(readings, full, exact, full_out, exact_out)


def _distinct(levels: Sequence[NDArray[np.uint8]]) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Return the different ones among arrays of levels, and which of them each is: rules that read keys alike share scores and bounds."""
    found: list[NDArray[np.uint8]] = []
    which = []
    for rows in levels:
        place = next((i for i, other in enumerate(found) if np.array_equal(rows, other)), len(found))
        if place == len(found):
            found.append(rows)
        which.append(place)
    return found, which


def settle(block: Block, rule: Rule, reading: Reading) -> None:
    """Ask the rule again for the steps whose outcome it does not accept, until it accepts all."""
    number = 1
    pending = np.flatnonzero(~rule.accepts(reading.attempt(number)))
    while len(pending):
        again = Block(block.reads, block.steps[pending], block.split_tokens)
        (later,) = read_block(again, [rule], reading.attempt(number)[pending]).readings
        reading.put(pending, later)
        number += 1
        pending = pending[~rule.accepts(later.attempt(number))]
