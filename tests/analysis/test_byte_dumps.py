"""8-bit dumps: every file format reads the same codes; scales and queries of 16 bits; the analysis is that of the codes."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="8-bit safetensors are written with torch")
import byte_dump
import small_dump

from precalign.analysis.pipeline import analyze
from precalign.analysis.plan import Options, make_plan
from precalign.analysis.readers import open_dump
from precalign.cli.main import main
from precalign.decode.codes import BYTE_FORMATS
from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16, E4M3FN, E5M2, get_format

NAMES = [fmt.name for fmt in BYTE_FORMATS]


def check_codes(path, held, fmt, **options):
    with open_dump(path, **options) as dump:
        (layer, _) = dump.layers
        head = dump.read_head(layer, 1)
    assert (head.format.name, head.query_format) == (fmt, BINARY16)
    np.testing.assert_array_equal(head.keys, held["layers.0.keys"][0, 1].view(np.uint8))
    np.testing.assert_array_equal(head.values, held["layers.0.values"][0, 1].view(np.uint8))
    np.testing.assert_array_equal(head.queries, held["layers.0.queries"][0, 2:4].view(np.uint16))


@pytest.mark.parametrize("fmt", NAMES)
def test_safetensors_and_torch(tmp_path, fmt):
    import torch

    held = byte_dump.tensors(fmt)
    check_codes(byte_dump.write(tmp_path / "d.safetensors", held), held, fmt)
    torch.save(byte_dump.to_torch(held), tmp_path / "d.pt")
    check_codes(tmp_path / "d.pt", held, fmt)


@pytest.mark.parametrize("fmt", NAMES)
def test_numpy(tmp_path, fmt):
    """ml_dtypes saves e5m2 as '<f1' and the others as a byte without a type: those must be named."""
    held = byte_dump.tensors(fmt)
    np.savez(tmp_path / "d.npz", **held)
    if fmt == "e5m2":
        check_codes(tmp_path / "d.npz", held, fmt)
    else:
        with pytest.raises(InputError, match="--byte-format e4m3fn"):
            open_dump(tmp_path / "d.npz")
        check_codes(tmp_path / "d.npz", held, fmt, byte_format=get_format(fmt))


def test_raw_bytes(tmp_path):
    """Engines keep 8-bit caches as uint8: the user says what they are."""
    import torch

    held = byte_dump.tensors("e5m2")
    raw = {n: a if "queries" in n else a.view(np.uint8) for n, a in held.items()}
    torch.save({n: torch.from_numpy(a) for n, a in raw.items()}, tmp_path / "d.pt")
    check_codes(tmp_path / "d.pt", held, "e5m2", byte_format=E5M2)
    small_dump.write(tmp_path / "d.safetensors", raw)
    check_codes(tmp_path / "d.safetensors", held, "e5m2", byte_format=E5M2)
    with pytest.raises(InputError, match=r"layers.0.keys has dtype uint8.*\n.*--byte-format"):
        open_dump(tmp_path / "d.pt")
    with pytest.raises(UsageError, match="binary16 is no 8-bit format"):
        open_dump(tmp_path / "d.pt", byte_format=BINARY16)


@pytest.mark.parametrize(
    ("metadata", "keys", "values"),
    [
        ({"k_scale": "0.5", "v_scale": "2"}, [0.5, 0.5], [2, 2]),
        ({"key_scale": "[0.5, 0.25]"}, [0.5, 0.25], None),
        ({"k_scale": "4", "layers.0.k_scale": "0.125"}, [0.125, 0.125], None),
        ({"model.layers.0.self_attn.attn.v_scale": "3", "layers.1.k_scale": "9"}, None, [3, 3]),
        ({"scale": "0.3"}, None, None),
    ],
)
def test_scales_of_metadata(tmp_path, metadata, keys, values):
    path = byte_dump.write(tmp_path / "d.safetensors", **metadata)
    with open_dump(path) as dump:
        layer = dump.layers[0]
        assert layer.key_scales == (None if keys is None else tuple(keys))
        assert layer.value_scales == (None if values is None else tuple(values))


def test_scales_of_tensors(tmp_path):
    held = byte_dump.tensors()
    held["layers.0.k_scale"] = np.array(0.5, np.float32)
    held["layers.1.v_scale"] = np.array([0.25, 2], np.float16)
    with open_dump(byte_dump.write(tmp_path / "d.safetensors", held)) as dump:
        assert [layer.key_scales for layer in dump.layers] == [(0.5, 0.5), None]
        assert [layer.value_scales for layer in dump.layers] == [None, (0.25, 2)]


@pytest.mark.parametrize(
    ("stated", "says"),
    [("big", "is no number"), ("-1", "positive number"), ("nan", "positive number"), ("1,2,3", "3 scales, expected 1")],
)
def test_scales_that_cannot_be(tmp_path, stated, says):
    with pytest.raises(InputError, match=says):
        open_dump(byte_dump.write(tmp_path / "d.safetensors", k_scale=stated))


def test_scales_by_token_are_refused(tmp_path):
    held = byte_dump.tensors() | {"layers.0.k_scale": np.ones((2, 70), np.float32)}
    with pytest.raises(InputError, match="by token or by channel are not supported"):
        open_dump(byte_dump.write(tmp_path / "d.safetensors", held))


def test_formats_of_queries(tmp_path):
    held = byte_dump.tensors(query_dtype=np.float32)
    path = byte_dump.write(tmp_path / "d.safetensors", held)
    with open_dump(path) as dump, pytest.raises(InputError, match=r"layers.0.queries is binary32"):
        make_plan(dump, Options())
    with open_dump(path, storage_format=BFLOAT16) as dump:
        head = dump.read_head(dump.layers[0], 0)
        assert (head.format, head.query_format, set(head.conversions)) == (E4M3FN, BFLOAT16, {"queries"})
        summary = analyze(make_plan(dump, Options(steps="last")), tmp_path / "out")
    assert summary["notes"][0].startswith("The queries are binary32; they were rounded to bfloat16: ")
    mixed = byte_dump.tensors() | {"layers.0.values": byte_dump.tensors("e5m2")["layers.0.values"]}
    with pytest.raises(InputError, match=r"values: dtype must match layers.0.keys: F8_E5M2 vs F8_E4M3"):
        open_dump(byte_dump.write(tmp_path / "mixed.safetensors", mixed))


def test_nan_is_found_and_the_head_can_be_left_out(tmp_path):
    held = byte_dump.tensors()
    held["layers.1.keys"].view(np.uint8)[0, 0, 3, 5] = 0xFF
    path = byte_dump.write(tmp_path / "d.safetensors", held)
    with (
        open_dump(path) as dump,
        pytest.raises(InputError, match="layer 1, kv head 0: infinities or NaNs: 1 in its keys"),
    ):
        analyze(make_plan(dump, Options(steps="last", jobs=1)), tmp_path / "out")
    with open_dump(path) as dump:
        summary = analyze(make_plan(dump, Options(steps="last", skip_nonfinite=True)), tmp_path / "out")
    assert [head["layer"] for head in summary["skipped"]] == [1]


def test_scales_reach_the_scores_and_nothing_relative_changes(tmp_path):
    """A key scale is a factor of the scores; one of values changes no column but says so."""
    plain = byte_dump.write(tmp_path / "plain.safetensors", scale="0.125")
    scaled = byte_dump.write(tmp_path / "scaled.safetensors", scale="0.25", k_scale="0.5", v_scale="3")
    results = []
    for path in (plain, scaled):
        with open_dump(path) as dump:
            results.append(analyze(make_plan(dump, Options(steps="every:20")), tmp_path / path.stem))
    assert results[0]["rules"] == results[1]["rules"]
    assert results[1]["dump"]["scale"] == 0.125
    keys, values = results[1]["notes"]
    assert "scaled by 0.5; the factor of the scores includes it" in keys
    assert "scaled by 3" in values


@pytest.mark.parametrize("layout", [None, "4|4+skip", "rebased:4|3"])
def test_the_whole_way(tmp_path, layout, capsys):
    """From an 8-bit file to tables, summary and pages."""
    path = byte_dump.write(tmp_path / "d.safetensors")
    chosen = [] if layout is None else ["--layout", layout]
    assert main(["analyze", str(path), "-o", str(tmp_path / "out"), "--steps", "every:20", *chosen]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["layout"]["levels_bits"] == {None: [5, 8], "4|4+skip": [0, 8], "rebased:4|3": [4, 7]}[layout]
    assert (summary["dump"]["storage_format"], summary["dump"]["query_format"]) == ("e4m3fn", "binary16")
    escaped = [summary["cache"][kind]["escaped"] for kind in ("key", "value")]
    assert escaped == [None, None] if layout != "rebased:4|3" else sum(escaped) > 0
    out = capsys.readouterr().out
    assert "Of the 8 bits of a number" in out
    assert "Of the 4 exponent bits" in out
    assert "rounding the exact output to binary16" in (tmp_path / "out/report.html").read_text()
    assert main(["inspect", str(path)]) == 0
    assert "e4m3fn, queries binary16" in capsys.readouterr().out
