"""Mean and spread over dumps, against pandas and scipy; and what the page and the terminal make of them."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_dump
from scipy import stats
from set_runs import TWO_RULES, run, write_dumps

from precalign.analysis.render import render
from precalign.analysis.render.registry import page_name
from precalign.analysis.sets import agreement
from precalign.analysis.sets.agreement import LOGARITHMIC, Moments, over_dumps
from precalign.analysis.sets.reader import open_set
from precalign.errors import InputError, UsageError
from precalign.rules import get_rule

NAMES = [str(get_rule(rule)) for rule in TWO_RULES]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = write_dumps(tmp_path_factory.mktemp("agreement") / "in", 4)
    small_dump.write(folder / "<script>alert(1)<\n>.safetensors".replace("/", ""), small_dump.tensors(9))
    run(folder.parent / "out", folder, rules=TWO_RULES, render=lambda path: render(path, "html"))
    return folder.parent / "out"


def by_pandas(target, keys):
    """Return every measure of every dump, for cells named by `keys`, from the table alone."""
    heads = pq.read_table(target / "tables/heads").to_pandas()
    heads["log"] = np.log(heads[LOGARITHMIC].astype(float))
    cells = heads.groupby(["dump", *keys])
    sums = cells[[name for name in heads if name.endswith(("_bits", "_bytes"))]].sum()
    moved = sum(sums[f"{part}_bytes"] for part in ("key", "value", "metadata", "prepass"))
    frame = sums[[]].copy()
    frame["bits_mean"] = 16 * (sums.key_ideal_bits + sums.value_ideal_bits) / sums.full_ideal_bits
    frame["key_bits_mean"] = 32 * sums.key_ideal_bits / sums.full_ideal_bits
    frame["value_bits_mean"] = 32 * sums.value_ideal_bits / sums.full_ideal_bits
    frame["bytes_saving"] = 1 - moved / (sums.full_key_bytes + sums.full_value_bytes)
    frame[LOGARITHMIC] = cells["log"].mean()
    return frame.reset_index()


def expected(values, *, logarithmic):
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    found = [np.mean(values), np.std(values, ddof=1), low, high]
    return np.exp(found) if logarithmic else np.array(found)


@pytest.mark.parametrize("level", ["layers", "heads"])
@pytest.mark.parametrize("rule", NAMES)
def test_figures_are_those_of_pandas_and_scipy(target, rule, level):
    keys = ["rule", "layer"] + ["kv_head"] * (level == "heads")
    frame = by_pandas(target, keys)
    held = open_set(target).agreement()
    rows = held.by_head(rule) if level == "heads" else held.by_layer(rule)
    assert len(rows) == (4 if level == "heads" else 2)
    for row in rows:
        mine = frame[frame.rule == rule]
        for key in keys[1:]:
            mine = mine[mine[key] == row[key]]
        for name in agreement.MEASURES:
            wanted = expected(mine[name].to_numpy(), logarithmic=name == LOGARITHMIC)
            got = [row[name][what] for what in ("mean", "spread", "low", "high")]
            assert row[name]["n"] == 5
            assert got == pytest.approx(wanted, rel=1e-9)


def test_the_summary_has_the_same_over_whole_dumps(target):
    frame = by_pandas(target, ["rule"])
    held = open_set(target).summary["over_dumps"]["rules"]
    assert [row["rule"] for row in held] == NAMES
    for row in held:
        wanted = expected(frame[frame.rule == row["rule"]].bytes_saving.to_numpy(), logarithmic=False)
        assert [row["bytes_saving"][what] for what in ("mean", "spread", "low", "high")] == pytest.approx(
            wanted, rel=1e-9
        )


def test_heads_are_ranked_by_disagreement(target):
    rows = open_set(target).agreement().by_head(NAMES[0])
    spreads = [row["bits_mean"]["spread"] for row in rows]
    assert spreads == sorted(spreads, reverse=True)
    assert len(set(spreads)) == 4


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_batches_change_no_figure(target, monkeypatch, rows):
    held = open_set(target)
    before = list(held.agreement().heads.rows())
    monkeypatch.setattr(agreement, "BATCH_ROWS", rows)
    assert list(held.agreement().heads.rows()) == before


def test_one_dump_tells_nothing_of_the_spread():
    moments = Moments()
    moments.add(np.array([2]), np.array([5.0]))
    assert moments.figures(2, logarithmic=False) == {"n": 1, "mean": 5.0, "spread": None, "low": None, "high": None}
    assert moments.figures(0, logarithmic=False)["mean"] is None
    assert moments.figures(7, logarithmic=True)["n"] == 0
    moments.add(np.array([2]), np.array([-np.inf]))
    assert moments.figures(2, logarithmic=True)["n"] == 1


def test_no_heads_no_figures(tmp_path, target):
    schema = pq.read_schema(target / "tables/heads/part-00000.parquet")
    pq.write_table(schema.empty_table(), tmp_path / "part-00000.parquet")
    found = over_dumps([tmp_path / "part-00000.parquet"], NAMES, 16)
    assert found.summary()["rules"] == []
    assert found.by_head(NAMES[0]) == []


def test_the_terminal_shows_what_the_tables_hold(target):
    text = render(target, "terminal")
    (row,) = [row for row in open_set(target).agreement().by_layer(NAMES[1]) if row["layer"] == 1]
    assert "5 of 5 dumps  20 kv heads, 60 decode steps" in text
    assert f"{row['key_bits_mean']['mean']:.2f} ± " in text
    assert text.count("Heads that differ most") == 2
    assert page_name(target) == "report.html"


def test_the_page_holds_no_script_of_a_dump(target):
    text = (target / "report.html").read_text()
    assert text == render(target, "html")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;\\n&gt;.safetensors" in text
    assert len(re.findall(r"<script", text.replace("plotly", ""))) >= 3
    assert not re.search(
        r'src\s*=\s*"(?!data)|href\s*=\s*"http', re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    )


def test_a_set_has_no_markdown_and_other_readers_say_what_it_is(target):
    with pytest.raises(UsageError, match=r"a result of precalign\.set has no form 'md'"):
        render(target, "md")
    from precalign.analysis.results.reader import open_result

    with pytest.raises(InputError, match=r"expected the form 'precalign.summary/2', got 'precalign.set/1'"):
        open_result(target)


@pytest.mark.browser
def test_the_page_draws_what_the_tables_hold(target, chromium):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        complaints, requests = [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{target}/report.html")
        page.wait_for_function("document.documentElement.dataset.ready === 'true'")
        page.evaluate("""() => { document.getElementById("rule").value = "1"; document.getElementById("measure").value = "value_bits_mean";
            document.getElementById("measure").dispatchEvent(new Event("change")); }""")
        drawn = {
            what: page.evaluate(f"document.getElementById('heat-{what}').data[0].z") for what in ("mean", "spread")
        }
        shown = page.evaluate("[...document.querySelectorAll('section[data-rule]')].map(s => s.hidden)")
        browser.close()
    for row in open_set(target).agreement().by_head(NAMES[1]):
        for what, cells in drawn.items():
            assert cells[row["layer"]][row["kv_head"]] == pytest.approx(row["value_bits_mean"][what], rel=1e-4)
    assert (complaints, shown) == ([], [True, False])
    assert requests == [f"file://{target}/report.html"]


def test_moments_are_stable_far_from_zero():
    moments = Moments()
    for value in (1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16):
        moments.add(np.array([0]), np.array([value]))
    assert moments.figures(0, logarithmic=False)["spread"] == pytest.approx(np.sqrt(30), rel=1e-9)


def test_heads_that_were_left_out_take_no_part(tmp_path, target):
    heads = pq.read_table(target / "tables/heads")
    nulls = pa.table(
        {f.name: pa.nulls(1, f.type) if f.name != "dump" else pa.array(["x"]) for f in heads.schema}, heads.schema
    )
    pq.write_table(pa.concat_tables([heads, nulls]), tmp_path / "part-00000.parquet")
    found = over_dumps([tmp_path / "part-00000.parquet"], NAMES, 16)
    assert found.by_head(NAMES[0]) == open_set(target).agreement().by_head(NAMES[0])
