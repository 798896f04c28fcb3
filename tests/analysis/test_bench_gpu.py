"""`bench gpu`: the estimate without a GPU, and the whole run through a stand-in for CuPy."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's wheels are not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))

from fake_cupy import FakeCupy

from precalign.analysis.benchmarks import decode_problems, gpu, gpu_estimate
from precalign.analysis.benchmarks.timing import Options
from precalign.errors import PrecalignError

DUMP = decode_problems.DEMO
FEW = (("full", False), ("alignedkv", False), ("online", True))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(decode_problems, "COMPARED", FEW)
    monkeypatch.setattr(gpu_estimate, "SMALL_CONTEXTS", (100,))
    monkeypatch.setattr(gpu, "SMALL_CONTEXTS", (100,))
    monkeypatch.setattr(gpu, "FLUSH_BYTES", 1 << 10)
    monkeypatch.setattr(decode_problems, "N_KV_HEADS", 1)
    monkeypatch.setattr(gpu, "problems", lambda options, contexts: decode_problems.problems(options, contexts, 1))


def test_without_a_gpu_it_is_an_estimate(few):
    found = gpu.run(Options(small=True, dump=DUMP))
    assert "CuPy" in found.unavailable or "GPU" in found.unavailable
    assert all(row.case.startswith("ESTIMATE") for row in found.rows)
    assert any("no time was measured" in line for line in found.checks)
    assert {row.contender for row in found.rows} == {"full", "alignedkv", "online"}
    reads = {row.contender: row.figures["sectors_read"] for row in found.rows}
    assert reads["full"] > 8 * 100 * 64 * 4 / 32


def test_on_a_device_results_are_checked_and_all_are_timed(few, monkeypatch):
    cupy = FakeCupy(monkeypatch)
    found = gpu.run(Options(small=True, repeats=2, dump=DUMP))
    assert found.unavailable is None
    assert found.checks[0] == "device: Fake GPU"
    assert "online: outputs of a kv head equal the emulation's, bit for bit" in found.checks
    assert any(line.startswith("torch SDPA: left out") for line in found.checks)
    assert {row.contender for row in found.rows} == {"full", "alignedkv", "online"}
    assert all(row.median_ms == 0.5 for row in found.rows)
    assert all(row.figures["bytes_ratio"] >= 1 for row in found.rows)
    assert cupy.launches.count("one_pass") == 1 + 1 + 2  # checked, warmed up, timed twice


def test_a_wrong_result_is_not_timed(few, monkeypatch):
    FakeCupy(monkeypatch)
    emulate = gpu.emulate

    def other(*args):
        wanted = emulate(*args)
        wanted.outputs[0, 0] += 1
        return wanted

    monkeypatch.setattr(gpu, "emulate", other)
    with pytest.raises(PrecalignError, match="outputs differ from the emulation"):
        gpu.run(Options(small=True, repeats=1, dump=DUMP))
