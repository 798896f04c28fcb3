"""The renderers: what they show is what was saved, whatever the dump was called."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from conftest import ROOT
from safetensors.numpy import load_file, save_file

from precalign.analysis.render import RENDERERS, figures, render, words
from precalign.analysis.render.layers import by_layer
from precalign.analysis.results.reader import open_result
from precalign.cli.main import main

HOSTILE = "</script><img src=x onerror=alert(1)>`[x](javascript:alert(1)).safetensors"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Directories: the demo under two rules, one without queries, one with a hostile name."""
    folder = tmp_path_factory.mktemp("results")
    demo = load_file(ROOT / "analysis/demo/novel.safetensors")
    small = {name: np.ascontiguousarray(array[:, :, :96]) for name, array in demo.items()}
    save_file(small, folder / "small.safetensors", {"scale": "0.125"})
    save_file({n: a for n, a in small.items() if "queries" not in n}, folder / "bare.safetensors")
    hostile = folder / "hostile.safetensors"  # a file may be called so elsewhere; here the result's summary is
    save_file(small, hostile)
    options = ["--no-report", "--steps", "every:7"]
    for name in ("small", "bare", "hostile"):
        rules = ["--rule", "alignedkv", "--rule", "aligned-max"] if name == "small" else []
        assert main(["analyze", str(folder / f"{name}.safetensors"), "-o", str(folder / name), *options, *rules]) == 0
    summary = folder / "hostile/summary.json"
    held = json.loads(summary.read_text())
    held["dump"]["name"] = HOSTILE
    held["notes"] = [HOSTILE]
    summary.write_text(json.dumps(held))
    return {name: folder / name for name in ("small", "bare", "hostile")}


def test_four_numbers_are_those_of_the_summary(results):
    result = open_result(results["small"])
    page = render(results["small"], "html")
    shown = re.findall(r'data-key="(\w+)" data-value="([^"]+)"', page)
    assert len(shown) == 4 * len(result.summary["rules"])
    for i, rule in enumerate(result.summary["rules"]):
        for key, value in shown[4 * i : 4 * i + 4]:
            expected = rule["errors"][key]["median"] if key in rule["errors"] else rule["totals"][key]
            assert json.loads(value) == expected


@pytest.mark.parametrize("name", RENDERERS)
def test_every_renderer_names_rules_and_what_is_missing(results, name):
    text = render(results["small"], name)
    assert "alignedkv" in text
    assert "aligned-max" in text
    bare = render(results["bare"], name)
    assert "queries" in bare
    assert "rotary" in bare


def test_nothing_from_a_dump_is_obeyed(results):
    page = render(results["hostile"], "html")
    assert "<img src=x" not in page
    assert HOSTILE not in page
    markdown = render(results["hostile"], "md")
    assert "<img" not in re.sub(r"\\<", "", markdown)
    assert "](javascript" not in markdown.replace("\\]", "")
    assert "\x1b" not in render(results["hostile"], "terminal")


def test_script_data_cannot_end_its_element():
    from precalign.analysis.render.html import script_json

    text = script_json({"a": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--\u2028&"}


def test_the_page_is_self_contained(results):
    page = render(results["small"], "html")
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="', outside)
    assert "default-src 'none'" in page
    assert len(page) < 8e6


def test_layers_add_up_to_the_summary(results):
    result = open_result(results["small"])
    for rule in result.summary["rules"]:
        rows = by_layer(result, rule["rule"])
        assert [row["layer"] for row in rows] == [0, 2, 5]
        # Every layer has the same shape and steps, so the mean of layers is the mean of the whole.
        for name in ("key_bits_mean", "value_bits_mean", "bits_saving", "bytes_saving"):
            assert np.mean([row[name] for row in rows]) == pytest.approx(rule["totals"][name], rel=1e-12)


def test_error_histograms_hold_every_error(results):
    result = open_result(results["small"])
    rule = result.summary["rules"][1]["rule"]
    errors = result.table("errors").filter(pc.field("rule") == rule)
    values = errors.column("output_relative_error_to_exact").to_numpy()
    held = figures.error_histograms(result, rule)
    assert sum(held["rule"]) == pytest.approx(1)
    edges = np.array(held["log10_edges"])
    below = (np.log10(np.maximum(values, 1e-300)) < edges[40]).mean()
    assert sum(held["rule"][:40]) == pytest.approx(below)


def test_token_bins_keep_the_mean(results):
    result = open_result(results["small"])
    rule = result.summary["rules"][0]["rule"]
    whole, binned = (figures.tokens(result, rule, points)[1] for points in (96, 12))
    assert len(binned["bits"]) == 12
    assert binned["bin_tokens"] == 8
    seen = [b for b in whole["bits"][:8] if b is not None]
    assert binned["bits"][0] == pytest.approx(np.mean(seen), abs=1e-3)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (9e15, "9000.0 TB")]
)
def test_sizes(count, text):
    assert words.size(count) == text


def test_numbers_that_are_not_there():
    assert words.bits(None) == words.percent(None) == words.times(None) == "–"
    assert words.error(None) == "∞"
    assert words.percent(-0.05) == "−5.0 %"


def test_report_command(results, tmp_path, capsys):
    assert main(["report", str(results["small"])]) == 0
    assert "alignedkv" in capsys.readouterr().out
    assert main(["report", str(results["small"]), "--format", "md", "-o", str(tmp_path / "r.md")]) == 0
    assert (tmp_path / "r.md").read_text() == render(results["small"], "md")
    assert main(["report", str(results["small"]), "--format", "html"]) == 0
    assert (results["small"] / "report.html").exists()


def test_report_errors(results, tmp_path, capsys):
    def fails(code, word, *arguments):
        assert main(["report", *map(str, arguments)]) == code
        err = capsys.readouterr().err
        assert word in err
        assert "Hint" in err

    fails(3, "is not a result directory", tmp_path)
    fails(4, "cannot be written", results["small"], "--format", "md", "-o", tmp_path / "none/r.md")
    other = tmp_path / "other"
    other.mkdir()
    summary = json.loads((results["small"] / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"schema": "precalign.summary/99"}))
    fails(3, "precalign.summary/99", other)
    (other / "summary.json").write_text(json.dumps(summary))
    fails(3, "heads.parquet", other)
    (other / "heads.parquet").write_bytes(b"PAR1 damaged")
    fails(3, "heads.parquet", other)
    assert not list(Path(tmp_path).rglob("*.part"))
