"""Results that are a summary and one table: what `precalign frontier` and `precalign compare` write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from precalign.analysis.results.directory import writing
from precalign.analysis.results.reader import read_summary
from precalign.analysis.results.schema import SUMMARY_FILE
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class TableResult:
    """A directory that a command wrote.

    Attributes
    ----------
    path : Path
    summary : dict
        summary.json.
    table : pyarrow.Table
    """

    path: Path
    summary: dict[str, Any]
    table: pa.Table


def open_table_result(path: Path, schema: str, file_name: str, command: str) -> TableResult:
    """Open such a directory.

    Parameters
    ----------
    path : Path
    schema : str
        Of summary and table: "precalign.frontier/1".
    file_name : str
        Of the table.
    command : str
        What writes such a directory, for messages.

    Raises
    ------
    InputError
        If it is not one, is damaged, or is of a version that this one cannot read.
    """
    summary = read_summary(path, schema, command)
    file = path / file_name
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: cannot be read: {error}", hint=f"run again with --overwrite: {command}") from error
    form = (table.schema.metadata or {}).get(b"schema", b"").decode()
    if form != schema:
        raise InputError(f"{file}: expected the table form {schema!r}, got {form!r}")
    return TableResult(path, summary, table)


def write_table_result(
    directory: Path,
    target: Path,
    summary: dict[str, Any],
    table: tuple[str, pa.Table],
    page: tuple[str, Callable[[Path], str] | None],
) -> dict[str, Any]:
    """Fill such a directory; return the summary as its file gives it back.

    Parameters
    ----------
    directory : Path
        From `result_directory`.
    target : Path
        What an error calls the place.
    summary : dict
    table, page : pairs
        File name with what goes into it; the page is made of the finished files, or left out.
    """
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    with writing(target):
        pq.write_table(table[1], directory / table[0], compression="zstd")
        (directory / SUMMARY_FILE).write_text(text, encoding="utf-8")
    if page[1] is not None:
        rendered = page[1](directory)
        with writing(target):
            (directory / page[0]).write_text(rendered, encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
