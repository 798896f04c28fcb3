"""Policies applied to dumps: every head's rows are those of its rule, and what does not fit is refused."""

from __future__ import annotations

import json

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import small_dump

from precalign.cli.main import main

RULES = ("aligned-max:guard_bits=1", "static:key_bits=12,value_bits=8", "alignedkv")


def policy(path, rule_of, *, heads=None, **changes):
    """Write a policy with ``rule_of(layer, kv_head)``."""
    heads = [(layer, head) for layer in (0, 1) for head in (0, 1)] if heads is None else heads
    data = {
        "schema": "precalign.policy/1",
        "format": "binary16",
        "layout": "8|4|4",
        "split_tokens": 256,
        "heads": [{"layer": layer, "kv_head": head, "rule": rule_of(layer, head)} for layer, head in heads],
    }
    path.write_text(json.dumps(data | changes))
    return path


def mixed(layer, head):
    return RULES[(2 * layer + head) % len(RULES)]


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return small_dump.write(tmp_path_factory.mktemp("dump") / "small.safetensors")


def test_rows_of_a_policy_are_those_of_each_heads_rule(dump, tmp_path):
    path = policy(tmp_path / "mine.json", mixed)
    rules = [text for rule in RULES for text in ("--rule", rule)]
    assert main(["analyze", str(dump), "-o", str(tmp_path / "out"), "--policy", str(path), *rules, "--no-report"]) == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["options"]["rules"] == [*RULES, "mine"]
    for name in ("heads", "steps", "errors", "channels", "tokens"):
        table = pq.read_table(tmp_path / f"out/{name}.parquet")
        for layer in range(small_dump.N_LAYERS):
            for head in range(small_dump.N_KV_HEADS):
                here = table.filter((pc.field("layer") == layer) & (pc.field("kv_head") == head))
                mine, rule = (
                    here.filter(pc.field("rule") == r).drop_columns(["rule"]) for r in ("mine", mixed(layer, head))
                )
                assert mine.num_rows > 0
                assert mine.equals(rule), name


def test_a_policy_alone_is_analysed_alone(dump, tmp_path, capsys):
    path = policy(tmp_path / "alone.json", mixed, split_tokens=64)
    assert main(["analyze", str(dump), "-o", str(tmp_path / "out"), "--policy", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [rule["rule"] for rule in summary["rules"]] == ["alone"]
    assert summary["options"]["split_tokens"] == 64


def everywhere(_layer, _head):
    return "full"


@pytest.mark.parametrize(
    ("changes", "options", "code", "message"),
    [
        ({"heads": [(0, 0), (0, 1), (1, 0)]}, [], 3, "policy p has no rule for layer 1, kv head 1 of the dump"),
        (
            {"heads": [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]},
            [],
            3,
            "policy p names kv head 2 of layer 1, which has 2 in the dump",
        ),
        ({"format": "bfloat16", "layout": "12|4"}, [], 3, "policy p is of bfloat16, the dump of binary16"),
        ({}, ["--layout", "6,2,2,2,4"], 2, "policy p is of the layout 8|4|4, not 6|2|2|2|4"),
        ({}, ["--rule", "aligned-skip"], 2, "rule aligned-skip needs a layout in which a token may be skipped"),
    ],
)
def test_what_does_not_fit_is_refused(dump, tmp_path, capsys, changes, options, code, message):
    path = policy(tmp_path / "p.json", everywhere, **changes)
    assert main(["analyze", str(dump), "-o", str(tmp_path / "out"), "--policy", str(path), *options]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_must_differ(dump, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    one, two = policy(tmp_path / "full.json", everywhere), policy(tmp_path / "other/full.json", everywhere)
    out = ["analyze", str(dump), "-o", str(tmp_path / "out")]
    assert main([*out, "--policy", str(one), "--policy", str(two)]) == 2
    assert "another policy is called 'full'" in capsys.readouterr().err
    assert main([*out, "--policy", str(one), "--rule", "full"]) == 2
    assert "a rule and a policy are called 'full'" in capsys.readouterr().err
    three = policy(tmp_path / "three.json", everywhere, split_tokens=128)
    assert main([*out, "--policy", str(one), "--policy", str(three)]) == 2
    assert "policies of one layout and one split go together" in capsys.readouterr().err


def test_a_part_of_the_model_is_enough_of_a_dump(dump, tmp_path):
    heads = [(layer, head) for layer in (0, 1, 7) for head in (0, 1)]
    path = policy(tmp_path / "p.json", everywhere, heads=heads)
    out = str(tmp_path / "out")
    assert main(["analyze", str(dump), "-o", out, "--policy", str(path), "--layers", "1", "--no-report"]) == 0


def test_a_file_that_is_no_policy(dump, tmp_path, capsys):
    path = tmp_path / "p.json"
    for text, message in ((None, "no such file"), ("{", "cannot be read as JSON"), ("[]", "expected the schema")):
        if text is not None:
            path.write_text(text)
        assert main(["analyze", str(dump), "-o", str(tmp_path / "out"), "--policy", str(path)]) == 3
        assert message in capsys.readouterr().err
