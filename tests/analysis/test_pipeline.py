"""From a dump to tables: against a slow oracle, whatever the number of jobs, and with nothing left behind."""

from __future__ import annotations

import contextlib
import filecmp
import json
import math
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import small_dump
from conftest import ROOT

from precalign.analysis.pipeline import analyze
from precalign.analysis.plan import Options, make_plan
from precalign.analysis.readers import open_dump
from precalign.analysis.results.directory import FILES
from precalign.analysis.results.reader import open_result
from precalign.analysis.results.schema import ERRORS, RATIOS, READS, REPORT_FILE, TABLES, table_schema
from precalign.errors import InputError
from precalign.formats import BINARY16
from precalign.inputs import HeadInputs
from precalign.layouts import default_layout
from precalign.profile import profile_head
from precalign.rules import get_rule

RULES = ("alignedkv", "aligned-max:guard_bits=1")


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return small_dump.write(tmp_path_factory.mktemp("dump") / "small.safetensors")


def run(dump, target, **options):
    with open_dump(dump) as opened:
        analyze(make_plan(opened, Options(**{"rules": RULES, "jobs": 1} | options)), target)
    return open_result(target)


@pytest.fixture(scope="module")
def result(dump, tmp_path_factory):
    return run(dump, tmp_path_factory.mktemp("result") / "out")


def rows(result, table, **where):
    held = result.table(table)
    for column, value in where.items():
        held = held.filter(pc.field(column) == value)
    return held


def rule_text(name):
    return str(get_rule(name))


# The oracle: plain Python over Python floats, from the definitions alone.


def exponent(x):
    return max(math.frexp(x)[1] - 1, -14) if x else -14


def oracle_step(keys, queries):
    """Return (key bits read, key bits wasted) of one step: keys (tokens, channels), queries (group, channels)."""
    channels, bits, wasted = range(len(keys[0])), 0, 0
    highest = [max(exponent(row[d]) for row in keys) for d in channels]
    for d in channels:
        needs = []
        for q in queries:
            terms = [exponent(q[c]) + highest[c] for c in channels]
            difference = max(terms) - terms[d]
            needs.append(8 if difference >= 8 else 12 if difference >= 4 else 16)
        bits += max(needs) * len(keys)
    for row in keys:
        terms = [[exponent(q[c]) + exponent(row[c]) for c in channels] for q in queries]
        wasted += sum(min(min(max(t) - t[d], 11) for t in terms) for d in channels)
    return bits, wasted


@pytest.mark.parametrize("layer", range(small_dump.N_LAYERS))
@pytest.mark.parametrize("kv_head", range(small_dump.N_KV_HEADS))
def test_key_reads_and_waste_are_those_of_a_slow_oracle(result, layer, kv_head):
    held = small_dump.tensors()
    keys = held[f"layers.{layer}.keys"][0, kv_head].astype(float).tolist()
    queries = held[f"layers.{layer}.queries"][0, 2 * kv_head : 2 * kv_head + 2].astype(float)
    steps = rows(result, "steps", rule=rule_text("alignedkv"), layer=layer, kv_head=kv_head).to_pylist()
    assert [row["step"] for row in steps] == list(range(small_dump.N_QUERIES))
    for row in steps:
        seen = row["step"] + 1 + small_dump.SEQ_LEN - small_dump.N_QUERIES
        bits, wasted = oracle_step(keys[:seen], queries[:, row["step"]].tolist())
        assert (row["first_token"], row["visible_tokens"]) == (0, seen)
        assert (row["key_ideal_bits"], row["key_wasted_bits"]) == (bits, wasted)
        assert row["full_ideal_bits"] == 2 * 16 * 16 * seen


def test_output_errors_are_those_of_binary64_in_numpy(result):
    errors = rows(result, "errors").to_pandas()
    n = small_dump.SEQ_LEN + small_dump.HEAD_DIM
    assert 0 < errors.full_relative_error_to_exact.median() < n * 2.0**-23
    held = small_dump.tensors()
    k, v = (held[f"layers.1.{name}"][0, 1].astype(float) for name in ("keys", "values"))
    q = held["layers.1.queries"][0, 3, -1].astype(float)
    scores = k @ q * 0.25
    weights = np.exp(scores - scores.max())
    exact = weights / weights.sum() @ v
    rounded = exact.astype(np.float16).astype(float)
    expected = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    row = errors[(errors.layer == 1) & (errors.query_head == 3) & (errors.step == small_dump.N_QUERIES - 1)]
    assert row.rounding_relative_error.to_numpy() == pytest.approx(expected, rel=1e-6)  # the column is binary32


