"""`precalign tolerance` at the command line: right and wrong input."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from precalign.cli.main import main


def tensors(*, queries=True):
    """Two layers of two kv heads, four query heads, 70 tokens, head_dim 16."""
    rng = np.random.default_rng(1)
    heads = {"keys": 2, "values": 2} | ({"queries": 4} if queries else {})
    return {
        f"layers.{layer}.{role}": rng.standard_normal((1, n, 70, 16)).astype(np.float16)
        for layer in range(2)
        for role, n in heads.items()
    }


def write(path, held):
    save_file(held, path, metadata={"scale": "0.25"})
    return path


@pytest.fixture
def dump(tmp_path):
    return str(write(tmp_path / "small.safetensors", tensors()))


def test_table_and_json_agree(dump, capsys):
    assert main(["tolerance", dump, "--kernel", "flash-fp16"]) == 0
    shown = capsys.readouterr().out
    assert main(["tolerance", dump, "--kernel", "flash-fp16", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["schema"] == "precalign.tolerance/1"
    assert [row["quantity"] for row in held["tolerances"]] == ["scores", "probs", "outputs"]
    for row in held["tolerances"]:
        assert row["assert_allclose"] in shown
        assert row["atol"] >= 0
        assert row["elements"] == {"scores": 560, "probs": 560, "outputs": 128}[row["quantity"]]


def test_defects(dump, capsys):
    assert main(["tolerance", dump, "--kernel", "stated", "--defects", "--layers", "0"]) == 0
    assert "correct" in capsys.readouterr().out


def test_search(capsys):
    assert main(["tolerance", "--search", "1000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["violations"] == 0


def test_sides(capsys):
    assert main(["tolerance", "--sides"]) == 0
    assert "PTX ISA" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give one of"),
        (["--spec", "head_dim=64", "--search", "10"], 2, "give one of"),
        (["--spec", "head_dim=64,seq_len=10"], 2, "q, k, v missing"),
        (["--spec", "head_dim=64,seq_len=10,q=1,k=1,v=1", "--kernel", "order=zigzag"], 2, "known orders"),
        (["--spec", "head_dim=64,seq_len=10,q=1,k=1,v=1", "--defects"], 2, "needs a dump"),
        (["nowhere.safetensors"], 3, "no such file"),
    ],
)
def test_wrong_arguments(arguments, code, words, capsys):
    assert main(["tolerance", *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_dump_without_queries(tmp_path, capsys):
    path = write(tmp_path / "no.safetensors", tensors(queries=False))
    assert main(["tolerance", str(path)]) == 3
    assert "has no queries" in capsys.readouterr().err


def test_a_dump_with_nan(tmp_path, capsys):
    held = tensors()
    held["layers.1.values"][0, 1, 4, 2] = np.nan
    assert main(["tolerance", str(write(tmp_path / "nan.safetensors", held))]) == 3
    assert "layers.1.values, kv head 1: holds infinities or NaNs" in capsys.readouterr().err
