"""From the profile of one kv head to rows of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.results.quantiles import quantiles_of
from precalign.analysis.results.schema import ERRORS, READS, SPREADS
from precalign.analysis.results.tables import make_table
from precalign.bounds.scores import round_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from precalign.analysis.cache_stats import CacheStats, Magnitudes
    from precalign.formats import Format
    from precalign.profile import HeadProfile

Columns = dict[str, Any]
Schemas = dict[str, "pa.Schema"]

QUANTILES = (0.5, 0.99, 1.0)
"""What `SPREADS` names."""

PROFILE_ERRORS = {
    "score_max_error_to_full": "score_error_max_vs_full",
    "score_max_error_to_exact": "score_error_max_vs_exact",
    "prob_total_variation_to_full": "prob_tv_vs_full",
    "prob_total_variation_to_exact": "prob_tv_vs_exact",
    "output_relative_error_to_full": "output_error_vs_full",
    "output_relative_error_to_exact": "output_error_vs_exact",
    "output_max_error_to_exact": "output_max_error_vs_exact",
    "full_relative_error_to_exact": "full_read_error_vs_exact",
    "rounding_relative_error": "rounding_error",
}
"""Column -> attribute of `HeadProfile`."""

PROFILE_BOUNDS = {
    "score_max_bound": "score_bound",
    "output_max_bound": "output_max_bound",
    "output_relative_bound": "output_bound",
}
TIGHTNESS = {
    "score_bound_tightness": ("score_bound", "score_error_max_vs_exact"),
    "output_bound_tightness": ("output_bound", "output_error_vs_exact"),
}


@dataclass(frozen=True)
class Place:
    """Which kv head rows are about.

    Attributes
    ----------
    layer, kv_head : int
    query_heads : range
        Query heads of its group; empty without queries.
    format : Format
    """

    layer: int
    kv_head: int
    query_heads: range
    format: Format

    @property
    def index(self) -> Columns:
        """The index columns."""
        return {"layer": self.layer, "kv_head": self.kv_head}


def errors_of(profile: HeadProfile) -> dict[str, NDArray[np.float32]]:
    """Return each column of `ERRORS` as (n_steps, group), rounded to binary32 as the tables hold it: bounds upwards."""
    errors = {column: getattr(profile, attribute).astype(np.float32) for column, attribute in PROFILE_ERRORS.items()}
    errors |= {column: round_up(getattr(profile, attribute)) for column, attribute in PROFILE_BOUNDS.items()}
    with np.errstate(all="ignore"):  # an error of 0 makes the ratio infinite
        for column, (bound, error) in TIGHTNESS.items():
            proven, true = getattr(profile, bound), getattr(profile, error)
            errors[column] = np.where(proven == true, 1, proven / true).astype(np.float32)
    return errors


def reads_of(profile: HeadProfile, head_dim: int, fmt: Format) -> dict[str, NDArray[np.int64]]:
    """Return the columns `READS` as (n_steps,)."""
    counts = profile.traffic.columns() | {
        "full_ideal_bits": 2 * fmt.total_bits * head_dim * profile.visible_tokens,
        "attempts": profile.attempts,
        "optimal_bits": profile.optimal_bits,
        "key_wasted_bits": profile.key_wasted_bits,
        "value_wasted_bits": profile.value_wasted_bits,
    }
    for i, level in enumerate(profile.levels):
        counts[f"key_channels_at_{level}_bits"] = profile.key_level_channels[:, i]
        counts[f"value_tokens_at_{level}_bits"] = profile.value_level_tokens[:, i]
    return {field.name: counts[field.name] for column in READS for field in column.fields(profile.levels)}


def ratios(counts: Mapping[str, Any], total_bits: int) -> Columns:
    """Return the columns `RATIOS` that follow from counts, element by element.

    Parameters
    ----------
    counts : mapping
        The columns `READS`, arrays or numbers.
    total_bits : int
        Width of a code.
    """
    numbers = counts["full_ideal_bits"] / (2 * total_bits)

    def read(unit: str) -> Any:  # noqa: ANN401  # an array or a number, as the counts are
        return sum(counts[f"{stem}_{unit}"] for stem in ("key", "value", "metadata", "prepass"))

    def full(unit: str) -> Any:  # noqa: ANN401
        return counts[f"full_key_{unit}"] + counts[f"full_value_{unit}"]

    ideal = counts["key_ideal_bits"] + counts["value_ideal_bits"]
    around = sum(counts[f"{stem}_bytes"] for stem in ("scores", "probs", "queries", "outputs"))
    return {
        "key_bits_mean": counts["key_ideal_bits"] / numbers,
        "value_bits_mean": counts["value_ideal_bits"] / numbers,
        "bits_saving": 1 - ideal / counts["full_ideal_bits"],
        "optimal_bits_share": counts["optimal_bits"] / np.maximum(ideal, 1),
        "bytes_saving": 1 - read("bytes") / full("bytes"),
        "sectors_saving": 1 - read("sectors") / full("sectors"),
        "atoms_saving": 1 - read("atoms") / full("atoms"),
        "lines_saving": 1 - read("lines") / full("lines"),
        "step_bytes_saving": 1 - (read("bytes") + around) / (full("bytes") + around),
        "key_wasted_bits_mean": counts["key_wasted_bits"] / numbers,
        "value_wasted_bits_mean": counts["value_wasted_bits"] / numbers,
    }


def rule_tables(
    schemas: Schemas,
    place: Place,
    profile: HeadProfile,
    steps: NDArray[np.int64],
    first: NDArray[np.int64],
    ranges: Mapping[str, Magnitudes],
) -> dict[str, pa.Table]:
    """Return the rows of one rule and one kv head in every table but `cache`.

    Parameters
    ----------
    schemas : mapping
        Of the tables, by name.
    place : Place
    profile : HeadProfile
    steps, first : ndarray[int64], (n_steps,)
        Query index, and first token seen.
    ranges : mapping
        "key" and "value": their exponent ranges.
    """
    index = {"rule": profile.rule} | place.index
    reads = reads_of(profile, len(profile.key_channel_wasted_bits), place.format)
    errors = errors_of(profile)
    n_steps = len(steps)
    rows = {
        "heads": (_head_row(place, profile, reads, errors, n_steps), 1),
        "steps": (
            {"step": steps, "first_token": first, "visible_tokens": profile.visible_tokens}
            | reads
            | ratios(reads, place.format.total_bits)
            | {f"{name}_group_max": error.max(axis=1) for name, error in errors.items()},
            n_steps,
        ),
        "errors": (
            {
                "query_head": np.repeat(np.array(place.query_heads, np.int32), n_steps),
                "step": np.tile(steps, len(place.query_heads)),
            }
            | {name: error.T.ravel() for name, error in errors.items()},
            n_steps * len(place.query_heads),
        ),
        "tokens": (_tokens(profile, ranges), len(profile.token_visible_steps)),
    }
    tables = {name: make_table(schemas[name], index | columns, n) for name, (columns, n) in rows.items()}
    return tables | {"channels": _channels(schemas["channels"], index, profile, ranges)}


def _head_row(
    place: Place,
    profile: HeadProfile,
    reads: Mapping[str, NDArray[np.int64]],
    errors: Mapping[str, NDArray[np.float32]],
    n_steps: int,
) -> Columns:
    sums = {name: int(counts.sum()) for name, counts in reads.items()}
    row: Columns = {"n_query_heads": len(place.query_heads), "n_steps": n_steps}
    row |= sums | ratios(sums, place.format.total_bits)
    row["key_wasted_histogram"] = [profile.key_wasted_histogram]
    row["value_wasted_histogram"] = [profile.value_wasted_histogram]
    for column in ERRORS:
        spread = quantiles_of(errors[column.name], QUANTILES)
        row |= {f"{column.name}_{name}": value for name, value in zip(SPREADS, spread, strict=True)}
    return row


def _tokens(profile: HeadProfile, ranges: Mapping[str, Magnitudes]) -> Columns:
    seen = np.ma.MaskedArray(profile.token_visible_steps, mask=profile.token_visible_steps == 0)
    numbers = seen * len(profile.key_channel_wasted_bits)
    by_level = profile.value_token_level_steps
    return {
        "token": np.arange(len(seen)),
        "steps_visible": profile.token_visible_steps,
        "attention_mass": profile.token_attention_mass,
        "value_bits_mean": by_level @ np.array(profile.levels) / seen,
        **{f"value_steps_at_{level}_bits": by_level[:, i] for i, level in enumerate(profile.levels)},
        "key_wasted_bits_mean": profile.key_token_wasted_bits / numbers,
        "value_wasted_bits_mean": profile.value_token_wasted_bits / numbers,
        "key_max_exponent": ranges["key"].token_max,
        "value_max_exponent": ranges["value"].token_max,
        "value_exponent_wasted_bits": ranges["value"].token_wasted_bits,
    }


def _channels(schema: pa.Schema, index: Columns, profile: HeadProfile, ranges: Mapping[str, Magnitudes]) -> pa.Table:
    import pyarrow as pa

    numbers = int(profile.visible_tokens.sum())
    by_level = profile.key_channel_level_steps
    read = {
        "bits_mean": by_level @ np.array(profile.levels) / len(profile.visible_tokens),
        **{f"steps_at_{level}_bits": by_level[:, i] for i, level in enumerate(profile.levels)},
    }
    wasted = {"key": profile.key_channel_wasted_bits, "value": profile.value_channel_wasted_bits}
    return pa.concat_tables(
        make_table(
            schema,
            index
            | _channel_ranges(kind, ranges[kind])
            | {"wasted_bits_mean": bits / numbers}
            | (read if kind == "key" else {}),
            len(bits),
        )
        for kind, bits in wasted.items()
    )


def _channel_ranges(kind: str, ranges: Magnitudes) -> Columns:
    return {
        "kind": kind,
        "channel": np.arange(len(ranges.channel_max)),
        "max_exponent": ranges.channel_max,
        "min_exponent": ranges.channel_min,
        "exponent_wasted_bits": ranges.channel_wasted_bits,
    }


def tables_without_queries(schemas: Schemas, place: Place, ranges: Mapping[str, Magnitudes]) -> dict[str, pa.Table]:
    """Return the rows of a kv head that has no queries: exponent ranges, everything else null."""
    import pyarrow as pa

    tokens = {
        "token": np.arange(len(ranges["key"].token_max)),
        "key_max_exponent": ranges["key"].token_max,
        "value_max_exponent": ranges["value"].token_max,
        "value_exponent_wasted_bits": ranges["value"].token_wasted_bits,
    }
    return {
        "heads": make_table(schemas["heads"], place.index, 1),
        "tokens": make_table(schemas["tokens"], place.index | tokens, len(tokens["token"])),
        "channels": pa.concat_tables(
            make_table(schemas["channels"], place.index | _channel_ranges(kind, held), len(held.channel_max))
            for kind, held in ranges.items()
        ),
    }


def cache_table(
    schema: pa.Schema,
    place: Place,
    stats: Mapping[str, CacheStats],
    exponent_waste: Mapping[str, float],
    escaped: Mapping[str, int],
) -> pa.Table:
    """Return the two rows of a kv head in the table `cache`; what stands in neither of the last two mappings is null."""
    import pyarrow as pa

    return pa.concat_tables(
        make_table(
            schema,
            place.index
            | {"kind": kind}
            | held.figures()
            | {
                "exponent_histogram": [held.exponent_histogram],
                "group_exponent_wasted_bits_mean": exponent_waste.get(kind),
                "escaped": escaped.get(kind),
            },
            1,
        )
        for kind, held in stats.items()
    )
