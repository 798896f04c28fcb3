"""The profile of a block of steps: what rules make of it, and the figures that no rule changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.block import Block
from precalign.counts import token_sums
from precalign.decode.codes import round_to_format
from precalign.decode.errors import output_errors, total_variation
from precalign.decode.scores import TILE
from precalign.profile import HeadProfile
from precalign.reading import read_block, settle
from precalign.waste import Waste, add_key_waste, add_value_waste
from precalign.yardstick import optimal_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.block import Reads
    from precalign.inputs import Steps
    from precalign.reading import Reading
    from precalign.rules import Rule


def _shared_figures(block: Block, exact_probs: NDArray[np.float64], full_probs: NDArray[np.float32]) -> dict[str, Any]:
    """Return the figures of a block that no rule changes."""
    inputs, steps = block.inputs, block.steps
    seq_len, n_steps = len(inputs.keys), block.n_steps
    key_waste = Waste.zeros(n_steps, block.head_dim, seq_len, inputs.format.precision_bits)
    value_waste = Waste.zeros(n_steps, block.head_dim, seq_len, inputs.format.precision_bits)
    n_tiles = block.padded_len // TILE
    query_exponents = np.ascontiguousarray(inputs.query_exponents[:, steps.queries])
    add_key_waste(key_waste, query_exponents, inputs.key_exponent_tiles[:n_tiles], *block.window)
    values = inputs.value_exponent_tiles[:n_tiles], inputs.value_exponent_rows
    add_value_waste(value_waste, full_probs, *values, *block.window)
    mass, seen = token_sums(exact_probs, *block.window, seq_len)
    return {
        "levels": block.layout.levels,
        "visible_tokens": steps.visible - steps.first,
        "key_wasted_bits": key_waste.step_bits,
        "value_wasted_bits": value_waste.step_bits,
        "key_channel_wasted_bits": key_waste.channel_bits,
        "value_channel_wasted_bits": value_waste.channel_bits,
        "token_visible_steps": seen,
        "token_attention_mass": mass,
        "key_token_wasted_bits": key_waste.token_bits,
        "value_token_wasted_bits": value_waste.token_bits,
        "key_wasted_histogram": key_waste.histogram,
        "value_wasted_histogram": value_waste.histogram,
    }


def profile_block(reads: Reads, steps: Steps, rules: Sequence[Rule], split_tokens: int) -> list[HeadProfile]:
    """Return the profile of a block of steps for each rule; `precalign.profile.profile_head` documents the arguments."""
    block, inputs = Block(reads, steps, split_tokens), reads.inputs
    done = read_block(block, rules)
    for rule, reading in zip(rules, done.readings, strict=True):
        settle(block, rule, reading)
    full, exact, full_out, exact_out = done.full_probs, done.exact_probs, done.full_outputs, done.exact_outputs

    shared = _shared_figures(block, exact, full)
    shared["full_read_error_vs_exact"] = output_errors(full_out, exact_out)[0].T
    shared["rounding_error"] = output_errors(round_to_format(exact_out, inputs.outside_format), exact_out)[0].T
    levels = [(reading.key_levels, reading.value_levels) for reading in done.readings]
    least_bits = optimal_bits(block, full, full_out, levels)
    profiles = []
    for rule, reading, least in zip(rules, done.readings, least_bits, strict=True):
        probs, out, bounds = reading.probs, reading.outputs, reading.bounds
        relative, largest = output_errors(out, exact_out)
        profiles.append(
            HeadProfile(
                **shared,
                **_level_figures(block, rule, reading),
                optimal_bits=least,
                score_error_max_vs_full=reading.score_errors[0].T,
                score_error_max_vs_exact=reading.score_errors[1].T,
                prob_tv_vs_full=total_variation(probs, full, *block.window).T,
                prob_tv_vs_exact=total_variation(probs, exact, *block.window).T,
                output_error_vs_full=output_errors(out, full_out)[0].T,
                output_error_vs_exact=relative.T,
                output_max_error_vs_exact=largest.T,
                score_bound=bounds.scores.T,
                output_max_bound=bounds.output_max.T,
                output_bound=bounds.output_relative.T,
            )
        )
    return profiles


def _level_figures(block: Block, rule: Rule, reading: Reading) -> dict[str, Any]:
    """Return what a rule reads: counts by level, and the traffic."""
    counts = reading.counts(block)
    return {
        "rule": str(rule),
        "key_level_channels": counts.channels,
        "value_level_tokens": counts.tokens,
        "key_channel_level_steps": counts.channel_steps,
        "value_token_level_steps": counts.token_steps,
        "traffic": reading.traffic,
        "attempts": reading.attempts,
    }
