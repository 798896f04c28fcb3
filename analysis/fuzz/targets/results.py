"""Result directories of every kind, given to everything that reads them; and what a set keeps while it is computed."""

from __future__ import annotations

import io
import json
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from precalign.analysis.compare.contenders import parse_contenders
from precalign.analysis.compare.run import compare
from precalign.analysis.diff.run import difference
from precalign.analysis.diff.schema import DIFF_FILE
from precalign.analysis.fuzz.mutations.json_tree import change_tree, text_of, tree_of
from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.target import Bound, FileTarget
from precalign.analysis.fuzz.targets.safetensors import file_of, layers, safetensors
from precalign.analysis.pipeline import analyze
from precalign.analysis.plan import Options, make_plan
from precalign.analysis.query.views import described, views
from precalign.analysis.readers import open_dump
from precalign.analysis.render.registry import render
from precalign.analysis.results.directory import check_target
from precalign.analysis.results.reader import as_written, open_result
from precalign.analysis.results.schema import SUMMARY_FILE
from precalign.analysis.results.single import write_table_result
from precalign.analysis.results.stored import open_stored
from precalign.analysis.results.unfinished import (
    GROUP_SUFFIX,
    GROUPS_FOLDER,
    MANIFEST_FILE,
    PLAN_FILE,
    RUN_FOLDER,
    unfinished,
)
from precalign.analysis.sets.groups import DIGEST_BYTES, MAGIC, compute, make_groups, unpack, whole
from precalign.analysis.sets.places import find_dumps, names_of
from precalign.analysis.sets.planning import plan_dumps, read_plan
from precalign.analysis.sets.request import Request, versions
from precalign.analysis.sets.run import analyze_set
from precalign.analysis.whatif.basis import measured_basis
from precalign.errors import InputError, OutputError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case

OPTIONS = Options(jobs=1, steps="last")
TYPES = (
    pa.string(),
    pa.int8(),
    pa.float16(),
    pa.float64(),
    pa.bool_(),
    pa.binary(),
    pa.list_(pa.int64()),
    pa.null(),
    pa.date32(),
)


def write_dump(path: Path) -> Path:
    """Write the dump of which seeds are results."""
    header, tensors = safetensors(layers(1))
    path.write_bytes(file_of(json.dumps(header).encode(), tensors))
    return path


def _files(folder: Path) -> Case:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _results(folder: Path) -> list[Case]:
    """Return a result of analyze, of compare, of diff and of a set."""
    dump = write_dump(folder / "d.safetensors")
    with open_dump(dump) as opened:
        plan = make_plan(opened, OPTIONS)
        analyze(plan, folder / "single")
        compare(plan, parse_contenders(["int8-token"], (), ()), folder / "compare")
    stored = open_stored(folder / "single")
    found = difference(stored, stored)
    (folder / "diff").mkdir()
    write_table_result(folder / "diff", folder / "diff", found.summary, (DIFF_FILE, found.table), ("x.html", None))
    (folder / "dumps").mkdir()
    for name in ("a", "b"):
        write_dump(folder / "dumps" / f"{name}.safetensors")
    analyze_set(
        Request(OPTIONS),
        find_dumps([str(folder / "dumps")]),
        folder / "set",
        command="precalign analyze dumps/ -o set/",
    )
    return [
        {name: octets for name, octets in _files(folder / kind).items() if not name.endswith(".html")}
        for kind in ("single", "compare", "diff", "set")
    ]


def _terminal(path: Path) -> None:
    render(path, "terminal")


def _page(path: Path) -> None:
    render(path, "html")


def _markdown(path: Path) -> None:
    render(path, "md")


def _query(path: Path) -> None:
    for view in views({"x": open_stored(path)}):
        described(view, with_result=True)
        for part in view.parts.values():
            with as_written(path):  # what DuckDB raises is made such an error too
                part.head(10)


def _whatif(path: Path) -> None:
    measured_basis(open_result(path))


def _diff(path: Path) -> None:
    stored = open_stored(path)
    difference(stored, stored)


ANY_READERS: tuple[Callable[[Path], None], ...] = (_terminal, _query, _diff, _page)
READERS = (*ANY_READERS, _terminal, _markdown, _whatif)


