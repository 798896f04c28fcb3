"""All benchmarks in one record and one page; records compared; the attention benchmark's checks can fail."""

from __future__ import annotations

import json

import numpy as np
import pytest

from precalign.analysis.benchmarks import BENCHMARKS, attention, suite
from precalign.analysis.benchmarks.attention_peers import check_outputs
from precalign.analysis.benchmarks.suite import Suite, compare, run_all
from precalign.analysis.benchmarks.timing import Benchmark, Options, Plot, Row, Series, interleave
from precalign.analysis.render.benchmarks import render
from precalign.cli.main import main
from precalign.errors import InputError, UnavailableError
from precalign.formats import BINARY16


def benchmark(name="numerics", median=2.0, ratio=1.5):
    rows = [Row("a <case>", "ours", median, 1.0, 0.1, ratio, {"gb_per_s": 3.0}), Row("a <case>", "peer", 4.0, 4.0, 0.0)]
    plot = Plot(
        "speed", "saved", "speed-up", [Series("ours", [0.5], [1.9], ["a <case>"]), Series("ideal", [0], [1], line=True)]
    )
    return Benchmark(name, "a description", rows, ["they agree"], ["fast: met"], [plot])


class Module:
    DESCRIPTION = "a stand-in"

    def __init__(self, result):
        self.result = result

    def run(self, options):
        assert options.small
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def stand_ins(monkeypatch):
    """Benchmarks of no duration, one of which lacks something."""
    made = {key: Module(benchmark(key)) for key in BENCHMARKS}
    made["analyze"] = Module(UnavailableError("this benchmark needs torch"))
    by_module = {BENCHMARKS[key]: module for key, module in made.items()}
    real = suite.importlib.import_module
    monkeypatch.setattr("importlib.import_module", lambda name, *more: by_module.get(name) or real(name, *more))


def test_a_benchmark_that_lacks_something_does_not_stop_the_others(stand_ins):
    told = []
    result = run_all(Options(small=True), told.append)
    assert told == list(BENCHMARKS)
    assert [b.name for b in result.benchmarks] == [key for key in BENCHMARKS if key != "analyze"]
    assert result.missing == {"analyze": "this benchmark needs torch"}


def test_bench_alone_runs_all_and_writes_one_record_and_one_page(stand_ins, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench"]) == 0
    record = json.loads((tmp_path / "precalign-bench.json").read_text())
    assert record["schema"] == "precalign.benchmarks/1"
    assert len(record["benchmarks"]) == len(BENCHMARKS) - 1
    page = (tmp_path / "precalign-bench.html").read_text()
    assert "this benchmark needs torch" in page
    out = capsys.readouterr()
    assert "analyze: did not run: this benchmark needs torch" in out.out
    assert "precalign-bench.json and precalign-bench.html written" in out.err
    assert main(["bench", "--compare", "precalign-bench.json"]) == 0
    assert "1.00" in capsys.readouterr().out


def test_the_list_names_every_benchmark(capsys):
    assert main(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)


def test_the_page_is_whole_and_escapes_what_it_shows():
    page = render(Suite([benchmark()], {"analyze": "no <torch>"}))
    assert "a &lt;case&gt;" in page
    assert "a <case>" not in page
    assert "no &lt;torch&gt;" in page
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page


@pytest.mark.browser
def test_the_page_draws_its_plot(chromium, tmp_path):
    from playwright.sync_api import sync_playwright

    (tmp_path / "page.html").write_text(render(Suite([benchmark()])), encoding="utf-8")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium)
        page = browser.new_page()
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("#plot0 .main-svg")
        assert page.locator("#plot0 .legendtext").all_text_contents() == ["ours", "ideal"]
        assert faults == []
        browser.close()


def test_records_are_compared_row_by_row(tmp_path):
    old = tmp_path / "old.json"
    new = Suite([benchmark(median=1.0, ratio=0.5)])
    for record in (benchmark().to_json(), Suite([benchmark()]).to_json()):
        old.write_text(json.dumps(record))
        first, second = compare(old, new)
        assert (first.contender, first.ratio, first.relative) == ("ours", 2.0, 3.0)
        assert (second.contender, second.ratio, second.relative) == ("peer", 1.0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[]", "expected the schema precalign.benchmarks/1"),
        ('{"schema": ["precalign.benchmarks/1"]}', "expected the schema precalign.benchmarks/1"),
        ('{"schema": "precalign.benchmarks/1"}', "without its name or rows"),
        ('{"schema": "precalign.benchmark/1", "name": "numerics", "rows": [{}]}', "without its name or rows"),
        ('{"schema": "precalign.benchmarks/1", "benchmarks": []}', "none of its rows was measured again"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, text, message):
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(InputError, match=message):
        compare(tmp_path / "old.json", Suite([benchmark()]))


def test_a_slow_contender_sits_out(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    calls = {"slow": 0}

    def slow():
        calls["slow"] += 1

    seconds = interleave({"slow": slow}, 5, at_most_s=1.5)
    assert seconds["slow"] == [1.0, 1.0]
    assert calls["slow"] == 3  # one to warm up


def test_attention_is_measured_with_everything_checked(monkeypatch):
    pytest.importorskip("torch", reason="the benchmark compares with torch")
    case = attention.Case(300, 64, 2, BINARY16, 2)
    monkeypatch.setattr(attention, "cases", lambda *, small: [case])
    result = attention.run(Options(small=True, threads=2, repeats=2))
    contenders = {row.contender: row for row in result.rows}
    assert len(contenders) == 1 + 1 + 3 + len(attention.RULES) + 6
    assert contenders["all 8 bits"].figures["saved"] == 0.5
    assert contenders[attention.TWIN].ratio == 1
    assert len(result.checks) == 3
    drawn = {series.name: series for series in result.plots[0].series}
    assert drawn["all 12 bits"].x == [0.25]
    assert drawn["ideal: 1 / (1 - saved)"].line


def test_a_wrong_output_is_seen_before_timing():
    case = attention.Case(200, 64, 2, BINARY16, 1)
    keys, values, queries = attention.draw(case)
    right = np.zeros((1, 2, 64), np.float32)
    with pytest.raises(AssertionError, match=r"twin is .* from attention in binary64"):
        check_outputs(str(case), right, {}, keys, values, queries, BINARY16, 0.125)


def test_every_case_of_the_benchmark_fits():
    for small in (False, True):
        for case in attention.cases(small=small):
            assert case.full_bytes <= attention.CACHE_BYTES
    assert {c.seq_len for c in attention.cases(small=False)} == {1024, 8192, 32768, 131072, 524288}
