"""Decode attention over codes in planes, of which a rule reads as many as each channel of keys and each token's values need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.attention import multiply, seen_tokens, softmax
from precalign.counts import count_levels, window_max
from precalign.errors import UsageError
from precalign.rules.aligned_max import AlignedMax
from precalign.rules.alignedkv import AlignedKV
from precalign.rules.base import KeyView, Metadata, Rule, ValueView
from precalign.rules.full import Full
from precalign.rules.online import Online
from precalign.rules.static import Static
from precalign.traffic import StepTraffic, step_traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.codecs.planed import PlanedHead
    from precalign.inputs import Steps
    from precalign.layouts import Layout

RULES = (AlignedKV, AlignedMax, Full, Online, Static)
"""Rules that go by exponents alone (`aligned-skip` is an `AlignedMax`); the proofs of the others are of floats without scales."""


@dataclass(frozen=True)
class PlanedSteps:
    """What a rule makes of decode steps of one kv head.

    Attributes
    ----------
    scores : ndarray[float64], (group, n_steps, seq_len)
        -inf where a step does not see the token.
    outputs : ndarray[float64], (group, n_steps, head_dim)
    key_levels : ndarray[uint8], (n_steps, head_dim)
    value_levels : ndarray[uint8], (n_steps, seq_len)
    moved : ndarray[int64], (n_steps,)
        Bytes of the 32-byte sectors read: of planes, of what stands beside them, of running maxima and a pre-pass.
    """

    scores: NDArray[np.float64]
    outputs: NDArray[np.float64]
    key_levels: NDArray[np.uint8]
    value_levels: NDArray[np.uint8]
    moved: NDArray[np.int64]


def check_rule(rule: Rule) -> None:
    """Raise UsageError for a rule that cannot decide over a codec's codes."""
    if not isinstance(rule, RULES):
        raise UsageError(
            f"rule {rule.name} does not read codes of a codec: what it proves is of floats that have no scale",
            hint="rules that do: alignedkv, aligned-max, aligned-skip, online, static, full",
        )


def planed_steps(
    queries: NDArray[np.float32],
    query_exponents: NDArray[np.signedinteger],
    keys: PlanedHead,
    values: PlanedHead,
    rule: Rule,
    steps: Steps,
    scale: float,
    *,
    query_bits: int,
    split_tokens: int = 256,
) -> PlanedSteps:
    """Decide, read and attend, in binary64 over the numbers that are read.

    A rule sees exponents E(code) + E(scale), so what it aligns is the absolute precision of the codes' last bits; the rest of its definition stands.

    Parameters
    ----------
    queries : ndarray[float32], (group, n_steps, head_dim)
    query_exponents : ndarray[int8 or int16], of the same shape
        E(q_d), emin of the queries' format for subnormals and zeros.
    keys, values : PlanedHead
    rule : Rule
    steps : Steps
    scale : float
    query_bits : int
        Of a number of the queries.
    split_tokens : int
        Of the order in which a kernel goes over tokens, for `online`.

    Raises
    ------
    UsageError
        If the rule cannot decide over these codes or levels.
    """
    check_rule(rule)
    layout, (group, n_steps, _) = keys.layout, queries.shape
    rule.check(layout)
    seq_len = len(keys.beside)
    key_view = KeyView(
        layout=layout,
        queries=queries,
        query_exponents=query_exponents.astype(np.int16),
        key_max_exponents=window_max(keys.exponents, steps.first, steps.visible),
        first=steps.first,
        visible=steps.visible,
        scale=scale,
        value_top_exponents=window_max(values.exponents.max(axis=1, keepdims=True), steps.first, steps.visible)[:, 0],
        beside_bytes=np.zeros(n_steps, np.int64),
    )
    key_levels = rule.key_levels(key_view)
    wide = queries.astype(np.float64)
    scores = _sum_by_level(wide, key_levels, layout, seq_len, lambda level: keys.numbers(level).T) * scale
    scores[:, ~seen_tokens(steps, seq_len)] = -np.inf
    probs = softmax(scores)
    value_view = ValueView(
        layout=layout,
        probs=probs.astype(np.float32),
        value_max_exponents=window_max(values.exponents, steps.first, steps.visible),
        token_max_exponents=values.exponents.max(axis=1),
        values=values.codes(len(layout.levels) - 1),
        first=steps.first,
        visible=steps.visible,
        split_tokens=split_tokens,
        peek=lambda tokens: values.numbers(layout.first_read)[tokens],
        value_rounding=0.0,
        scores=np.maximum(scores, np.finfo(np.float32).min).astype(np.float32),
    )
    prepass = rule.prepass_tokens(value_view)
    value_levels = rule.value_levels(value_view, prepass)
    traffic = _traffic(rule, keys, values, key_levels, value_levels, prepass, group, steps, query_bits)
    moved = (traffic.keys + traffic.values + traffic.metadata + traffic.prepass).sectors
    moved = 32 * (moved + (keys.beside_transfer(steps) + values.beside_transfer(steps)).sectors)
    outputs = _sum_by_level(probs, value_levels, values.layout, values.scales.shape[1], values.numbers)
    return PlanedSteps(scores, outputs, key_levels, value_levels, moved)


def _sum_by_level(
    rows: NDArray[np.float64],
    levels: NDArray[np.uint8],
    layout: Layout,
    n_columns: int,
    columns: Callable[[int], NDArray[np.float32]],
) -> NDArray[np.float64]:
    """Return rows (group, n_steps, n) times columns (n, n_columns), each of the n as it reads at its level (n_steps, n); what is skipped takes no part."""
    out = np.zeros((*rows.shape[:2], n_columns))
    for level in range(layout.first_read, len(layout.levels)):
        chosen = levels == level
        if chosen.any():
            out += multiply(np.where(chosen, rows, 0), columns(level).astype(np.float64))
    return out


def _traffic(
    rule: Rule,
    keys: PlanedHead,
    values: PlanedHead,
    key_levels: NDArray[np.uint8],
    value_levels: NDArray[np.uint8],
    prepass: NDArray[np.int32] | None,
    group: int,
    steps: Steps,
    query_bits: int,
) -> StepTraffic:
    """Count what the planes, the running maxima and the pre-pass move.

    Where scales alone make the exponents, the token maxima are read with the scales.
    """
    asked = rule.metadata
    metadata = Metadata(asked.key_channels, asked.value_channels, asked.value_tokens and not values.scales_tell)
    n_levels, window = len(keys.layout.levels), (steps.first, steps.visible)
    channels = (key_levels[:, :, None] == np.arange(n_levels, dtype=np.uint8)).sum(axis=1, dtype=np.int64)
    tokens, _ = count_levels(value_levels, *window, n_levels, len(keys.beside))
    levels = (key_levels, value_levels, channels, tokens)
    return step_traffic(
        keys.layout, metadata, *levels, prepass, group, *window, one_pass=rule.one_pass, query_bits=query_bits
    )
