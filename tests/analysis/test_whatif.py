"""What-if: the measured shape gives the measured numbers back exactly; other shapes follow the traffic model; marks are where they must be."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow.compute as pc
import pytest
import small_dump
from conftest import ROOT

from precalign.analysis.results.reader import open_result
from precalign.analysis.whatif import Overheads, measured_basis, scaling, study
from precalign.analysis.whatif.page import render
from precalign.analysis.whatif.roofline import timing
from precalign.cli.main import main
from precalign.formats import BINARY16
from precalign.gpus import GPUS, get_gpus
from precalign.layouts import parse_layout
from precalign.traffic import GRANULES, UNITS, value_transfer

DEMO = str(ROOT / "analysis/demo/novel.safetensors")
RULES = ("alignedkv", "aligned-max", "online")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("whatif") / "out"
    rules = [word for rule in RULES for word in ("--rule", rule)]
    assert main(["analyze", DEMO, "-o", str(out), "--steps", "every:64", "--no-report", *rules]) == 0
    return open_result(out)


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    out = tmp_path_factory.mktemp("whatif") / "last"
    assert main(["analyze", DEMO, "-o", str(out), "--steps", "last", "--no-report"]) == 0
    return out


def measured_sums(result, rule):
    """Counts of the table, over the steps that the basis is made of, per step."""
    steps = result.table("steps").filter(pc.field("rule") == rule).to_pylist()
    longest = max(row["visible_tokens"] for row in steps)
    kept = [row for row in steps if row["visible_tokens"] > longest // 2]
    n_steps = len({row["step"] for row in kept})
    return lambda name: Fraction(sum(row[name] for row in kept), n_steps)


@pytest.mark.parametrize("rule", RULES)
def test_the_measured_shape_gives_the_measured_numbers(result, rule):
    main_basis, by_context = measured_basis(result, rule)
    counts, measured = scaling.scaled(main_basis, main_basis.shape), measured_sums(result, rule)
    for name, count in counts.items():
        assert count * main_basis.shape.heads == measured(name), name
    held = study("demo", (main_basis, by_context), main_basis.shape, get_gpus("all"), Overheads()).to_json()
    assert held["changed"] == []
    assert held["measured"] == held["asked"] | {"n_steps": main_basis.n_steps}
    for name in ("key_bytes", "value_bytes", "metadata_bytes", "prepass_bytes", "scores_bytes", "outputs_bytes"):
        assert held["bytes_per_step"][name] == {"value": float(measured(name)), "extrapolated": False}
    for row in held["gpus"]:
        gpu = GPUS[row["gpu"]]
        unit = {32: "sectors", 64: "atoms", 128: "lines"}[gpu.fetch_bytes]
        parts = sum(measured(f"{part}_{unit}") for part in ("key", "value", "metadata", "prepass"))
        around = measured("queries_bytes") + measured("outputs_bytes")
        assert row["moved_bytes"] == {"value": float(parts * gpu.fetch_bytes + around), "extrapolated": False}
        assert all(row[f"{name}_us"]["extrapolated"] for name in ("memory", "full_memory", "total", "full_total"))
        assert row["speedup"]["extrapolated"]


def test_the_command_says_the_measured_shape_is_measured(last, capsys):
    """Every size spelt out as it was measured: still no extrapolation, and the sums of the table."""
    sizes = {"--context": 896, "--head-dim": 64, "--group": 2, "--n-kv-heads": 2, "--layers": 3, "--batch": 1}
    words = [str(word) for pair in sizes.items() for word in pair]
    assert main(["whatif", str(last), *words, "--gpu", "h100", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    rows = open_result(last).table("steps").to_pylist()
    assert held["changed"] == []
    assert held["bytes_per_step"]["value_bytes"] == {
        "value": sum(r["value_bytes"] for r in rows),
        "extrapolated": False,
    }
    assert main(["whatif", str(last), "--gpu", "h100"]) == 0
    out = capsys.readouterr().out
    assert "This is the measured shape" in out
    assert main(["whatif", str(last), "--gpu", "h100", "--context", "8192"]) == 0
    out = capsys.readouterr().out
    assert "Differs in context" in out
    assert "~" in out.split("Reads ")[1][:2]


@pytest.mark.parametrize("name", ["layers", "n_kv_heads", "batch", "context"])
def test_what_scales_alone(result, name):
    """Twice the heads, sequences or tokens are twice the keys and values, exactly."""
    basis, _ = measured_basis(result, "alignedkv")
    shape = replace(basis.shape, **{name: getattr(basis.shape, name) * 2})
    counts, twice = scaling.scaled(basis, basis.shape), scaling.scaled(basis, shape)
    for what in ("key_bytes", "value_sectors", "full_key_lines", "key_ideal_bits"):
        assert twice[what] * shape.heads == 2 * counts[what] * basis.shape.heads
    if name == "context":
        assert twice["prepass_bytes"] == counts["prepass_bytes"]
        assert twice["outputs_bytes"] == counts["outputs_bytes"]


def test_a_larger_group_costs_scores_and_prepass_alone(result):
    basis, _ = measured_basis(result, "alignedkv")
    counts = scaling.scaled(basis, basis.shape)
    more = scaling.scaled(basis, replace(basis.shape, group=8))
    assert more["scores_bytes"] == 4 * counts["scores_bytes"]
    assert more["prepass_sectors"] == 4 * counts["prepass_sectors"]
    assert more["value_bytes"] == counts["value_bytes"]


@pytest.mark.parametrize("text", ["8|4|4+skip", "5|3|4|4+skip"])
@pytest.mark.parametrize("head_dim", [16, 32, 80, 128])
def test_granules_of_values_at_another_head_dim(result, text, head_dim):
    """Tokens read at random: the expected granules against the counted ones, within what chance allows."""
    rng, tokens = np.random.default_rng(3), 1 << 16
    layout = parse_layout(text, BINARY16)
    levels = rng.choice(
        len(layout.levels), tokens, p=[0.5, 0.3, 0.1, *[0.1 / (len(layout.levels) - 3)] * (len(layout.levels) - 3)]
    )
    counts = {
        f"value_tokens_at_{bits}_bits": Fraction(int((levels == i).sum())) for i, bits in enumerate(layout.levels)
    }
    window = np.zeros(1, np.int64), np.full(1, tokens)
    counted = {d: value_transfer(levels[None].astype(np.uint8), layout, d, *window) for d in (64, head_dim)}
    counts |= {f"value_{unit}": Fraction(int(getattr(counted[64], unit)[0])) for unit in UNITS}
    basis, _ = measured_basis(result, "alignedkv")
    basis = replace(basis, layout=layout, counts=counts)
    assert scaling._values(basis, head_dim, "bytes") == int(counted[head_dim].bytes[0])
    for unit in GRANULES:
        expected = float(scaling._values(basis, head_dim, unit))
        # Chance alone: 65,536 tokens, and pages whose rows do not fill their last line.
        assert expected == pytest.approx(int(getattr(counted[head_dim], unit)[0]), rel=0.01)


def test_metadata_of_another_shape_is_that_of_the_model(result):
    from precalign.traffic import metadata_transfer

    basis, _ = measured_basis(result, "aligned-max")
    basis = replace(basis, shape=replace(basis.shape, context=Fraction(600)))
    old, new = (
        metadata_transfer(basis.rule.metadata, d, np.array([0]), np.array([n])) for d, n in ((64, 600), (128, 9000))
    )
    basis = replace(basis, counts=basis.counts | {f"metadata_{u}": Fraction(int(getattr(old, u)[0])) for u in UNITS})
    counts = scaling.scaled(basis, replace(basis.shape, head_dim=128, context=Fraction(9000)))
    assert [counts[f"metadata_{unit}"] for unit in UNITS] == [int(getattr(new, unit)[0]) for unit in UNITS]


def test_the_roofline_by_hand(result):
    """1 MB at 3350 GB/s and a share of one half; instructions; launches beside the slower of the two."""
    basis, _ = measured_basis(result, "alignedkv")
    gpu, over = GPUS["h100"], Overheads(launch_us=3, bandwidth_share=0.5, unpack_operations=6)
    shape = replace(basis.shape, context=Fraction(1000), layers=2, n_kv_heads=1)
    counts = dict.fromkeys(scaling.scaled(basis, shape), Fraction(0))
    counts |= {"key_atoms": Fraction(10_000), "value_atoms": Fraction(5_625), "full_key_atoms": Fraction(20_000)}
    reduced, full = (timing(counts, shape, gpu, over, full=which, one_pass=False) for which in (False, True))
    assert reduced.moved_bytes == 2 * 15_625 * 64
    assert reduced.memory_us == pytest.approx(2e6 / 3350e9 / 0.5 * 1e6, rel=1e-12)
    assert reduced.compute_us == pytest.approx(2 * 2 * 1000 * 64 * (2 + 6) / 33.5e12 * 1e6, rel=1e-12)
    assert (reduced.launch_us, full.launch_us) == (2 * 4 * 3, 2 * 2 * 3)
    assert reduced.total_us == reduced.memory_us + reduced.launch_us
    assert full.compute_us == pytest.approx(2 * 2 * 1000 * 64 * (2 + 1) / 33.5e12 * 1e6, rel=1e-12)
    assert timing(counts, shape, gpu, over, full=False, one_pass=True).launch_us == 2 * 2 * 3


def test_scores_reach_memory_only_where_they_outgrow_the_cache(result):
    basis, _ = measured_basis(result, "alignedkv")
    gpu, over = GPUS["rtx3090"], Overheads()
    moved = []
    for batch in (1, 1 << 20):
        shape = replace(basis.shape, batch=batch)
        counts = scaling.scaled(basis, shape)
        reduced = timing(counts, shape, gpu, over, full=False, one_pass=False)
        moved.append(reduced.moved_bytes / shape.heads)
    assert moved[1] - moved[0] == basis.counts["scores_bytes"] + basis.counts["probs_bytes"]


def test_crossover_is_where_the_curve_crosses_one(result):
    bases = measured_basis(result, "aligned-max")
    held = study("demo", bases, replace(bases[0].shape, batch=8, layers=32), get_gpus("h100,a100"), Overheads())
    for gpu in held.gpus:
        found = held.crossover(gpu)
        assert held.speedup(gpu, found) > 1 >= held.speedup(gpu, found - 1)
    never = study("demo", bases, bases[0].shape, get_gpus("h100"), Overheads(launches=1000))
    assert never.crossover(never.gpus[0]) is None


def test_every_gpu_has_a_fetch_that_is_counted():
    for name, gpu in GPUS.items():
        assert gpu.name == name
        assert GRANULES[gpu.fetch_unit] == gpu.fetch_bytes >= gpu.sector_bytes or gpu.fetch_bytes == gpu.line_bytes
        assert gpu.fetch_bytes <= gpu.line_bytes
    architectures = {gpu.architecture for gpu in GPUS.values()}
    assert {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"} <= architectures
    page = (ROOT / "docs/traffic.md").read_text(encoding="utf-8")
    for gpu in GPUS.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{gpu.name}` |"))
        cells = [cell.strip() for cell in row.split("|")]
        shown = (gpu.product, gpu.architecture, gpu.memory, f"{gpu.bandwidth_gb_per_s:g}", f"{gpu.l2_bytes >> 20}")
        assert tuple(cells[2:7]) == shown
        assert cells[7:11] == [f"{gpu.fetch_bytes}", gpu.fetch_basis, f"{gpu.multiprocessors}", f"{gpu.fp32_tflops:g}"]


def test_memory_in_the_summary_is_whole_fetches(result):
    for rule in result.summary["rules"]:
        totals = rule["totals"]
        for row in rule["memory"]:
            unit = {32: "sectors", 64: "atoms", 128: "lines"}[row["fetch_bytes"]]
            moved = sum(totals[f"{part}_{unit}"] for part in ("key", "value", "metadata", "prepass"))
            assert row["moved_bytes"] == moved * row["fetch_bytes"]
            assert row["saving"] == pytest.approx(totals[f"{unit}_saving"], rel=1e-12)


def test_rebased_results_scale_too(tmp_path):
    path = small_dump.write(tmp_path / "d.safetensors")
    options = ["--steps", "last", "--layout", "rebased:6|2|5", "--no-report"]
    assert main(["analyze", str(path), "-o", str(tmp_path / "out"), *options]) == 0
    result = open_result(tmp_path / "out")
    basis, _ = measured_basis(result)
    counts = scaling.scaled(basis, basis.shape)
    assert counts["metadata_bytes"] == basis.counts["metadata_bytes"] > 0
    longer = scaling.scaled(basis, replace(basis.shape, context=basis.shape.context * 64))
    assert longer["metadata_bytes"] > 20 * counts["metadata_bytes"]


def test_the_page_marks_what_is_extrapolated(result):
    bases = measured_basis(result, "online")
    for shape, marked in ((bases[0].shape, False), (replace(bases[0].shape, head_dim=128), True)):
        held = study("<b>demo</b>", bases, shape, get_gpus("h100"), Overheads()).to_json()
        page = render(held)
        row = page.split("<th>NVIDIA H100 SXM5 80 GB</th>")[1].split("</tr>")[0]
        cells = [cell.split("</td>")[0] for cell in row.split("<td>")[1:]]
        assert [cell.startswith("~") for cell in cells[1:4]] == [marked] * 3
        assert all(cell.startswith("~") for cell in cells[4:6])
        assert "<b>demo</b>" not in page
        assert "dash: dashes" in page
        if marked:
            assert "<strong>head_dim</strong>" in page


def test_wrong_questions(result, tmp_path, capsys):
    def fails(code, word, *arguments):
        assert main(["whatif", *map(str, arguments)]) == code
        assert word in capsys.readouterr().err

    fails(2, "several rules", result.path)
    fails(2, "was not analysed", result.path, "--rule", "full")
    fails(2, "unknown GPU 'h1000'", result.path, "--rule", "online", "--gpu", "a100,h1000")
    fails(2, "--bandwidth-share", result.path, "--rule", "online", "--bandwidth-share", "1.5")
    fails(2, "must not be negative", result.path, "--rule", "online", "--launch-us", "-1")
    fails(2, "--context", result.path, "--rule", "online", "--context", "0")
    fails(3, "is not a result directory", tmp_path)
    fails(4, "cannot be written", result.path, "--rule", "online", "-o", tmp_path / "none/page.html")
    bare = small_dump.write(tmp_path / "bare.safetensors", small_dump.tensors(queries=False))
    assert main(["analyze", str(bare), "-o", str(tmp_path / "bare"), "--no-report"]) == 0
    fails(3, "no decode step was analysed", tmp_path / "bare")


@pytest.mark.browser
def test_the_page_draws(last, tmp_path, chromium):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    page_file = tmp_path / "page.html"
    assert main(["whatif", str(last), "--context", "65536", "-o", str(page_file)]) == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 900})
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"file://{page_file}")
        page.wait_for_function("document.documentElement.dataset.ready === 'true'")
        assert page.locator(".plot .main-svg").count() >= 2
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert complaints == []
        browser.close()
