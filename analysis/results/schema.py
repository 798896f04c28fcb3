"""The tables of a result directory, as data: every column's name, type, unit and meaning.

The documentation (docs/results.md) and the renderers take their wording from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY_SCHEMA = "precalign.summary/2"
"""Value of "schema" in summary.json; the number grows when a reader of the old form would misread the new one."""
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"

TEXT = pa.string()
INDEX = pa.int32()
COUNT = pa.int64()
REAL = pa.float64()
ERROR = pa.float32()
COUNTS = pa.list_(pa.field("element", pa.int64()))  # the name that parquet gives it


@dataclass(frozen=True)
class Column:
    """One column; "{level}" in its name stands for each read width of the layout.

    Attributes
    ----------
    name : str
        With its unit as a suffix where it has one.
    type : pyarrow.DataType
    unit : str
        "bit", "byte", "sector" (32 bytes), "atom" (64 bytes), "line" (128 bytes), "1" for pure numbers, "" for names and indices.
    description : str
        What a row's value says.
    """

    name: str
    type: pa.DataType
    unit: str
    description: str

    def fields(self, levels: Sequence[int]) -> list[pa.Field]:
        """Return the column, or one per read width."""
        widths = levels if "{level}" in self.name else [0]
        return [
            pa.field(
                self.name.format(level=level),
                self.type,
                metadata={"unit": self.unit, "description": self.description.format(level=level)},
            )
            for level in widths
        ]


RULE = Column("rule", TEXT, "", "the rule with its parameters; null where the dump has no queries to apply one to")
LAYER = Column("layer", INDEX, "", "layer index as in the dump")
KV_HEAD = Column("kv_head", INDEX, "", "kv head index in its layer")
KIND = Column("kind", TEXT, "", '"key" or "value"')
STEP = Column("step", COUNT, "", "decode step: index of its query in the dump")


def _moved(stem: str, what: str) -> list[Column]:
    return [
        Column(f"{stem}_bytes", COUNT, "byte", f"bytes {what}"),
        Column(f"{stem}_sectors", COUNT, "sector", f"32-byte sectors {what}"),
        Column(f"{stem}_atoms", COUNT, "atom", f"64-byte atoms {what}"),
        Column(f"{stem}_lines", COUNT, "line", f"128-byte lines {what}"),
    ]


READS = [
    Column("key_ideal_bits", COUNT, "bit", "key bits that the rule asks for"),
    Column("value_ideal_bits", COUNT, "bit", "value bits that the rule asks for"),
    Column("full_ideal_bits", COUNT, "bit", "bits of the same keys and values read whole"),
    Column("key_channels_at_{level}_bits", COUNT, "1", "key channels read at {level} bits"),
    Column("value_tokens_at_{level}_bits", COUNT, "1", "tokens whose values are read at {level} bits"),
    *_moved("key", "moved for keys in the layout's packing"),
    *_moved("value", "moved for values in the layout's packing"),
    *_moved("metadata", "of running maxima that the rule reads, and of references and escapes of a rebased layout"),
    *_moved("prepass", "that the rule's pre-pass reads before it decides, each query head apart"),
    *_moved("full_key", "moved for keys by a full read of the plain cache"),
    *_moved("full_value", "moved for values by a full read of the plain cache"),
    Column("scores_bytes", COUNT, "byte", "scores written and read again (binary32)"),
    Column("probs_bytes", COUNT, "byte", "probabilities written and read again (binary32)"),
    Column("queries_bytes", COUNT, "byte", "queries read"),
    Column("outputs_bytes", COUNT, "byte", "outputs written (binary32)"),
    Column(
        "attempts",
        COUNT,
        "1",
        "how often the rule decided: more than once a step where it did not accept the first outcome",
    ),
    Column(
        "optimal_bits",
        COUNT,
        "bit",
        "the fewest bits of keys and values that could give the same worst-case error, if bits could be divided at will",
    ),
    Column("key_wasted_bits", COUNT, "bit", "significand bits of keys finer than the coarsest term of their sum"),
    Column("value_wasted_bits", COUNT, "bit", "significand bits of values finer than the coarsest term of their sum"),
]
"""Counts of a decode step of one kv head; the query heads of its group share every read. Summed over steps in heads."""

RATIOS = [
    Column("key_bits_mean", REAL, "bit", "bits read per key number"),
    Column("value_bits_mean", REAL, "bit", "bits read per value number"),
    Column("bits_saving", REAL, "1", "1 - ideal bits of keys and values / bits of the full read"),
    Column(
        "optimal_bits_share",
        REAL,
        "1",
        "optimal_bits / ideal bits of keys and values: 1 cannot be bettered, nor reached",
    ),
    Column("bytes_saving", REAL, "1", "1 - bytes of keys, values, metadata and pre-pass / bytes of the full read"),
    Column(
        "sectors_saving", REAL, "1", "1 - sectors of keys, values, metadata and pre-pass / sectors of the full read"
    ),
    Column("atoms_saving", REAL, "1", "1 - atoms of keys, values, metadata and pre-pass / atoms of the full read"),
    Column("lines_saving", REAL, "1", "1 - lines of keys, values, metadata and pre-pass / lines of the full read"),
    Column(
        "step_bytes_saving", REAL, "1", "as bytes_saving, with scores, probabilities, queries and outputs on both sides"
    ),
    Column("key_wasted_bits_mean", REAL, "bit", "wasted significand bits per key number"),
    Column("value_wasted_bits_mean", REAL, "bit", "wasted significand bits per value number"),
]
"""What follows from READS."""

ERRORS = [
    Column("score_max_error_to_full", ERROR, "1", "max over tokens |score - score of the full read|"),
    Column("score_max_error_to_exact", ERROR, "1", "max over tokens |score - exact score|"),
    Column(
        "prob_total_variation_to_full", ERROR, "1", "half the sum over tokens |probability - that of the full read|"
    ),
    Column("prob_total_variation_to_exact", ERROR, "1", "half the sum over tokens |probability - exact probability|"),
    Column(
        "output_relative_error_to_full",
        ERROR,
        "1",
        "‖output - full read's output‖ / ‖full read's output‖, 2-norm over channels",
    ),
    Column(
        "output_relative_error_to_exact", ERROR, "1", "‖output - exact output‖ / ‖exact output‖, 2-norm over channels"
    ),
    Column("output_max_error_to_exact", ERROR, "1", "max over channels |output - exact output|, absolute"),
    Column(
        "full_relative_error_to_exact",
        ERROR,
        "1",
        "‖full read's output - exact output‖ / ‖exact output‖, 2-norm over channels",
    ),
    Column(
        "rounding_relative_error",
        ERROR,
        "1",
        "‖exact output rounded to the format of the queries - exact output‖ / ‖exact output‖",
    ),
    Column("score_max_bound", ERROR, "1", "proven bound on score_max_error_to_exact"),
    Column("output_max_bound", ERROR, "1", "proven bound on output_max_error_to_exact"),
    Column(
        "output_relative_bound",
        ERROR,
        "1",
        "proven bound on output_relative_error_to_exact; infinite where nothing is proven",
    ),
    Column("score_bound_tightness", ERROR, "1", "score_max_bound / score_max_error_to_exact"),
    Column("output_bound_tightness", ERROR, "1", "output_relative_bound / output_relative_error_to_exact"),
]
"""Errors of one query head at one step, and what is proven of them. "full": everything read, binary32 in the stated order. "exact": binary64."""

SPREADS = ("median", "p99", "max")
"""How the errors of many (step, query head) are summed up; p99 and median are nearest-rank, so values that occurred."""

TABLES: dict[str, list[Column]] = {
    "heads": [
        RULE,
        LAYER,
        KV_HEAD,
        Column("n_query_heads", INDEX, "1", "query heads that share the kv head"),
        Column("n_steps", COUNT, "1", "decode steps analysed"),
        *RATIOS,
        *READS,
        Column(
            "key_wasted_histogram", COUNTS, "1", "numbers (step, token, channel) of keys that waste 0, 1, .. p bits"
        ),
        Column(
            "value_wasted_histogram", COUNTS, "1", "numbers (step, token, channel) of values that waste 0, 1, .. p bits"
        ),
        *(
            Column(
                f"{error.name}_{spread}", ERROR, error.unit, f"{spread} over steps and query heads: {error.description}"
            )
            for error in ERRORS
            for spread in SPREADS
        ),
    ],
    "steps": [
        RULE,
        LAYER,
        KV_HEAD,
        STEP,
        Column("first_token", COUNT, "", "first token that the step sees"),
        Column("visible_tokens", COUNT, "1", "how many tokens the step sees"),
        *RATIOS,
        *READS,
        *(
            Column(
                f"{error.name}_group_max",
                error.type,
                error.unit,
                f"largest over the group's query heads: {error.description}",
            )
            for error in ERRORS
        ),
    ],
    "errors": [RULE, LAYER, KV_HEAD, Column("query_head", INDEX, "", "query head index in its layer"), STEP, *ERRORS],
    "channels": [
        RULE,
        LAYER,
        KV_HEAD,
        KIND,
        Column("channel", INDEX, "", "channel index, 0 .. head_dim - 1"),
        Column("max_exponent", INDEX, "", "exponent of the channel's largest magnitude; null if every number is zero"),
        Column(
            "min_exponent",
            INDEX,
            "",
            "exponent of the channel's smallest magnitude that is not zero; null if every number is zero",
        ),
        Column(
            "exponent_wasted_bits", INDEX, "bit", "exponent bits that the channel's own range of binades does not need"
        ),
        Column("wasted_bits_mean", REAL, "bit", "wasted significand bits per number"),
        Column(
            "bits_mean",
            REAL,
            "bit",
            "mean over steps of the bits read of the channel; null for values, which are read by token",
        ),
        Column("steps_at_{level}_bits", COUNT, "1", "steps that read the channel at {level} bits; null for values"),
    ],
    "tokens": [
        RULE,
        LAYER,
        KV_HEAD,
        Column("token", COUNT, "", "token index"),
        Column("steps_visible", COUNT, "1", "steps that see the token"),
        Column("attention_mass", REAL, "1", "sum over steps and query heads of the token's exact probability"),
        Column(
            "value_bits_mean",
            REAL,
            "bit",
            "mean over the steps that see the token of the bits read of its values; null if none does",
        ),
        Column("value_steps_at_{level}_bits", COUNT, "1", "steps that read the token's values at {level} bits"),
        Column("key_wasted_bits_mean", REAL, "bit", "wasted significand bits per number of the token's keys"),
        Column("value_wasted_bits_mean", REAL, "bit", "wasted significand bits per number of the token's values"),
        Column("key_max_exponent", INDEX, "", "exponent of the token's largest key; null if all are zero"),
        Column("value_max_exponent", INDEX, "", "exponent of the token's largest value; null if all are zero"),
        Column(
            "value_exponent_wasted_bits",
            INDEX,
            "bit",
            "exponent bits that the range of binades of the token's values does not need",
        ),
    ],
    "cache": [
        LAYER,
        KV_HEAD,
        KIND,
        Column("numbers", COUNT, "1", "seq_len * head_dim"),
        Column("zeros", COUNT, "1", "numbers that are zero"),
        Column("subnormals", COUNT, "1", "numbers that are subnormal and not zero"),
        Column("nonfinite", COUNT, "1", "infinities and NaNs; a head with any is left out of the other tables"),
        Column("max_exponent", INDEX, "", "largest exponent E(x); null if every number is zero"),
        Column(
            "min_exponent",
            INDEX,
            "",
            "smallest exponent E(x) of a number that is not zero; null if every number is zero",
        ),
        Column(
            "exponent_entropy_bits",
            REAL,
            "bit",
            "entropy of the biased exponent field: what an ideal code would spend on it",
        ),
        Column(
            "exponent_wasted_bits", INDEX, "bit", "exponent bits that the head's own range of binades does not need"
        ),
        Column(
            "trailing_zero_bits", INDEX, "bit", "last significand bits that are 0 in every number: written, never used"
        ),
        Column("exponent_histogram", COUNTS, "1", "numbers with biased exponent 0, 1, .."),
        Column(
            "group_exponent_wasted_bits_mean",
            REAL,
            "bit",
            "exponent bits that a key channel, or the values of a token, does not need: mean over channels or tokens; "
            "null for a head with infinities or NaNs",
        ),
        Column(
            "escaped",
            COUNT,
            "1",
            "numbers that lie below the binades of a rebased layout and are read whole from a list; null in other layouts",
        ),
    ],
}
"""Table name -> columns, in order. The file is NAME.parquet; rows are ordered by layer, kv head, rule (as asked for) and then the
other index columns in table order. `cache` needs no queries and no rule."""


def table_schema(name: str, levels: Sequence[int]) -> pa.Schema:
    """Return the schema of a table for a layout with these read widths.

    Parameters
    ----------
    name : str
        A key of `TABLES`.
    levels : sequence of int
        `Layout.levels`, bits.

    Returns
    -------
    pyarrow.Schema
        Each field carries "unit" and "description" as metadata.
    """
    fields = [field for column in TABLES[name] for field in column.fields(levels)]
    return pa.schema(fields, metadata={"schema": f"precalign.{name}/1", "levels_bits": ",".join(map(str, levels))})
