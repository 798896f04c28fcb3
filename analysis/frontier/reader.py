"""Reading a frontier directory back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from precalign.analysis.frontier.schema import FRONTIER_FILE, FRONTIER_SCHEMA
from precalign.analysis.results.reader import read_summary
from precalign.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Frontier:
    """A directory that was written by `precalign frontier`.

    Attributes
    ----------
    path : Path
    summary : dict
        summary.json.
    table : pyarrow.Table
        frontier.parquet.
    """

    path: Path
    summary: dict[str, Any]
    table: pa.Table


def open_frontier(path: Path) -> Frontier:
    """Open a frontier directory.

    Raises
    ------
    InputError
        If it is not one, is damaged, or is of a version that this one cannot read.
    """
    summary = read_summary(path, FRONTIER_SCHEMA, "precalign frontier DUMP -o DIR")
    file = path / FRONTIER_FILE
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: cannot be read: {error}", hint="run the frontier again with --overwrite") from error
    form = (table.schema.metadata or {}).get(b"schema", b"").decode()
    if form != FRONTIER_SCHEMA:
        raise InputError(f"{file}: expected the table form {FRONTIER_SCHEMA!r}, got {form!r}")
    return Frontier(path, summary, table)
