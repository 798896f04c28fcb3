"""Exponent bits that channels and tokens do not need, and escapes, against values in plain Python."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import small_dump

from precalign.analysis.pipeline import analyze
from precalign.analysis.plan import Options, make_plan
from precalign.analysis.readers import open_dump
from precalign.analysis.results.reader import open_result


def unneeded(numbers, exponent_bits, emin):
    """Codes needed: one for each binade from the smallest to the largest number, and one for zero."""
    exponents = [max(math.floor(math.log2(abs(x))), emin) for x in numbers if x]
    codes = 1 + (max(exponents) - min(exponents) + 1 if exponents else 0)
    return exponent_bits - math.ceil(math.log2(codes))


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exponents")
    held = {}
    for name, array in small_dump.tensors(4, dtype=np.float32).items():
        array[..., 9, :] *= 2.0**-40  # one token far below: escapes in its page's channels
        held[name] = array.astype(ml_dtypes.bfloat16)
    import torch
    from safetensors.torch import save_file

    whole = {n: torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16) for n, a in held.items()}
    save_file(whole, folder / "d.safetensors", metadata={"scale": "0.25"})
    with open_dump(folder / "d.safetensors") as dump:
        analyze(make_plan(dump, Options(steps="last", layout="rebased:8|5")), folder / "out")
    return held, open_result(folder / "out")


def test_channels_and_tokens(analysed):
    held, result = analysed
    means = {"key": [], "value": []}
    for row in result.table("channels").to_pylist():
        numbers = held[f"layers.{row['layer']}.{row['kind']}s"][0, row["kv_head"], :, row["channel"]].astype(float)
        assert row["exponent_wasted_bits"] == unneeded(numbers.tolist(), 8, -126)
        if row["kind"] == "key":
            means["key"].append(row["exponent_wasted_bits"])
    for row in result.table("tokens").to_pylist():
        numbers = held[f"layers.{row['layer']}.values"][0, row["kv_head"], row["token"]].astype(float)
        assert row["value_exponent_wasted_bits"] == unneeded(numbers.tolist(), 8, -126)
        means["value"].append(row["value_exponent_wasted_bits"])
    for kind, wasted in means.items():
        found = result.summary["cache"][kind]["group_exponent_wasted_bits_mean"]
        assert found == pytest.approx(np.mean(wasted), rel=1e-12)


def test_escapes_are_counted(analysed):
    held, result = analysed
    for row in result.table("cache").to_pylist():
        numbers = np.abs(held[f"layers.{row['layer']}.{row['kind']}s"][0, row["kv_head"]].astype(float))
        count = 0
        for page in (numbers[:64], numbers[64:]) if row["kind"] == "key" else numbers[:, None, :]:
            tops = page.max(axis=0 if row["kind"] == "key" else None)
            lowest = 2.0 ** (np.floor(np.log2(np.where(tops > 0, tops, 1))) - 30)
            count += int(((page > 0) & (page < lowest)).sum())
        assert row["escaped"] == count
    summary = result.summary
    assert summary["cache"]["key"]["escaped"] > 0
    assert summary["cache"]["value"]["escaped"] == 0
    assert f"{summary['cache']['key']['escaped']:,} of" in summary["notes"][0]
