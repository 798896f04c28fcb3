"""The fuzzer finds what is planted, finds nothing else, and finds it again."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from conftest import ROOT

from precalign.analysis.fuzz.draw import CANARY, Draw
from precalign.analysis.fuzz.outcome import KINDS, harm_of
from precalign.analysis.fuzz.registry import TARGETS, get_target
from precalign.analysis.fuzz.run import fuzz, replay
from precalign.cli.main import main

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


# --- the real readers -----------------------------------------------------------------------------------------------------

SLOW = {"results": 25, "run-folder": 100, "ptx": 80}
"""Cases in CI of targets that take long for each; others take more."""


@pytest.fixture(scope="module")
def tallies():
    quick = [name for name in TARGETS if name not in SLOW]
    found = fuzz(quick, 150, 1, checked=False)
    for name, cases in SLOW.items():
        found += fuzz([name], cases, 1, checked=False)
    return {tally.target: tally for tally in found}


@pytest.mark.parametrize("name", TARGETS)
def test_no_finding_in_a_short_run(tallies, name):
    """The long run is a command: docs/trust.md has its counts."""
    tally = tallies[name]
    assert tally.skipped is None
    assert tally.cases == tally.accepted + tally.refused == SLOW.get(name, 150)
    assert [(found.case, found.kind, found.what, found.site) for found in tally.findings] == []
    if name != "listings":  # which never refuse
        assert tally.refused > 0
        assert tally.sites
    assert tally.accepted > 0


@pytest.mark.long
def test_a_long_run_finds_nothing(proof):
    """A million cases over all targets."""
    found = [tally for name in TARGETS for tally in fuzz([name], 2000 if name == "results" else 63_000, 2)]
    proof("fuzzing of every reader and parser", sum(t.cases for t in found), sum(t.n_findings for t in found))


@pytest.mark.parametrize("name", TARGETS)
def test_a_case_follows_from_its_number(name):
    if name in {"results", "run-folder"}:
        pytest.skip("its seeds are made anew each time: results hold what their packages wrote")
    one, other = (type(get_target(name))() for _ in range(2))
    seeds = one.seeds()
    assert other.seeds() == seeds
    made = [one.damaged(Draw(name, 3, case), seeds) for case in range(30)]
    assert [other.damaged(Draw(name, 3, case), seeds) for case in reversed(range(30))] == made[::-1]
    assert len({tuple(case.items()) for case in made}) > 15
    assert one.damaged(Draw(name, 4, 0), seeds) != made[0]


# --- seeds are what they claim to be: other packages read them -------------------------------------------------------------


def test_numpy_reads_what_is_made_as_valid():
    seeds = get_target("npz").seeds()
    for number in (0, 1, 3, 4, 6):  # the others hold types of ml_dtypes, which NumPy does not know
        (octets,) = seeds[number].values()
        with zipfile.ZipFile(io.BytesIO(octets)) as archive:
            assert archive.testzip() is None
        with np.load(io.BytesIO(octets)) as held:
            assert all(held[name].size for name in held.files)
    (octets,) = get_target("npy").seeds()[0].values()
    assert np.load(io.BytesIO(octets)).shape == (2, 2, 1, 2, 5, 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["torch", "torch-old"])
def test_torch_reads_what_is_made_as_valid(name):
    torch = pytest.importorskip("torch", reason="needs torch, which is not installed")
    (octets,) = get_target(name).seeds()[0].values()
    held = torch.load(io.BytesIO(octets), weights_only=True)
    assert held["layers.1.queries"].shape == (1, 4, 3, 4)
    assert held["scale"] == 0.5


def test_safetensors_reads_what_is_made_as_valid():
    from safetensors.numpy import load

    (octets,) = get_target("safetensors").seeds()[0].values()
    assert load(octets)["layers.1.queries"].shape == (1, 4, 3, 4)


@pytest.mark.parametrize(
    "payload",
    ["os\nsystem", "builtins\nexec", "subprocess\nPopen", "posix\nsystem"],
)
def test_pickles_with_code_are_among_the_cases(payload):
    target = get_target("torch")
    seeds = target.seeds()
    made = (target.damaged(Draw("torch", 0, case), seeds) for case in range(1000))
    assert any(payload.encode() in octets for case in made for octets in case.values())


@pytest.mark.parametrize(
    ("message", "harm"),
    [
        ("d.bin: is empty\nHint: dump it", None),
        ("d.bin: holds\n  a\n  b\nHint: dump it", None),
        ("d.bin: \x1b[2J", "control character"),
        ("d.bin: \u202e", "control character"),
        ("d.bin: x\nError: forged\nHint: h", "a line of its own"),
        ("d.bin: x\nHint: forged\nHint: h", "a line of its own"),
        ("x" * 5000, "5000 characters"),
    ],
)
def test_harm_of_messages(message, harm):
    found = harm_of(message)
    assert found is None if harm is None else harm in found


# --- the command ----------------------------------------------------------------------------------------------------------


def test_the_command_tells_findings_and_how_to_see_them_again(tmp_path, capsys):
    out = tmp_path / "findings"
    assert main(["fuzz", "planted_defects:Raises", "--cases", "40", "-o", str(out)]) == 1
    told = capsys.readouterr().out
    assert "FOUND planted_defects:Raises, case" in told
    assert "exception: KeyError" in told
    again = next(line.split() for line in told.splitlines() if line.startswith("  precalign fuzz"))
    (saved,) = out.iterdir()
    finding = json.loads((saved / "finding.json").read_text())
    assert again[1:] == ["fuzz", finding["target"], "--seed", "0", "--case", str(finding["case"])]
    assert (saved / "files/d.bin").read_bytes()[0] % 4 == 1
    assert main(again[1:]) == 1
    assert "Traceback" in capsys.readouterr().out  # of the reader, for who mends it


def test_the_command_as_json(capsys):
    assert main(["fuzz", "planted_defects:Sound", "planted_defects:Dies", "--cases", "6", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    sound, dies = told["targets"]
    assert told["schema"] == "precalign.fuzz-readers/1"
    assert (sound["cases"], sound["n_findings"]) == (6, 0)
    assert dies["cases"] == 6
    assert {found["kind"] for found in dies["findings"]} == {"death"}


def test_a_single_case_and_the_list(capsys):
    assert main(["fuzz", "planted_defects:Sound", "--case", "0"]) == 0
    assert "planted_defects:Sound, seed 0, case 0: not read" in capsys.readouterr().out
    assert main(["fuzz", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in TARGETS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["nothing"], "no fuzz target 'nothing'"),
        (["json:JSONDecoder"], "is no precalign.analysis.fuzz.target.Target"),
        (["no_such_module:X"], "no_such_module"),
        (["safetensors", "npz", "--case", "1"], "--case is of one target"),
    ],
)
def test_wrong_usage(line, words, capsys):
    assert main(["fuzz", *line]) == 2
    assert words in capsys.readouterr().err


def test_time_is_kept(capsys):
    assert main(["fuzz", "planted_defects:Sound", "--cases", "100000000", "--seconds", "1.5", "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["targets"][0]["cases"] < 1_000_000


def test_an_interrupt_leaves_no_process_and_no_folder(tmp_path):
    """Ctrl-C during a run: the command ends its workers, and what they had is gone."""
    process = subprocess.Popen(
        [sys.executable, "-m", "precalign.cli.main", "fuzz", "planted_defects:Hangs", "--cases", "50"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("precalign-fuzz-*/cases")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()  # nothing where it has ended
    assert (process.returncode, told.strip()) == (130, "Interrupted.")
    assert list(tmp_path.iterdir()) == []
