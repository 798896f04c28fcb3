"""Reading a comparison directory back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from precalign.analysis.compare.schema import COMPARE_FILE, COMPARE_SCHEMA
from precalign.analysis.results.reader import read_summary
from precalign.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """A directory that was written by `precalign compare`.

    Attributes
    ----------
    path : Path
    summary : dict
        summary.json.
    table : pyarrow.Table
        compare.parquet.
    """

    path: Path
    summary: dict[str, Any]
    table: pa.Table


def open_comparison(path: Path) -> Comparison:
    """Open a comparison directory.

    Raises
    ------
    InputError
        If it is not one, is damaged, or is of a version that this one cannot read.
    """
    summary = read_summary(path, COMPARE_SCHEMA, "precalign compare DUMP -o DIR")
    file = path / COMPARE_FILE
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: cannot be read: {error}", hint="compare again with --overwrite") from error
    form = (table.schema.metadata or {}).get(b"schema", b"").decode()
    if form != COMPARE_SCHEMA:
        raise InputError(f"{file}: expected the table form {COMPARE_SCHEMA!r}, got {form!r}")
    return Comparison(path, summary, table)
