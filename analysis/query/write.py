"""Rows of a query as CSV, JSON, parquet, or a table to look at."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from precalign.analysis.readers import printable
from precalign.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from precalign.analysis.query.database import Answer

CELL = 60
"""Characters of a cell on a terminal."""


def check_names(schema: pa.Schema) -> None:
    """Refuse columns of one name, which a file could not tell apart.

    Raises
    ------
    UsageError
    """
    if len(set(schema.names)) < len(schema.names):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise UsageError(f"two columns are called {printable(twice)!r}", hint="name them apart: SELECT x AS one")


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever SQL computes
    """Return a value as JSON has it: infinities and NaN are "inf", "-inf" and "nan", bytes are hexadecimal."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):  # sums of integers; others are no longer than binary64 shows
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): plain(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [plain(held) for held in value]
    return str(value)


def rows(answer: Answer) -> Iterator[list[Any]]:
    """Yield the rows, values as `plain` gives them."""
    for batch in answer.batches:
        columns = [[plain(value) for value in column.to_pylist()] for column in batch.columns]
        yield from map(list, zip(*columns, strict=True))


def csv_text(answer: Answer) -> Iterator[str]:
    """Yield the lines of CSV: a header, null as an empty field, lists as JSON."""
    check_names(answer.schema)
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for row in ([answer.schema.names], rows(answer)):
        for cells in row:
            writer.writerow(json.dumps(cell) if isinstance(cell, (list, dict, bool)) else cell for cell in cells)
            yield line.getvalue()
            line.seek(0)
            line.truncate()


def json_text(answer: Answer) -> Iterator[str]:
    """Yield the pieces of a JSON array, an object per row."""
    check_names(answer.schema)
    lead = "[\n"
    for row in rows(answer):
        yield lead + json.dumps(dict(zip(answer.schema.names, row, strict=True)), allow_nan=False)
        lead = ",\n"
    yield "[]\n" if lead == "[\n" else "\n]\n"


TEXTS = {".csv": csv_text, ".json": json_text}
SUFFIXES = (".parquet", *TEXTS)


def write(answer: Answer, path: Path, suffix: str) -> int:
    """Write the rows to a file; return how many there are.

    Parameters
    ----------
    answer : Answer
    path : Path
        Where to write; whoever calls puts it in its place.
    suffix : str
        One of `SUFFIXES`: the form.

    Raises
    ------
    UsageError
        If two columns have one name, or parquet has no such type.
    """
    check_names(answer.schema)
    if suffix == ".parquet":
        return _parquet(answer, path)
    count = -1 if suffix == ".csv" else 0  # the header is no row
    with path.open("w", encoding="utf-8", newline="") as file:
        for piece in TEXTS[suffix](answer):
            file.write(piece)
            count += 1
    return count if suffix == ".csv" else count - 1  # nor is the end of the array


def _parquet(answer: Answer, path: Path) -> int:
    count = 0
    try:
        writer = pq.ParquetWriter(path, answer.schema, compression="zstd")
    except pa.ArrowNotImplementedError as error:
        raise UsageError(
            f"parquet has no such type: {printable(error)}", hint="cast the column: SELECT x::VARCHAR AS x"
        ) from error
    with writer:
        for batch in answer.batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def show(answer: Answer, out: Console, most: int) -> None:
    """Print rows: a table where it fits, else row by row, a line per column.

    Parameters
    ----------
    answer : Answer
    out : rich.console.Console
    most : int
        Rows to show.
    """
    names = [printable(name) for name in answer.schema.names]
    held = list(islice(rows(answer), most + 1))
    cells = [[_cell(value) for value in row] for row in held[:most]]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    if sum(widths) + 2 * len(widths) <= out.width:
        _table(names, [_is_number(kind) for kind in answer.schema.types], cells, out)
    else:
        _records(names, cells, out)
    if len(held) > most:
        out.print(f"The first {most} rows; --rows shows more, -o FILE writes all.", markup=False)
    elif not held:
        out.print("No rows.")


def _cell(value: Any) -> str:  # noqa: ANN401 - as `plain` gives it
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(json.dumps(value) if isinstance(value, (list, dict, bool)) else value, CELL)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _table(names: list[str], numbers: list[bool], cells: list[list[str]], out: Console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, number in zip(names, numbers, strict=True):
        table.add_column(escape(name), justify="right" if number else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(escape, row))
    out.print(table)


def _records(names: list[str], cells: list[list[str]], out: Console) -> None:
    width = max(map(len, names), default=0)
    for i, row in enumerate(cells):
        out.print(f"row {i}", markup=False)
        for name, cell in zip(names, row, strict=True):
            out.print(f"  {name:<{width}}  {cell}", markup=False, soft_wrap=True)
