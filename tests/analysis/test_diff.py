"""Two results side by side: equality to the bit, figures recounted from the files, and what a user sees."""

from __future__ import annotations

import json
import math
import shutil
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import fft, stats
from small_dump import tensors, write
from small_set import write_set

from precalign.analysis.diff.identity import first_difference
from precalign.analysis.diff.run import difference
from precalign.analysis.results.stored import open_stored
from precalign.cli.main import main
from precalign.errors import UsageError

RULES = ("alignedkv", "aligned-max", "aligned-max:guard_bits=2")
READ = ("key", "value", "metadata", "prepass")


def analyze(dump, out, *options):
    assert main(["analyze", str(dump), "-o", str(out), "--no-report", *options]) == 0
    return out


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """`both` has two rules, `third` another one on the same dump, `other` another dump."""
    folder = tmp_path_factory.mktemp("diff")
    dumps = [write(folder / f"{seed}.safetensors", tensors(seed=seed)) for seed in (1, 2, 3, 4)]
    analyze(dumps[0], folder / "both", "--rule", RULES[0], "--rule", RULES[1])
    analyze(dumps[0], folder / "third", "--rule", RULES[2])
    for i, dump in enumerate(dumps):
        analyze(dump, folder / f"a{i}", "--rule", RULES[0])
        analyze(dump, folder / f"b{i}", "--rule", RULES[1])
    return folder


def diff(capsys, *arguments):
    capsys.readouterr()
    code = main(["diff", *map(str, arguments)])
    return code, *capsys.readouterr()


def summary(capsys, *arguments):
    code, out, err = diff(capsys, *arguments, "--json")
    assert err == ""
    return code, json.loads(out)


# Equality


def test_equal_results_are_identical(results, tmp_path, capsys):
    shutil.copytree(results / "both", tmp_path / "copy")
    code, held = summary(capsys, results / "both", tmp_path / "copy")
    assert (code, held["identical"], held["first_difference"], held["facts"]) == (0, True, None, [])
    assert set(held["tables"].values()) == {True}
    for pair in held["rules"]:
        assert pair["rule_a"] == pair["rule_b"]
        for figure in pair["measures"].values():
            assert figure["heads_same"] == 4
            assert figure["change"] == (1 if figure["relative"] else 0)
    assert "Identical: every table is equal, to the bit." in diff(capsys, results / "both", tmp_path / "copy")[1]


def test_how_rows_are_grouped_in_a_file_does_not_matter(results, tmp_path, capsys):
    shutil.copytree(results / "both", tmp_path / "copy")
    for table in ("steps", "errors", "tokens"):
        pq.write_table(
            pq.read_table(results / f"both/{table}.parquet"), tmp_path / f"copy/{table}.parquet", row_group_size=7
        )
    assert diff(capsys, results / "both", tmp_path / "copy")[0] == 0


def replaced(table, column, row, value):
    """Return the table with one cell changed."""
    cells = table.column(column).to_pylist()
    cells[row] = value
    at = table.schema.get_field_index(column)
    return table.set_column(at, table.schema.field(at), pa.array(cells, table.schema.field(at).type))


@pytest.mark.parametrize(
    ("table", "column", "row"),
    [
        ("errors", "output_max_bound", 701),
        ("tokens", "attention_mass", 3),
        ("heads", "key_wasted_histogram", 5),
        ("cache", "zeros", 0),
    ],
)
def test_one_changed_cell_is_found(results, tmp_path, capsys, table, column, row):
    shutil.copytree(results / "both", tmp_path / "copy")
    path = tmp_path / f"copy/{table}.parquet"
    held = pq.read_table(path)
    old = held.column(column)[row].as_py()
    kind = held.schema.field(column).type
    if pa.types.is_floating(kind):  # the next number of its own format
        new = float(np.nextafter(np.array(old, kind.to_pandas_dtype()), np.array(np.inf, kind.to_pandas_dtype())))
    else:
        new = [*old[:-1], old[-1] + 1] if isinstance(old, list) else old + 1
    pq.write_table(replaced(held, column, row, new), path, row_group_size=64)
    code, found = summary(capsys, results / "both", tmp_path / "copy")
    cell = found["first_difference"]
    assert (code, cell["table"], cell["column"], cell["row"], cell["a"], cell["b"]) == (1, table, column, row, old, new)
    assert cell["place"]["layer"] == held.column("layer")[row].as_py()
    assert [name for name, equal in found["tables"].items() if not equal] == [table]
    _, out, _ = diff(capsys, results / "both", tmp_path / "copy")
    assert f"first in {table}, row {row}" in out


