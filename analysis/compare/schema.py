"""What a comparison writes, as data."""

from __future__ import annotations

import pyarrow as pa

from precalign.analysis.results.schema import COUNT, INDEX, REAL, TEXT, Column

COMPARE_SCHEMA = "precalign.compare/1"
COMPARE_FILE = "compare.parquet"
COMPARE_PAGE = "compare.html"

COLUMNS = [
    Column("contender", TEXT, "", "codecs of keys and values, or the rule, with their parameters"),
    Column(
        "kind",
        TEXT,
        "",
        '"codec" (fewer bits stored, all of them read), "rule" (all stored, fewer read) or "codec read by rule" (fewer stored, fewer still read)',
    ),
    Column("layer", INDEX, "", "layer index as in the dump"),
    Column("kv_head", INDEX, "", "kv head index in its layer"),
    Column("n_steps", COUNT, "1", "decode steps"),
    Column(
        "key_bits_per_number",
        REAL,
        "bit",
        "stored for the keys after the last token, scales, tables and window included",
    ),
    Column("value_bits_per_number", REAL, "bit", "the same for the values"),
    Column("bits_per_number", REAL, "bit", "mean of both"),
    Column("stored_bytes", REAL, "byte", "keys and values of the layer, a head's share"),
    Column(
        "moved_bytes_per_step",
        REAL,
        "byte",
        "32-byte sectors that a decode step reads, mean over steps, a head's share; of a codec that no rule reads all that it stores for the tokens seen",
    ),
    Column("full_bytes_per_step", REAL, "byte", "the same of the plain cache"),
    Column(
        "encode_peak",
        REAL,
        "1",
        "peak memory while encoding, per byte of the plain cache: what NumPy allocates, the result included, of the first layer's first 4,096 tokens at once",
    ),
    Column(
        "key_relative_error",
        REAL,
        "1",
        "||decoded - keys|| / ||keys|| over all tokens; 0 for a rule, which changes nothing that is stored",
    ),
    Column("value_relative_error", REAL, "1", "the same for the values"),
    Column("key_cosine_mean", REAL, "1", "cosine of each decoded key with its own, mean over tokens"),
    Column("value_cosine_mean", REAL, "1", "the same for the values"),
    Column("score_error_max", REAL, "1", "largest error of a score over steps, tokens and query heads"),
    Column(
        "output_error_median",
        REAL,
        "1",
        "relative error of the attention output (2-norm), median over steps and query heads",
    ),
    Column("output_error_p99", REAL, "1", "99th percentile of the same"),
    Column("output_error_max", REAL, "1", "largest"),
    Column(
        "output_cosine_mean",
        REAL,
        "1",
        "cosine of the attention output with the exact one, mean over steps and query heads",
    ),
    Column("output_cosine_min", REAL, "1", "smallest"),
]
"""Columns of compare.parquet, one row per contender, layer and kv head."""


def compare_schema() -> pa.Schema:
    """Return the schema of compare.parquet; fields carry "unit" and "description"."""
    fields = [field for column in COLUMNS for field in column.fields([0])]
    return pa.schema(fields, metadata={"schema": COMPARE_SCHEMA})
