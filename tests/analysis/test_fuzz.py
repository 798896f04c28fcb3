"""The fuzzer finds what is planted, finds nothing else, and finds it again."""

from __future__ import annotations

import os

import pytest
from conftest import ROOT

from precalign.analysis.fuzz.draw import CANARY
from precalign.analysis.fuzz.outcome import KINDS
from precalign.analysis.fuzz.run import fuzz, replay

PLANTED = {
    "Raises": ("exception", "KeyError"),
    "Hangs": ("hang", "no answer within 1 s"),
    "Dies": ("death", "killed by SIGSEGV"),
    "Exits": ("death", "exit code 3"),
    "Allocates": ("memory", "the bound is"),
    "Claims": ("memory", "MemoryError"),
    "Unpickles": ("code", "pickle.find_class"),
    "Evaluates": ("code", "compile of b'1 + 1'"),
    "Writes": ("code", "for writing"),
    "ReadsElsewhere": ("code", "/etc/passwd"),
    "Prints": ("text", "control character"),
    "Forges": ("text", "a line of its own"),
    "Warns": ("warning", "RuntimeWarning"),
    "Swallows": ("code", "os.system"),
}
CASES = 40


@pytest.fixture(autouse=True)
def _planted_are_importable(monkeypatch):
    here = str(ROOT / "tests/analysis")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))))


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found(defect):
    kind, words = PLANTED[defect]
    (tally,) = fuzz([f"planted_defects:{defect}"], CASES if kind not in {"hang", "death"} else 8, limit_seconds=1)
    assert tally.findings, "nothing was found"
    assert {found.kind for found in tally.findings} == {kind}
    assert any(words in found.what for found in tally.findings), [found.what for found in tally.findings]
    assert kind in KINDS
    found = tally.findings[0]
    again = replay(found.target, found.seed, found.case, limit_seconds=1)
    assert (again.findings[0].kind, again.findings[0].what) == (found.kind, found.what)


def test_a_sound_reader_is_not_blamed():
    (tally,) = fuzz(["planted_defects:Sound"], 300)
    assert tally.n_findings == 0
    assert tally.cases == 300 == tally.accepted + tally.refused
    assert tally.refused > 200
    assert [site.partition(":")[0] for site in tally.sites] == ["tests/analysis/planted_defects.py"]


def test_nothing_of_a_payload_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fuzz(["planted_defects:Unpickles"], 20)
    assert list(tmp_path.iterdir()) == []
    assert CANARY == "canary-was-run"
