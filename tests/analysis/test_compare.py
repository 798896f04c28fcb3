"""Comparisons against plain loops: the window as it is at each step, real bytes, fronts by brute force; and wrong input."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_dump
from safetensors.numpy import load_file

from precalign.analysis.compare.contenders import ALL_CODECS, ALL_CONTENDERS, Contender, parse_contenders
from precalign.analysis.compare.memory import encode_peak
from precalign.analysis.compare.ranking import match, ranking, verdict
from precalign.analysis.compare.schema import COLUMNS
from precalign.cli.main import main
from precalign.codecs import CODECS, CacheShape, CodedCache, CodedPair, RowCodec, get_codec
from precalign.errors import UsageError
from precalign.formats import BINARY16


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return small_dump.write(tmp_path_factory.mktemp("dump") / "small.safetensors")


@pytest.fixture(scope="module")
def compared(dump, tmp_path_factory):
    target = tmp_path_factory.mktemp("compared") / "out"
    names = (
        "kivi:group=16,window=16,bits=4",
        "packkv:window=0",
        "int8-token",
        "int8-token/4|4/aligned-max",
        "fp8/8/full",
    )
    options = [text for name in names for text in ("--codecs", name)]
    mixed = ["--keys", "int8-token", "--keys", "none", "--values", "quanto:group=16,window=4"]
    assert main(["compare", str(dump), "-o", str(target), *options, *mixed, "--steps", "every:7", "--jobs", "1"]) == 0
    return target


def slow_errors(tensors, layer, kv_head, codec, visible, query):
    """Every query head of one step, in loops."""
    keys, values = (
        tensors[f"layers.{layer}.{side}"][0].transpose(1, 0, 2).astype(np.float32) for side in ("keys", "values")
    )
    caches = {}
    for side, x in (("keys", keys), ("values", values)):
        cache = CodedCache(codec, CacheShape(x.shape[1], x.shape[2], side))
        cache.append(x[:visible])
        caches[side] = cache.decode()[:, kv_head].astype(np.float64)
    found = []
    for head in range(small_dump.GROUP):
        q = tensors[f"layers.{layer}.queries"][0, kv_head * small_dump.GROUP + head, query].astype(np.float64)
        outputs = []
        for k, v in (
            (caches["keys"], caches["values"]),
            (keys[:visible, kv_head].astype(np.float64), values[:visible, kv_head].astype(np.float64)),
        ):
            s = [0.25 * math.fsum(a * b for a, b in zip(q, row, strict=True)) for row in k]
            w = [math.exp(x - max(s)) for x in s]
            outputs.append([math.fsum(p * x for p, x in zip(w, column, strict=True)) / math.fsum(w) for column in v.T])
        got, exact = outputs
        found.append(math.dist(got, exact) / math.hypot(*exact))
    return found


@pytest.mark.parametrize("name", ["kivi:group=16,window=16,bits=4", "int8-token"])
def test_each_step_sees_the_cache_as_it_is_then(compared, dump, name):
    tensors = load_file(dump)
    codec = get_codec(name)
    rows = pq.read_table(compared / "compare.parquet").to_pylist()
    row = next(r for r in rows if r["contender"] == str(codec) and (r["layer"], r["kv_head"]) == (1, 0))
    queries = range(small_dump.N_QUERIES - 1, -1, -7)
    errors = []
    for query in queries:
        visible = small_dump.SEQ_LEN - small_dump.N_QUERIES + query + 1
        errors += slow_errors(tensors, 1, 0, codec, visible, query)
    assert row["n_steps"] == len(queries)
    assert row["output_error_median"] == pytest.approx(np.median(errors), rel=1e-9)
    assert row["output_error_max"] == pytest.approx(max(errors), rel=1e-9)


def test_stored_bytes_are_those_that_come_out(compared, dump):
    tensors = load_file(dump)
    keys, values = (tensors[f"layers.0.{side}"][0].transpose(1, 0, 2).astype(np.float32) for side in ("keys", "values"))
    for row in pq.read_table(compared / "compare.parquet").to_pylist():
        if row["layer"] or row["kind"] == "rule":
            continue
        if "/" in row["contender"]:
            # Channels of keys in pages of 64 tokens; the last page is padded. int8-token has 4 bytes beside each row, fp8 4 for the layer.
            beside = 4 if row["contender"].startswith("fp8") else 4 * 2 * small_dump.SEQ_LEN
            pages = -(-small_dump.SEQ_LEN // 64) * 64
            assert row["stored_bytes"] * 2 == 2 * 16 * (pages + small_dump.SEQ_LEN) + 2 * beside
            continue
        one, _, other = row["contender"].partition("+")
        codecs = [None if name == "none" else get_codec(name) for name in (one, other or one)]
        if None in codecs:
            cache = CodedCache(codecs[1], CacheShape(2, 16, "values"))
            cache.append(values)
            stored = len(cache.to_bytes()) + keys.size * 2
        else:
            pair = CodedPair(*codecs, CacheShape(2, 16, "keys"))
            pair.append(keys, values)
            stored = len(pair.to_bytes())
        assert row["stored_bytes"] * 2 == stored, row["contender"]


def test_files_columns_and_summary(compared):
    assert sorted(p.name for p in compared.iterdir()) == ["compare.html", "compare.parquet", "summary.json"]
    table = pq.read_table(compared / "compare.parquet")
    assert table.column_names == [column.name for column in COLUMNS]
    summary = json.loads((compared / "summary.json").read_text())
    names = [row["contender"] for row in summary["contenders"]]
    assert names[:3] == ["kivi:bits=4,group=16,window=16", "packkv:window=0", "int8-token"]
    assert {"none+quanto:group=16,window=4", "int8-token+quanto:group=16,window=4", "alignedkv", "aligned-skip"} <= set(
        names
    )
    assert ranking(table.to_pylist()) == summary["contenders"]
    page = (compared / "compare.html").read_text()
    assert "int8-token+quanto" in page


def test_fronts_by_brute_force(compared):
    rows = json.loads((compared / "summary.json").read_text())["contenders"]
    for cost, column in (("stored", "bits_per_number"), ("moved", "moved_share")):
        for row in rows:
            beaten = any(
                o[column] <= row[column]
                and o["output_error_median"] <= row["output_error_median"]
                and (o[column], o["output_error_median"]) != (row[column], row["output_error_median"])
                for o in rows
            )
            assert row[f"on_front_{cost}"] == (not beaten)


def test_match_lists_who_is_within_the_limit(compared, capsys):
    rows = json.loads((compared / "summary.json").read_text())["contenders"]
    order, within = match(rows, "bits=10")
    assert order == "output_error_median"
    assert within == sorted((r for r in rows if r["bits_per_number"] <= 10), key=lambda r: r["output_error_median"])
    assert main(["compare", str(compared), "--match", "error=0.01", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [r["contender"] for r in printed["contenders"]] == [
        r["contender"] for r in sorted(rows, key=lambda r: r["bits_per_number"]) if r["output_error_median"] <= 0.01
    ]
    assert main(["compare", str(compared)]) == 0
    assert main(["report", str(compared)]) == 0
    assert "int8-token" in capsys.readouterr().out


def test_exempt_layers_stay_as_they_are(dump, tmp_path):
    arguments = [
        "compare",
        str(dump),
        "-o",
        str(tmp_path / "o"),
        "--codecs",
        "int8-token",
        "--exempt-layers",
        "0",
        "--steps",
        "last",
        "--no-report",
    ]
    assert main(arguments) == 0
    rows = pq.read_table(tmp_path / "o/compare.parquet").to_pylist()
    of = {row["layer"]: row for row in rows if row["contender"] == "int8-token"}
    assert (of[0]["bits_per_number"], of[0]["output_error_max"]) == (16, 0)
    assert of[1]["bits_per_number"] < 11
    assert of[1]["output_error_max"] > 0


def test_all_names_every_codec():
    assert {name.partition(":")[0] for name in ALL_CODECS} == set(CODECS)
    assert len(parse_contenders(["all"], [], [])) == len(ALL_CONTENDERS)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--codecs", "q4"], 2, "unknown codec 'q4'"),
        (["--codecs", "q4_0"], 2, "head_dim 16 is no multiple of 32"),
        (["--keys", "int8-token"], 2, "--keys and --values go together"),
        (["--keys", "packkv", "--values", "none"], 2, "codec packkv codes keys and values together"),
        (["--codecs", "int8-token", "--exempt-layers", "9"], 2, "there is no 9"),
        (["--codecs", "int8-token/4|4"], 2, "write CODEC/PLANES/RULE"),
        (["--codecs", "int8-token/5|4/full"], 2, "must add up to the 8 bits of int8, not 9"),
        (["--codecs", "fp8/rebased:4|3/full"], 2, "exponents of codes are not rebased"),
        (["--codecs", "int8-token/4|4/aligned-skip"], 2, "use the layout 4|4+skip"),
        (["--codecs", "fp8/5|3/certified"], 2, "does not read codes of a codec"),
        (["--codecs", "kivi/4|4/full"], 2, "its codes cannot be kept in planes"),
        (["--codecs", "packkv/4|4/full"], 2, "only codecs that code row by row"),
        (["--codecs", "int8-token", "--rule", "nearest"], 2, "unknown rule 'nearest'"),
    ],
)
def test_wrong_options(dump, tmp_path, capsys, arguments, code, message):
    assert main(["compare", str(dump), "-o", str(tmp_path / "o"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_wrong_places(dump, compared, tmp_path, capsys):
    assert main(["compare", str(dump)]) == 2
    assert "compare needs -o DIRECTORY" in capsys.readouterr().err
    assert main(["compare", str(dump), "-o", str(compared), "--codecs", "int8-token"]) == 4
    assert "exists already" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--match", "bits=4"]) == 3
    bare = small_dump.write(tmp_path / "bare.safetensors", small_dump.tensors(queries=False))
    assert main(["compare", str(bare), "-o", str(tmp_path / "o"), "--codecs", "int8-token"]) == 3
    assert "has no queries" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"write bits=4\.5, error=0\.05 or moved=0\.3"):
        match([], "size=3")


def test_a_codec_read_whole_by_a_rule_errs_as_the_codec(dump, tmp_path):
    """Same numbers, same errors; the rule that reads less errs more (of rows this short it moves no fewer sectors)."""
    specs = ("int8-token", "int8-token/8/full", "int8-token/4|4/aligned-max")
    options = [text for name in specs for text in ("--codecs", name)]
    assert main(["compare", str(dump), "-o", str(tmp_path / "o"), *options, "--steps", "every:7", "--no-report"]) == 0
    table = pq.read_table(tmp_path / "o/compare.parquet").to_pylist()
    plain, whole, part = ([row for row in table if row["contender"] == name] for name in specs)
    for one, other, less in zip(plain, whole, part, strict=True):
        assert other["kind"] == less["kind"] == "codec read by rule"
        for name in (
            "key_relative_error",
            "value_cosine_mean",
            "output_error_median",
            "output_error_max",
            "score_error_max",
        ):
            assert other[name] == pytest.approx(one[name], rel=1e-9)
        assert less["key_relative_error"] == other["key_relative_error"]
        assert less["output_error_median"] > other["output_error_median"]
    exempt = [*options, "--exempt-layers", "0,1", "--steps", "last", "--no-report"]
    assert main(["compare", str(dump), "-o", str(tmp_path / "e"), *exempt]) == 0
    rows = pq.read_table(tmp_path / "e/compare.parquet").to_pylist()
    assert {row["output_error_max"] for row in rows if row["contender"] in specs and row["layer"] < 2} == {0}


@dataclass(frozen=True)
class Wasteful(RowCodec):
    """Keeps binary16, and holds ten times that while it encodes."""

    name = "wasteful"
    source = "this test"

    def row_bytes(self, head_dim):
        return 2 * head_dim

    def encode_rows(self, rows, header, shape):
        held = np.ones(20 * rows.size, np.uint8)
        return rows.astype("<f2").view(np.uint8) if held.all() else None

    def decode_rows(self, octets, header, shape):
        return octets.view("<f2").astype(np.float32)


def test_peak_memory_of_encoding_is_what_is_allocated():
    x = np.ones((512, 2, 64), np.float32)
    one = encode_peak(Contender("one", Wasteful(), None), x, x, BINARY16)
    # Of keys alone, over keys and values: 10 for what is held, 2 for the tokens joined to the window, 1 for the result.
    assert one == pytest.approx(13 / 2, rel=0.01)
    both = encode_peak(Contender("both", Wasteful(), Wasteful()), x, x, BINARY16)
    # While values are encoded, the keys' window is gone and their result is held.
    assert both == pytest.approx((13 + 1) / 2, rel=0.01)
    assert encode_peak(Contender("none", None, None), x, x, BINARY16) < 0.1


def test_the_verdict_names_the_least_error_within_each_limit(compared):
    rows = json.loads((compared / "summary.json").read_text())["contenders"]
    assert all((row["encode_peak"] is None) == (row["kind"] == "rule") for row in rows)
    for question, row in verdict(rows):
        if question.startswith("store at most"):
            limit = float(question.split()[3])
            assert row["output_error_median"] == min(
                r["output_error_median"] for r in rows if r["bits_per_number"] <= limit
            )
        elif question.startswith("move at most"):
            limit = float(question.split()[3]) / 100
            assert row["output_error_median"] == min(
                r["output_error_median"] for r in rows if r["moved_share"] <= limit
            )
        else:
            assert row["moved_share"] == min(r["moved_share"] for r in rows if r["kind"] == "rule")
    assert verdict([]) == []
