"""The audit against ml_dtypes, and a cache that saturates at the engines' scale."""

import json

import ml_dtypes
import numpy as np
import pytest
import small_dump

from precalign.cli.main import main

KINDS = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}


def audited(path, capsys, *options):
    code = main(["audit-fp8", str(path), "--json", *options])
    return code, json.loads(capsys.readouterr().out)["heads"]


@pytest.mark.parametrize(("form", "scale"), [("e4m3", 1.0), ("e4m3", 0.5), ("e5m2", 2.0)])
def test_counts_are_those_of_ml_dtypes(tmp_path, capsys, form, scale):
    held = small_dump.tensors()
    held["layers.0.keys"] = (held["layers.0.keys"].astype(np.float32) * 200).clip(-65504, 65504).astype(np.float16)
    held["layers.1.values"] = (held["layers.1.values"].astype(np.float32) * 1e-3).astype(np.float16)
    code, rows = audited(
        small_dump.write(tmp_path / "d.safetensors", held), capsys, "--format", form, "--scale", str(scale)
    )
    assert code == int(any(row["saturated"] for row in rows))
    largest, least = float(ml_dtypes.finfo(KINDS[form]).max), float(ml_dtypes.finfo(KINDS[form]).smallest_normal)
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        x = held[f"layers.{row['layer']}.{row['side']}"][0, row["kv_head"]].astype(np.float64)
        codes = (x / scale).clip(-largest, largest).astype(np.float32).astype(KINDS[form]).astype(np.float64)
        assert row["saturated"] == (np.abs(x / scale) > largest).sum()
        assert row["flushed"] == ((codes == 0) & (x != 0)).sum()
        assert row["subnormal"] == ((codes != 0) & (np.abs(codes) < least)).sum()
        assert row["relative_error"] == pytest.approx(np.linalg.norm(codes * scale - x) / np.linalg.norm(x), rel=1e-12)
        assert row["largest"] / row["scale"] <= largest < 2 * row["largest"] / row["scale"]


def test_it_shows_and_refuses(tmp_path, capsys):
    path = small_dump.write(tmp_path / "d.safetensors")
    assert main(["audit-fp8", str(path)]) == 0
    assert "Nothing saturates." in capsys.readouterr().out
    assert main(["audit-fp8", str(path), "--scale", "0"]) == 2
    held = small_dump.tensors()
    held["layers.1.values"][0, 1, 3, 4] = np.inf
    assert main(["audit-fp8", str(small_dump.write(tmp_path / "bad.safetensors", held))]) == 3
    assert "layer 1, kv head 1: its values hold infinities or NaNs" in capsys.readouterr().err