def dataset(columns):
    import pyarrow.dataset as ds

    return ds.dataset(pa.table(columns))


def test_equality_is_that_of_bits():
    nan, one = [1.0, math.nan, None], [1.0, math.nan, None]
    assert first_difference("t", dataset({"x": nan}), dataset({"x": one})) is None
    cell = first_difference("t", dataset({"x": [0.0, 0.0]}), dataset({"x": [0.0, -0.0]}))
    assert (cell.row, cell.column) == (1, "x")
    cell = first_difference("t", dataset({"x": [1.0, None]}), dataset({"x": [1.0, 0.0]}))
    assert (cell.row, cell.a, cell.b) == (1, None, 0.0)
    cell = first_difference("t", dataset({"x": [1, 2], "y": [1, 2]}), dataset({"x": [1, 3], "y": [2, 2]}))
    assert (cell.row, cell.column) == (0, "y")  # row by row, then column by column
    cell = first_difference("t", dataset({"x": [1, 2]}), dataset({"x": [1, 2, 3]}))
    assert (cell.what, cell.row, cell.a, cell.b) == ("rows", 2, 2, 3)
    cell = first_difference("t", dataset({"x": [1], "y": [1]}), dataset({"x": [1], "z": [1]}))
    assert (cell.what, cell.a, cell.b) == ("columns", ["y"], ["z"])


