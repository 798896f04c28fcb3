"""The frontier's figures against the tables of `analyze`, its fronts and its table at equal error by brute force."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import small_dump

from precalign.analysis.frontier.accepted import LIMITS
from precalign.analysis.frontier.front import pareto
from precalign.analysis.frontier.grid import default_layouts, make_grid
from precalign.analysis.frontier.schema import COLUMNS, FRONTS, UNITS
from precalign.cli.main import main
from precalign.errors import UsageError
from precalign.formats import BFLOAT16, BINARY16

ERROR, BOUND = "output_relative_error_to_exact", "output_relative_bound"
LAYOUTS = ("8|4|4+skip", "6|2|2|2|4+skip")
RULES = (
    "alignedkv:guard_bits=-1",
    "aligned-skip:threshold=10",
    "static:key_bits=12",
    "aligned-skip:guard_bits=1,threshold=11",
)
OPTIONS = [text for rule in RULES for text in ("--rule", rule)]


def unit_columns(unit):
    return [f"{part}_{unit}" for part in ("key", "value", "metadata", "prepass")]


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return small_dump.write(tmp_path_factory.mktemp("dump") / "small.safetensors")


@pytest.fixture(scope="module")
def out(dump, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier") / "out"
    layouts = [text for layout in LAYOUTS for text in ("--layout", layout)]
    assert main(["frontier", str(dump), "-o", str(folder), "--steps", "every:3", *OPTIONS, *layouts]) == 0
    return folder


@pytest.fixture(scope="module")
def frontier(out):
    return pd.read_parquet(out / "frontier.parquet")


@pytest.fixture(scope="module")
def tables(dump, frontier, tmp_path_factory):
    """Every setting of the frontier analysed: steps and errors, with their layout."""
    found = {"steps": [], "errors": []}
    for layout in LAYOUTS:
        folder = tmp_path_factory.mktemp("analyzed") / "out"
        chosen = frontier[frontier.layout == layout].rule.unique()
        rules = [text for rule in chosen for text in ("--rule", rule)]
        options = ["--steps", "every:3", "--layout", layout, "--no-report", *rules]
        assert main(["analyze", str(dump), "-o", str(folder), *options]) == 0
        for name, parts in found.items():
            parts.append(pd.read_parquet(folder / f"{name}.parquet").assign(layout=layout))
    return {name: pd.concat(parts) for name, parts in found.items()}


def inside(table, row):
    """Return the rows of a table that a row of the frontier sums up."""
    chosen = (table.layout == row.layout) & (table.rule == row.rule)
    if row.scope != "dump":
        chosen &= table.layer == row.layer
    if row.scope == "head":
        chosen &= table.kv_head == row.kv_head
    return table[chosen]


def nearest_rank(numbers, quantile):
    return np.sort(numbers)[max(0, math.ceil(quantile * len(numbers)) - 1)]


def test_figures_are_those_of_analyze(frontier, tables):
    assert len(frontier) == (1 + 2 + 4) * len(frontier[frontier.scope == "dump"])
    for row in frontier.itertuples():
        steps, errors = inside(tables["steps"], row), inside(tables["errors"], row)
        assert row.n_steps == len(steps)
        for unit in ("bytes", "sectors"):
            read, full = (
                int(steps[names].to_numpy().sum())
                for names in (unit_columns(unit), [f"full_key_{unit}", f"full_value_{unit}"])
            )
            assert (getattr(row, unit), getattr(row, f"full_{unit}")) == (read, full)
            assert getattr(row, f"{unit}_saving") == 1 - read / full
        assert row.optimal_bits <= row.bits
        assert row.bits == (steps.key_ideal_bits + steps.value_ideal_bits).sum()
        assert row.key_bits_mean * steps.full_ideal_bits.sum() / 32 == pytest.approx(steps.key_ideal_bits.sum())
        for name, quantile in (("median", 0.5), ("p99", 0.99), ("max", 1.0)):
            assert getattr(row, f"error_{name}") == nearest_rank(errors[ERROR].to_numpy(), quantile)
            proven = getattr(row, f"bound_{name}")
            assert proven == pytest.approx(nearest_rank(errors[BOUND].to_numpy(), quantile), rel=1e-3)


def brute_front(savings, errors):
    n = range(len(savings))
    ok = [i for i in n if math.isfinite(errors[i])]

    def beaten(i):
        return any(
            savings[j] >= savings[i] and errors[j] <= errors[i] and (savings[j] > savings[i] or errors[j] < errors[i])
            for j in ok
        )

    return [i in ok and not beaten(i) for i in n]


def test_fronts_by_brute_force(frontier):
    for _, scope in frontier.groupby(["scope", "layer", "kv_head"], dropna=False):
        for unit in UNITS:
            for name, column in FRONTS.items():
                expected = brute_front(scope[f"{unit}_saving"].tolist(), scope[column].tolist())
                assert scope[f"on_front_{unit}_{name}"].tolist() == expected
                assert any(expected)


def test_fronts_with_ties_and_infinities():
    rng = np.random.default_rng(5)
    for _ in range(300):
        n = int(rng.integers(0, 12))
        savings, errors = rng.integers(0, 5, n) / 4, rng.choice([1.0, 2.0, 3.0, np.inf, np.nan], n)
        assert pareto(savings, errors).tolist() == brute_front(savings, errors)


LIMITED = {"median": ["error_median"], "p99": ["error_p99"], "both": ["error_median", "error_p99"]}


def test_saving_at_equal_error_by_brute_force(out, frontier):
    equal = pd.DataFrame(json.loads((out / "summary.json").read_text())["equal_error"])
    assert len(equal) == 3 * 3 * (1 + frontier.family.nunique())
    for (scope, layer), rows in frontier[frontier.scope != "head"].groupby(["scope", "layer"], dropna=False):
        reference = rows[rows.reference & (rows.layout == "8|4|4+skip")].iloc[0]
        place = equal[(equal.scope == scope) & (equal.layer.isna() if scope == "dump" else equal.layer == layer)]
        for measure, columns in LIMITED.items():
            fits = rows[(rows[columns] <= reference[columns]).all(axis=1)]
            for family in frontier.family.unique():
                row = place[(place.measure == measure) & (place.family == family)].iloc[0]
                mine = fits[fits.family == family]
                if mine.empty:
                    assert pd.isna(row.rule)
                    continue
                best = mine.bytes_saving.max()
                assert row.bytes_saving == best
                saved = reference.bytes_saving
                assert row.times_reference == best / saved if saved > 0 else pd.isna(row.times_reference)
                assert row.rule in mine[mine.bytes_saving == best].rule.tolist()


def test_own_settings_of_heads_by_brute_force(out, frontier, tables):
    equal = json.loads((out / "summary.json").read_text())["equal_error"]
    heads = frontier[frontier.scope == "head"]
    for row in equal:
        if row["family"] != "per head":
            continue
        places = [(a, b) for a in (0, 1) for b in (0, 1) if row["scope"] == "dump" or row["layer"] == a]
        columns = LIMITED[row["measure"]]
        pooled = frontier[(frontier.scope == row["scope"]) & frontier.reference]
        limit = (pooled if row["scope"] == "dump" else pooled[pooled.layer == row["layer"]]).iloc[0]
        found = []
        for layout in LAYOUTS:
            chosen = []
            for layer, kv_head in places:
                here = heads[(heads.layer == layer) & (heads.kv_head == kv_head)]
                own = here[here.reference].iloc[0]
                fits = here[(here.layout == layout) & (here[columns] <= own[columns]).all(axis=1)]
                if not fits.empty:
                    chosen.append(fits.loc[fits.bytes_saving.idxmax()])
            if len(chosen) == len(places):
                errors = np.concatenate([inside(tables["errors"], c)[ERROR] for c in chosen])
                spread = {"error_median": nearest_rank(errors, 0.5), "error_p99": nearest_rank(errors, 0.99)}
                if all(spread[c] <= limit[c] for c in columns):
                    found.append(1 - sum(c.bytes for c in chosen) / sum(c.full_bytes for c in chosen))
        assert row["bytes_saving"] == (max(found) if found else None)


def test_accepted_errors_by_brute_force(out, frontier):
    dump = frontier[frontier.scope == "dump"]
    rows = json.loads((out / "summary.json").read_text())["accepted"]
    assert [row["limit"] for row in rows] == list(LIMITS)
    for row in rows:
        fits = dump[(dump.error_p99 <= row["limit"]) & (dump.bytes_saving > 0)]
        assert row["bytes_saving"] == (None if fits.empty else fits.bytes_saving.max())
    assert rows[0]["rule"] is None


def test_the_table_documents_itself(out):
    schema = pq.read_schema(out / "frontier.parquet")
    assert schema.names == [column.name for column in COLUMNS]
    assert all(field.metadata[b"description"] for field in schema)
    assert schema.metadata[b"schema"] == b"precalign.frontier/1"


# The grid.


def test_the_published_rule_is_always_among_the_settings():
    for rules, layouts in ((["full"], []), (["static"], ["6|2|2|2|4"]), (["alignedkv:guard_bits=2"], ["8|4|4+skip"])):
        grid = make_grid(BINARY16, rules, layouts)
        layout, rule = grid.settings[grid.reference]
        assert (layout.widths, str(rule)) == ((8, 4, 4), "alignedkv")
    assert len({(layout.name, str(rule)) for layout, rule in make_grid(BINARY16).settings}) == len(
        make_grid(BINARY16).settings
    )


def test_layouts_of_each_format():
    assert [*default_layouts(BINARY16)] == ["8|4|4+skip", "6|2|2|2|2|2+skip", "6|1|1|1|1|1|1|1|1|1|1+skip"]
    assert [*default_layouts(BFLOAT16)] == ["12|4+skip", "9|2|2|2|1+skip", "9|1|1|1|1|1|1|1+skip"]


def test_what_cannot_be_meant():
    with pytest.raises(UsageError, match="unknown rule 'exact'"):
        make_grid(BINARY16, ["exact"])
    with pytest.raises(UsageError, match="needs a layout in which a token may be skipped"):
        make_grid(BINARY16, ["aligned-skip"], ["8|4|4"])
    with pytest.raises(UsageError, match="has no level of key_bits=9"):
        make_grid(BINARY16, ["static:key_bits=9"], ["8|4|4"])


# Files.


def test_report_renders_it_again(out, capsys):
    page = out / "frontier.html"
    before = page.read_bytes()
    page.unlink()
    assert main(["report", str(out), "--format", "html"]) == 0
    assert page.read_bytes() == before
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "With no larger error in either" in shown
    assert main(["report", str(out), "--format", "md"]) == 2
    assert "a result of precalign.frontier has no form 'md'" in capsys.readouterr().err


def test_it_appears_whole_or_not_at_all(dump, tmp_path, capsys):
    target = tmp_path / "out"
    few = ["--rule", "full", "--steps", "last"]
    held = small_dump.tensors()
    held["layers.1.values"][0, 1, 3, 2] = np.nan
    nan = small_dump.write(tmp_path / "nan.safetensors", held)
    bare = small_dump.write(tmp_path / "bare.safetensors", small_dump.tensors(queries=False))
    for path, message in ((nan, "holds infinities or NaNs"), (bare, "layer 0 has no queries")):
        assert main(["frontier", str(path), "-o", str(target), *few]) == 3
        assert message in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"nan.safetensors", "bare.safetensors"}
    assert main(["frontier", str(dump), "-o", str(target), *few, "--json", "--no-report"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((target / "summary.json").read_text())
    assert {p.name for p in target.iterdir()} == {"summary.json", "frontier.parquet"}
    assert main(["frontier", str(dump), "-o", str(target), *few]) == 4
    assert "exists already" in capsys.readouterr().err
    assert main(["frontier", str(dump), "-o", str(target), *few, "--overwrite"]) == 0
    (target / "mine.txt").touch()
    assert main(["frontier", str(dump), "-o", str(target), *few, "--overwrite"]) == 4
    assert "holds files that precalign did not write" in capsys.readouterr().err


def test_the_same_dump_gives_the_same_files(dump, tmp_path):
    for name, jobs in (("one", "1"), ("two", "3")):
        given = ["--rule", "aligned-skip:threshold=10", "--steps", "every:20", "--jobs", jobs]
        assert main(["frontier", str(dump), "-o", str(tmp_path / name), *given]) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(("damage", "message"), [("missing", "cannot be read"), ("foreign", "expected the table form")])
def test_a_damaged_frontier(dump, tmp_path, capsys, damage, message):
    target = tmp_path / "out"
    given = ["--rule", "full", "--steps", "last", "--no-report"]
    assert main(["frontier", str(dump), "-o", str(target), *given]) == 0
    file = target / "frontier.parquet"
    if damage == "missing":
        file.unlink()
    else:
        pq.write_table(pq.read_table(file).replace_schema_metadata({"schema": "other/1"}), file)
    assert main(["report", str(target)]) == 3
    assert message in capsys.readouterr().err


# The page.


@pytest.mark.browser
def test_the_page_shows_the_table(out, frontier, chromium):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page, complaints, requests = browser.new_page(), [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{out}/frontier.html")
        page.wait_for_function("document.documentElement.dataset.ready === 'true'")
        page.select_option("#scope", "1")
        page.select_option("#error", "p99")
        page.select_option("#unit", "sectors")
        drawn = page.evaluate("document.getElementById('frontier').data.find(t => t.name === 'Pareto front')")
        rows = frontier[(frontier.scope == "layer") & (frontier.layer == 0)]
        front = rows[rows.on_front_sectors_p99].sort_values("error_p99")
        assert drawn["x"] == pytest.approx(front.error_p99.tolist(), rel=1e-4)
        assert sorted(drawn["y"]) == pytest.approx(sorted(100 * front.sectors_saving), rel=1e-4, abs=1e-3)
        shown = page.locator("[data-scope]:not([hidden])")
        assert shown.count() == 1
        assert shown.locator("tbody tr").count() == 1 + 1 + frontier.family.nunique()
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(200)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        assert requests == [f"file://{out}/frontier.html"]
        browser.close()
