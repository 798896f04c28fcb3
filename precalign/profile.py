"""The profile of one kv head: for each rule, what every decode step would read, save and lose."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import UsageError
from precalign.inputs import HeadInputs, Steps
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.layouts import Layout
    from precalign.rules import Rule
    from precalign.traffic import StepTraffic

DEFAULT_SPLIT_TOKENS = 256
DEFAULT_MEMORY_LIMIT_BYTES = 256 << 20


SUMMED = frozenset(
    (
        "key_channel_level_steps",
        "value_token_level_steps",
        "key_channel_wasted_bits",
        "value_channel_wasted_bits",
        "token_visible_steps",
        "token_attention_mass",
        "key_token_wasted_bits",
        "value_token_wasted_bits",
        "key_wasted_histogram",
        "value_wasted_histogram",
    )
)
"""Fields of a profile that add up over blocks of steps; arrays by step are concatenated."""


@dataclass(frozen=True)
class HeadProfile:
    """What one rule does to one kv head over a number of decode steps.

    Attributes
    ----------
    rule : str
        The rule with its parameters.
    levels : tuple[int, ...]
        Read widths in bits; the axis n_levels elsewhere.
    visible_tokens : ndarray[int64], (n_steps,)
        Tokens that the step sees.
    key_level_channels, value_level_tokens : ndarray[int64], (n_steps, n_levels)
        Channels, and visible tokens, read at each level.
    key_wasted_bits, value_wasted_bits : ndarray[int64], (n_steps,)
        Over visible tokens and channels; smallest over the query heads of the group.
    traffic : StepTraffic
        Arrays (n_steps,).
    attempts : ndarray[int64], (n_steps,)
        How often the rule decided; more than once where it did not accept the first outcome.
    optimal_bits : ndarray[int64], (n_steps,)
        Bits that the yardstick needs for the same worst-case error (`precalign.yardstick`).
    score_error_max_vs_full, score_error_max_vs_exact : ndarray[float64], (n_steps, group)
        max_t |s_t - reference|.
    prob_tv_vs_full, prob_tv_vs_exact : ndarray[float64], (n_steps, group)
        Total variation, sum_t |p_t - reference| / 2.
    output_error_vs_full, output_error_vs_exact : ndarray[float64], (n_steps, group)
        Relative, in the 2-norm over channels.
    full_read_error_vs_exact, rounding_error : ndarray[float64], (n_steps, group)
        The same for the output of the full read, and for the exact output rounded to the format of the queries.
    output_max_error_vs_exact : ndarray[float64], (n_steps, group)
        max_c |o_c - exact|, absolute.
    score_bound, output_max_bound, output_bound : ndarray[float64], (n_steps, group)
        Proven bounds on score_error_max_vs_exact, output_max_error_vs_exact and output_error_vs_exact (`precalign.bounds`).
    key_channel_level_steps : ndarray[int64], (head_dim, n_levels)
        Steps that read a channel at a level.
    key_channel_wasted_bits, value_channel_wasted_bits : ndarray[int64], (head_dim,)
        Over steps and visible tokens.
    value_token_level_steps : ndarray[int64], (seq_len, n_levels)
        Steps that see a token and read it at a level.
    token_visible_steps : ndarray[int64], (seq_len,)
        Steps that see a token.
    token_attention_mass : ndarray[float64], (seq_len,)
        Sum of the exact probabilities over steps and query heads.
    key_token_wasted_bits, value_token_wasted_bits : ndarray[int64], (seq_len,)
        Over steps and channels.
    key_wasted_histogram, value_wasted_histogram : ndarray[int64], (p + 1,)
        How many (step, token, channel) waste so many bits.
    """

    rule: str
    levels: tuple[int, ...]
    visible_tokens: NDArray[np.int64]
    key_level_channels: NDArray[np.int64]
    value_level_tokens: NDArray[np.int64]
    key_wasted_bits: NDArray[np.int64]
    value_wasted_bits: NDArray[np.int64]
    traffic: StepTraffic
    attempts: NDArray[np.int64]
    optimal_bits: NDArray[np.int64]
    score_error_max_vs_full: NDArray[np.float64]
    score_error_max_vs_exact: NDArray[np.float64]
    prob_tv_vs_full: NDArray[np.float64]
    prob_tv_vs_exact: NDArray[np.float64]
    output_error_vs_full: NDArray[np.float64]
    output_error_vs_exact: NDArray[np.float64]
    full_read_error_vs_exact: NDArray[np.float64]
    rounding_error: NDArray[np.float64]
    output_max_error_vs_exact: NDArray[np.float64]
    score_bound: NDArray[np.float64]
    output_max_bound: NDArray[np.float64]
    output_bound: NDArray[np.float64]
    key_channel_level_steps: NDArray[np.int64]
    value_token_level_steps: NDArray[np.int64]
    key_channel_wasted_bits: NDArray[np.int64]
    value_channel_wasted_bits: NDArray[np.int64]
    token_visible_steps: NDArray[np.int64]
    token_attention_mass: NDArray[np.float64]
    key_token_wasted_bits: NDArray[np.int64]
    value_token_wasted_bits: NDArray[np.int64]
    key_wasted_histogram: NDArray[np.int64]
    value_wasted_histogram: NDArray[np.int64]


def _concatenate(parts: list[Any]) -> Any:  # noqa: ANN401  # arrays, transfers or step traffic
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return type(parts[0])(*(_concatenate([getattr(part, f.name) for part in parts]) for f in fields(parts[0])))


def merge(profiles: Sequence[HeadProfile]) -> HeadProfile:
    """Join profiles of one head and one rule over consecutive blocks of steps.

    Steps are concatenated, counts added.

    Raises
    ------
    ValueError
        If there is none, or they are of different rules.
    """
    if len({(profile.rule, profile.levels) for profile in profiles}) != 1:
        raise ValueError("profiles of one rule and one layout merge, got " + ", ".join(p.rule for p in profiles))
    joined: dict[str, Any] = {"rule": profiles[0].rule, "levels": profiles[0].levels}
    for name in (field.name for field in fields(HeadProfile) if field.name not in joined):
        parts = [getattr(profile, name) for profile in profiles]
        joined[name] = sum(parts) if name in SUMMED else _concatenate(parts)
    return HeadProfile(**joined)


def _check(inputs: HeadInputs, steps: Steps, rules: Sequence[Rule], layout: Layout, split_tokens: int) -> None:
    seq_len, n_queries = len(inputs.keys), inputs.queries.shape[1]
    if split_tokens < PAGE_TOKENS or split_tokens % PAGE_TOKENS:
        raise UsageError(f"split_tokens must be a positive multiple of {PAGE_TOKENS}, not {split_tokens}")
    if layout.format != inputs.format:
        raise UsageError(f"layout {layout.name} is of {layout.format.name}, {inputs.name} is {inputs.format.name}")
    if not len(steps) == len(steps.first) == len(steps.visible) or not len(steps):
        lengths = f"{len(steps)}, {len(steps.first)}, {len(steps.visible)}"
        raise UsageError(f"{inputs.name}: steps, first and visible must be equally long and not empty, got {lengths}")
    if (steps.queries.min() < 0) or (steps.queries.max() >= n_queries):
        raise UsageError(f"{inputs.name}: steps must be query indices in [0, {n_queries})")
    if (steps.first < 0).any() or (steps.first >= steps.visible).any() or (steps.visible > seq_len).any():
        raise UsageError(f"{inputs.name}: every step must see at least one token: 0 <= first < visible <= {seq_len}")
    for rule in rules:
        rule.check(layout)


def steps_per_block(inputs: HeadInputs, seq_len: int, n_rules: int, memory_limit_bytes: int) -> int:
    """Return how many steps fit the memory limit at once; at least 1, which may need more than the limit."""
    group = inputs.queries.shape[0]
    # Per token: full scores in binary32 and exact ones in binary64; rule by rule reduced ones, their bounds and levels.
    # What the yardstick and a rule weigh tokens with, in binary64 and binary32, comes on top.
    per_step = seq_len * (group * (4 + 8 + 8 + 4 + n_rules * (4 + 4)) + 2 * n_rules)
    return int(max(1, min(256, memory_limit_bytes // per_step)))


def profile_head(
    inputs: HeadInputs,
    *,
    steps: NDArray[np.int64],
    visible: NDArray[np.int64],
    rules: Sequence[Rule],
    layout: Layout,
    first: NDArray[np.int64] | None = None,
    split_tokens: int = DEFAULT_SPLIT_TOKENS,
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
) -> list[HeadProfile]:
    """Emulate decode steps of one kv head under several rules.

    Parameters
    ----------
    inputs : HeadInputs
    steps : ndarray[int64], (n_steps,)
        Query index of each step.
    visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    rules : sequence of Rule
    layout : Layout
        Of keys and values.
    first : ndarray[int64], (n_steps,), optional
        First token that a step sees (sliding windows); 0 where not given.
    split_tokens : int
        Tokens of a split in the stated order, a multiple of 64.
    memory_limit_bytes : int
        Bounds the working arrays of scores and probabilities, whatever the sequence length; results and inputs are not in it.

    Returns
    -------
    list of HeadProfile
        One per rule, in their order.

    Raises
    ------
    UsageError
        If steps see no token or point outside, the layout is of another format, or a rule needs a level it does not have.
    UnavailableError
        If the format cannot be emulated.
    """
    from precalign.block import Reads
    from precalign.block_profile import profile_block

    first = np.zeros_like(visible) if first is None else first
    everything = Steps(*(np.ascontiguousarray(part, np.int64) for part in (steps, first, visible)))
    _check(inputs, everything, rules, layout, split_tokens)
    size = steps_per_block(inputs, int(everything.visible.max()), len(rules), memory_limit_bytes)
    blocks = [everything[begin : begin + size] for begin in range(0, len(everything), size)]
    reads = Reads(inputs, layout)
    done = [profile_block(reads, block, rules, split_tokens) for block in blocks]
    return [merge(of_rule) for of_rule in zip(*done, strict=True)]


__all__ = ["HeadInputs", "HeadProfile", "Steps", "merge", "profile_head"]
