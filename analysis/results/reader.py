"""Reading a result directory back."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from precalign.analysis.results.schema import SUMMARY_FILE, SUMMARY_SCHEMA, TABLES
from precalign.analysis.results.unfinished import unfinished
from precalign.errors import InputError, PrecalignError, shown
from precalign.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Result:
    """A result directory that was written by `precalign analyze`.

    Attributes
    ----------
    path : Path
    summary : dict
        summary.json.
    """

    path: Path
    summary: dict[str, Any]

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table, or some of its columns.

        Raises
        ------
        InputError
            If the file is missing, damaged or of another version.
        """
        path = self.file(name)
        try:
            return pq.read_table(path, columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{path}: cannot be read: {error}", hint="analyze the dump again with --overwrite"
            ) from error

    def file(self, name: str) -> Path:
        """Return the path of a table's parquet file, for those who stream it.

        Raises
        ------
        InputError
            If the file is missing, damaged or of another version.
        """
        if name not in TABLES:
            raise KeyError(name)
        path = self.path / f"{name}.parquet"
        try:
            form = (pq.read_schema(path).metadata or {}).get(b"schema", b"").decode()
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{path}: cannot be read: {error}", hint="analyze the dump again with --overwrite"
            ) from error
        if form != f"precalign.{name}/1":
            raise InputError(f"{path}: expected the table form 'precalign.{name}/1', got {form!r}")
        return path


def open_result(path: Path) -> Result:
    """Open a result directory.

    Raises
    ------
    InputError
        If it is not one, or is of a version that this one cannot read.
    """
    return Result(path, read_summary(path, SUMMARY_SCHEMA, "precalign analyze DUMP -o DIR"))


def read_summary(path: Path, schema: str, made_by: str) -> dict[str, Any]:
    """Return the summary.json of a directory, which must be of that schema.

    Raises
    ------
    InputError
        If there is none, it cannot be read, or it is of another schema; the hint says which command makes one.
    """
    summary = any_summary(path, made_by)
    if summary.get("schema") != schema:
        raise InputError(
            f"{path / SUMMARY_FILE}: expected the form {schema!r}, got {summary.get('schema')!r}",
            hint=f"it was written by another version or another command; make one with `{made_by}`",
        )
    return summary


def any_summary(path: Path, made_by: str) -> dict[str, Any]:
    """Return the summary.json of a directory, whatever its schema.

    Raises
    ------
    InputError
        If there is none, or it cannot be read.
    """
    summary_path = path / SUMMARY_FILE
    try:
        summary = parse_json(summary_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (begun := unfinished(path)) is not None:
            raise InputError(f"{path}: {begun}", hint=f"go on with `{begun.command}`") from None
        raise InputError(
            f"{path}: is not a result directory: it has no {SUMMARY_FILE}", hint=f"make one with `{made_by}`"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(summary_path, 1000)}: cannot be read: {shown(error)}") from error
    return summary if isinstance(summary, dict) else {}


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Read from a result as one reads what precalign has written itself; whatever goes wrong then is an `InputError`.

    A summary or table of the right form and version may still lack or hold what no writer leaves out or puts in.

    Raises
    ------
    InputError
        If something is not there, of another type, or out of range.
    """
    try:
        yield
    except (PrecalignError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{shown(path, 1000)}: holds something else than precalign writes ({type(error).__name__}: {shown(error)})",
            hint="make the result again; if it is untouched, this is a defect of precalign: run with --debug",
        ) from error
