"""Writing the tables: rows arrive head by head, row groups leave when they are full."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from precalign.analysis.results.directory import NOTHING_LEFT, writing
from precalign.analysis.results.schema import TABLES, table_schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

ROW_GROUP_ROWS = 1 << 16
MOST_PIECES = 64
"""Tables held before they become one: of a table of few rows, a hundred columns take more memory than what is in them."""


class TableWriter:
    """One parquet file, filled in any number of pieces; memory holds less than a row group and a piece.

    Parameters
    ----------
    path : Path
    schema : pyarrow.Schema
    shown : Path
        What an error calls the place; the file itself lies in a temporary directory.
    group_rows : int, optional
        Rows of a row group; `ROW_GROUP_ROWS` if not given.
    hint : str
        What an error tells the user to do.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, shown: Path, group_rows: int | None = None, hint: str = NOTHING_LEFT
    ) -> None:
        self._schema, self._shown, self._hint = schema, shown, hint
        self._group_rows = ROW_GROUP_ROWS if group_rows is None else group_rows
        self._waiting: list[pa.Table] = []
        self._rows = 0
        with writing(shown, hint):
            self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, table: pa.Table) -> None:
        """Append rows in the schema's columns."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= self._group_rows:
            self._flush(keep=self._rows % self._group_rows)
        elif len(self._waiting) == MOST_PIECES:
            self._waiting = [self._joined()]

    def _flush(self, keep: int) -> None:
        """Write whole row groups; where they are cut depends on the number of rows alone, not on the pieces."""
        table = self._joined()
        with writing(self._shown, self._hint):
            self._writer.write_table(table.slice(0, table.num_rows - keep), row_group_size=self._group_rows)
        self._waiting, self._rows = [table.slice(table.num_rows - keep)], keep

    def _joined(self) -> pa.Table:
        """Return what waits in one piece: pages, too, are then cut by rows alone."""
        return pa.concat_tables(self._waiting).combine_chunks()

    def close(self) -> None:
        """Write what waits and the file's end."""
        if self._rows:
            self._flush(keep=0)
        with writing(self._shown, self._hint):
            self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that is about to be removed; without effect on one that is closed."""
        with suppress(OSError):  # the disk may be full: that error is on its way to the user already
            self._writer.close()
        self._writer.is_open = False  # else pyarrow tries once more when it is collected, and complains on stderr


class TableSet:
    """All tables of a result directory, open for writing."""

    def __init__(self, directory: Path, levels: Sequence[int], shown: Path) -> None:
        self.schemas = {name: table_schema(name, levels) for name in TABLES}
        self._writers = {
            name: TableWriter(directory / f"{name}.parquet", schema, shown) for name, schema in self.schemas.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for writer in self._writers.values() if kind is None else ():
                writer.close()
        finally:
            for writer in self._writers.values():
                writer.abandon()

    def add(self, name: str, table: pa.Table) -> None:
        """Append rows to a table."""
        self._writers[name].add(table)


def make_table(schema: pa.Schema, columns: Mapping[str, Any], n_rows: int) -> pa.Table:
    """Build rows: an array is a column, anything else is the same in every row, a column not given is null.

    Raises
    ------
    KeyError
        If a column is not in the schema.
    """
    if unknown := columns.keys() - set(schema.names):
        raise KeyError(f"not in the schema: {sorted(unknown)}")
    arrays = []
    for field in schema:
        given = columns.get(field.name)
        if given is None:
            arrays.append(pa.nulls(n_rows, field.type))
        elif isinstance(given, (str, int, float)):
            arrays.append(pa.repeat(pa.scalar(given, field.type), n_rows))
        else:
            arrays.append(pa.array(given, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
