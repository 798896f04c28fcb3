"""A result appears whole or not at all, and nothing else is ever removed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_dump
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from precalign.analysis.pipeline import analyze
from precalign.analysis.plan import Options, make_plan
from precalign.analysis.readers import open_dump
from precalign.analysis.results import tables
from precalign.analysis.results.directory import result_directory
from precalign.analysis.results.quantiles import Spread, quantiles_of
from precalign.analysis.results.reader import open_result
from precalign.analysis.results.tables import TableWriter
from precalign.errors import InputError, OutputError


@pytest.fixture
def dump(tmp_path):
    return small_dump.write(tmp_path / "small.safetensors")


def run(dump, target, **arguments):
    with open_dump(dump) as opened:
        return analyze(make_plan(opened, Options(steps="last", jobs=1)), target, **arguments)


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_earlier_result_is_replaced_only_when_asked(dump, tmp_path):
    out = tmp_path / "deep/out"
    run(dump, out)
    before = listing(tmp_path)
    with pytest.raises(OutputError) as caught:
        run(dump, out)
    assert str(caught.value) == (
        f"{out}: exists already\nHint: choose another directory, or replace it with --overwrite"
    )
    (out / "heads.parquet").write_bytes(b"")
    run(dump, out, overwrite=True)
    assert listing(tmp_path) == before
    assert open_result(out).table("heads").num_rows == 4


def test_an_empty_directory_may_be_filled(dump, tmp_path):
    (tmp_path / "out").mkdir()
    run(dump, tmp_path / "out")
    assert (tmp_path / "out/summary.json").exists()


@pytest.mark.parametrize("there", ["file", "folder", "other.json", "link to nowhere"])
def test_nothing_else_is_ever_overwritten(dump, tmp_path, there):
    out = tmp_path / "out"
    if there == "file":
        out.write_text("precious")
    elif there == "link to nowhere":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        (out / "summary.json").write_text('{"schema": "mine"}' if there == "other.json" else "precious")
    before = listing(tmp_path)
    with pytest.raises(OutputError, match="is not a result directory of precalign, so it is not overwritten"):
        run(dump, out, overwrite=True)
    assert listing(tmp_path) == before


def test_a_result_with_something_added_is_not_overwritten(dump, tmp_path):
    run(dump, tmp_path / "out")
    (tmp_path / "out/notebook.ipynb").write_text("precious")
    with pytest.raises(OutputError, match=r"holds files that precalign did not write \('notebook.ipynb'\)"):
        run(dump, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/notebook.ipynb").read_text() == "precious"


def test_a_link_to_a_directory_stays_a_link(dump, tmp_path):
    run(dump, tmp_path / "real")
    (tmp_path / "out").symlink_to("real")
    run(dump, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert open_result(tmp_path / "real").summary["dump"]["name"] == "small.safetensors"


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over an earlier one"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("where", ["write_table", "close"])
def test_a_disk_that_refuses_leaves_what_was_there(dump, tmp_path, monkeypatch, earlier, number, where):
    out = tmp_path / "out"
    if earlier:
        run(dump, out)
    before = {path: (tmp_path / path).read_bytes() for path in listing(tmp_path) if (tmp_path / path).is_file()}

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, where, refuse)
        with pytest.raises(OutputError, match=f"out: cannot be written: {os.strerror(number)}"):
            run(dump, out, overwrite=True)
    assert {path: (tmp_path / path).read_bytes() for path in before} == before
    assert len(listing(tmp_path)) == len(before) + earlier


def test_a_file_size_limit_ends_in_one_message(dump, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    run(dump, tmp_path / "first")  # so that no compiled kernel is to be written below
    line = f"ulimit -f 4; exec {sys.executable} -m precalign.cli.main analyze {dump} -o {folder}/out --steps last --no-report"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        f"Error: {folder}/out: cannot be written: File too large\nHint: nothing was left there; choose another place\n"
    )
    assert list(folder.iterdir()) == []


def test_a_place_that_takes_no_directory(dump):
    with pytest.raises(OutputError, match="/proc/out: cannot be written"):
        run(dump, __import__("pathlib").Path("/proc/out"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_goes_wrong_nothing_half_written_remains(dump, tmp_path, error):
    def fail(_directory):
        raise error

    before = listing(tmp_path)
    with pytest.raises(error):
        run(dump, tmp_path / "out", render=fail)
    assert listing(tmp_path) == before


def test_two_runs_at_once_do_not_mix(tmp_path):
    out = tmp_path / "out"
    with result_directory(out) as quick:
        (quick / "summary.json").write_text("quick")
        slow = result_directory(out)
        (slow.__enter__() / "summary.json").write_text("slow")
    with pytest.raises(OutputError, match="exists already"):
        slow.__exit__(None, None, None)
    assert (out / "summary.json").read_text() == "quick"
    assert listing(tmp_path) == ["out", "out/summary.json"]


def leave(folder, name, *files):
    (folder / name).mkdir()
    for file in files:
        (folder / name / file).write_text("left")
    return folder / name


def test_what_killed_runs_left_is_removed_and_nothing_else(dump, tmp_path):
    stale = leave(tmp_path, ".out.abc_1234.partial", "heads.parquet")
    kept = [
        leave(tmp_path, ".out.abc_1235.partial", "notes.txt"),
        leave(tmp_path, ".other.abc_1234.partial", "heads.parquet"),
        leave(tmp_path, ".out.short.partial"),
        leave(tmp_path, ".out.abc_1236.partial", "steps.parquet"),
    ]
    with open_lock(kept[-1]):  # its run is alive
        run(dump, tmp_path / "out")
    assert not stale.exists()
    assert all(place.exists() for place in kept)


@contextlib.contextmanager
def open_lock(path):
    """Lock a directory as another process would."""
    code = "import fcntl, os, sys; h = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(h, fcntl.LOCK_EX); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        yield
        process.stdin.close()


def test_a_result_whose_replacement_was_killed_comes_back(dump, tmp_path):
    run(dump, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.abc_1234.replaced")
    with pytest.raises(OutputError, match="exists already"):
        run(dump, tmp_path / "out")
    assert listing(tmp_path)[:2] == ["out", "out/cache.parquet"]
    leave(tmp_path, ".out.abc_1234.replaced", "heads.parquet")
    run(dump, tmp_path / "out", overwrite=True)
    assert listing(tmp_path)[:2] == ["out", "out/cache.parquet"]


def test_a_killed_run_is_cleaned_up_by_the_next(dump, tmp_path):
    line = [
        sys.executable,
        "-m",
        "precalign.cli.main",
        "analyze",
        str(dump),
        "-o",
        str(tmp_path / "out"),
        "--no-report",
    ]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.partial")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    run(dump, tmp_path / "out", overwrite=(tmp_path / "out").exists())
    assert not list(tmp_path.glob(".out.*"))


def test_the_report_is_made_from_the_finished_directory(dump, tmp_path):
    def render(directory):
        return f"<p>{open_result(directory).table('heads').num_rows} heads</p>"

    run(dump, tmp_path / "out", render=render)
    assert (tmp_path / "out/report.html").read_text() == "<p>4 heads</p>"


def test_reading_back_says_what_is_wrong(dump, tmp_path):
    with pytest.raises(InputError, match=r"is not a result directory: it has no summary\.json"):
        open_result(tmp_path)
    run(dump, tmp_path / "out")
    held = open_result(tmp_path / "out")
    (tmp_path / "out/steps.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"steps\.parquet: cannot be read"):
        held.table("steps")
    (tmp_path / "out/steps.parquet").write_bytes((tmp_path / "out/heads.parquet").read_bytes())
    with pytest.raises(InputError, match=r"expected the table form 'precalign.steps/1', got 'precalign.heads/1'"):
        held.table("steps")
    summary = held.summary | {"schema": "precalign.summary/1"}
    (tmp_path / "out/summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"expected the form 'precalign.summary/2', got 'precalign.summary/1'"):
        open_result(tmp_path / "out")
    (tmp_path / "out/summary.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        open_result(tmp_path / "out")


@given(st.lists(st.integers(0, 40), max_size=12))
def test_row_groups_do_not_depend_on_the_pieces(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("pieces")
    schema, total = pa.schema([("x", pa.int64())]), sum(sizes)

    def write(name, pieces):
        writer, begin = TableWriter(folder / name, schema, folder), 0
        for size in pieces:
            writer.add(pa.table({"x": np.arange(begin, begin + size)}, schema))
            begin += size
        writer.close()
        return (folder / name).read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "ROW_GROUP_ROWS", 16)
        assert write("pieces", sizes) == write("whole", [total])
    file = pq.ParquetFile(folder / "pieces")
    assert file.read()["x"].to_pylist() == list(range(total))
    assert file.num_row_groups == -(-total // 16)


errors = st.floats(0, float(np.inf), width=32)


@given(st.lists(arrays.arrays(np.float32, st.integers(0, 20), elements=errors), min_size=1, max_size=5))
def test_quantiles_are_exact(parts):
    everything = np.sort(np.concatenate(parts))
    spread = Spread()
    for part in parts:
        spread.add(part)
    wanted = (0.25, 0.5, 0.99, 1.0)
    found = spread.quantiles(wanted, lambda: parts)
    assert np.array_equal(found, quantiles_of(everything, wanted), equal_nan=True)
    if len(everything):
        expected = [np.quantile(everything, q, method="inverted_cdf") for q in wanted]
        assert list(found) == expected
