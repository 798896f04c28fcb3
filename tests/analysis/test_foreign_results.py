"""Result directories and unfinished sets that somebody else has changed: a message, never a traceback."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_dump

from precalign.analysis.query.views import views
from precalign.analysis.results.reader import open_result
from precalign.analysis.results.stored import open_stored
from precalign.analysis.results.unfinished import unfinished
from precalign.analysis.sets.groups import Finished, pack, unpack, whole
from precalign.analysis.sets.planning import Planned
from precalign.analysis.whatif.basis import measured_basis
from precalign.cli.main import main
from precalign.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    dump = small_dump.write(folder / "d.safetensors")
    assert main(["analyze", str(dump), "-o", str(folder / "out"), "--steps", "last", "--no-report"]) == 0
    return folder / "out"


@pytest.fixture
def result(made, tmp_path):
    import shutil

    return shutil.copytree(made, tmp_path / "out")


def change(result, edit):
    path = result / "summary.json"
    summary = json.loads(path.read_text())
    edit(summary)
    path.write_text(json.dumps(summary))


EDITS = {
    "no rules": lambda s: s.pop("rules"),
    "rules are text": lambda s: s.update(rules="x"),
    "totals of text": lambda s: s["rules"][0].update(totals="x"),
    "levels of nothing": lambda s: s["layout"].update(levels_bits=None),
    "a huge count": lambda s: s["dump"].update(n_layers=10**400),
    "steps of text": lambda s: s["options"].update(n_steps="1"),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("form", ["terminal", "md", "html"])
def test_a_summary_of_something_else(result, capsys, edit, form):
    change(result, EDITS[edit])
    code = main(["report", str(result), "--format", form])
    told = capsys.readouterr().err
    assert code in {0, 3}
    if code == 3:
        assert "holds something else than precalign writes" in told
        assert "Traceback" not in told


@pytest.mark.parametrize("schema", [["precalign.analyze/1"], {}, 7, None])
def test_a_schema_that_is_no_text(result, schema):
    change(result, lambda s: s.update(schema=schema))
    with pytest.raises(InputError, match="expected one of the forms"):
        open_stored(result)


def test_the_cause_is_one_debug_away(result):
    change(result, EDITS["no rules"])
    with pytest.raises(InputError, match="KeyError: 'rules'") as caught:
        main(["--debug", "report", str(result), "--format", "terminal"])
    assert isinstance(caught.value.__cause__, KeyError)
    assert "defect of precalign" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "NaN", '{"schema": 1, "schema": 2}', "\x00", "{}", "[]", '"precalign.summary/2"']
)
def test_a_summary_that_is_none(result, capsys, text):
    (result / "summary.json").write_text(text)
    for line in (
        ["report", str(result), "--format", "terminal"],
        ["query", str(result), "SELECT 1"],
        ["diff", str(result), str(result)],
    ):
        assert main(line) == 3
        assert "Traceback" not in capsys.readouterr().err


def test_a_table_that_lacks_a_column(result, capsys):
    path = result / "heads.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["key_bits_mean"]), path)
    assert main(["report", str(result), "--format", "terminal"]) == 3
    assert "heads.parquet: cannot be read" in capsys.readouterr().err
    pq.write_table(table.drop_columns(["rule"]), path)
    with pytest.raises(InputError):
        measured_basis(open_result(result))


def test_metadata_that_is_no_text(result, capsys):
    path = result / "heads.parquet"
    table = pq.read_table(path)
    schema = table.schema
    fields = [schema.field(0).with_metadata({b"unit\xff": b"\xff", b"description": b"\x90"}), *list(schema)[1:]]
    pq.write_table(table.cast(pa.schema(fields, metadata=schema.metadata)), path)
    assert main(["query", str(result), "--tables"]) == 0
    capsys.readouterr()


def test_a_damaged_page_of_a_table(result, capsys):
    """The footer is whole, the rows are not: found only when they are read."""
    path = result / "heads.parquet"
    octets = bytearray(path.read_bytes())
    octets[60:400] = bytes(340)
    path.write_bytes(octets)
    assert views({"x": open_stored(result)})
    assert main(["report", str(result), "--format", "terminal"]) == 3
    assert main(["diff", str(result), str(result)]) == 3
    assert "Traceback" not in capsys.readouterr().err


# --- unfinished sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[" * 100_000,
        '{"dump": 0}',
        '{"dump": "x", "name": "a", "place": "b", "identity": [], "heads": []}',
        '{"dump": 0, "name": "a", "place": "b", "identity": [["x", "y", "z"]], "heads": []}',
        '{"dump": 0, "name": "a", "place": "b", "identity": [1], "heads": []}',
        '{"dump": 0, "name": "a", "place": "b", "identity": [], "heads": [["x", 1]]}',
        '{"dump": 0, "name": "a", "place": "b", "identity": [], "heads": [], "more": 1}',
    ],
)
def test_a_plan_of_something_else(line):
    with pytest.raises(InputError, match="plan of the unfinished run is damaged"):
        Planned.of(line)


def test_a_group_that_is_whole_and_still_none():
    packed = pack(Finished([{"dump": 0}], {}))
    assert unpack(packed).heads == [{"dump": 0}]
    start = packed.index(b"\n") + 1
    for header in (
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"heads": [], "lengths": {"x": [1, 1099511627776]}}',
        b'{"heads": [], "lengths": {"x": [1, 8]}}',
    ):
        body = len(header).to_bytes(8, "little") + header + b"\xff" * 8
        forged = packed[:start] + hashlib.sha256(body).digest() + body
        assert whole(forged)
        with pytest.raises(InputError, match="a finished group is damaged"):
            unpack(forged)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"command": "a\\u001b[2J\\nError: forged"}', "\x00"])
def test_a_manifest_of_something_else(tmp_path, text):
    (tmp_path / ".precalign-run").mkdir()
    (tmp_path / ".precalign-run" / "manifest.json").write_text(text)
    found = unfinished(tmp_path)
    assert found.command.isprintable()
    assert found.done == 0
