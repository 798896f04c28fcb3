"""The benchmarks of the analysis: their check can fail, and they say what they measured."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import small_dump

from precalign.analysis.benchmarks import analyze, codecs, memory, numpy_peer
from precalign.analysis.benchmarks.equality import compare
from precalign.analysis.benchmarks.synthetic_dump import Shape, write_dump
from precalign.analysis.benchmarks.timing import Options
from precalign.analysis.plan import Options as AnalyzeOptions
from precalign.analysis.plan import make_plan
from precalign.analysis.readers import open_dump
from precalign.codecs import CODECS
from precalign.codecs.packed import PackedCodec
from precalign.errors import InputError


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    path = write_dump_of(tmp_path_factory.mktemp("bench"), Shape(1, 1, 2, 200, 64))
    with open_dump(path) as dump:
        plan = make_plan(dump, AnalyzeOptions())
        (head,) = analyze._heads(dump, plan)
        return analyze._profile(plan, head), numpy_peer.profile(*head.numbers()), head.numbers()


def write_dump_of(folder, shape):
    write_dump(folder / "d.safetensors", shape)
    return folder / "d.safetensors"


def test_numpy_and_the_engine_agree(both):
    ours, peer, numbers = both
    steps, equal = compare(ours, peer, *numbers)
    assert steps == 200
    assert equal >= 190
    for name in ("value_token_wasted_bits", "value_channel_wasted_bits", "value_wasted_histogram"):
        assert np.array_equal(getattr(ours, name), getattr(peer, name)), name


@pytest.mark.parametrize(("name", "layers"), [("novel-1024", "3"), ("stories260k-512", "0,4")])
def test_numpy_and_the_engine_agree_on_real_dumps(shared, name, layers):
    """Every causal step; value reads too, wherever the order of a sum cannot decide an exponent."""
    with open_dump(shared / f"data/kv/{name}.safetensors") as dump:
        plan = make_plan(dump, AnalyzeOptions(layers=layers))
        compared = [
            compare(analyze._profile(plan, head), numpy_peer.profile(*head.numbers()), *head.numbers())
            for head in analyze._heads(dump, plan)
        ]
    steps, equal = (sum(part) for part in zip(*compared, strict=True))
    assert equal > 0.99 * steps


@pytest.mark.long
@pytest.mark.parametrize("name", ["novel-1024", "novel-2048-gen", "stories260k-512"])
def test_numpy_and_the_engine_agree_on_every_head(shared, name):
    with open_dump(shared / f"data/kv/{name}.safetensors") as dump:
        plan = make_plan(dump, AnalyzeOptions())
        for head in analyze._heads(dump, plan):
            compare(analyze._profile(plan, head), numpy_peer.profile(*head.numbers()), *head.numbers())


@pytest.mark.parametrize("name", ["key_level_channels", "value_level_tokens", "key_wasted_bits", "value_wasted_bits"])
def test_one_wrong_count_is_seen(both, name):
    ours, peer, numbers = both
    wrong = getattr(ours, name).copy()
    wrong[50:] += 1 if name != "value_level_tokens" else 40
    with pytest.raises(AssertionError, match=name):
        compare(replace(ours, **{name: wrong}), peer, *numbers)


def test_bench_analyze_has_a_row_for_every_contender(tmp_path):
    pytest.importorskip("torch", reason="the benchmark compares with torch")
    path = write_dump_of(tmp_path, Shape(2, 2, 2, 128, 64))
    result = analyze.run(Options(small=True, threads=2, repeats=2, dump=path))
    parts = [row for row in result.rows if row.case == analyze.PROFILED]
    assert [row.contender for row in parts] == [*(phase.name for phase in analyze.PHASES), analyze.REST]
    assert sum(row.figures["share"] for row in parts) == pytest.approx(1)
    assert all(row.figures["share"] > 0 for row in parts)
    assert {row.contender for row in parts if "floor_ms" in row.figures} == {
        phase.name for phase in analyze.PHASES if phase.products
    }
    timed = [row for row in result.rows if row not in parts]
    assert len(timed) == 2 * 8
    assert {row.case for row in timed} == {analyze.ONE, "2 threads"}
    assert len(result.aims) == 2 * len(analyze.AIMS)
    assert min(row.ratio for row in timed if row.contender.startswith("torch") and "twice" not in row.contender) == 1
    for row in timed:
        assert row.figures["steps_per_s"] == pytest.approx(2 * 128 / row.median_ms * 1e3)
    assert "d.safetensors: precalign and NumPy: wasted bits and key reads of all 256 steps are equal" in result.checks


def test_bench_analyze_refuses_what_numpy_does_not_cover(tmp_path):
    path = small_dump.write(tmp_path / "d.safetensors")
    with pytest.raises(InputError, match="the benchmark needs binary16 and one query per token"):
        analyze.run(Options(dump=path))


def test_bench_memory_asks_the_system(tmp_path):
    row = memory._measure(tmp_path, Shape(2, 2, 2, 64, 32), jobs=1)
    assert row.figures["dump_gb"] == pytest.approx(2 * (2 + 2) * 2 * 64 * 32 * 2 / 1e9, rel=0.02)
    assert 0.02 < row.figures["peak_gb"] < 1.5
    assert not (tmp_path / "dump.safetensors").exists()


def test_the_largest_resident_set_is_the_commands_own():
    held = np.ones(1 << 28, np.uint8)  # of this process, not of the command
    code, peak = memory.run_measured([sys.executable, "-c", "raise SystemExit(3)"])
    assert code == 3
    assert peak < held.nbytes / 2


def test_a_synthetic_dump_reads_back(tmp_path):
    shape = Shape(3, 2, 2, 40, 8)
    with open_dump(write_dump_of(tmp_path, shape)) as dump:
        assert [layer.index for layer in dump.layers] == [0, 1, 2]
        first = dump.read_head(dump.layers[0], 0)
        last = dump.read_head(dump.layers[2], 1)
    assert first.queries.shape == (2, 40, 8)
    rotated = (2 * 8 + 1) * 977 % 40  # the 18th head of the file
    assert np.array_equal(last.keys, np.roll(first.keys, -rotated, axis=0))


def test_every_codec_is_timed_and_every_packed_form(monkeypatch):
    monkeypatch.setattr(codecs, "N_KV_HEADS", 1)
    found = codecs.run(Options(small=True, threads=1, repeats=1))
    for what in ("encode", "decode"):
        named = {row.contender for row in found.rows if row.case.startswith(what)}
        assert {name for name in named if "," not in name} == {*CODECS, "copy"}
    of_attention = {row.case.split(", ")[1]: row for row in found.rows if row.contender == "packed codes"}
    assert set(of_attention) == {name for name, codec in CODECS.items() if issubclass(codec, PackedCodec)}
    # q8_0: 34 bytes for 32 numbers, keys and values of 256 tokens of 128 channels; each read once.
    assert of_attention["q8_0"].figures["read_mb"] == pytest.approx(2 * 256 * 128 * 34 / 32 / 1e6)
    # fibquant: a norm and 32 indices a row, and on either side a rotation and a codebook of binary32.
    fibquant = 2 * (256 * 34 + 4 * (128 * 128 + 256 * 4))
    assert of_attention["fibquant"].figures["read_mb"] == pytest.approx(fibquant / 1e6)


def test_a_wrong_packed_attention_is_not_timed(monkeypatch):
    x = np.random.default_rng(0).standard_normal((64, 8, 128)).astype(np.float16).astype(np.float32)
    true = codecs.attend
    monkeypatch.setattr(codecs, "attend", lambda *given: true(*given) + np.float32(0.01))
    with pytest.raises(AssertionError, match="attention over packed codes is"):
        codecs._attention(x, x, 1)
