"""Reading the result of a set back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from precalign.analysis.results.reader import read_summary
from precalign.analysis.results.schema import TABLES
from precalign.analysis.sets.agreement import Agreement, over_dumps
from precalign.analysis.sets.schema import DUMPS_FILE, DUMPS_SCHEMA, SET_SCHEMA, TABLES_FOLDER
from precalign.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = "precalign analyze DUMP DUMP.. -o DIR"


@dataclass(frozen=True)
class SetResult:
    """The result of a set.

    Attributes
    ----------
    path : Path
    summary : dict
        summary.json.
    """

    path: Path
    summary: dict[str, Any]

    @property
    def rule_names(self) -> list[str]:
        """Rules and policies, in order."""
        names: list[str] = self.summary["options"]["rules"]
        return names

    def dumps(self) -> pa.Table:
        """Return dumps.parquet.

        Raises
        ------
        InputError
            If it is missing, damaged or of another version.
        """
        path = self.path / DUMPS_FILE
        _check(path, DUMPS_SCHEMA)
        return pq.read_table(path)

    def parts(self, table: str) -> list[Path]:
        """Return the files of a table, in order.

        Raises
        ------
        InputError
            If one is missing, damaged or of another version.
        """
        if table not in TABLES:
            raise KeyError(table)
        folder = self.path / TABLES_FOLDER / table
        paths = sorted(folder.glob("part-*.parquet"))
        if [path.name for path in paths] != [f"part-{n:05d}.parquet" for n in range(len(paths))] or not paths:
            raise InputError(f"{folder}: parts are missing", hint="analyze the dumps again with --overwrite")
        for path in paths:
            _check(path, f"precalign.{table}/1")
        return paths

    def agreement(self) -> Agreement:
        """Return mean and spread over dumps of every layer and head."""
        return over_dumps(self.parts("heads"), self.rule_names, self.summary["layout"]["format_bits"])


def _check(path: Path, schema: str) -> None:
    try:
        form = (pq.read_schema(path).metadata or {}).get(b"schema", b"").decode()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="analyze the dumps again with --overwrite") from error
    if form != schema:
        raise InputError(f"{path}: expected the table form {schema!r}, got {form!r}")


def open_set(path: Path) -> SetResult:
    """Open the result of a set.

    Raises
    ------
    InputError
        If it is not one, is not whole, or is of a version that this one cannot read.
    """
    return SetResult(path, read_summary(path, SET_SCHEMA, COMMAND))
