"""Messages are harmless whatever is put into them."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precalign.errors import MOST_LINE, InputError, escaped, harmless, shown
from precalign.strict_json import parse_json

ANY = st.text(st.characters(), max_size=200)


@given(ANY, ANY)
def test_no_message_obeys_an_input(before, name):
    error = InputError(f"{before}: tensor {name} is unknown", hint=f"rename {name}")
    *lines, hint = str(error).split("\n")
    assert all(c.isprintable() for line in (*lines, hint) for c in line)
    assert hint.startswith("Hint: rename")
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_name_cannot_begin_a_line_of_its_own():
    assert str(InputError("tensor x\nError: forged")) == r"tensor x\nError: forged"
    assert str(InputError("the file holds\n  layers.0.keys\n  x")) == "the file holds\n  layers.0.keys\n  x"
    assert str(InputError("a", hint="b\n  c")) == "a\nHint: b\\n  c"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\u202etxt", r"\u202etxt"),
        ("\ud800", r"\ud800"),
        ("a\tb", r"a\tb"),
        ("Größe 🙂", "Größe 🙂"),
    ],
)
def test_escapes(text, expected):
    assert escaped(text) == expected


def test_long_text_is_cut():
    assert shown("x" * 500) == "x" * 199 + "…"
    assert len(str(InputError("x" * 10**6))) == MOST_LINE
    assert str(InputError("x" * 10**6 + ": no such file")).endswith("xxx: no such file")
    assert harmless(harmless("a\x1b\n  b\rc")) == harmless("a\x1b\n  b\rc")


def test_it_comes_out_of_another_process_the_same():
    error = InputError("a\x1b", hint="b\x1b")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a\\x1b\nHint: b\\x1b"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":1,"a":2}', "'a' stands twice"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "larger than any binary64"),
        ("9" * 5000, "4300 digits"),
        ("{", "Expecting"),
        (b"\xff\xff", "decode"),
    ],
)
def test_json_of_others_is_refused_by_one_kind_of_error(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_json_is_read():
    assert parse_json('{"a": [1, 2.5, null, "\\u00e9"], "b": {"a": true}}') == {
        "a": [1, 2.5, None, "é"],
        "b": {"a": True},
    }
