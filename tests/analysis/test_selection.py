"""What the user may pick, and what is said when it is not there."""

from __future__ import annotations

import re

import numpy as np
import pytest
import small_dump
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from precalign.analysis.plan import Options, make_plan
from precalign.analysis.readers import open_dump
from precalign.analysis.selection import parse_indices, parse_steps, visible_range
from precalign.cli.main import main
from precalign.errors import InputError, PrecalignError, UsageError
from precalign.rules import RULES


@given(st.sets(st.integers(0, 30), min_size=1))
def test_a_list_of_indices_reads_back(indices):
    text = ",".join(map(str, sorted(indices, key=lambda i: (i % 3, i))))
    assert parse_indices(text, indices, "layers") == sorted(indices)
    assert parse_indices(f"{min(indices)}-{max(indices)}", range(31), "layers") == list(
        range(min(indices), max(indices) + 1)
    )


@pytest.mark.parametrize(
    ("text", "steps"),
    [("all", range(10)), ("last", [9]), ("every:4", [1, 5, 9]), ("every:99", [9]), ("every:1", range(10)),
     ("2:5", [2, 3, 4]), (":3", [0, 1, 2]), ("-2:", [8, 9]), ("7:99", [7, 8, 9]), (":", range(10))],
)  # fmt: skip
def test_steps(text, steps):
    assert parse_steps(text, 10).tolist() == list(steps)


@given(st.integers(1, 20), st.integers(0, 20), st.none() | st.integers(1, 25), st.booleans())
def test_what_a_step_sees(n_queries, more, window, causal):
    seq_len = n_queries + more
    first, visible = visible_range(np.arange(n_queries), n_queries, seq_len, causal=causal, window=window)
    for query in range(n_queries):
        position = query + more  # its own token; the last query belongs to the last token
        sees = [
            t for t in range(seq_len) if not causal or (t <= position and (window is None or t > position - window))
        ]
        assert list(range(first[query], visible[query])) == sees


STEPS = "--steps takes all, last, every:N or A:B (B is not part of it; negative counts from the end)"
SKIP = "use the layout 8|4|4+skip"
WRONG = [
    ({"layers": "0,7"}, "--layers 0,7: there is no 7", "the dump has layers 0-1"),
    ({"layers": "1-0"}, "--layers 1-0: the range 1-0 runs backwards", "the dump has layers 0-1"),
    ({"layers": "x"}, "--layers x: 'x' is neither an index nor a range", "write 0,2,4-6; the dump has layers 0-1"),
    ({"layers": ""}, "--layers : '' is neither an index nor a range", "write 0,2,4-6; the dump has layers 0-1"),
    ({"kv_heads": "2"}, "--heads 2: there is no 2", "the dump has heads 0-1"),
    ({"steps": "some"}, "--steps some: not understood", STEPS),
    ({"steps": "every:0"}, "--steps every:0: N must be at least 1", STEPS),
    ({"steps": "70:80"}, "--steps 70:80: picks none of the 61 steps", STEPS),
    ({"rules": ("none",)}, "unknown rule 'none'", "rules: " + ", ".join(sorted(RULES))),
    ({"rules": ("aligned-skip",), "layout": "8,4,4"}, "rule aligned-skip needs a layout in which a token may be skipped, 8|4|4 has no such level", SKIP),
    ({"layout": "8,4"}, "layout 8|4: plane widths of at least 1 must add up to the 16 bits of binary16, not 12", "the default is 8|4|4"),
    ({"layout": "wide"}, "layout 'wide' is not a list of plane widths", 'write "8|4|4", "8|4|4+skip" or "rebased:8|5"'),
    ({"scale": -1.0}, "--scale -1.0: must be a positive number", None),
    ({"scale": float("nan")}, "--scale nan: must be a positive number", None),
    ({"batch": 1}, "--batch 1: the dump holds 1 sequences", "give 0 .. 0"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message", "hint"), WRONG, ids=[str(options) for options, _, _ in WRONG])
def test_a_choice_that_is_not_there(tmp_path, options, message, hint):
    with open_dump(small_dump.write(tmp_path / "d.safetensors")) as dump, pytest.raises(UsageError) as caught:
        make_plan(dump, Options(**options))
    assert caught.value.message == message
    if hint is not None:
        assert caught.value.hint == hint


def test_more_queries_than_tokens(tmp_path):
    path = small_dump.write(tmp_path / "d.safetensors", small_dump.tensors(n_queries=71))
    with open_dump(path) as dump:
        with pytest.raises(InputError) as caught:
            make_plan(dump, Options())
        assert str(caught.value) == (
            f"{path}: layers.0.queries: causal attention needs at most one query per token: 71 queries vs 70 tokens\n"
            "Hint: --full lets every query see every token"
        )
        assert make_plan(dump, Options(causal=False)).tasks[0].steps.visible.tolist() == [70] * 71


def test_the_scale_and_where_it_comes_from(tmp_path):
    stated = small_dump.write(tmp_path / "a.safetensors", scale="0.3")
    silent = small_dump.write(tmp_path / "b.safetensors", model="m")
    for path, option, scale, source in [
        (stated, None, 0.3, "the dump's metadata"),
        (silent, None, 0.25, "1/sqrt(head_dim), because the dump states none"),
        (stated, 0.5, 0.5, "--scale"),
    ]:
        with open_dump(path) as dump:
            plan = make_plan(dump, Options(scale=option))
        assert ({task.scale for task in plan.tasks}, plan.scale_source) == ({scale}, source)


def test_layers_of_several_formats_are_told_apart(tmp_path):
    held = small_dump.tensors()
    held |= {name: value.astype(np.float32) for name, value in held.items() if name.startswith("layers.1.")}
    from precalign.formats import BFLOAT16

    with open_dump(small_dump.write(tmp_path / "d.safetensors", held), storage_format=BFLOAT16) as dump:
        with pytest.raises(PrecalignError, match="layers are stored in several formats: bfloat16, binary16"):
            make_plan(dump, Options())
        assert make_plan(dump, Options(layers="1")).layout.name == "12|4"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["analyze", "missing.npz", "-o", "out"], 3, "Error: missing.npz: no such file"),
        (["analyze", "d.safetensors"], 2, "Missing option '-o' / '--output'"),
        (["analyze", "d.safetensors", "-o", "out", "--layers", "9"], 2, "Error: --layers 9: there is no 9"),
        (["analyze", "d.safetensors", "-o", "d.safetensors"], 4, "Error: d.safetensors: exists already"),
        (["analyze", "d.safetensors", "-o", "out", "--storage-format", "fp12"], 2, "Error: unknown format 'fp12'"),
        (["analyze", "d.safetensors", "-o", "out", "--map", "x"], 2, "Error: --map 'x' is not ROLE=TEMPLATE"),
    ],
)
def test_messages_of_the_command(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    small_dump.write(tmp_path / "d.safetensors")
    assert main(arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert not (tmp_path / "out").exists()


def test_the_table_of_the_command(tmp_path):
    from precalign.cli.commands.analyze import command

    path = small_dump.write(tmp_path / "d.safetensors")
    done = CliRunner().invoke(
        command, [str(path), "-o", str(tmp_path / "out"), "--rule", "full", "--rule", "aligned-max", "--no-report"]
    )
    assert done.exit_code == 0, done.output
    assert re.search(r"^ *1 +16\.0 +16\.0 ", done.stdout, re.MULTILINE)  # layer 1, read in full
    assert done.stdout.endswith(f"Written: {tmp_path / 'out'}\n")
    assert "\x1b" not in done.stdout  # not a terminal: no colour, no progress