# The tables against the engine, each head called by itself in one block.


@pytest.mark.parametrize("rule", RULES)
def test_rows_are_the_profile(result, rule):
    held = small_dump.tensors()
    for layer in range(small_dump.N_LAYERS):
        for head in range(small_dump.N_KV_HEADS):
            keys, values = (held[f"layers.{layer}.{n}"][0, head].view(np.uint16) for n in ("keys", "values"))
            queries = held[f"layers.{layer}.queries"][0, 2 * head : 2 * head + 2].view(np.uint16)
            steps = np.arange(small_dump.N_QUERIES)
            (profile,) = profile_head(
                HeadInputs(keys, values, queries, BINARY16, 0.25),
                steps=steps,
                visible=steps + 10,
                rules=[get_rule(rule)],
                layout=default_layout(BINARY16),
            )
            place = {"rule": rule_text(rule), "layer": layer, "kv_head": head}
            by_step, (total,) = rows(result, "steps", **place), rows(result, "heads", **place).to_pylist()
            for name, counts in profile.traffic.columns().items():
                assert by_step[name].to_pylist() == counts.tolist(), name
                assert total[name] == counts.sum()
            tokens = rows(result, "tokens", **place)
            assert tokens["attention_mass"].to_pylist() == profile.token_attention_mass.tolist()
            assert tokens["value_steps_at_8_bits"].to_pylist() == profile.value_token_level_steps[:, 0].tolist()
            key_rows = rows(result, "channels", **place, kind="key")
            assert key_rows["steps_at_16_bits"].to_pylist() == profile.key_channel_level_steps[:, 2].tolist()
            mean = profile.key_channel_level_steps @ [8, 12, 16] / len(steps)
            assert key_rows["bits_mean"].to_pylist() == mean.tolist()
            errors = rows(result, "errors", **place)
            expected = profile.output_error_vs_exact.T.astype(np.float32)
            assert errors["output_relative_error_to_exact"].to_numpy().tolist() == expected.ravel().tolist()
            assert errors["query_head"].to_pylist() == [2 * head] * len(steps) + [2 * head + 1] * len(steps)
            assert by_step["output_relative_error_to_exact_group_max"].to_pylist() == expected.max(axis=0).tolist()
            assert total["key_wasted_histogram"] == profile.key_wasted_histogram.tolist()


@pytest.mark.parametrize("rule", RULES)
def test_summary_adds_up_what_the_tables_hold(result, rule):
    said = next(r for r in result.summary["rules"] if r["rule"] == rule_text(rule))
    heads = rows(result, "heads", rule=rule_text(rule))
    for column in READS:
        for field in column.fields([8, 12, 16]):
            assert said["totals"][field.name] == pc.sum(heads[field.name]).as_py()
    bits = said["totals"]["key_ideal_bits"] + said["totals"]["value_ideal_bits"]
    assert said["totals"]["bits_saving"] == 1 - bits / said["totals"]["full_ideal_bits"]
    assert {column.name for column in RATIOS} <= said["totals"].keys()
    errors = rows(result, "errors", rule=rule_text(rule))
    for column in ERRORS:
        held = np.sort(errors[column.name].to_numpy())
        middle, late = (held[math.ceil(q * len(held)) - 1] for q in (0.5, 0.99))
        assert said["errors"][column.name] == {"median": middle, "p99": late, "max": held[-1]}


