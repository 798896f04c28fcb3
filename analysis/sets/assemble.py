"""From finished groups to the result of a set: in the order of the plan, cut by rows alone, so that every run writes the same bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from precalign import __version__
from precalign.analysis.results.directory import writing
from precalign.analysis.results.schema import SUMMARY_FILE, TABLES
from precalign.analysis.results.tables import TableWriter
from precalign.analysis.sets.agreement import over_dumps
from precalign.analysis.sets.groups import unpack
from precalign.analysis.sets.planning import read_plan
from precalign.analysis.sets.schema import (
    DUMPS_FILE,
    GROUP_ROWS,
    PART_ROWS,
    SET_SCHEMA,
    TABLES_FOLDER,
    dumps_schema,
    set_table_schema,
)
from precalign.analysis.sets.totals import SetTotals
from precalign.analysis.sets.workspace import HINT
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from precalign.analysis.sets.groups import Finished
    from precalign.analysis.sets.planning import Planned
    from precalign.analysis.sets.request import Request
    from precalign.analysis.sets.workspace import Workspace

MOST_NAMED = 20
"""Refused dumps that summary.json names; dumps.parquet has all."""
ROWS_AT_ONCE = 256
"""Rows of dumps.parquet that become a table together: a table of one row takes a hundred times its memory."""


class PartWriter:
    """A table in parts of `PART_ROWS` rows; where it is cut depends on the number of rows alone."""

    def __init__(self, folder: Path, schema: pa.Schema, shown: Path) -> None:
        self._folder, self._schema, self._shown = folder, schema, shown
        self.paths: list[Path] = []
        self._room = 0
        self._writer: TableWriter | None = None
        with writing(shown, HINT):
            folder.mkdir(parents=True)

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        while table.num_rows:
            if self._room == 0:
                self._next()
            assert self._writer is not None  # noqa: S101 - _next has made one
            piece = table.slice(0, self._room)
            self._writer.add(piece)
            self._room -= piece.num_rows
            table = table.slice(piece.num_rows)

    def _next(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self.paths.append(self._folder / f"part-{len(self.paths):05d}.parquet")
        self._writer = TableWriter(self.paths[-1], self._schema, self._shown, GROUP_ROWS, HINT)
        self._room = PART_ROWS

    def close(self) -> None:
        """Write the last part; a table without rows is one part without rows."""
        if not self.paths:
            self._next()
        assert self._writer is not None  # noqa: S101
        self._writer.close()

    def abandon(self) -> None:
        """Let go of files that are about to be removed."""
        if self._writer is not None:
            self._writer.abandon()


def assemble(request: Request, space: Workspace, n_groups: int, form: dict[str, Any]) -> dict[str, Any]:
    """Write everything of a set but its page to the staging folder and return what summary.json holds.

    Parameters
    ----------
    request : Request
    space : Workspace
        All groups are finished.
    n_groups : int
    form : dict
        The object `layout`.

    Raises
    ------
    InputError
        If no dump is left.
    OutputError
        If the system refuses to write.
    """
    directory = space.staging()
    refused = _refused(space, n_groups)
    totals = SetTotals(request.rule_names, form["format_bits"])
    schemas = {name: set_table_schema(name, form["levels_bits"]) for name in TABLES}
    writers = {
        name: PartWriter(directory / TABLES_FOLDER / name, schema, space.target) for name, schema in schemas.items()
    }
    dumps = _Dumps(directory / DUMPS_FILE, space, refused, len(request.rule_names))
    try:
        for index in range(n_groups):
            finished = unpack(space.group_file(index).read_bytes())
            tables = _kept(finished, dumps, schemas)
            for name, rows in tables.items():
                writers[name].add(rows)
            totals.add(tables, dumps.number)
        dumps.close()
        for writer in writers.values():
            writer.close()
    finally:
        dumps.abandon()
        for writer in writers.values():
            writer.abandon()
    if not dumps.analysed:
        raise InputError(f"none of the {dumps.count} dumps can be analysed; the first: {dumps.refused[0]['reason']}")
    summary = {
        "schema": SET_SCHEMA,
        "precalign": __version__,
        "set": {
            "n_dumps": dumps.count,
            "n_analysed": dumps.analysed,
            "n_refused": dumps.count - dumps.analysed,
            "n_heads": dumps.heads,
            "n_skipped_heads": dumps.skipped,
            "n_steps": dumps.steps,
            "size_bytes": dumps.size,
            "without_queries": dumps.without_queries,
        },
        "refused": dumps.refused,
        "options": request.facts(),
        "layout": form,
        "conversions": dumps.conversions,
        "waste": totals.waste(),
        "rules": totals.rules(writers["errors"].paths),
        "over_dumps": over_dumps(writers["heads"].paths, request.rule_names, form["format_bits"]).summary(),
    }
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    with writing(space.target, HINT):
        (directory / SUMMARY_FILE).write_text(text, encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _refused(space: Workspace, n_groups: int) -> dict[int, str]:
    """Return, for dumps that turned out to be bad, what is wrong with the first of their heads."""
    refused: dict[int, str] = {}
    for index in range(n_groups):
        for head in unpack(space.group_file(index).read_bytes(), with_tables=False).heads:
            if "refused" in head:
                refused.setdefault(head["dump"], head["refused"])
    return refused


def _kept(finished: Finished, dumps: _Dumps, schemas: dict[str, pa.Schema]) -> dict[str, pa.Table]:
    """Return the rows of dumps that were not refused, behind a column with the dump's name."""
    dumps.number = {}
    begins = dict.fromkeys(finished.tables, 0)
    kept: dict[str, list[tuple[int, int, str]]] = {name: [] for name in finished.tables}
    for head in finished.heads:
        name = dumps.reach(head)
        for table, count in head.get("rows", {}).items():
            if name is not None:
                kept[table].append((begins[table], count, name))
            begins[table] += count
    tables = {}
    for table, runs in kept.items():
        rows = [finished.tables[table].slice(begin, count) for begin, count, _ in runs]
        plain = pa.concat_tables([finished.tables[table].slice(0, 0), *rows])
        names = pa.array([name for _, count, name in runs for _ in range(count)], pa.string())
        # One chunk a group: chunks of a few rows in a hundred columns cost more than the rows.
        tables[table] = pa.Table.from_arrays([names, *plain.combine_chunks().columns], schema=schemas[table])
    return tables