@pytest.mark.parametrize("seed", range(20))
def test_the_first_difference_is_the_first(seed):
    """Random tables with random changes; the oracle looks at every cell in turn."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 300))
    a = {name: rng.integers(0, 3, rows).tolist() for name in "xyz"}
    b = {name: list(column) for name, column in a.items()}
    for _ in range(int(rng.integers(0, 4))):
        b["xyz"[rng.integers(3)]][rng.integers(rows)] = 7
    expected = next(((row, name) for row in range(rows) for name in "xyz" if a[name][row] != b[name][row]), None)
    cell = first_difference("t", dataset(a), dataset(b))
    assert (None if cell is None else (cell.row, cell.column)) == expected


# Figures


def recounted(path, rule):
    """Return, per measure, the exact ratio of the whole and of each head, from the files by pandas and Fractions."""
    steps = pd.read_parquet(path / "steps.parquet").query("rule == @rule")
    errors = pd.read_parquet(path / "errors.parquet").query("rule == @rule")
    bits = json.loads((path / "summary.json").read_text())["layout"]["format_bits"]

    def figures(steps, errors):
        total = {name: int(steps[name].sum()) for name in steps.columns if steps[name].dtype == np.int64}
        numbers = Fraction(total["full_ideal_bits"], 2 * bits)
        ideal = total["key_ideal_bits"] + total["value_ideal_bits"]
        held = {
            "key_bits_mean": total["key_ideal_bits"] / numbers,
            "value_bits_mean": total["value_ideal_bits"] / numbers,
            "bits_saving": 1 - Fraction(ideal, total["full_ideal_bits"]),
        }
        for unit in ("bytes", "sectors"):
            read = sum(total[f"{part}_{unit}"] for part in READ)
            held[f"{unit}_saving"] = 1 - Fraction(read, total[f"full_key_{unit}"] + total[f"full_value_{unit}"])
        for name, column in (
            ("output_error", "output_relative_error_to_exact"),
            ("output_bound", "output_relative_bound"),
        ):
            kept = [float(e) for e in errors[column] if 0 < e < math.inf]
            held[name] = math.exp(math.fsum(map(math.log, kept)) / len(kept))
        return held

    heads = {
        key: figures(of, errors[(errors["layer"] == key[0]) & (errors["kv_head"] == key[1])])
        for key, of in steps.groupby(["layer", "kv_head"])
    }
    return figures(steps, errors), heads


def test_figures_are_those_of_an_exact_recount(results):
    found = difference(open_stored(results / "both"), open_stored(results / "third"), [(RULES[1], RULES[2])])
    oracle = {"a": recounted(results / "both", RULES[1]), "b": recounted(results / "third", RULES[2])}
    counted = 0
    for row in found.table.to_pylist():
        if row["scope"] == "layer":
            continue
        mine = {s: o[0] if row["scope"] == "all" else o[1][row["layer"], row["kv_head"]] for s, o in oracle.items()}
        a, b = (mine[side][row["measure"]] for side in "ab")
        relative = row["measure"].startswith("output")
        assert row["value_a"] == pytest.approx(float(a), rel=1e-12, abs=1e-15)
        assert row["value_b"] == pytest.approx(float(b), rel=1e-12, abs=1e-15)
        assert row["change"] == pytest.approx(float(b / a if relative else b - a), rel=1e-9, abs=1e-14)
        counted += 1
    assert counted == 5 * 7


def test_the_whole_is_what_the_summary_says(results, capsys):
    for name, rule in (("both", RULES[0]), ("third", RULES[2])):
        held = json.loads((results / name / "summary.json").read_text())
        totals = next(r["totals"] for r in held["rules"] if r["rule"] == rule)
        _, found = summary(capsys, results / name, results / name, "--rules", rule, rule)
        for measure in ("key_bits_mean", "value_bits_mean", "bits_saving", "bytes_saving", "sectors_saving"):
            assert found["rules"][0]["measures"][measure]["value_a"] == pytest.approx(totals[measure], rel=1e-13)


def test_the_interval_of_a_head_is_that_of_its_steps(results):
    """By scipy's cosine transform over each step's share in the saving."""
    found = difference(open_stored(results / "both"), open_stored(results / "both"), [(RULES[0], RULES[1])])
    row = next(
        r
        for r in found.table.to_pylist()
        if (r["scope"], r["layer"], r["kv_head"], r["measure"]) == ("head", 1, 1, "bytes_saving")
    )
    steps = pd.read_parquet(results / "both/steps.parquet").query("layer == 1 and kv_head == 1")
    adds = []
    for rule in RULES[:2]:
        mine = steps[steps["rule"] == rule].sort_values("step")
        read = sum(mine[f"{part}_bytes"].to_numpy() for part in READ)
        full = (mine["full_key_bytes"] + mine["full_value_bytes"]).to_numpy()
        adds.append(-(read - read.sum() / full.sum() * full) / full.mean())
    series = adds[1] - adds[0]
    n = len(series)
    terms = int(0.4 * n ** (2 / 3))
    error = math.sqrt(np.mean(fft.dct(series, type=2, norm="ortho")[1 : terms + 1] ** 2) / n)
    half = stats.t.ppf(0.975, terms) * error
    assert (row["low"], row["high"]) == pytest.approx((row["change"] - half, row["change"] + half), rel=1e-9)
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(row["change"]) / error, terms), rel=1e-9)


def test_sets_are_compared_over_dumps(results, tmp_path, capsys):
    """Of dumps of one name by pairs, of others by Welch; the figures of a dump are those of its own summary."""
    values = {}
    for side in "ab":
        for i in range(4):
            held = json.loads((results / f"{side}{i}/summary.json").read_text())
            values[side, i] = held["rules"][0]["totals"]["bytes_saving"]
    a, b = (np.array([values[side, i] for i in range(4)]) for side in "ab")
    one = write_set(tmp_path / "one", {f"d{i}": results / f"a{i}" for i in range(4)})
    two = write_set(tmp_path / "two", {f"d{i}": results / f"b{i}" for i in (2, 0, 3, 1)}, parts=3)
    _, found = summary(capsys, one, two)
    figure = found["rules"][0]["measures"]["bytes_saving"]
    oracle = stats.ttest_rel(b, a)
    ends = oracle.confidence_interval(0.95)
    assert found["unit"] == "dump"
    assert (figure["value_a"], figure["value_b"]) == pytest.approx((a.mean(), b.mean()), rel=1e-12)
    assert (figure["low"], figure["high"], figure["p"]) == pytest.approx((ends.low, ends.high, oracle.pvalue), rel=1e-9)
    assert found["notes"] == []

    others = write_set(tmp_path / "others", {f"e{i}": results / f"b{i}" for i in range(4)})
    _, found = summary(capsys, one, others)
    oracle = stats.ttest_ind(b, a, equal_var=False)
    assert found["rules"][0]["measures"]["bytes_saving"]["p"] == pytest.approx(oracle.pvalue, rel=1e-9)
    assert "Welch" in found["method"][0]

    some = write_set(tmp_path / "some", {"d0": results / "b0", "d1": results / "b1", "new": results / "b2"})
    _, found = summary(capsys, one, some)
    oracle = stats.ttest_rel(b[:2], a[:2])
    assert found["rules"][0]["measures"]["bytes_saving"]["p"] == pytest.approx(oracle.pvalue, rel=1e-9)
    assert "2 dumps are in both sets" in found["notes"][0]
    assert summary(capsys, one, one)[0] == 0


def test_other_steps_are_not_paired(results, tmp_path, capsys):
    part = analyze(results / "1.safetensors", tmp_path / "part", "--rule", RULES[0], "--steps", "0:30")
    _, found = summary(capsys, part, results / "a0")
    figure = found["rules"][0]["measures"]["value_bits_mean"]
    assert (found["rules"][0]["units_a"], found["rules"][0]["units_b"]) == (30, 61)
    assert figure["low"] < figure["change"] < figure["high"]
    assert {"fact": "options.steps", "a": "0:30", "b": "all"} in found["facts"]


def test_heads_of_only_one_result_are_told(results, tmp_path, capsys):
    part = analyze(results / "1.safetensors", tmp_path / "part", "--rule", RULES[0], "--layers", "1")
    _, found = summary(capsys, part, results / "a0")
    (pair,) = found["rules"]
    assert (pair["n_heads"], pair["only_a"], pair["only_b"]) == (2, [], [[0, 0], [0, 1]])
    assert "2 heads are only in b" in found["notes"][-1]
    whole, _ = recounted(results / "a0", RULES[0])
    assert pair["measures"]["bits_saving"]["value_b"] == pytest.approx(float(whole["bits_saving"]), rel=1e-12)


def test_one_dump_and_another_are_told_apart(results, capsys):
    code, found = summary(capsys, results / "a0", results / "a1")
    assert (code, found["same_cache"]) == (1, False)
    assert "Keys and values differ" in found["notes"][0]
    _, found = summary(capsys, results / "a0", results / "third")
    assert found["same_cache"]
    assert "exact for this dump" in found["notes"][0]


def test_errors_of_zero_are_left_out_and_counted(results, tmp_path, capsys):
    shutil.copytree(results / "a0", tmp_path / "zero")
    table = pq.read_table(tmp_path / "zero/errors.parquet")
    changed = replaced(
        replaced(table, "output_relative_error_to_exact", 4, 0.0), "output_relative_error_to_exact", 9, math.inf
    )
    pq.write_table(changed, tmp_path / "zero/errors.parquet")
    _, found = summary(capsys, tmp_path / "zero", results / "a0")
    figure = found["rules"][0]["measures"]["output_error"]
    assert (figure["left_out_a"], figure["left_out_b"]) == (2, 0)
    assert figure["value_a"] == pytest.approx(recounted(tmp_path / "zero", RULES[0])[0]["output_error"], rel=1e-12)


def test_dumps_without_queries(tmp_path, capsys):
    dump = write(tmp_path / "d.safetensors", tensors(queries=False))
    for name in "ab":
        analyze(dump, tmp_path / name)
    code, found = summary(capsys, tmp_path / "a", tmp_path / "b")
    assert (code, found["identical"]) == (0, True)
    assert diff(capsys, tmp_path / "a", tmp_path / "b")[0] == 0
    code, _, err = diff(capsys, tmp_path / "a", tmp_path / "b", "--fail-if", "bits_saving<0")
    assert (code, "cannot be told" in err) == (1, True)


# What a user types and sees


def test_exit_codes(results, capsys):
    a, b = results / "a0", results / "b0"
    change = summary(capsys, a, b)[1]["rules"][0]["measures"]
    assert diff(capsys, a, a)[0] == 0
    assert diff(capsys, a, b)[0] == 1
    assert diff(capsys, a, b, "--exit-zero")[0] == 0
    assert diff(capsys, results / "both", results / "both", "--rules", RULES[0], RULES[1])[0] == 1
    saving, factor = change["bits_saving"]["change"], change["output_error"]["change"]
    for condition, code in {
        f"bits_saving<{saving - 1e-6}": 0,
        f"bits_saving < {saving + 1e-6}": 1,
        f"bits_saving>={saving:.17g}": 1,
        f"bits_saving>{saving:.17g}": 0,
        f"output_error>{factor - 1e-6}": 1,
        f"output_error>{factor + 1e-6}": 0,
    }.items():
        got, _, err = diff(capsys, a, b, "--fail-if", condition)
        assert (got, bool(err)) == (code, bool(code)), condition
    assert diff(capsys, a, b, "--fail-if", "bits_saving>9", "--fail-if", "bits_saving<9")[0] == 1


@pytest.mark.parametrize("text", ["bits_saving", "bits<0", "bits_saving<x", "bits_saving=0", "bits_saving<1e"])
def test_a_condition_that_is_none(results, capsys, text):
    code, _, err = diff(capsys, results / "a0", results / "b0", "--fail-if", text)
    assert (code, "figures: key_bits_mean" in err) == (2, True)


def test_rules_that_do_not_fit(results, tmp_path, capsys):
    code, _, err = diff(capsys, results / "both", results / "third")
    assert (code, "no rule in common" in err, "--rules" in err) == (2, True, True)
    code, _, err = diff(capsys, results / "both", results / "third", "--rules", "alignedkv", "certified")
    assert (code, "its rules: aligned-max:guard_bits=2" in err) == (2, True)
    held = write_set(tmp_path / "set", {"d": results / "a0"})
    with pytest.raises(UsageError, match="two results of one kind"):
        difference(open_stored(held), open_stored(results / "a0"))


def test_results_of_other_commands_are_told_equal_or_not(results, tmp_path, capsys):
    for name, steps in (("x", "every:32"), ("y", "every:32"), ("z", "every:31")):
        arguments = ["-o", str(tmp_path / name), "--rule", "alignedkv", "--no-report", "--steps", steps]
        assert main(["frontier", str(results / "1.safetensors"), *arguments, "--layout", "8,4,4"]) == 0
    assert diff(capsys, tmp_path / "x", tmp_path / "y")[0] == 0
    code, out, _ = diff(capsys, tmp_path / "x", tmp_path / "z")
    assert code == 1
    assert "first in frontier, row 0" in out


def test_a_directory_is_a_result_like_others(results, tmp_path, capsys):
    out = tmp_path / "out"
    assert diff(capsys, results / "a0", results / "b0", "-o", out)[0] == 1
    assert {p.name for p in out.iterdir()} == {"summary.json", "diff.parquet", "diff.html"}
    assert main(["report", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "aligned-max" in shown
    assert main(["query", str(out), "SELECT count(*) AS n FROM diff WHERE scope = 'head'", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 4 * 7}]
    code, _, err = diff(capsys, results / "a0", results / "b0", "-o", out)
    assert (code, "exists already" in err) == (4, True)
    assert diff(capsys, results / "a0", results / "b0", "-o", out, "--overwrite", "--exit-zero")[0] == 0
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert diff(capsys, results / "a0", results / "b0", "-o", page)[0] == 4
    assert page.read_text() == "mine"
    assert diff(capsys, results / "a0", results / "b0", "-o", page, "--overwrite")[0] == 1
    assert page.read_text() == (out / "diff.html").read_text()


def test_names_from_files_are_not_obeyed(results, tmp_path, capsys):
    evil = tmp_path / "evil"
    shutil.copytree(results / "a0", evil)
    held = json.loads((evil / "summary.json").read_text())
    name = "\x1b[2J</script><script>alert(1)</script>[red]"
    held["dump"]["name"] = name
    held["rules"][0]["rule"] = name
    held["options"]["rules"] = [name]
    (evil / "summary.json").write_text(json.dumps(held))
    for table in ("steps", "errors", "heads"):
        path = evil / f"{table}.parquet"
        rows = pq.read_table(path)
        pq.write_table(rows.set_column(0, rows.schema.field(0), pa.array([name] * rows.num_rows)), path)
    code, out, err = diff(capsys, results / "a0", evil, "-o", tmp_path / "page.html", "--rules", RULES[0], name)
    assert code == 1
    assert "\x1b" not in out + err
    assert "[red]" in out
    page = (tmp_path / "page.html").read_text()
    assert "\x1b" not in page
    assert "<script>alert" not in page


@pytest.mark.browser
def test_the_page_draws_what_the_table_says(results, tmp_path, chromium):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    out = tmp_path / "out"
    arguments = ["--rules", RULES[0], RULES[1], "-o", str(out)]
    assert main(["diff", str(results / "both"), str(results / "both"), *arguments]) == 1
    rows = [
        r
        for r in pq.read_table(out / "diff.parquet").to_pylist()
        if (r["scope"], r["measure"]) == ("head", "output_error")
    ]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        complaints, requests = [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{out}/diff.html")
        page.wait_for_function("document.documentElement.dataset.ready === 'true'")
        page.select_option("#measure", "output_error")
        points = page.evaluate("document.getElementById('scatter').data[1]")
        cells = page.evaluate("document.getElementById('heat').data.map(t => t.z)")
        page.set_viewport_size({"width": 390, "height": 900})
        page.wait_for_timeout(300)
        wide = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert complaints == []
    assert requests == [f"file://{out}/diff.html"]
    assert wide <= 390
    assert sorted(zip(points["x"], points["y"], strict=True)) == sorted((r["value_a"], r["value_b"]) for r in rows)
    for row in rows:
        grey, coloured = (layer[row["layer"]][row["kv_head"]] for layer in cells)
        assert (grey is None) == row["beyond_noise"]
        assert (coloured is None) == (not row["beyond_noise"])
        if row["beyond_noise"]:
            assert coloured == pytest.approx(-math.log2(row["change"]), rel=1e-9)
