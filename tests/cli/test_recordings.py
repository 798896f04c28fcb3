"""`precalign recordings`: counts, exit codes, errors."""

import json
import zipfile

import numpy as np
import pytest

from precalign import matrix_units
from precalign.cli.main import main


@pytest.fixture
def recording(tmp_path):
    """A file as if recorded on an A100, made by the emulation."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((5, 8)).astype(np.float16).view(np.uint16) for _ in "ab")
    c = rng.standard_normal(5).astype(np.float32).view(np.uint32)
    data = {
        f"d_{output}": matrix_units.replay(a, b, c, unit="A100", inputs="fp16", output=output)
        for output in ("fp32", "fp16")
    }
    path = tmp_path / "A100_fp16.npz"
    np.savez(path, a=a, b=b, c=c, **data)
    return path


def test_all_recordings(shared, capsys):
    assert main(["recordings", str(shared / "data" / "tensor_cores"), "--json"]) == 0
    replays = json.loads(capsys.readouterr().out)["recordings"]
    assert sum(r["n_results"] for r in replays) == 96_000
    assert sum(r["n_mismatches"] for r in replays) == 0


def test_a_mismatch_is_counted_and_fails(recording, capsys):
    assert main(["recordings", str(recording.parent)]) == 0
    assert "10 results        0 mismatches" in capsys.readouterr().out
    with np.load(recording) as data:
        arrays = dict(data)
    arrays["d_fp32"][3] ^= 1
    np.savez(recording, **arrays)
    assert main(["recordings", str(recording)]) == 1
    assert "1 mismatches  (first: row 3)" in capsys.readouterr().out


def test_unusable_input(recording, tmp_path, capsys):
    assert main(["recordings", str(tmp_path / "nothing")]) == 3
    other = recording.rename(tmp_path / "A100.npz")
    assert main(["recordings", str(other)]) == 3
    assert "H100_fp16.npz" in capsys.readouterr().err
    unit = other.rename(tmp_path / "V100_e4m3.npz")
    assert main(["recordings", str(unit)]) == 2
    broken = tmp_path / "H100_fp16.npz"
    broken.write_bytes(b"PK\x03\x04")
    assert main(["recordings", str(broken)]) == 3
    np.savez(broken, a=np.zeros(1))
    assert main(["recordings", str(broken)]) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": np.zeros((5, 8))}, "array a has dtype float64, expected uint8, uint16, uint32"),
        ({"a": np.zeros((5, 8), "V2")}, "array a has dtype"),
        ({"c": np.zeros(4, np.uint32)}, "array c has shape (4,)"),
        ({"d_fp32": np.zeros(0, np.uint32)}, "array d_fp32 is empty: shape (0,)"),
        ({"a": np.uint16(1), "b": np.uint16(1)}, "array a has shape ()"),
        ({"a": np.zeros(5, np.uint16), "b": np.zeros(5, np.uint16)}, "a and b are (n_results, n_terms)"),
        ({"a": np.zeros((5, 0), np.uint16), "b": np.zeros((5, 0), np.uint16)}, "array a is empty: shape (5, 0)"),
    ],
)
def test_arrays_that_are_no_recording(recording, capsys, change, words):
    with np.load(recording) as data:
        arrays = dict(data)
    np.savez(recording, **(arrays | change))
    assert main(["recordings", str(recording)]) == 3
    assert words in capsys.readouterr().err


def test_a_claim_of_many_elements_takes_no_memory(recording, capsys):
    with zipfile.ZipFile(recording) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    old, new = b"(5, 8), }" + b" " * 20, b"(1099511627776, 8), }".ljust(29)
    members["a.npy"] = members["a.npy"].replace(old, new)
    assert new in members["a.npy"]
    with zipfile.ZipFile(recording, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert main(["recordings", str(recording)]) == 3
    assert "needs 17592186044416 bytes" in capsys.readouterr().err
