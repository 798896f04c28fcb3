"""Tuning against enumeration, its figures against the tables of `analyze`, and promises that fail where they must."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import small_dump

from precalign.analysis.sweeps import settings
from precalign.analysis.tuning.holdout import parse_holdout
from precalign.analysis.tuning.promise import Promise
from precalign.cli.main import main
from precalign.errors import UsageError
from precalign.formats import BINARY16
from precalign.layouts import parse_layout

HEADS = list(itertools.product(range(small_dump.N_LAYERS), range(small_dump.N_KV_HEADS)))
ERROR, BOUND = "output_relative_error_to_exact", "output_relative_bound"
MOVED = [f"{part}_bytes" for part in ("key", "value", "metadata", "prepass")]
BLOCK = 8
FAST = ["--confidence", "0", "--quantile", "0.9", "--holdout", f"blocks:{BLOCK}"]


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return small_dump.write(tmp_path_factory.mktemp("dump") / "small.safetensors")


def tune(dump, output, *options, code=0):
    assert main(["tune", str(dump), "-o", str(output), *options]) == code
    return json.loads(output.read_text())


def analyzed(dump, folder, *options):
    assert main(["analyze", str(dump), "-o", str(folder), "--no-report", *options]) == 0
    return pd.read_parquet(folder / "steps.parquet"), pd.read_parquet(folder / "errors.parquet")


def held_back(steps):
    """Blocks counted from the last step: it is held back, with the others of its block."""
    last = small_dump.N_QUERIES - 1
    return ((last - steps) // BLOCK) % 2 == 0


def nearest_rank(numbers, quantile):
    ordered = sorted(numbers)
    return ordered[max(0, math.ceil(Fraction(str(quantile)) * len(ordered)) - 1)]


def recomputed(steps, errors, rule, layer, head, part, tolerance, quantile=0.9):
    """Return a head's figures from the tables of analyze alone."""

    def chosen(table):
        rows = table[(table.rule == rule) & (table.layer == layer) & (table.kv_head == head)]
        return rows[held_back(rows.step) == (part == "verification")]

    by_step, moved = chosen(errors).groupby("step"), chosen(steps)
    error, bound = by_step[ERROR].max(), by_step[BOUND].max()
    read, full = int(moved[MOVED].to_numpy().sum()), int((moved.full_key_bytes + moved.full_value_bytes).sum())
    return {
        "n_steps": len(error),
        "steps_above": int((error.astype(float) > tolerance).sum()),
        "share_above": float((error.astype(float) > tolerance).mean()),
        "error": {"median": nearest_rank(error, 0.5), "at_quantile": nearest_rank(error, quantile), "max": max(error)},
        "bound max": max(bound),
        "bytes": read,
        "full_bytes": full,
        "bytes_saving": 1 - read / full,
        "bits": int((moved.key_ideal_bits + moved.value_ideal_bits).sum()),
    }