@pytest.mark.parametrize("table", ["heads", "steps"])
def test_ratios_follow_from_the_counts_beside_them(result, table):
    for row in result.table(table).to_pylist():
        numbers = row["full_ideal_bits"] // 32
        expected = {f"{kind}_bits_mean": row[f"{kind}_ideal_bits"] / numbers for kind in ("key", "value")}
        expected |= {f"{kind}_wasted_bits_mean": row[f"{kind}_wasted_bits"] / numbers for kind in ("key", "value")}
        expected["bits_saving"] = 1 - (row["key_ideal_bits"] + row["value_ideal_bits"]) / row["full_ideal_bits"]
        for unit in ("bytes", "sectors", "atoms", "lines"):
            read = row[f"key_{unit}"] + row[f"value_{unit}"] + row[f"metadata_{unit}"] + row[f"prepass_{unit}"]
            full = row[f"full_key_{unit}"] + row[f"full_value_{unit}"]
            expected[f"{unit}_saving"] = 1 - read / full
        around = row["scores_bytes"] + row["probs_bytes"] + row["queries_bytes"] + row["outputs_bytes"]
        read = row["key_bytes"] + row["value_bytes"] + row["metadata_bytes"] + row["prepass_bytes"]
        full = row["full_key_bytes"] + row["full_value_bytes"]
        expected["step_bytes_saving"] = 1 - (read + around) / (full + around)
        assert expected.keys() == {column.name for column in RATIOS}
        assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("kind", ["key", "value"])
def test_waste_adds_up_the_same_along_every_axis(result, kind):
    for head in result.table("heads").to_pylist():
        place = {name: head[name] for name in ("rule", "layer", "kv_head")}
        numbers = sum(bits * count for bits, count in enumerate(head[f"{kind}_wasted_histogram"]))
        tokens, channels = rows(result, "tokens", **place), rows(result, "channels", **place, kind=kind)
        seen = np.array(tokens["steps_visible"])
        by_token = np.array(tokens[f"{kind}_wasted_bits_mean"]) * seen * small_dump.HEAD_DIM
        by_channel = np.array(channels["wasted_bits_mean"]) * seen.sum()
        assert head[f"{kind}_wasted_bits"] == numbers
        assert np.rint(by_token).sum() == np.rint(by_channel).sum() == numbers


def test_waste_by_position_counts_the_last_bits_first(result):
    for kind in ("key", "value"):
        part = result.summary["waste"][kind]
        counts = part["numbers_by_wasted_bits"]
        assert part["wasted_bits"] == sum(bits * count for bits, count in enumerate(counts))
        shares = [sum(counts[11 - i :]) / part["numbers"] for i in range(11)]
        assert part["share_by_position"] == shares
        assert shares == sorted(shares)


def test_tables_have_their_schemas_and_their_order(result):
    for name in TABLES:
        read = pq.read_table(result.file(name))
        assert read.schema.equals(table_schema(name, (8, 12, 16)), check_metadata=True)
    places = [(r["layer"], r["kv_head"], r["rule"]) for r in result.table("heads").to_pylist()]
    assert places == [(layer, head, rule_text(rule)) for layer in (0, 1) for head in (0, 1) for rule in RULES]


@pytest.mark.parametrize("jobs", [2, 3])
def test_the_number_of_jobs_changes_no_byte(dump, result, tmp_path, jobs):
    other = run(dump, tmp_path / "out", jobs=jobs)
    files = sorted(FILES - {REPORT_FILE})
    assert filecmp.cmpfiles(result.path, other.path, files, shallow=False) == (files, [], [])
    assert sorted(p.name for p in result.path.iterdir()) == files


def test_blocks_of_steps_change_no_count(dump, result, tmp_path, monkeypatch):
    monkeypatch.setattr("precalign.analysis.head.BLOCK_PAIRS", 3 * 2 * small_dump.SEQ_LEN)
    other = run(dump, tmp_path / "out")
    for table in ("steps", "errors", "channels"):
        assert other.table(table).equals(result.table(table))
    # The mass of a token is a sum of binary64 numbers, block by block: at most one rounding per addition.
    a, b = (r.table("tokens")["attention_mass"].to_numpy() for r in (result, other))
    assert np.allclose(a, b, rtol=2 * small_dump.GROUP * small_dump.N_QUERIES * 2.0**-53, atol=0)


def test_each_step_sees_what_it_should(dump, tmp_path):
    full = run(dump, tmp_path / "full", causal=False, steps="last", layers="1")
    row = full.table("steps").to_pylist()[0]
    assert (row["step"], row["first_token"], row["visible_tokens"]) == (60, 0, 70)
    windowed = small_dump.write(tmp_path / "window.safetensors", scale="0.25", sliding_window="8")
    out = run(windowed, tmp_path / "window", steps="0:3", layers="0", kv_heads="1")
    assert out.summary["dump"]["window"] == 8
    table = out.table("steps")
    assert table["first_token"].to_pylist()[:3] == [2, 3, 4]
    assert table["visible_tokens"].to_pylist()[:3] == [8, 8, 8]


