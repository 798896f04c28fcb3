"""The form of a set's result: names of its files, and the columns of dumps.parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from precalign.analysis.results.schema import COUNT, INDEX, REAL, REPORT_FILE, SUMMARY_FILE, TEXT, Column, table_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

SET_SCHEMA = "precalign.set/1"
DUMPS_SCHEMA = "precalign.dumps/1"
DUMPS_FILE = "dumps.parquet"
TABLES_FOLDER = "tables"
SET_FILES = {SUMMARY_FILE, REPORT_FILE, DUMPS_FILE, TABLES_FOLDER}
"""Everything that a set writes to its directory."""
PART_ROWS = 1 << 18
"""Rows of a part of a table; the last has fewer."""
GROUP_ROWS = 1 << 13
"""Rows of a row group: what the writer of a table holds."""

DUMP = Column("dump", TEXT, "", "name of the dump, as in dumps.parquet")

DUMPS: list[Column] = [
    DUMP,
    Column("place", TEXT, "", "path or URL, without user, password and query"),
    Column("status", TEXT, "", '"analysed", or "refused": then the tables hold nothing of it'),
    Column("reason", TEXT, "", "why it was refused, or why the first of its heads was left out; else null"),
    Column("size_bytes", COUNT, "byte", "of its files; null where a store does not tell"),
    Column("reader", TEXT, "", "file format; null, like all that follows, if it was refused before it was opened"),
    Column("stored_format", TEXT, "", "of keys and values in the file; null if layers differ"),
    Column("storage_format", TEXT, "", "of keys and values as analysed"),
    Column("query_format", TEXT, "", "of queries as analysed"),
    Column("n_layers", INDEX, "1", "layers analysed"),
    Column("n_kv_heads", INDEX, "1", "kv heads of a layer; null if layers differ, here and below"),
    Column("n_q_heads", INDEX, "1", "query heads of a layer; null without queries"),
    Column("head_dim", INDEX, "1", "channels of a head"),
    Column("seq_len", COUNT, "1", "tokens"),
    Column("n_queries", COUNT, "1", "queries; null without any"),
    Column("n_steps", COUNT, "1", "decode steps analysed, over all heads"),
    Column("n_heads", INDEX, "1", "kv heads analysed, over all layers"),
    Column("n_skipped_heads", INDEX, "1", "kv heads left out for infinities or NaNs"),
    Column("scale", REAL, "1", "factor of the scores; null if heads differ"),
    Column("scale_source", TEXT, "", "where the factor comes from"),
]


def dumps_schema() -> pa.Schema:
    """Return the schema of dumps.parquet."""
    fields = [field for column in DUMPS for field in column.fields(())]
    return pa.schema(fields, metadata={"schema": DUMPS_SCHEMA})


def set_table_schema(name: str, levels: Sequence[int]) -> pa.Schema:
    """Return the schema of a table of a set: that of a single result behind the column `dump`."""
    plain = table_schema(name, levels)
    return pa.schema([*DUMP.fields(()), *plain], metadata=plain.metadata)
