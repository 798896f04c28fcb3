"""Whether two results are equal, and where they first are not: every table, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from precalign.analysis.query.write import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow.dataset as ds

    from precalign.analysis.results.stored import Stored

INDEX = (
    *("dump", "scope", "contender", "rule", "layout", "rule_a", "rule_b", "layer", "kv_head", "kind", "query_head"),
    *("step", "channel", "token", "measure"),
)
"""Columns that say which row it is."""


@dataclass(frozen=True)
class Cell:
    """The first place where two tables differ, row by row and in a row column by column.

    Attributes
    ----------
    table : str
    what : str
        "cell", "columns" (the tables have not the same) or "rows" (one ends before the other).
    row : int or None
    column : str or None
    place : dict
        What the row is about: its index columns.
    a, b : plain data
        Of the two tables.
    """

    table: str
    what: str
    row: int | None
    column: str | None
    place: dict[str, Any]
    a: Any
    b: Any


def differences(a: Stored, b: Stored) -> dict[str, Cell | None]:
    """Return, for each table of either result, where it first differs; None where it is equal to the bit.

    Raises
    ------
    InputError
        If a table is damaged.
    """
    found: dict[str, Cell | None] = {}
    for table in dict.fromkeys([*a.files, *b.files]):
        if table not in a.files or table not in b.files:
            found[table] = Cell(table, "rows", None, None, {}, table in a.files, table in b.files)
        else:
            found[table] = first_difference(table, a.dataset(table), b.dataset(table))
    return found


def first_difference(table: str, a: ds.Dataset, b: ds.Dataset, leave_out: str = "") -> Cell | None:
    """Return where two tables first differ, None if every bit is equal; NaN is equal to itself, and 0 is not -0.

    Parameters
    ----------
    table : str
        Its name.
    a, b : pyarrow.dataset.Dataset
    leave_out : str
        A column that does not count.
    """
    names = [[(f.name, str(f.type)) for f in dataset.schema if f.name != leave_out] for dataset in (a, b)]
    if names[0] != names[1]:
        only_a, only_b = ([n for n, _ in one if n not in dict(other)] for one, other in (names, names[::-1]))
        return Cell(table, "columns", None, None, {}, only_a, only_b)
    begin = 0
    for one, other in _aligned(a, b, [name for name, _ in names[0]]):
        cell = _in_batch(table, begin, one, other)
        if cell is not None:
            return cell
        begin += one.num_rows
    rows = [dataset.count_rows() for dataset in (a, b)]
    return None if rows[0] == rows[1] else Cell(table, "rows", min(rows), None, {}, *rows)


def _aligned(a: ds.Dataset, b: ds.Dataset, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Go through two tables in batches of the same rows, as far as both have any."""
    streams = [(batch for batch in dataset.to_batches(columns=columns) if batch.num_rows) for dataset in (a, b)]
    held: list[pa.RecordBatch | None] = [None, None]
    while True:
        held = [next(stream, None) if piece is None else piece for stream, piece in zip(streams, held, strict=True)]
        one, other = held
        if one is None or other is None:
            return
        n = min(one.num_rows, other.num_rows)
        yield one.slice(0, n), other.slice(0, n)
        held = [piece.slice(n) if piece.num_rows > n else None for piece in (one, other)]


def _in_batch(table: str, begin: int, a: pa.RecordBatch, b: pa.RecordBatch) -> Cell | None:
    first: tuple[int, str] | None = None
    for name, one, other in zip(a.schema.names, a.columns, b.columns, strict=True):
        left, right = _bits(one), _bits(other)
        if not left.equals(right):
            row = _first_row(left, right)
            first = (row, name) if first is None or row < first[0] else first
    if first is None:
        return None
    row, column = first
    place = {name: plain(a.column(name)[row].as_py()) for name in INDEX if name in a.schema.names}
    values = [plain(batch.column(column)[row].as_py()) for batch in (a, b)]
    return Cell(table, "cell", begin + row, column, place, *values)


def _bits(column: pa.Array) -> pa.Array:
    """Return floating-point numbers as their codes, so that equal means equal bits."""
    if pa.types.is_floating(column.type):
        return column.view(pa.int64() if column.type == pa.float64() else pa.int32())
    return column


def _first_row(a: pa.Array, b: pa.Array) -> int:
    """Return the first row in which two arrays that are not equal differ."""
    low, high = 0, len(a)  # the rows before `low` are equal, those before `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if a.slice(low, middle - low).equals(b.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    return low