def test_a_dump_without_queries_gives_what_needs_none(tmp_path):
    path = small_dump.write(tmp_path / "kv.safetensors", small_dump.tensors(queries=False))
    bare = run(path, tmp_path / "out")
    assert bare.summary["rules"] == []
    assert bare.summary["waste"] is None
    (gap,) = bare.summary["missing"]
    assert (gap["what"], gap["layers"]) == ("queries", [0, 1])
    assert "layers.{i}.queries" in gap["how"]
    keys = small_dump.tensors(queries=False)["layers.1.keys"][0, 0]
    (row,) = rows(bare, "channels", layer=1, kv_head=0, kind="key", channel=7).to_pylist()
    largest, smallest = np.abs(keys[:, 7]).max(), np.abs(keys[:, 7]).min()
    assert (row["max_exponent"], row["min_exponent"]) == (exponent(float(largest)), exponent(float(smallest)))
    assert row["rule"] is row["bits_mean"] is None
    (row,) = rows(bare, "channels", layer=1, kv_head=0, kind="key", channel=3).to_pylist()
    assert row["max_exponent"] is row["min_exponent"] is None
    tokens = rows(bare, "tokens", layer=0, kv_head=0).to_pylist()
    assert tokens[5]["value_max_exponent"] is None
    assert len(tokens) == small_dump.SEQ_LEN
    assert bare.table("steps").num_rows == bare.table("errors").num_rows == 0
    plain = bare.summary["layout_traffic"][-1]
    assert (plain["level_bits"], plain["key_bytes"]) == ("plain", 2 * 2 * 70 * 16 * 2)


def test_cache_statistics_of_known_numbers(tmp_path):
    held = small_dump.tensors()
    held["layers.0.keys"][:] = np.float16(1.5)
    held["layers.0.keys"][0, 0, 0, :3] = [0, 2.0**-20, -4]
    out = run(small_dump.write(tmp_path / "d.safetensors", held), tmp_path / "out", steps="last")
    (row,) = rows(out, "cache", layer=0, kv_head=0, kind="key").to_pylist()
    n = 70 * 16
    assert (row["numbers"], row["zeros"], row["subnormals"], row["nonfinite"]) == (n, 1, 1, 0)
    assert (row["max_exponent"], row["min_exponent"]) == (2, -14)
    assert row["exponent_wasted_bits"] == 0  # 17 binades and zero need all 5 bits
    assert row["trailing_zero_bits"] == 4  # 2^-20 has the code 0x0010, 1.5 has 0x3E00
    shares = [2 / n, 1 / n, (n - 3) / n]
    assert row["exponent_entropy_bits"] == pytest.approx(-sum(s * math.log2(s) for s in shares), rel=1e-13)
    assert {i: c for i, c in enumerate(row["exponent_histogram"]) if c} == {0: 2, 15: n - 3, 17: 1}
    (other,) = rows(out, "cache", layer=0, kv_head=1, kind="key").to_pylist()
    assert (other["exponent_wasted_bits"], other["trailing_zero_bits"], other["exponent_entropy_bits"]) == (4, 9, 0)


def test_cache_statistics_of_zeros(tmp_path):
    held = small_dump.tensors()
    held["layers.0.values"][0, 0] = 0
    held["layers.0.values"][0, 1, :, 2] = 8
    held["layers.0.values"][0, 1, 4, 2] = -0.0
    out = run(small_dump.write(tmp_path / "d.safetensors", held), tmp_path / "out", steps="last", layers="0")
    (row,) = rows(out, "cache", kv_head=0, kind="value").to_pylist()
    assert row["max_exponent"] is row["min_exponent"] is None
    assert (row["zeros"], row["exponent_wasted_bits"], row["trailing_zero_bits"]) == (row["numbers"], 5, 10)
    assert row["exponent_entropy_bits"] == 0
    (row,) = rows(out, "channels", kv_head=1, kind="value", channel=2, rule=rule_text("alignedkv")).to_pylist()
    assert (row["max_exponent"], row["min_exponent"]) == (3, 3)  # zeros have no exponent of their own
    (row,) = rows(out, "cache", kv_head=1, kind="value").to_pylist()
    assert row["zeros"] == 15 + 1  # token 5 but for its channel 2, and the minus zero