@pytest.mark.parametrize(("rule", "tolerance"), [("auto", 4e-3), ("static", 1.5e-3)])
def test_reported_figures_are_those_of_analyze(dump, tmp_path, rule, tolerance):
    policy = tune(dump, tmp_path / "policy.json", "--tolerance", str(tolerance), "--rule", rule, *FAST)
    steps, errors = analyzed(dump, tmp_path / "out", "--policy", str(tmp_path / "policy.json"))
    for part in ("calibration", "verification"):
        told = policy["report"][part]
        for row, (layer, head) in zip(told["heads"], HEADS, strict=True):
            expected = recomputed(steps, errors, "policy", layer, head, part, tolerance)
            # a bound depends a little on how steps are put together in blocks
            assert row["bound"]["max"] == pytest.approx(expected.pop("bound max"), rel=1e-3)
            assert {name: row[name] for name in expected} == expected
            assert row["kept"] == (row["steps_above"] <= row["n_steps"] // 10)
        assert told["n_steps"] == sum(row["n_steps"] for row in told["heads"])
        assert told["steps_above"] == sum(row["steps_above"] for row in told["heads"])
        assert told["bytes_saving"] == 1 - sum(r["bytes"] for r in told["heads"]) / sum(
            r["full_bytes"] for r in told["heads"]
        )


@pytest.mark.parametrize(
    ("rules", "tolerance"),
    [(["static"], 1.5e-3), (["aligned-max", "alignedkv:guard_bits=2", "aligned-skip:threshold=10"], 4e-3)],
)
def test_the_choice_is_the_cheapest_of_all_candidates(dump, tmp_path, rules, tolerance):
    given = [text for rule in rules for text in ("--rule", rule)]
    policy = tune(dump, tmp_path / "policy.json", "--tolerance", str(tolerance), *given, *FAST)
    candidates = [str(rule) for rule in settings(rules, parse_layout(policy["layout"], BINARY16))]
    assert policy["report"]["candidates"] == candidates
    everything = [text for rule in candidates for text in ("--rule", rule)]
    steps, errors = analyzed(dump, tmp_path / "out", "--layout", policy["layout"], *everything)
    for entry, (layer, head) in zip(policy["heads"], HEADS, strict=True):
        fits = []
        for rule in candidates:
            seen = recomputed(steps, errors, rule, layer, head, "calibration", tolerance)
            if seen["steps_above"] <= seen["n_steps"] // 10:
                fits.append((seen["bytes"], seen["bits"], candidates.index(rule), rule))
        assert 0 < len(fits) < len(candidates)
        assert entry == {"layer": layer, "kv_head": head, "rule": min(fits)[3]}


def coarse(codes):
    """Return numbers that an 8-bit read of binary16 gives exactly: their low byte is the midpoint that fills it."""
    return ((codes.view(np.uint16) & 0xFF00) | 0x0080).view(np.float16)


def test_heads_whose_best_widths_are_known(tmp_path):
    held = small_dump.tensors()
    for layer in (0, 1):
        held[f"layers.{layer}.values"][0, 0] = coarse(held[f"layers.{layer}.values"][0, 0])
        held[f"layers.{layer}.keys"][0, 0] = coarse(held[f"layers.{layer}.keys"][0, 0])
    held["layers.1.values"][0, 1] = coarse(held["layers.1.values"][0, 1])
    dump = small_dump.write(tmp_path / "known.safetensors", held)
    policy = tune(
        dump, tmp_path / "p.json", "--tolerance", "1e-5", "--rule", "static", "--quantile", "1", "--holdout", "blocks:8"
    )
    found = {(h["layer"], h["kv_head"]): h["rule"] for h in policy["heads"]}
    assert found == {
        (0, 0): "static:key_bits=8,value_bits=8",
        (0, 1): "static",
        (1, 0): "static:key_bits=8,value_bits=8",
        (1, 1): "static:value_bits=8",
    }


def test_steps_that_differ_from_calibration_break_the_promise(tmp_path, capsys):
    held = small_dump.tensors()
    for layer in (0, 1):  # late queries weigh the errors of keys much more
        held[f"layers.{layer}.queries"][:, :, small_dump.N_QUERIES // 2 :] *= 8
    dump = small_dump.write(tmp_path / "drifts.safetensors", held)
    options = ["--tolerance", "4e-3", "--rule", "aligned-max", "--confidence", "0", "--quantile", "0.9"]
    policy = tune(dump, tmp_path / "tail.json", *options, "--holdout", "tail:50", code=1)
    told = policy["report"]
    assert told["calibration"]["kept"]
    assert not told["verification"]["kept"]
    assert told["verification"]["share_above"] > 0.1 >= told["calibration"]["share_above"]
    assert "THE PROMISE IS NOT KEPT in the steps held back" in capsys.readouterr().out
    assert main(["tune", str(dump), "--verify", str(tmp_path / "tail.json")]) == 1
    assert "THE PROMISE IS NOT KEPT in this dump" in capsys.readouterr().out
    assert main(["tune", str(dump), "--verify", str(tmp_path / "tail.json"), "--steps", ":30"]) == 0


def test_a_policy_is_verified_on_another_dump(dump, tmp_path, capsys):
    other = small_dump.write(tmp_path / "other.safetensors", small_dump.tensors(seed=2))
    tune(dump, tmp_path / "policy.json", "--tolerance", "1e-2", "--rule", "aligned-max", *FAST)
    capsys.readouterr()
    assert main(["tune", str(other), "--verify", str(tmp_path / "policy.json"), "--tolerance", "5e-2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["promise"] == {"tolerance": 0.05, "quantile": 0.9, "about": "error", "confidence": 0.0}
    assert (told["tuned_on"], told["dump"]) == ("small.safetensors", "other.safetensors")
    steps, _ = analyzed(other, tmp_path / "out", "--policy", str(tmp_path / "policy.json"))
    for row, (layer, head) in zip(told["verification"]["heads"], HEADS, strict=True):
        rows = steps[(steps.layer == layer) & (steps.kv_head == head)]
        assert row["n_steps"] == small_dump.N_QUERIES
        assert row["error"]["max"] == rows[f"{ERROR}_group_max"].max()
        assert row["bytes"] == rows[MOVED].to_numpy().sum()


def test_a_promise_about_bounds_holds_in_every_step(dump, tmp_path):
    options = [
        "--rule",
        "aligned-skip:threshold=12",
        "--rule",
        "aligned-max",
        "--about",
        "bound",
        "--tolerance",
        "0.05",
        "--quantile",
        "1",
        "--holdout",
        f"blocks:{BLOCK}",
    ]
    policy = tune(dump, tmp_path / "p.json", *options, code=1)  # no sample of steps can promise every step
    _, errors = analyzed(dump, tmp_path / "out", "--policy", str(tmp_path / "p.json"))
    calibration = errors[~held_back(errors.step)]
    assert calibration[BOUND].max() <= 0.05 * (1 + 1e-3)
    assert errors[BOUND].max() > 0.05
    assert policy["report"]["calibration"]["bytes_saving"] > 0
    assert errors[ERROR].max() < 0.05


# How much may be above, against exact rationals.


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_steps_allowed_are_those_of_exact_binomials(quantile, confidence):
    promise = Promise(1e-3, quantile, confidence=confidence)
    share, limit = 1 - Fraction(str(quantile)), 1 - Fraction(str(confidence))
    up, whole = share.numerator, share.denominator
    for n in (1, 2, 7, 29, 59, 150, 299):
        weights = [math.comb(n, k) * up**k * (whole - up) ** (n - k) for k in range(math.floor(n * share) + 1)]
        tails = itertools.accumulate(weights)  # of at most k exceeding steps of n, times whole^n
        fits = [k for k, tail in enumerate(tails) if tail <= limit * whole**n]
        assert promise.allowed_in_calibration(n) == max(fits, default=-1), n
        assert promise.allowed(n) == math.floor(n * share)
        assert (promise.allowed_in_calibration(n) >= 0) == (n >= promise.least_steps), n


def test_every_step_and_face_value():
    assert Promise(1, 1.0).allowed_in_calibration(500) == 0
    assert Promise(1, 0.99, confidence=0).allowed_in_calibration(500) == 5
    assert Promise(1, 0.99).allowed_in_calibration(299) == 0
    assert Promise(1, 0.99).allowed_in_calibration(298) == -1


@pytest.mark.parametrize("text", ["blocks:1", "blocks:3", "blocks:64", "tail:1", "tail:25%", "tail:99"])
def test_no_step_is_on_both_sides(text):
    holdout = parse_holdout(text)
    for n in range(2, 200):
        mask = holdout.held_back(n)
        assert mask[-1]
        if holdout.kind == "blocks":
            assert [bool(m) for m in mask[::-1]] == [i % (2 * holdout.size) < holdout.size for i in range(n)]
        else:
            first = n - math.ceil(n * holdout.size / 100)
            assert mask.tolist() == [i >= first for i in range(n)]


@pytest.mark.parametrize("text", ["blocks:0", "tail:0", "tail:100", "half", "blocks:-1", "blocks"])
def test_holdouts_that_are_not_understood(text):
    with pytest.raises(UsageError, match="not understood"):
        parse_holdout(text)


# Wrong input.


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--tolerance", "1e-9", "--rule", "static"],
            2,
            "--tolerance 1e-09 cannot be reached: small.safetensors: layer 0, kv head 0: even",
        ),
        (["--tolerance", "0"], 2, "--tolerance 0: must be a positive number"),
        (["--tolerance", "nan"], 2, "must be a positive number"),
        (["--tolerance", "1", "--quantile", "2"], 2, "--quantile 2: must be above 0 and at most 1"),
        (["--tolerance", "1", "--confidence", "1"], 2, "--confidence 1: must be at least 0 and below 1"),
        (["--tolerance", "1", "--steps", "last"], 3, "leaves no step to calibrate on: there is 1 decode step"),
        (
            ["--tolerance", "1", "--holdout", "blocks:61"],
            3,
            "leaves no step to calibrate on: there are 61 decode steps",
        ),
        (["--tolerance", "1", "--holdout", "third"], 2, "--holdout third: not understood"),
        (
            ["--tolerance", "1", "--confidence", "0.95"],
            3,
            "layer 0: quantile 0.9 with confidence 0.95 takes 29 calibration steps, there are 5",
        ),
        (["--tolerance", "1", "--rule", "best"], 2, "unknown rule 'best'"),
        (["--tolerance", "1", "--rule", "aligned-skip", "--layout", "8,4,4"], 2, "needs a layout in which a token"),
        ([], 2, "Missing option '--tolerance'"),
    ],
)
def test_wrong_options(dump, tmp_path, capsys, options, code, message):
    steps = [] if "--steps" in options or "--holdout" in options else ["--steps", "every:6", "--holdout", "blocks:6"]
    given = ["--confidence", "0", "--quantile", "0.9", *steps, *options]
    assert main(["tune", str(dump), "-o", str(tmp_path / "p.json"), *given]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_wrong_dumps_and_outputs(dump, tmp_path, capsys):
    def refused(code, message, *arguments):
        given = [*map(str, arguments), "--tolerance", "1"]
        assert main(["tune", *given, *([] if "--verify" in given else ["--rule", "static"])]) == code
        assert message in capsys.readouterr().err

    bare = small_dump.write(tmp_path / "bare.safetensors", small_dump.tensors(queries=False))
    out = tmp_path / "p.json"
    refused(3, "layer 0 has no queries, so no decode step can be taken", bare, "-o", out)
    held = small_dump.tensors()
    held["layers.1.values"][0, 1, 3, 2] = np.nan
    nan = small_dump.write(tmp_path / "nan.safetensors", held)
    refused(3, "layer 1, kv head 1.values: holds infinities or NaNs", nan, "-o", out, *FAST)
    refused(4, "does not exist", dump, "-o", tmp_path / "no/p.json", *FAST)
    refused(2, "Missing option '--output'", dump)
    refused(2, "--verify tunes nothing: leave --output out", dump, "-o", out, "--verify", out)
    out.write_text('{"schema": "mine/1"}')
    refused(4, "exists already", dump, "-o", out)
    refused(4, "is not a precalign.policy/1 file, so it is not overwritten", dump, "-o", out, "--overwrite")
    out.unlink()
    tune(dump, out, "--tolerance", "1", "--rule", "static", *FAST)
    before = out.read_text()
    refused(4, "exists already", dump, "-o", out, *FAST)
    assert out.read_text() == before
    tune(dump, out, "--tolerance", "1", "--rule", "full", *FAST, "--overwrite")
    assert out.read_text() != before
    one = {name: array[:, :2] if "queries" in name else array[:, :1] for name, array in small_dump.tensors().items()}
    other = small_dump.write(tmp_path / "other.safetensors", one)
    refused(3, "names kv head 1 of layer 0, which has 1 in the dump", other, "--verify", out)
    data = json.loads(out.read_text())
    for promise in (None, {"tolerance": "small"}, {"tolerance": 1, "quantile": 3, "about": "error", "confidence": 0}):
        out.write_text(json.dumps(data | {"report": {"promise": promise}}))
        assert main(["tune", str(dump), "--verify", str(out)]) == 3
        assert "p.json: report.promise" in capsys.readouterr().err


def test_the_same_dump_gives_the_same_policy(dump, tmp_path):
    for name, jobs in (("one", "1"), ("two", "3")):
        tune(dump, tmp_path / f"{name}.json", "--tolerance", "1e-2", "--rule", "static", *FAST, "--jobs", jobs)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