class _Dumps:
    """dumps.parquet in the making: goes along the plan as heads come, and counts."""

    def __init__(self, path: Path, space: Workspace, refused: dict[int, str], n_rules: int) -> None:
        self._found_bad, self._n_rules = refused, n_rules
        self._plan: Iterator[Planned] = read_plan(space.plan)
        self._writer = TableWriter(path, dumps_schema(), space.target, GROUP_ROWS, HINT)
        self._rows: list[dict[str, Any]] = []
        self._open: Planned | None = None
        self._reason: str | None = None
        self._here = [0, 0, 0]
        self.number: dict[str, int] = {}
        self.count = self.analysed = self.heads = self.skipped = self.steps = self.size = self.without_queries = 0
        self.refused: list[dict[str, str]] = []
        self.conversions: dict[str, dict[str, int]] = {}

    def reach(self, head: dict[str, Any]) -> str | None:
        """Count a head; return the name of its dump, None if the dump was refused."""
        if self._open is None or self._open.dump != head["dump"]:
            self._go_to(head["dump"])
        assert self._open is not None  # noqa: S101 - _go_to has found it
        if head["dump"] in self._found_bad:
            return None
        self.number[self._open.name] = self._open.dump
        self._here[1 if head["skipped"] else 0] += 1
        self._here[2] += head["rows"].get("steps", 0) // self._n_rules
        self._reason = self._reason or head["skipped"]
        for role, counts in head["conversions"].items():
            held = self.conversions.setdefault(role, {"elements": 0, "inexact": 0, "overflowed": 0})
            for what, count in zip(held, counts, strict=True):
                held[what] += count
        return self._open.name

    def _go_to(self, dump: int | None) -> None:
        self._end()
        for planned in self._plan:
            self._open, self._reason, self._here = planned, None, [0, 0, 0]
            if planned.dump == dump:
                return
            self._end()

    def _end(self) -> None:
        planned = self._open
        if planned is None:
            return
        self._open = None
        self.count += 1
        refused = planned.refused or self._found_bad.get(planned.dump)
        if refused is not None:
            if len(self.refused) < MOST_NAMED:
                self.refused.append({"dump": planned.name, "reason": refused})
        else:
            self.analysed += 1
            self.heads += self._here[0]
            self.skipped += self._here[1]
            self.steps += self._here[2]
            self.size += planned.size_bytes or 0
            self.without_queries += planned.n_steps == 0
        row = {
            "dump": planned.name,
            "place": planned.place,
            "status": "analysed" if refused is None else "refused",
            "reason": refused or self._reason,
            "size_bytes": planned.size_bytes,
            "n_steps": self._here[2],
            "n_heads": self._here[0],
            "n_skipped_heads": self._here[1],
            **(planned.facts or {}),
        }
        self._rows.append(row)
        if len(self._rows) == ROWS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        self._writer.add(pa.Table.from_pylist(self._rows, schema=dumps_schema()))
        self._rows = []

    def close(self) -> None:
        """Go to the end of the plan and write the file."""
        self._go_to(None)
        self._write()
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that is about to be removed."""
        self._writer.abandon()
