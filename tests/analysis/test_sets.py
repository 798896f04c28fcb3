"""Sets of dumps: their tables are those of single results, byte-identical whoever computes them, and nothing is lost in trouble."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import set_runs
import small_dump
from safetensors.numpy import save_file
from set_runs import RULES, TWO_RULES, files, run, write_dumps

from precalign.analysis.pipeline import analyze
from precalign.analysis.plan import Options, make_plan
from precalign.analysis.readers import open_dump
from precalign.analysis.render import render
from precalign.analysis.results.schema import TABLES
from precalign.analysis.results.unfinished import RUN_FOLDER
from precalign.analysis.sets import assemble, engines, groups, planning, workspace
from precalign.analysis.sets.groups import unpack, whole
from precalign.analysis.sets.reader import open_set
from precalign.analysis.sets.schema import set_table_schema
from precalign.analysis.sets.workspace import Workspace
from precalign.errors import InputError, OutputError, UnavailableError, UsageError


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    return write_dumps(tmp_path_factory.mktemp("set") / "in")


@pytest.fixture(scope="module")
def made(dumps, tmp_path_factory):
    """The result that every other way must give to the byte."""
    target = tmp_path_factory.mktemp("made") / "out"
    run(target, dumps)
    return target


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    monkeypatch.setattr(groups, "GROUP_COST", 1)


def table(target, name):
    return pq.read_table(target / "tables" / name)


def single(dump, target, **options):
    with open_dump(dump) as opened:
        analyze(make_plan(opened, Options(**{"rules": RULES, "steps": "every:30", "jobs": 1} | options)), target)
    return target


# What the result is.


def test_tables_are_those_of_single_results(dumps, tmp_path):
    run(tmp_path / "out", dumps, rules=TWO_RULES)
    for dump in sorted(dumps.iterdir()):
        alone = single(dump, tmp_path / dump.name, rules=TWO_RULES)
        for name in TABLES:
            mine = table(tmp_path / "out", name).filter(pc.field("dump") == dump.name)
            assert mine.drop(["dump"]).equals(pq.read_table(alone / f"{name}.parquet")), (dump.name, name)
    assert table(tmp_path / "out", "heads")["dump"].to_pylist() == [
        f"d{i}.safetensors" for i in range(3) for _ in range(8)
    ]


def test_a_set_of_one_adds_up_to_the_single_summary(dumps, tmp_path):
    alone = json.loads(
        (single(dumps / "d1.safetensors", tmp_path / "one", rules=TWO_RULES) / "summary.json").read_text()
    )
    summary = run(tmp_path / "set", dumps / "d1*", rules=TWO_RULES)
    for mine, theirs in zip(summary["rules"], alone["rules"], strict=True):
        worst = [{k: v for k, v in head.items() if k != "dump"} for head in mine.pop("worst_heads")]
        p99 = "output_relative_error_to_exact_p99"
        expected = theirs.pop("worst_heads")
        assert [head[p99] for head in worst] == [np.float32(head[p99]) for head in expected]
        assert [(h["layer"], h["kv_head"]) for h in worst] == [(h["layer"], h["kv_head"]) for h in expected]
        assert mine == theirs
    assert (summary["waste"], summary["layout"]) == (alone["waste"], alone["layout"])


def test_the_dumps_are_described(dumps, made):
    rows = open_set(made).dumps().to_pylist()
    assert [row["dump"] for row in rows] == [f"d{i}.safetensors" for i in range(3)]
    assert rows[2] == {
        "dump": "d2.safetensors", "place": str(dumps / "d2.safetensors"), "status": "analysed", "reason": None,
        "size_bytes": (dumps / "d2.safetensors").stat().st_size, "reader": "safetensors", "stored_format": "binary16",
        "storage_format": "binary16", "query_format": "binary16", "n_layers": 2, "n_kv_heads": 2, "n_q_heads": 4,
        "head_dim": 16, "seq_len": 70, "n_queries": 61, "n_steps": 4 * 3, "n_heads": 4, "n_skipped_heads": 0, "scale": 0.25,
        "scale_source": "the dump's metadata",
    }  # fmt: skip
    assert open_set(made).summary["set"]["n_steps"] == 3 * 4 * 3


def test_parts_are_cut_by_rows_alone(dumps, made, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "PART_ROWS", 50)
    monkeypatch.setattr(assemble, "GROUP_ROWS", 16)
    run(tmp_path / "out", dumps)
    found = open_set(tmp_path / "out")
    for name in TABLES:
        rows = [pq.read_metadata(path).num_rows for path in found.parts(name)]
        total = table(made, name).num_rows
        assert rows == [50] * (total // 50) + [total % 50] * (total % 50 > 0)
        assert table(tmp_path / "out", name).equals(table(made, name))
    (found.path / "tables/errors/part-00000.parquet").unlink()
    with pytest.raises(InputError, match="tables/errors: parts are missing"):
        found.parts("errors")


def test_other_programs_read_the_folders(made):
    import duckdb
    import pandas as pd
    import polars as pl

    expected = [(f"d{i}.safetensors", 12) for i in range(3)]
    steps = duckdb.read_parquet(f"{made}/tables/steps/*.parquet")
    assert steps.aggregate("dump, count(*)").order("dump").fetchall() == expected
    lazy = pl.scan_parquet(made / "tables/steps").group_by("dump").agg(pl.len()).sort("dump")
    assert lazy.collect().rows() == expected
    assert list(pd.read_parquet(made / "tables/steps").groupby("dump").size().items()) == expected


def test_schemas_are_those_of_single_results_behind_the_name(made):
    for name in TABLES:
        schema = pq.read_schema(made / "tables" / name / "part-00000.parquet")
        assert schema.equals(set_table_schema(name, (8, 12, 16)), check_metadata=True)
        assert schema.names[0] == "dump"


# Whoever computes it.


@pytest.mark.parametrize(("jobs", "cost"), [(2, 1), (5, 1 << 18), (3, 1 << 30)])
def test_jobs_and_groups_change_no_byte(dumps, made, tmp_path, monkeypatch, jobs, cost):
    monkeypatch.setattr(groups, "GROUP_COST", cost)
    run(tmp_path / "out", dumps, jobs=jobs)
    assert files(tmp_path / "out") == files(made)


def test_the_order_in_which_groups_finish_changes_no_byte(dumps, made, tmp_path, monkeypatch):
    def last_first(held):
        if not held._running:
            return None
        future, group = max(held._running.items(), key=lambda item: item[1].index)
        del held._running[future]
        return group, future.result()

    monkeypatch.setattr(engines._Threads, "next", last_first)
    run(tmp_path / "out", dumps, jobs=6)
    assert files(tmp_path / "out") == files(made)


def test_no_more_results_are_held_than_keep_the_threads_busy(dumps, tmp_path, monkeypatch):
    waiting, most = set(), []
    keep, submit = Workspace.keep, engines._Threads.submit

    def counted(held, group):
        waiting.add(group.index)
        most.append(len(waiting))
        submit(held, group)

    monkeypatch.setattr(engines._Threads, "submit", counted)
    monkeypatch.setattr(Workspace, "keep", lambda s, i, p: (waiting.discard(i), keep(s, i, p)))
    run(tmp_path / "out", dumps, jobs=2)
    assert (max(most), len(most)) == (3, 12)


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes; workers that are killed come again."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as running:
        yield running


def test_worker_processes_change_no_byte_also_if_one_is_killed(dumps, made, tmp_path, monkeypatch, cluster):
    killed = []
    keep = Workspace.keep

    def kill_one(space, index, packed):
        keep(space, index, packed)
        if not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(Workspace, "keep", kill_one)
    run(tmp_path / "out", dumps, cluster=cluster.scheduler_address)
    assert killed
    assert files(tmp_path / "out") == files(made)


def test_a_worker_of_another_version_is_refused(dumps, tmp_path, monkeypatch, cluster):
    from precalign.analysis.sets import run as module

    monkeypatch.setattr(module, "versions", lambda: {"precalign": "0.0", "numpy": "0"})
    with pytest.raises(
        UnavailableError, match=r"a worker has other versions than this command: precalign 0.0 vs .*\nHint: install"
    ):
        run(tmp_path / "out", dumps, cluster=cluster.scheduler_address)


def dask_process(*line):
    return subprocess.Popen(
        [sys.executable, "-m", *line],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_scheduler_that_is_lost_is_told_and_the_rest_goes_on(dumps, made, tmp_path, monkeypatch, caplog):
    scheduler = dask_process(
        "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"
    )
    address = next(found[0] for line in scheduler.stderr if (found := re.findall(r"tcp://127\.0\.0\.1:\d+", line)))
    worker = dask_process(
        "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--death-timeout", "5"
    )
    keep = Workspace.keep
    monkeypatch.setattr(Workspace, "keep", lambda s, i, p: (keep(s, i, p), scheduler.kill()))
    try:
        with pytest.raises(UnavailableError, match=r"the scheduler is lost: .*\n*.*\nHint: what is finished stays"):
            run(tmp_path / "out", dumps, cluster=address)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.communicate()
    assert caplog.records == []
    monkeypatch.setattr(Workspace, "keep", keep)
    assert len(list((tmp_path / "out" / RUN_FOLDER / "groups").glob("*.group"))) > 0
    run(tmp_path / "out", dumps)
    assert files(tmp_path / "out") == files(made)


def test_a_scheduler_that_does_not_answer_is_told(dumps, tmp_path, monkeypatch):
    with pytest.raises(UnavailableError, match="no Dask scheduler answers"):
        run(tmp_path / "out", dumps, cluster="nonsense://x")
    with pytest.raises(UsageError, match="'many' is no number of workers"):
        run(tmp_path / "out", dumps, cluster="local:many")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UnavailableError, match="needs Dask"):
        run(tmp_path / "out", dumps, cluster="local:2")


# Dumps that cannot be used.


@pytest.fixture
def mixed(tmp_path):
    """Good dumps among bad ones."""
    folder = write_dumps(tmp_path / "in", 2)
    (folder / "bad.safetensors").write_bytes(b"not a dump")
    save_file({k: v.astype(np.float32) for k, v in small_dump.tensors().items()}, folder / "d0-single.safetensors")
    save_file(small_dump.tensors(), folder / "late\n\x1b[31m<script>.safetensors")
    held = small_dump.tensors(1)
    held["layers.1.values"][0, 1, 3, 3] = np.nan
    save_file(held, folder / "nan.safetensors", metadata={"scale": "0.25"})
    return folder


def test_bad_dumps_do_not_stop_a_set(mixed, tmp_path):
    summary = run(tmp_path / "out", mixed)
    reasons = {row["dump"]: row["reason"] for row in open_set(tmp_path / "out").dumps().to_pylist()}
    assert "the header claims 8458921601637052270 bytes" in reasons.pop("bad.safetensors")
    assert "is binary32, and is stored in 16 bits" in reasons.pop("d0-single.safetensors")
    assert "layer 1, kv head 1: infinities or NaNs: 1 in its values" in reasons.pop("nan.safetensors")
    assert set(reasons.values()) == {None}
    assert (summary["set"]["n_dumps"], summary["set"]["n_refused"]) == (6, 3)
    assert [row["dump"] for row in summary["refused"]] == [
        "bad.safetensors",
        "d0-single.safetensors",
        "nan.safetensors",
    ]
    assert "nan.safetensors" not in set(table(tmp_path / "out", "cache")["dump"].to_pylist())


def test_heads_that_are_left_out_are_counted(mixed, tmp_path):
    run(tmp_path / "out", mixed / "nan*", skip_nonfinite=True)
    (row,) = open_set(tmp_path / "out").dumps().to_pylist()
    assert (row["status"], row["n_heads"], row["n_skipped_heads"], row["n_steps"]) == ("analysed", 3, 1, 9)
    assert row["reason"] == "infinities or NaNs: 1 in its values"


@pytest.mark.parametrize("bad", ["bad", "nan"])
def test_strict_stops_at_the_first(mixed, tmp_path, bad):
    with pytest.raises(InputError, match="without --strict such a dump is left out"):
        run(tmp_path / "out", mixed / "d0.safetensors", mixed / f"{bad}.safetensors", strict=True)
    assert not (tmp_path / "out/summary.json").exists()


def test_a_set_without_a_usable_dump_leaves_nothing(mixed, tmp_path):
    with pytest.raises(InputError, match=r"none of the 2 dumps can be analysed; the first: .*bad.safetensors"):
        run(tmp_path / "out", mixed / "bad*", mixed / "d0-single*")
    assert not (tmp_path / "out").exists()


def test_dumps_of_another_format_are_refused(dumps, tmp_path):
    held = {k: (v.view(np.uint16), v.shape) for k, v in small_dump.tensors().items()}
    import torch
    from safetensors.torch import save_file as save_torch

    save_torch(
        {k: torch.from_numpy(v.copy()).view(torch.bfloat16) for k, (v, _) in held.items()}, tmp_path / "b.safetensors"
    )
    summary = run(tmp_path / "out", dumps / "d0*", tmp_path / "b.safetensors")
    (refused,) = summary["refused"]
    assert "is bfloat16 in planes 12|4, the set is binary16 in planes 8|4|4, like its first dump" in refused["reason"]


def test_dumps_without_queries_make_a_set_too(tmp_path):
    save_file(small_dump.tensors(queries=False), tmp_path / "a.safetensors")
    save_file(small_dump.tensors(2, queries=False), tmp_path / "b.safetensors")
    summary = run(tmp_path / "out", tmp_path / "*.safetensors", render=lambda path: render(path, "html"))
    assert (summary["rules"], summary["waste"], summary["set"]["without_queries"]) == ([], None, 2)
    assert table(tmp_path / "out", "cache").num_rows == 16
    assert table(tmp_path / "out", "steps").num_rows == 0
    assert "no decode step could be taken" in render(tmp_path / "out", "terminal")


def test_a_dump_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    folder = write_dumps(tmp_path / "in", 2)
    analyze_head = groups.analyze_head

    def meanwhile(plan, *arguments):
        if plan.name == "d1.safetensors":
            small_dump.write(folder / "d1.safetensors", small_dump.tensors(9))
        return analyze_head(plan, *arguments)

    monkeypatch.setattr(groups, "analyze_head", meanwhile)
    summary = run(tmp_path / "out", folder)
    (refused,) = summary["refused"]
    assert "changed while it was read: d1.safetensors was written again" in refused["reason"]


def test_a_single_dump_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    from precalign.analysis import pipeline

    path = small_dump.write(tmp_path / "x.safetensors")
    analyze_head = pipeline.analyze_head
    monkeypatch.setattr(pipeline, "analyze_head", lambda *a: (path.touch(), analyze_head(*a))[1])
    with pytest.raises(InputError, match=r"changed while it was read: x\.safetensors was written again"):
        single(path, tmp_path / "out")
    assert [left.name for left in tmp_path.iterdir()] == ["x.safetensors"]


# Runs that end early.


class Interrupted(BaseException):
    """Stands for a signal."""


@pytest.fixture
def begun(dumps, tmp_path, monkeypatch):
    """A run that ended after three groups."""
    kept = []
    keep = Workspace.keep

    def three(space, index, packed):
        if len(kept) == 3:
            raise Interrupted
        keep(space, index, packed)
        kept.append(index)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "keep", three)
        with pytest.raises(Interrupted):
            run(tmp_path / "out", dumps)
    return tmp_path / "out"


@pytest.fixture
def computed(monkeypatch):
    """Names of the groups that are computed."""
    done = []
    compute = groups.compute
    monkeypatch.setattr(
        "precalign.analysis.sets.run.compute", lambda r, g, *rest: (done.append(g.index), compute(r, g, *rest))[1]
    )
    return done


def test_a_rerun_goes_on(dumps, made, begun, computed):
    run(begun, dumps)
    assert sorted(computed) == list(range(3, 12))
    assert files(begun) == files(made)


def test_a_group_that_the_disk_did_not_keep_is_computed_again(dumps, made, begun, computed):
    path = begun / RUN_FOLDER / "groups/000001.group"
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)
    (begun / RUN_FOLDER / "groups/000002.group").write_bytes(b"")
    run(begun, dumps)
    assert sorted(computed) == [1, 2, *range(3, 12)]
    assert files(begun) == files(made)


def test_readers_say_that_it_is_unfinished_and_what_goes_on(begun):
    for reader in (open_set, lambda path: render(path, "terminal")):
        with pytest.raises(InputError) as caught:
            reader(begun)
        assert str(caught.value) == (
            f"{begun}: holds an unfinished run (3 groups of tasks done)\nHint: go on with `precalign analyze again`"
        )


def test_another_command_may_not_write_there(dumps, begun):
    with pytest.raises(OutputError, match=r"holds an unfinished run .*\n.*go on with `precalign analyze again`"):
        single(dumps / "d0.safetensors", begun)


def test_what_has_changed_since_is_told(dumps, begun, monkeypatch):
    before = files(begun)

    def refused(message, *arguments, **options):
        with pytest.raises(OutputError, match=message):
            run(begun, *arguments, **options)
        assert files(begun) == before

    refused('options: steps "every:30" there, "last" now', dumps, steps="last")
    refused("with other dumps", dumps / "d[01]*")
    with monkeypatch.context() as patch:
        patch.setattr("precalign.analysis.sets.run.versions", lambda: {"precalign": "9"})
        refused('versions: precalign "[0-9.]+" there, "9" now', dumps)
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "RUN_SCHEMA", "precalign.run/0")
        refused("another version of precalign", dumps)


def test_a_dump_that_has_changed_since_is_told(tmp_path, monkeypatch, made):
    folder = write_dumps(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(assemble, "SetTotals", lambda *_: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            run(tmp_path / "out", folder)
    small_dump.write(folder / "d2.safetensors", small_dump.tensors(7, n_queries=50))
    with pytest.raises(OutputError, match=r"begun with another d2.safetensors: d2.safetensors had \d+ bytes and has"):
        run(tmp_path / "out", folder)
    small_dump.write(folder / "d2.safetensors", small_dump.tensors(2))
    run(tmp_path / "out", folder, overwrite=True)
    for name in TABLES:
        assert table(tmp_path / "out", name).equals(table(made, name))


def test_overwrite_starts_again_only_where_something_else_was_begun(dumps, made, begun, computed):
    run(begun, dumps, overwrite=True)
    assert len(computed) == 9
    run(begun, dumps / "d0*", overwrite=True)
    assert {row["dump"] for row in open_set(begun).dumps().to_pylist()} == {"d0.safetensors"}
    run(begun, dumps, overwrite=True)
    assert files(begun) == files(made)


def test_an_earlier_result_stays_until_the_new_one_is_whole(dumps, made, tmp_path, monkeypatch):
    out = single(dumps / "d0.safetensors", tmp_path / "out")
    before = files(out)
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "publish", lambda _: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            run(out, dumps, overwrite=True)
    assert {name: held for name, held in files(out).items() if not name.startswith(".")} == before
    with pytest.raises(OutputError, match="exists already"):
        single(dumps / "d0.safetensors", out)
    run(out, dumps, overwrite=True)
    assert files(out) == files(made)
    with pytest.raises(OutputError, match="exists already"):
        run(out, dumps)
    with open_dump(dumps / "d0.safetensors") as opened:
        analyze(make_plan(opened, Options(rules=RULES, steps="every:30", jobs=1)), out, overwrite=True)
    assert files(out) == before


def test_nothing_else_is_overwritten(dumps, begun, tmp_path):
    (begun / "notebook.ipynb").write_text("precious")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/x").write_text("precious")
    with pytest.raises(OutputError, match="is not a result directory"):
        run(tmp_path / "mine", dumps, overwrite=True)
    run(begun, dumps)
    assert (begun / "notebook.ipynb").read_text() == "precious"


def test_two_runs_into_one_directory(dumps, made, tmp_path, monkeypatch):
    said = []
    keep = Workspace.keep

    def meanwhile(space, index, packed):
        if not said:
            for second in (
                lambda: run(tmp_path / "out", dumps),
                lambda: single(dumps / "d0.safetensors", tmp_path / "out"),
            ):
                with pytest.raises(OutputError) as caught:
                    second()
                said.append(caught.value.message)
        keep(space, index, packed)

    monkeypatch.setattr(Workspace, "keep", meanwhile)
    run(tmp_path / "out", dumps)
    assert said == [f"{tmp_path / 'out'}: another run is writing there"] * 2
    assert files(tmp_path / "out") == files(made)


# Disks that refuse.


@pytest.mark.parametrize("where", ["group", "plan", "table", "summary"])
def test_a_full_disk_leaves_what_is_finished(dumps, made, tmp_path, monkeypatch, where):
    out = tmp_path / "out"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if where == "group":
            write = workspace._write
            patch.setattr(workspace, "_write", lambda p, d: full() if p.name == "000005.group" else write(p, d))
        elif where == "plan":
            patch.setattr(workspace, "to_disk", full)
        elif where == "table":
            patch.setattr(pq.ParquetWriter, "write_table", full)
        else:
            patch.setattr(Path, "rename", full)
        with pytest.raises(
            OutputError, match=r"out: cannot be written: No space left on device\nHint: what is finished stays"
        ):
            run(out, dumps)
    finished = {"group": 5, "plan": 0}.get(where, 12)
    assert len(list((out / RUN_FOLDER / "groups").glob("*.group"))) == finished if out.exists() else finished == 0
    assert not (out / "summary.json").exists()
    run(out, dumps)
    assert files(out) == files(made)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 kB, where this process may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_really_full(dumps, made, small_disk):
    with pytest.raises(OutputError, match=r"out: cannot be written: No space left on device"):
        run(small_disk / "out", dumps)
    kept = list((small_disk / "out" / RUN_FOLDER / "groups").glob("*.group"))
    assert kept
    assert all(whole(path.read_bytes()) for path in kept)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    run(small_disk / "out", dumps)
    assert files(small_disk / "out") == files(made)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match="Read-only file system"):
        run(small_disk / "other", dumps)


def test_a_place_that_takes_no_directory(dumps):
    with pytest.raises(OutputError, match="/proc/out: cannot be written"):
        run(Path("/proc/out"), dumps)


# Processes that are killed.


def child(target, dumps):
    return subprocess.Popen([sys.executable, set_runs.__file__, target, dumps], cwd=Path(set_runs.__file__).parent)


def wait_for(process, reached):
    deadline = time.monotonic() + 60
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def killed_and_resumed(target, dumps, made, delay, groups_first):
    """Kill a run `delay` seconds after it has that many groups; run it again; return how many groups it had."""
    process = child(target, dumps)
    folder = target / RUN_FOLDER / "groups"
    wait_for(process, lambda: folder.exists() and len(list(folder.glob("*.group"))) >= groups_first)
    time.sleep(delay)
    process.kill()
    process.wait()
    had = len(list(folder.glob("*.group")))
    if not (target / "summary.json").exists() or (target / RUN_FOLDER).exists():
        run(target, dumps)
    assert files(target) == files(made)
    return had


def test_a_killed_run_goes_on(dumps, made, tmp_path):
    assert killed_and_resumed(tmp_path / "out", dumps, made, 0.0, 4) >= 4


@pytest.mark.long
def test_fifty_runs_killed_at_random_go_on(dumps, made, tmp_path, proof):
    """A random time after a random number of groups: most of a short run is loading kernels, which leaves nothing to go on with."""
    rng = np.random.default_rng()
    had = [
        killed_and_resumed(tmp_path / str(n), dumps, made, rng.uniform(0, 0.3), int(rng.integers(0, 13)))
        for n in range(50)
    ]
    print("groups finished when killed:", sorted(had))
    proof("sets of dumps killed by SIGKILL at a random moment and run again: bytes of the result", 50, 0)


OPERATIONS = ("replace", "rename", "unlink", "mkdir", "write_bytes")


def _fork():
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # threads that pytest or Arrow may have started do not go along, and are not needed
        return os.fork()


def run_until(target, dumps, step):
    """Run in a forked process that is killed before its `step`-th change of a file; return whether it was."""
    if (pid := _fork()) == 0:
        signal.alarm(60)
        left = [step]

        def counted(operation):
            def do(*arguments, **keywords):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return operation(*arguments, **keywords)

            return do

        for name in OPERATIONS:
            setattr(Path, name, counted(getattr(Path, name)))
        try:
            run(target, dumps)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("start", [1, 4])
def test_a_run_killed_before_any_change_of_a_file_goes_on(dumps, made, tmp_path, start):
    """Every moment at which the state on the disk differs: a strided part here, all of them in the long run."""
    step, kills = start, 0
    while True:
        target = tmp_path / str(step)
        if not run_until(target, dumps, step):
            break
        kills += 1
        if not (target / "summary.json").exists() or (target / RUN_FOLDER).exists():
            run(target, dumps)
        assert files(target) == files(made), step
        step += 17
    assert kills > 3


def command(*arguments, **keywords):
    return subprocess.Popen(
        [sys.executable, "-m", "precalign.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords,
    )  # fmt: skip


def test_an_interrupt_says_what_stays(tmp_path):
    write_dumps(tmp_path / "in", 40)
    line = ["analyze", "in", "-o", "out", "--jobs", "1", "--rule", "alignedkv", "--rule", "full", "--no-report"]
    process = command(*line, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(f"out/{RUN_FOLDER}/groups/*.group")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert said.splitlines()[-1] == "Interrupted."
    held, again = said.splitlines()[0].split("; go on with ")
    assert held.startswith("out: holds an unfinished run (")
    assert sorted(again.strip("`").split()) == sorted(["precalign", *line])
    assert list(tmp_path.glob(f"out/{RUN_FOLDER}/groups/*.group"))


def test_the_command_tells_by_its_exit_code_what_was_refused(mixed, tmp_path):
    from precalign.cli.main import main

    for arguments, code in ((["nan.safetensors", "d0.safetensors"], 1), (["d1.safetensors", "d0.safetensors"], 0)):
        line = [
            "analyze",
            *(str(mixed / name) for name in arguments),
            "-o",
            str(tmp_path / f"out{code}"),
            "--steps",
            "last",
        ]
        assert main(line) == code
    assert main(["analyze", str(mixed), "-o", str(tmp_path / "strict"), "--strict"]) == 3
    assert main(["analyze", str(mixed / "d0.safetensors"), "-o", str(tmp_path / "x"), "--strict"]) == 2


# URLs.


def test_a_store_in_the_place_of_a_disk(dumps, made, tmp_path):
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for path in dumps.iterdir():
        fs.pipe(f"/bucket/{path.name}", path.read_bytes())
    np.savez(tmp_path / "d4.npz", **small_dump.tensors(4))
    fs.pipe("/bucket/d4.npz", (tmp_path / "d4.npz").read_bytes())
    run(tmp_path / "out", "memory://bucket/*", scale=0.25)
    run(tmp_path / "local", dumps, tmp_path / "d4.npz", scale=0.25)
    fs.store.clear()
    for name in TABLES:
        mine, theirs = (table(tmp_path / where, name) for where in ("out", "local"))
        order = [("dump", "ascending")]
        assert mine.drop(["dump"]).num_rows == theirs.num_rows
        assert (
            mine.filter(pc.field("dump") == "d1.safetensors")
            .drop(["dump"])
            .equals(theirs.filter(pc.match_substring(pc.field("dump"), "d1.safetensors")).drop(["dump"]))
        ), order
    assert open_set(tmp_path / "out").dumps()["place"].to_pylist()[-1] == "memory:///bucket/d4.npz"


# Groups.


def test_groups_are_cut_by_cost_and_cover_everything(monkeypatch):
    monkeypatch.setattr(groups, "GROUP_COST", 10)
    plans = [
        planning.Planned(0, "a", "a", heads=((2, 3), (1, 20)), n_steps=3),
        planning.Planned(1, "b", "b", refused="bad"),
        planning.Planned(2, "c", "c", heads=((3, 3),), n_steps=3),
    ]
    cut = [[(p.dump, p.begin, p.end) for p in g.parts] for g in groups.make_groups(iter(plans), [None] * 3)]
    assert cut == [[(0, 0, 2)], [(0, 2, 3)], [(2, 0, 3)]]


def test_a_packed_group_tells_whether_it_is_whole(dumps, begun):
    packed = (begun / RUN_FOLDER / "groups/000000.group").read_bytes()
    assert whole(packed)
    assert unpack(packed).tables["heads"].num_rows == 1
    for broken in (packed[:-1], packed[:40], b"", packed[:-1] + bytes([packed[-1] ^ 1]), b"x" + packed[1:]):
        assert not whole(broken)


def test_nothing_runs_on_after_the_end(dumps, begun):
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("group")]
