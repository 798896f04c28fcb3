"""What a difference writes, as data."""

from __future__ import annotations

import pyarrow as pa

from precalign.analysis.results.schema import COUNT, INDEX, REAL, TEXT, Column

DIFF_SCHEMA = "precalign.diff/1"
DIFF_FILE = "diff.parquet"
DIFF_PAGE = "diff.html"

COLUMNS = [
    Column("rule_a", TEXT, "", "rule of the first result"),
    Column("rule_b", TEXT, "", "rule of the second"),
    Column("scope", TEXT, "", '"all", "layer" or "head": what the row sums up'),
    Column("layer", INDEX, "", "layer index as in the dump; null for all"),
    Column("kv_head", INDEX, "", "kv head index in its layer; null but for a head"),
    Column("measure", TEXT, "", "what is compared"),
    Column("units_a", COUNT, "1", "decode steps of a single result, dumps of a set"),
    Column("units_b", COUNT, "1", "the same of the second"),
    Column("value_a", REAL, "1", "the figure in the first result; bits for bits read; a geometric mean for an error"),
    Column("value_b", REAL, "1", "the same in the second"),
    Column("change", REAL, "1", "value_b - value_a; value_b / value_a for an error"),
    Column("low", REAL, "1", "lower end of the 95 % interval of the change; null where there is too little to tell"),
    Column("high", REAL, "1", "upper end"),
    Column("p", REAL, "1", "two-sided p-value against no change"),
    Column("p_adjusted", REAL, "1", "the same for all layers, or all heads, of the measure at once"),
    Column("same", pa.bool_(), "", "whether the figure is equal, to the bit, in every single step or dump"),
    Column("beyond_noise", pa.bool_(), "", "p_adjusted is at most 0.05; null where there is too little to tell"),
]
"""Columns of diff.parquet, one row per pair of rules, scope and measure."""


def diff_schema() -> pa.Schema:
    """Return the schema of diff.parquet; fields carry "unit" and "description"."""
    fields = [field for column in COLUMNS for field in column.fields([0])]
    return pa.schema(fields, metadata={"schema": DIFF_SCHEMA})
