"""SQL over results: right rows, clear errors, and no way out of the views."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dump import tensors, write
from small_set import write_set

from precalign.cli.main import main

duckdb = pytest.importorskip("duckdb", reason="needs DuckDB, which is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two results, of two layouts."""
    folder = tmp_path_factory.mktemp("query")
    for name, options in {
        "a": ["--rule", "alignedkv", "--rule", "aligned-max"],
        "b": ["--layout", "6,2,4,4"],
    }.items():
        dump = write(folder / f"{name}.safetensors", tensors(seed=len(name)))
        assert main(["analyze", str(dump), "-o", str(folder / name), "--no-report", *options]) == 0
    return folder


def ask(capsys, *arguments):
    capsys.readouterr()
    code = main(["query", *map(str, arguments)])
    return code, *capsys.readouterr()


def rows(capsys, *arguments):
    code, out, err = ask(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_rows_are_those_of_the_file(results, capsys):
    """The oracle reads the file by itself and computes with numpy."""
    table = pq.read_table(results / "a/steps.parquet").to_pydict()
    got = rows(
        capsys,
        results / "a",
        "SELECT layer, kv_head, sum(key_bytes) AS moved FROM steps WHERE rule = 'aligned-max' AND step % 3 = 1 GROUP BY ALL ORDER BY ALL",
    )
    keep = (np.array(table["rule"]) == "aligned-max") & (np.array(table["step"]) % 3 == 1)
    expected = [
        {"layer": layer, "kv_head": head, "moved": int(np.array(table["key_bytes"])[keep & here].sum())}
        for layer in (0, 1)
        for head in (0, 1)
        for here in [(np.array(table["layer"]) == layer) & (np.array(table["kv_head"]) == head)]
    ]
    assert got == expected


def test_every_table_is_a_view_with_all_its_rows(results, capsys):
    for name in ("heads", "steps", "errors", "channels", "tokens", "cache"):
        (row,) = rows(capsys, results / "a", f"SELECT count(*) AS n FROM {name}")  # noqa: S608
        assert row["n"] == pq.read_metadata(results / f"a/{name}.parquet").num_rows


def test_several_results_are_told_apart(results, capsys):
    got = rows(capsys, results / "a", results / "b", "SELECT result, count(*) AS n FROM heads GROUP BY 1 ORDER BY 1")
    assert got == [{"result": "a", "n": 8}, {"result": "b", "n": 4}]
    # a column of one layout is null in the other
    levels = "SELECT result, min(key_channels_at_6_bits) AS six, min(key_channels_at_12_bits) AS twelve FROM heads"
    got = {r["result"]: r for r in rows(capsys, results / "a", results / "b", f"{levels} GROUP BY 1")}
    assert got["a"]["six"] is None
    assert got["b"]["six"] is not None
    assert got["b"]["twelve"] is not None


def test_results_of_one_name_are_called_by_their_paths(results, tmp_path, capsys):
    shutil.copytree(results / "a", tmp_path / "a")
    got = rows(capsys, results / "a", tmp_path / "a", "SELECT DISTINCT result FROM heads ORDER BY 1")
    assert [row["result"] for row in got] == sorted([str(results / "a"), str(tmp_path / "a")])
    code, _, err = ask(capsys, results / "a", results / "a", "FROM heads")
    assert (code, "given twice" in err) == (3, True)


def test_a_name_with_a_quote_is_only_a_name(results, tmp_path, capsys):
    odd = tmp_path / "a' UNION ALL SELECT '\x1b[31m"
    shutil.copytree(results / "a", odd)
    got = rows(capsys, odd, results / "b", "SELECT DISTINCT result FROM heads")
    assert odd.name in {row["result"] for row in got}
    _, out, _ = ask(capsys, odd, results / "b", "SELECT DISTINCT result FROM heads")
    assert "\x1b" not in out
    assert "\\x1b[31m" in out


def test_sets_have_the_dump_in_front(results, tmp_path, capsys):
    held = write_set(tmp_path / "set", {"one": results / "a", "two": results / "b", "three": results / "a"})
    got = rows(capsys, held, "SELECT dump, count(*) AS n FROM heads GROUP BY 1 ORDER BY 1")
    assert got == [{"dump": "one", "n": 8}, {"dump": "three", "n": 8}, {"dump": "two", "n": 4}]
    assert rows(capsys, held, "FROM dumps ORDER BY dump") == [{"dump": d} for d in ("one", "three", "two")]


def test_an_unfinished_set_is_refused(results, tmp_path, capsys):
    held = write_set(tmp_path / "set", {"one": results / "a"}, finished=False)
    code, _, err = ask(capsys, held, "FROM heads")
    assert code == 3
    assert "is not finished" in err


def test_frontier_is_a_view(results, tmp_path, capsys):
    arguments = [str(results / "a.safetensors"), "-o", str(tmp_path / "front"), "--rule", "alignedkv", "--no-report"]
    assert main(["frontier", *arguments, "--steps", "every:32", "--layout", "8,4,4"]) == 0
    (row,) = rows(capsys, tmp_path / "front", "SELECT count(*) AS n FROM frontier")
    assert row["n"] == pq.read_metadata(tmp_path / "front/frontier.parquet").num_rows


def test_tables_say_what_the_files_say(results, capsys):
    code, out, _ = ask(capsys, results / "a", results / "b", "--tables", "--json")
    assert code == 0
    listed = {column["column"]: column for column in json.loads(out)["heads"]}
    assert listed["result"]["meaning"] == "name of the result directory"
    for field in pq.read_schema(results / "a/heads.parquet"):
        assert listed[field.name]["meaning"].encode() == field.metadata[b"description"]
        assert listed[field.name]["unit"].encode() == field.metadata[b"unit"]
    assert "key_channels_at_6_bits" in listed
    _, out, _ = ask(capsys, results / "a", "--tables")
    assert "bits read per key number" in out


WAYS_OUT = {
    "read text": "SELECT content FROM read_text('{secret}')",
    "read csv": "FROM read_csv('{secret}', header = false)",
    "read blob": "SELECT content FROM read_blob('{secret}')",
    "file as a table": "FROM '{secret}.csv'",
    "glob": "FROM glob('{folder}/*')",
    "sniff": "FROM sniff_csv('{secret}.csv')",
    "copy out": "COPY (SELECT 1) TO '{folder}/written.csv'",
    "attach": "ATTACH '{folder}/written.db' AS d",
    "export": "EXPORT DATABASE '{folder}/written'",
    "setting": "SET temp_directory = '{folder}/written'",
    "table": "CREATE TABLE t AS SELECT 1",
}
"""What an open DuckDB does and a query must not."""
CLOSED_ANYWAY = (
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FROM read_csv('https://localhost:9/x.csv')",
    "FROM enable_logging(storage='file', storage_path='{folder}/written')",
    "CALL enable_logging(storage='file', storage_path='{folder}/written')",
    "PRAGMA profiling_output = '{folder}/written'",
    "SELECT 1; COPY (SELECT 1) TO '{folder}/written.csv'",
    "FROM query('COPY (SELECT 1) TO ''{folder}/written.csv''')",
    "DROP VIEW heads",
    "FROM connection",
)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "private/secret"
    path.parent.mkdir()
    path.write_text("only-for-me\n")
    path.with_name("secret.csv").write_text("a,b\n1,only-for-me\n")
    return path


@pytest.mark.parametrize("sql", [*WAYS_OUT.values(), *CLOSED_ANYWAY])
def test_there_is_no_way_out(results, secret, capsys, sql):
    before = sorted(p.name for p in secret.parent.iterdir())
    code, out, err = ask(capsys, results / "a", sql.format(secret=secret, folder=secret.parent))
    assert code in (2, 3)
    assert err.startswith("Error: ")
    assert "only-for-me" not in out + err
    assert sorted(p.name for p in secret.parent.iterdir()) == before


@pytest.mark.parametrize("way", WAYS_OUT)
def test_an_open_database_would_have_let_it(secret, way):
    """The control: each statement above works where nothing is locked."""
    with duckdb.connect(":memory:") as open_database:
        open_database.execute(WAYS_OUT[way].format(secret=secret, folder=secret.parent)).fetchall()


def test_variables_of_the_program_are_no_tables(results, monkeypatch, capsys):
    from precalign.analysis.query import database

    monkeypatch.setattr(database, "mine", pa.table({"a": [1]}), raising=False)
    code, _, err = ask(capsys, results / "a", "FROM mine")
    assert (code, "mine does not exist" in err) == (2, True)


def test_more_than_memory_goes_to_a_disk_that_is_cleared(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sql = "SELECT count(*) AS n, max(r) AS most FROM (SELECT row_number() OVER (ORDER BY hash(range)) AS r FROM range(3000000))"
    assert rows(capsys, results / "a", sql, "--memory", "50MB") == [{"n": 3000000, "most": 3000000}]
    assert list(tmp_path.iterdir()) == []
    code, _, err = ask(capsys, results / "a", "SELECT list(range) FROM range(30000000)", "--memory", "50MB")
    assert code == 3
    assert "--memory" in err
    code, _, err = ask(capsys, results / "a", "FROM heads", "--memory", "much")
    assert (code, "no size" in err) == (2, True)


def test_an_interrupt_ends_it(results, tmp_path):
    sql = "SELECT count(*) FROM range(1000000000000) WHERE hash(range) = 5"
    with subprocess.Popen(
        [sys.executable, "-m", "precalign.cli.main", "query", str(results / "a"), sql],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads here
    ) as running:
        try:
            while not any(tmp_path.iterdir()):  # the database is being opened
                time.sleep(0.05)
            time.sleep(0.5)
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=20)
        finally:
            running.kill()
    assert running.returncode == 130, err
    assert err.strip() == "Interrupted."
    assert list(tmp_path.iterdir()) == []


def test_csv_json_and_parquet_hold_the_same(results, tmp_path, capsys):
    sql = (
        "SELECT rule, layer, kv_head, key_bits_mean, key_wasted_histogram, NULL::INT AS nothing FROM heads ORDER BY ALL"
    )
    source = results / "a"
    for suffix in ("csv", "json", "parquet"):
        code, out, _ = ask(capsys, source, sql, "-o", tmp_path / f"x.{suffix}")
        assert code == 0
        assert out == f"Wrote {tmp_path / f'x.{suffix}'}: 8 rows\n"
    stored = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert json.loads((tmp_path / "x.json").read_text()) == stored == rows(capsys, source, sql)
    text = (tmp_path / "x.csv").read_text()
    assert ask(capsys, source, sql, "--csv")[1] == text
    read = list(csv.DictReader(io.StringIO(text)))
    assert [float(r["key_bits_mean"]) for r in read] == [r["key_bits_mean"] for r in stored]
    assert [json.loads(r["key_wasted_histogram"]) for r in read] == [r["key_wasted_histogram"] for r in stored]
    assert {r["nothing"] for r in read} == {""}


def test_a_file_is_written_whole_or_not_at_all(results, tmp_path, capsys):
    target = tmp_path / "x.csv"
    failing = "SELECT CASE WHEN range = 200000 THEN rule::INT ELSE 1 END AS x FROM range(300000), (FROM heads LIMIT 1)"
    code, _, err = ask(capsys, results / "a", failing, "-o", target)
    assert code == 3
    assert "Conversion Error" in err
    assert list(tmp_path.iterdir()) == []
    target.write_text("mine")
    code, _, err = ask(capsys, results / "a", "FROM heads", "-o", target)
    assert (code, "--overwrite" in err, target.read_text()) == (4, True, "mine")
    assert ask(capsys, results / "a", "FROM heads", "-o", target, "--overwrite")[0] == 0
    assert target.read_text().startswith("rule,layer")
    assert ask(capsys, results / "a", "FROM heads", "-o", tmp_path / "none/x.csv")[0] == 4


def test_numbers_that_json_lacks(results, capsys):
    sql = "SELECT 'inf'::FLOAT AS a, '-inf'::DOUBLE AS b, 'nan'::DOUBLE AS c, 'ab'::BLOB AS d, DATE '2020-01-02' AS e, 1::HUGEINT << 70 AS f, 1.5 AS g, {'x': [1.5]} AS h"
    assert rows(capsys, results / "a", sql) == [
        {
            "a": "inf",
            "b": "-inf",
            "c": "nan",
            "d": "6162",
            "e": "2020-01-02",
            "f": 1 << 70,
            "g": 1.5,
            "h": {"x": [1.5]},
        }
    ]


def test_names_from_files_are_not_obeyed(results, tmp_path, capsys):
    evil = tmp_path / "evil"
    shutil.copytree(results / "a", evil)
    table = pq.read_table(evil / "heads.parquet")
    names = pa.array(["\x1b[2J\nname"] * table.num_rows)
    fields = [table.schema.field("rule").with_metadata({"description": "\x1b]0;title\x07", "unit": "[red]"})]
    changed = table.set_column(0, fields[0], names).append_column(pa.field("\x1b[1m", pa.int64()), [[1] * 8])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), evil / "heads.parquet")
    for arguments in (["FROM heads"], ["SELECT rule FROM heads"], ["--tables"], ["SELECT rule, x FROM heads"]):
        _, out, err = ask(capsys, evil, *arguments)
        assert "\x1b" not in out + err
        assert "\x07" not in out + err
    assert "[red]" in ask(capsys, evil, "--tables")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["SELECT bit_saving FROM heads"], 2, "is it bits_saving or"),
        (["SELECT heads.token FROM heads JOIN tokens ON true"], 2, "Hint: is it token"),
        (["SELECT zzz FROM heads"], 2, "views: heads, steps"),
        (["FROM head"], 2, "views: heads, steps"),
        (["SELEC 1"], 2, "LINE 1: SELEC 1"),
        ([""], 2, "one SELECT"),
        (["SELECT 1; SELECT 2"], 2, "one SELECT"),
        ([], 2, "a query is expected"),
        (["SELECT rule::INT FROM heads"], 3, "Conversion Error"),
        (["SELECT 1 AS a, 2 AS a", "--csv"], 2, "two columns are called 'a'"),
        (["FROM heads", "--csv", "--json"], 2, "give one of them"),
        (["FROM heads", "-o", "x.xlsx"], 2, "forms: .parquet, .csv, .json"),
        (["SELECT INTERVAL 1 DAY AS i", "-o", "never.parquet"], 2, "cast the column"),
        (["--file", "no-such-file"], 3, "cannot be read"),
    ],
)
def test_errors_say_what_to_do(results, capsys, arguments, code, says):
    got, _, err = ask(capsys, results / "a", *arguments)
    assert (got, says in err) == (code, True), err