def test_when_a_head_fails_the_others_stop_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("precalign.analysis.head.BLOCK_PAIRS", 1)
    held = small_dump.tensors()
    held["layers.0.values"][0, 0] = np.nan
    calls = []

    def progress(_steps):
        calls.append(1)
        time.sleep(0.02)

    path = small_dump.write(tmp_path / "d.safetensors", held)
    with open_dump(path) as opened, pytest.raises(InputError, match="kv head 0: infinities or NaNs"):
        analyze(make_plan(opened, Options(jobs=2)), tmp_path / "out", progress=progress)
    assert len(calls) < small_dump.N_QUERIES  # a head left alone would go on to its last step


def test_heads_with_nans_are_refused_or_left_out(tmp_path):
    held = small_dump.tensors()
    held["layers.1.values"][0, 1, 3, 2] = np.nan
    held["layers.0.queries"][0, 0, 3, 2] = np.inf
    path = small_dump.write(tmp_path / "nan.safetensors", held)
    with pytest.raises(InputError) as caught:
        run(path, tmp_path / "out")
    assert str(caught.value) == (
        "nan.safetensors: layer 0, kv head 0: infinities or NaNs: 1 in its queries; no decode step can be judged by them\n"
        "Hint: --skip-nonfinite leaves such heads out and says so in the report"
    )
    assert not (tmp_path / "out").exists()
    out = run(path, tmp_path / "out", skip_nonfinite=True, steps="last")
    assert [(s["layer"], s["kv_head"]) for s in out.summary["skipped"]] == [(0, 0), (1, 1)]
    assert {(r["layer"], r["kv_head"]) for r in out.table("heads").to_pylist()} == {(0, 1), (1, 0)}
    assert out.table("cache").num_rows == 2 * 2 * 2
    with pytest.raises(InputError, match="every head holds infinities or NaNs: nothing is left to analyse"):
        run(path, tmp_path / "none", skip_nonfinite=True, layers="0", kv_heads="0")


def test_binary32_is_rounded_on_request_and_the_summary_says_so(tmp_path):
    path = small_dump.write(tmp_path / "wide.safetensors", small_dump.tensors(dtype=np.float32))
    with open_dump(path, storage_format=BINARY16) as opened:
        summary = analyze(make_plan(opened, Options(steps="last")), tmp_path / "out")
    (note,) = summary["notes"]
    assert note.startswith("The dump is binary32; it was rounded to binary16: ")
    assert "numbers of the queries changed" in note
    assert (summary["dump"]["stored_format"], summary["dump"]["storage_format"]) == ("binary32", "binary16")


def command(*arguments, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "precalign.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_an_interrupted_run_leaves_nothing(tmp_path):
    demo = ROOT / "analysis/demo/novel.safetensors"
    process = command("analyze", demo, "-o", tmp_path / "out", "--rule", "alignedkv", "--rule", "full")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.partial")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors.strip()) == (130, "", "Interrupted.")
    assert list(tmp_path.iterdir()) == []


def test_json_is_the_summary(dump, tmp_path):
    process = command("analyze", dump, "-o", "out", "--steps", "every:20", "--no-report", "--json", cwd=tmp_path)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out/summary.json").read_text())
    assert str(dump.parent) not in out


def test_progress_is_shown_on_a_terminal_with_the_time_left(tmp_path):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (40, 120))
    demo = ROOT / "analysis/demo/novel.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "precalign.cli.main", "analyze", demo, "-o", tmp_path / "out", "--no-report"],
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # Linux ends a pseudo-terminal with an error
        while piece := os.read(leader, 4096):
            shown += piece
    os.close(leader)
    assert process.wait(timeout=60) == 0
    assert b"Analysing" in shown
    assert b"/5376" in shown
    assert b"left" in shown


@pytest.mark.parametrize("name", ["novel-1024", "stories260k-512", "novel-1024-bf16"])
def test_real_dumps(shared, tmp_path, name):
    out = run(shared / f"data/kv/{name}.safetensors", tmp_path / "out", steps="every:128", rules=("alignedkv", "full"))
    reduced, full = out.summary["rules"]
    assert full["totals"]["bits_saving"] == 0
    assert full["errors"]["output_relative_error_to_full"]["max"] == 0
    assert 0 < reduced["totals"]["bits_saving"] < 0.5
