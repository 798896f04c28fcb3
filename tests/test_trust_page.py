"""docs/trust.md names tests that are there, for everything that it promises."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs/trust.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`((?:tests/\w+/)?test_\w+\.py)::(test_\w+)`")


def functions_of(file):
    path = ROOT / (file if "/" in file else f"tests/analysis/{file}")
    return {
        node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    }


def test_every_test_that_is_named_is_there():
    named = NAMED.findall(TEXT)
    assert len(named) > 60
    missing = [f"{file}::{name}" for file, name in named if name not in functions_of(file)]
    assert missing == []
    assert TEXT.count("`test_") + TEXT.count("`tests/core/test_") == len(named), "a test is named in another form"


def test_every_promise_has_a_test():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "`test_" not in line]
    heads = ("| what happens", "| the file ", "| the tensors ", "| target ", "| `")
    assert [row for row in rows if not row.startswith(heads)] == []


@pytest.mark.parametrize(
    "words",
    [
        "SIGKILL", "worker process is killed", "disk is full", "cannot be written to", "another version", "two runs", "changes while it is read",
        "cut short", "flipped bits", "empty", "header that lies", "2^40 elements", "pickle with code", "`../`", "circles", "line breaks",
        "terminal escapes", "HTML", "NaN", "infinities", "subnormal", "all zero", "one token", "10^6 tokens", "Ctrl-C", "fuzz",
    ],
)  # fmt: skip
def test_nothing_that_can_go_wrong_is_left_out(words):
    assert words in TEXT


def test_the_table_is_what_runs_have_counted(tmp_path):
    """The script adds up runs and replaces one of the same seed."""
    run = {
        "seed": 0,
        "targets": [
            {
                "target": "npy",
                "what": "x",
                "cases": 3,
                "accepted": 1,
                "refused": 2,
                "n_findings": 1,
                "refusing_lines": 2,
                "peak_bytes": 10,
                "bound": {"constant_bytes": 1 << 20, "per_byte": 2},
            }
        ],
    }
    files = []
    for number, (seed, findings) in enumerate(((0, 1), (0, 0), (1, 0))):
        run["seed"], run["targets"][0]["n_findings"] = seed, findings
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(run))
    code = "import sys, json, write_fuzz_docs as w; print(w.table([json.load(open(f)) for f in sys.argv[1:]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )
    assert "| `npy` | x | 6 | 2 | 4 | 2 | 0.0 MB | 1 MiB + 2 × size | 0 |" in done.stdout
    assert "6 cases: 0 findings" in done.stdout


def test_the_long_run_is_of_every_target_and_found_nothing():
    from precalign.analysis.fuzz.registry import TARGETS

    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| ([\d,]+) \|$", TEXT, re.MULTILINE))
    assert rows.keys() == TARGETS.keys()
    assert set(rows.values()) == {"0"}