class Results(FileTarget):
    """A directory that a command wrote."""

    name = "results"
    what = "result directories, as report, query, whatif and diff read them"
    bound = Bound(192 << 20, 64)
    FOLDER = "out"

    def seeds(self) -> list[Case]:
        """Return results of several commands on a small dump."""
        with tempfile.TemporaryDirectory() as folder:
            self._held = _results(Path(folder))
        return [self._case(held) for held in self._held]

    def _case(self, held: Case) -> Case:
        return {f"{self.FOLDER}/{name}": octets for name, octets in held.items()}

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change summary.json, a table, bytes of a file, or which files there are."""
        held, what = dict(draw.one(self._held)), draw.random()
        table = draw.one([name for name in held if name.endswith(".parquet")])
        if what < 0.5:
            held[SUMMARY_FILE] = text_of(change_tree(draw, tree_of(json.loads(held[SUMMARY_FILE])))).encode(
                "utf-8", "surrogatepass"
            )
        elif what < 0.7:
            held[table] = _changed_table(draw, held[table])
        elif what < 0.9:
            held[table] = change_octets(draw, held[table])
        elif what < 0.95:
            name = draw.one(sorted(held))
            held[name] = change_octets(draw, draw.one((held[name], held[SUMMARY_FILE], b"")))
        else:
            del held[draw.one(sorted(held))]
        return self._case(held)

    def run(self, case: Case, folder: Path) -> None:
        """Give it to one of its readers, which depends on the case alone."""
        check = 0
        for octets in case.values():
            check = zlib.crc32(octets, check)
        readers = self._readers(case)
        readers[check % len(readers)](folder / self.FOLDER)

    def warm(self, case: Case, folder: Path) -> None:
        """Give it to all of its readers."""
        for reader in self._readers(case):
            reader(folder / self.FOLDER)

    def _readers(self, case: Case) -> tuple[Callable[[Path], None], ...]:
        """Return what is made for such a directory, by its files."""
        return READERS if any(name.endswith("/heads.parquet") for name in case) else ANY_READERS

    def read(self, path: Path) -> None:
        """Show it."""
        _terminal(path)


def _changed_table(draw: Draw, octets: bytes) -> bytes:
    """Return a table of other columns, types, rows or metadata."""
    table = pq.read_table(io.BytesIO(octets))
    at = draw.randrange(table.num_columns)
    name, what = table.column_names[at], draw.randrange(7)
    if what == 0:
        table = table.remove_column(at)
    elif what == 1:
        table = table.rename_columns(
            [
                draw.text()[:100].encode("utf-8", "replace").decode() if i == at else n
                for i, n in enumerate(table.column_names)
            ]
        )
    elif what == 2:
        table = table.set_column(at, name, pa.nulls(table.num_rows, draw.one(TYPES)))
    elif what == 3:
        table = table.slice(0, draw.one((0, 0, 1)))
    elif what == 4:
        form = draw.one(
            (b"precalign.heads/1", b"precalign.heads/2", b"", b"\xff\xfe", draw.text()[:100].encode("utf-8", "replace"))
        )
        table = table.replace_schema_metadata({b"schema": form} if draw.chance(0.8) else None)
    elif what == 5:
        table = table.set_column(
            at, name, pa.array([draw.one((draw.random(), float("nan"), float("inf"), 1e308))] * table.num_rows)
        )
    else:
        table = pa.concat_tables([table] * draw.one((2, 3)))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


class RunFolder(FileTarget):
    """The hidden folder of a set that is not finished: manifest, plan, finished groups."""

    name = "run-folder"
    what = "unfinished sets: manifest, plan, groups"
    refusals = (InputError, UnavailableError, UsageError, OutputError)
    bound = Bound(64 << 20, 8192)
    FOLDER = "out"

    def seeds(self) -> list[Case]:
        """Return what a run of two dumps leaves."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for number in range(2):
                write_dump(folder / f"{number}.safetensors")
            places, request = find_dumps([name]), Request(OPTIONS)
            planned = list(plan_dumps(request, places, names_of(places), strict=True))
            assert planned[0].form is not None  # noqa: S101 - the dump is good
            (group,) = make_groups(iter(planned), places)
            packed = compute(request, group, planned[0].form["levels_bits"], versions(), lambda _: None)
        manifest: dict[str, Any] = {
            "schema": "precalign.run/1",
            "command": "precalign analyze .. -o out",
            "options": {},
            "versions": versions(),
            "dumps": [],
        }
        self._held: Case = {
            MANIFEST_FILE: json.dumps(manifest).encode(),
            PLAN_FILE: "".join(plan.line().replace(name, "x") for plan in planned).encode(),
            f"{GROUPS_FOLDER}/000000{GROUP_SUFFIX}": packed,
        }
        return [self._case(self._held)]

    def _case(self, held: Case) -> Case:
        return {f"{self.FOLDER}/{RUN_FOLDER}/{name}": octets for name, octets in held.items()}

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change a file; a changed group is made to look whole half of the time."""
        held = dict(self._held)
        name = draw.one(sorted(held))
        if name.endswith(GROUP_SUFFIX):
            held[name] = self._changed_group(draw, held[name])
        elif draw.chance(0.7):
            lines = held[name].splitlines()
            at = draw.randrange(len(lines))
            lines[at] = text_of(change_tree(draw, tree_of(json.loads(lines[at])))).encode("utf-8", "surrogatepass")
            held[name] = b"\n".join(lines)
        else:
            held[name] = change_octets(draw, held[name])
        return self._case(held)

    @staticmethod
    def _changed_group(draw: Draw, packed: bytes) -> bytes:
        import hashlib

        start = len(MAGIC) + DIGEST_BYTES
        body = packed[start:]
        if draw.chance(0.5):
            end = 8 + int.from_bytes(body[:8], "little")
            header = text_of(change_tree(draw, tree_of(json.loads(body[8:end])))).encode("utf-8", "surrogatepass")
            body = len(header).to_bytes(8, "little") + header + body[end:]
        else:
            body = change_octets(draw, body)
        return MAGIC + hashlib.sha256(body).digest() + body if draw.chance(0.8) else change_octets(draw, packed)

    def run(self, case: Case, folder: Path) -> None:
        """Look at it as those do who go on with it, or are asked to write there."""
        target = folder / self.FOLDER
        str(unfinished(target))
        with suppress(OutputError):
            check_target(target, overwrite=False)
        for path in (target / RUN_FOLDER / GROUPS_FOLDER).glob(f"*{GROUP_SUFFIX}"):
            if whole(packed := path.read_bytes()):
                unpack(packed, with_tables=False)
                unpack(packed)
        for planned in read_plan(target / RUN_FOLDER / PLAN_FILE):
            str((planned.n_heads, planned.size_bytes))

    def read(self, path: Path) -> None:
        """Not asked for: `run` does all."""
        raise NotImplementedError(path)
