"""Any result directory as Arrow datasets: one interface over a single result and a set of many dumps.

A *single* result (`precalign analyze`, `frontier`, `compare`, `diff`) holds one parquet file per table. A *set* holds `dumps.parquet`, one row per
dump, and `tables/<table>/part-NNNNN.parquet`: the tables of `analyze` behind a first column `dump`. Its summary.json is written last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from precalign.analysis.compare.schema import COMPARE_FILE, COMPARE_SCHEMA
from precalign.analysis.diff.schema import DIFF_FILE, DIFF_SCHEMA
from precalign.analysis.frontier.schema import FRONTIER_FILE, FRONTIER_SCHEMA
from precalign.analysis.readers import printable
from precalign.analysis.results.reader import any_summary
from precalign.analysis.results.schema import SUMMARY_FILE, SUMMARY_SCHEMA, TABLES
from precalign.analysis.sets.schema import DUMPS_FILE, SET_SCHEMA, TABLES_FOLDER
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DUMPS = "dumps"
"""Table of a set: one row per dump."""


class Kind(NamedTuple):
    """A kind of result: which files its tables are in, and the form that stands in their metadata."""

    files: Mapping[str, str]
    forms: Mapping[str, str]


def _table_forms(names: list[str]) -> dict[str, str]:
    return {name: f"precalign.{name}/1" for name in names}


SINGLE = {
    SUMMARY_SCHEMA: Kind({name: f"{name}.parquet" for name in TABLES}, _table_forms([*TABLES])),
    FRONTIER_SCHEMA: Kind({"frontier": FRONTIER_FILE}, {"frontier": FRONTIER_SCHEMA}),
    COMPARE_SCHEMA: Kind({"compare": COMPARE_FILE}, {"compare": COMPARE_SCHEMA}),
    DIFF_SCHEMA: Kind({"diff": DIFF_FILE}, {"diff": DIFF_SCHEMA}),
}
"""`schema` of the summary.json of a single result -> where its tables are."""


@dataclass(frozen=True)
class Stored:
    """A result directory of any kind.

    Attributes
    ----------
    path : Path
    summary : dict
        summary.json.
    files : mapping
        Table -> its parquet files, in the order of their rows.
    """

    path: Path
    summary: dict[str, Any]
    files: Mapping[str, tuple[Path, ...]]
    _forms: Mapping[str, str] = field(repr=False)

    @property
    def kind(self) -> str:
        """`schema` of summary.json without its version: "precalign.summary", "precalign.set", .."""
        return str(self.summary["schema"]).rpartition("/")[0]

    @property
    def is_set(self) -> bool:
        """Whether this holds many dumps."""
        return bool(self.summary["schema"] == SET_SCHEMA)

    def dataset(self, table: str) -> ds.Dataset:
        """Return a table without reading its rows; fields carry "unit" and "description".

        Where parts differ in their columns, because the layouts of their dumps differ, a column that a part lacks is null there.

        Raises
        ------
        InputError
            If a file is missing, damaged or of another version.
        """
        files = self.files[table]
        schemas = [_schema(file, self._forms[table]) for file in files]
        schema = schemas[0]
        if any(not other.equals(schema) for other in schemas[1:]):
            schema = pa.unify_schemas(schemas)
        return ds.dataset([str(file) for file in files], schema=schema, format="parquet")


def open_stored(path: Path) -> Stored:
    """Open a result directory of any kind.

    Raises
    ------
    InputError
        If it is not one, is an unfinished set, or is of a version that this one cannot read.
    """
    if not (path / SUMMARY_FILE).exists() and (path / TABLES_FOLDER).is_dir():
        raise InputError(
            f"{printable(path)}: the run over many dumps is not finished: there is no {SUMMARY_FILE} yet",
            hint="run the same command again: it goes on where it stopped",
        )
    summary = any_summary(path, "precalign analyze DUMP -o DIR")
    schema = summary.get("schema")
    if schema == SET_SCHEMA:
        return _open_set(path, summary)
    if not isinstance(schema, str) or schema not in SINGLE:
        raise InputError(
            f"{printable(path / SUMMARY_FILE)}: expected one of the forms {', '.join([*SINGLE, SET_SCHEMA])}, got {printable(schema)!r}",
            hint="it was written by another version, or holds no tables",
        )
    kind = SINGLE[schema]
    return Stored(path, summary, {table: (path / name,) for table, name in kind.files.items()}, kind.forms)


def _open_set(path: Path, summary: dict[str, Any]) -> Stored:
    parts = {name: tuple(sorted((path / TABLES_FOLDER / name).glob("part-*.parquet"))) for name in TABLES}
    files = {DUMPS: (path / DUMPS_FILE,)} | {name: held for name, held in parts.items() if held}
    return Stored(path, summary, files, _table_forms([DUMPS, *TABLES]))


def _schema(file: Path, form: str) -> pa.Schema:
    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{printable(file)}: cannot be read: {printable(error, 300)}", hint="make the result again with --overwrite"
        ) from error
    found = (schema.metadata or {}).get(b"schema", b"").decode(errors="replace")
    if found != form:
        raise InputError(f"{printable(file)}: expected the table form {form!r}, got {printable(found)!r}")
    return schema


def named(paths: list[Path]) -> dict[str, Path]:
    """Name result directories by their own names, or by their paths as given where these are the same.

    Raises
    ------
    InputError
        If a directory is given twice.
    """
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{printable(twice)}: is given twice")
    return dict(zip(names, paths, strict=True))
