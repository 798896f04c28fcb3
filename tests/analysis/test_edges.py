"""Dumps at the ends of what there can be, through the whole command: numbers that are none, or all zero, or tiny; one token; a million."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_dump

from precalign.cli.main import main

ROLES = ("keys", "values", "queries")


def dump(path, change, seed=1):
    """Write a small dump in which `change` has been done to every tensor of layer 0."""
    held = small_dump.tensors(seed)
    for role in ROLES:
        name = f"layers.0.{role}"
        held[name] = np.asarray(change(role, held[name].copy()), np.float16)
    return small_dump.write(path / "d.safetensors", held)


def analyze(path, target, *options):
    return main(["analyze", str(path), "-o", str(target), "--steps", "every:20", *options])


def put(value, *roles):
    def change(role, x):
        if role in roles:
            x[0, 0, 7, 2] = value
        return x

    return change


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("role", ROLES)
def test_numbers_that_are_none_are_refused_or_left_out(tmp_path, capsys, value, role):
    path = dump(tmp_path, put(value, role))
    assert analyze(path, tmp_path / "out") == 3
    told = capsys.readouterr().err
    assert "layer 0" in told or "layers.0" in told
    assert "--skip-nonfinite" in told
    assert not (tmp_path / "out").exists()
    assert analyze(path, tmp_path / "out", "--skip-nonfinite") == 0
    skipped = json.loads((tmp_path / "out" / "summary.json").read_text())["skipped"]
    assert [(head["layer"], head["kv_head"]) for head in skipped] == [(0, 0)]
    assert main(["inspect", str(path)]) == 0
    assert "no: 1 infinities or NaNs" in capsys.readouterr().out


SUBNORMAL = np.float16(2.0**-24)
CHANGES = {
    "all zero": lambda _role, x: np.zeros_like(x),
    "minus zero": lambda _role, x: np.full_like(x, -0.0),
    "zero keys": lambda role, x: np.zeros_like(x) if role == "keys" else x,
    "zero values": lambda role, x: np.zeros_like(x) if role == "values" else x,
    "zero queries": lambda role, x: np.zeros_like(x) if role == "queries" else x,
    "subnormal": lambda _role, x: np.where(x < 0, -SUBNORMAL, SUBNORMAL * 3),
    "the largest": lambda _role, x: np.where(x < 0, -65504, 65504),
    "the least and the largest": lambda role, x: np.full_like(x, SUBNORMAL if role == "keys" else 65504),
    "all the same": lambda _role, x: np.full_like(x, 1.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_extreme_numbers_are_analysed(tmp_path, capsys, change):
    """Warnings are errors here, and JSON takes no infinity: whatever is not a number is null."""
    rules = [
        f"--rule={rule}"
        for rule in ("alignedkv", "aligned-max", "online", "certified:tolerance=0.1", "budget:saving=0.2")
    ]
    assert analyze(dump(tmp_path, CHANGES[change]), tmp_path / "out", *rules) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert len(summary["rules"]) == 5
    assert all(0 < rule["totals"]["key_bits_mean"] <= 16 for rule in summary["rules"])
    heads = pq.read_table(tmp_path / "out" / "heads.parquet").to_pandas()
    assert np.isfinite(heads["bytes_saving"]).all()
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    for form in ("terminal", "md"):
        assert main(["report", str(tmp_path / "out"), "--format", form]) == 0
    capsys.readouterr()


def test_one_token(tmp_path):
    held = {name: array[:, :, :1] for name, array in small_dump.tensors(2).items()}
    path = small_dump.write(tmp_path / "d.safetensors", held)
    assert main(["analyze", str(path), "-o", str(tmp_path / "out"), "--rule", "alignedkv", "--rule", "full"]) == 0
    steps = pq.read_table(tmp_path / "out" / "steps.parquet").to_pylist()
    assert {step["visible_tokens"] for step in steps} == {1}
    errors = pq.read_table(tmp_path / "out" / "errors.parquet").to_pandas()
    # One token has the probability 1 whatever is read of its key.
    assert (errors["prob_total_variation_to_exact"] == 0).all()
    assert (errors[errors["rule"] == "full"]["output_relative_error_to_exact"] == 0).all()


MOST_MEMORY = 1200 << 20
"""For a head of 10^6 tokens, 64 MB of keys and values: what analyses take for arrays of a head, with Python, NumPy, numba and pyarrow."""


def test_a_million_tokens_in_bounded_memory(tmp_path):
    tokens, head_dim = 1_000_000, 16
    rng = np.random.default_rng(0)
    held = {
        f"layers.0.{role}": rng.standard_normal((1, 2, tokens, head_dim), np.float32).astype(np.float16)
        for role in ("keys", "values")
    }
    held["layers.0.queries"] = rng.standard_normal((1, 2, 1, head_dim)).astype(np.float16)
    path = small_dump.write(tmp_path / "d.safetensors", held)
    del held
    code = (
        "import sys; from precalign.cli.main import main; code = main(sys.argv[1:]);"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]); sys.exit(code)"
    )
    line = [sys.executable, "-c", code, "analyze", str(path), "-o", str(tmp_path / "out"), "--jobs", "1", "--no-report"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) << 10 < MOST_MEMORY
    (step, _) = pq.read_table(tmp_path / "out" / "steps.parquet", columns=["visible_tokens"]).to_pylist()
    assert step["visible_tokens"] == tokens