def test_damaged_results_are_named(results, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(results / "a", broken)
    (broken / "tokens.parquet").write_bytes(b"PAR1 no PAR1")
    code, _, err = ask(capsys, broken, "FROM heads")
    assert code == 3
    assert "tokens.parquet" in err
    (broken / "summary.json").write_text('{"schema": "precalign.summary/99"}')
    assert "precalign.summary/99" in ask(capsys, broken, "FROM heads")[2]
    assert "no summary.json" in ask(capsys, tmp_path, "FROM heads")[2]


def test_without_duckdb_it_says_how_to_get_it(results, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    code, _, err = ask(capsys, results / "a", "FROM heads")
    assert code == 5
    assert "precalign[query]" in err
    assert ask(capsys, results / "a", "--tables")[0] == 0


def test_sql_from_a_file_and_from_stdin(results, tmp_path, monkeypatch, capsys):
    sql = "SELECT count(*) AS n FROM heads"
    (tmp_path / "q.sql").write_text(sql)
    expected = rows(capsys, results / "a", sql)
    assert rows(capsys, results / "a", "--file", tmp_path / "q.sql") == expected
    for arguments in (["-"], ["--file", "-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(sql))
        assert rows(capsys, results / "a", *arguments) == expected


def test_long_and_wide_answers(results, capsys):
    _, out, _ = ask(capsys, results / "a", "FROM steps", "--rows", "2")
    assert "row 1\n" in out  # 100 columns are shown one a line
    assert "row 2\n" not in out
    assert "The first 2 rows" in out
    _, out, _ = ask(capsys, results / "a", "SELECT rule, NULL AS n FROM heads WHERE layer = 7")
    assert "No rows." in out
