"""What `explain` says of an operation, against exact rationals; and how it draws it."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from exact import code_of
from hypothesis import given, settings
from hypothesis import strategies as st

from precalign.cli import digits as draw
from precalign.cli.main import main
from precalign.errors import UsageError
from precalign.explain import explain, explain_dot, parse_operand
from precalign.explain.operands import Digits
from precalign.formats import get_format
from precalign.formats.codes import decode

HALF = get_format("fp16")
finite16 = st.integers(0, 0xFFFF).filter(lambda c: c & 0x7C00 != 0x7C00)
MODES = ["RNE", "RNA", "RTZ", "RUP", "RDN", "RTO"]


def rational(code):
    return Fraction(float(decode(code, HALF)))


@settings(deadline=None, max_examples=300)
@given(finite16, finite16, st.sampled_from(["add", "sub", "mul"]), st.sampled_from(MODES))
def test_digits_and_result_are_exact(a, b, operation, mode):
    explained = explain(operation, (parse_operand(hex(a), HALF), parse_operand(hex(b), HALF)), HALF, mode)
    x, y = rational(a), rational(b)
    exact = {"add": x + y, "sub": x - y, "mul": x * y}[operation]
    assert explained.exact.value == exact == sum(term.digits.value for term in explained.terms)
    expected = code_of(exact, HALF, mode)
    assert explained.result.code == expected or (explained.result.code | expected) & 0x7FFF == 0
    rounding = explained.rounding
    if explained.result.finite:
        got = rational(explained.result.code)
        assert rounding.ulp_error * Fraction(2) ** rounding.last == got - exact
        assert (rounding.direction == "exact") == (got == exact)
        assert (rounding.guard or rounding.sticky) or got == exact or abs(exact) > 65504
    assert json.dumps(explained.to_json(), allow_nan=False)


@settings(deadline=None, max_examples=100)
@given(finite16, finite16)
def test_marks_of_an_addition_by_their_definitions(a, b):
    explained = explain("add", (parse_operand(hex(a), HALF), parse_operand(hex(b), HALF)), HALF)
    pi = [term.digits.lowest for term in explained.terms]
    result = float(decode(explained.result.code, HALF))
    for term, code, other in zip(explained.terms, (a, b), (b, a), strict=True):
        assert term.wasted == min(max(max(pi) - term.digits.lowest, 0), 11)
        if np.isfinite(result):
            for j in range(1, 11):  # brute force: every value of the j low bits
                low = np.arange(1 << j) | (code >> j << j)
                same = all(
                    code_of(rational(int(v)) + rational(other), HALF) == code_of(rational(code) + rational(other), HALF)
                    for v in {int(low[0]), int(low[-1])}
                )
                assert same == (term.inert >= j)
                if not same:
                    break


@pytest.mark.parametrize(
    ("text", "code", "rounded"),
    [
        ("0x3C00", 0x3C00, False), ("0b0_01111_0000000001", 0x3C01, False), ("1", 0x3C00, False), ("-0x1.8p1", 0xC200, False),
        ("0.1", 0x2E66, True), ("1e30", 0x7C00, True), ("inf", 0x7C00, False), ("nan", 0x7E00, False), ("0x1.002p0", 0x3C00, True),
    ],
)  # fmt: skip
def test_operands_as_people_write_them(text, code, rounded):
    operand = parse_operand(text, HALF)
    assert (operand.code, operand.rounded) == (code, rounded)


@pytest.mark.parametrize("text", ["0x1FFFF", "one", "", "0b2", "0x1.8q1", "9" * 5000, "0." + "0" * 5000 + "1"])
def test_operands_that_are_none(text):
    with pytest.raises(UsageError):
        parse_operand(text, HALF)


@pytest.mark.parametrize(
    ("text", "code", "rounded"),
    [("1e-31099511627776", 0, True), ("0e-31099511627776", 0, False), ("1e31099511627776", 0x7C00, False)],
)
def test_exponents_beyond_everything_take_no_time(text, code, rounded):
    operand = parse_operand(text, HALF)
    assert (operand.code, operand.rounded) == (code, rounded)


def test_a_dot_product_of_cancelling_terms():
    a = [parse_operand(t, HALF) for t in ("1024", "0.001", "-1024")]
    ones = [parse_operand("1", HALF)] * 3
    dot = explain_dot(a, ones, "sequential", HALF)
    assert dot.result.value == 0
    assert dot.exact.value == rational(a[1].code)
    assert dot.products[1].wasted == 11


def test_long_stretches_are_left_out_and_counted():
    rows = [
        draw.Row("a", Digits(negative=False, magnitude=1, lowest=0)),
        draw.Row("b", Digits(negative=False, magnitude=5, lowest=-200)),
    ]
    drawn = draw.columns(rows, 80, [0])
    assert len(drawn) < 30
    assert sum(draw.elided(drawn)) + sum(e is not None for e in drawn) == 201
    shown = [e for e in drawn if e is not None]
    assert shown == sorted(shown, reverse=True)
    assert {0, -198, -199, -200} <= set(shown)


def test_landmarks_never_write_over_each_other():
    lines = draw.ruler([0, -1, -2], {0: "2^0", -1: "2^-1", -2: "2^-2"})
    assert lines[-1] == "|||"
    assert sorted(" ".join(lines[:-1]).split()) == ["2^-1", "2^-2", "2^0"]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_it_fits_the_width(capsys, monkeypatch, columns):
    monkeypatch.setattr("precalign.cli.commands.explain._width", lambda: int(columns) - 14)
    for operands in (("1", "1e-30"), ("3e38", "1e-38"), ("1", "-0.99999994")):
        assert main(["explain", "add", *operands, "--format", "fp32"]) == 0
        digits = [
            line
            for line in capsys.readouterr().out.splitlines()
            if line.startswith(("  +", "  -", "  exact ", "  result   "))
        ]
        assert max(map(len, digits)) <= int(columns)


def test_command_errors(capsys, tmp_path):
    def fails(code, word, *arguments):
        assert main(["explain", *arguments]) == code
        assert word in capsys.readouterr().err

    fails(2, "takes 2 operands", "add", "1")
    fails(2, "neither a code nor a number", "add", "1", "x")
    fails(2, "unknown format", "add", "1", "1", "--format", "fp7")
    fails(2, "no one result", "add", "1", "1", "--mode", "SR")
    fails(3, "cannot be read", "dot", str(tmp_path / "none"))
    (tmp_path / "t").write_text("1 2 3\n")
    fails(3, "line 1: expected two operands", "dot", str(tmp_path / "t"))
    (tmp_path / "t").write_text("# nothing\n")
    fails(3, "no terms", "dot", str(tmp_path / "t"))


def test_dot_command(capsys, tmp_path):
    (tmp_path / "t").write_text("1 1\n1e-3, 1e-4 # small\n")
    for unit in ([], ["--unit", "H100"], ["--unit", "V100", "--start", "0.5"]):
        assert main(["explain", "dot", str(tmp_path / "t"), *unit, "--json"]) == 0
        held = json.loads(capsys.readouterr().out)
        assert len(held["terms"]) == 2
        assert held["result"]["value"] == pytest.approx(1.0000001 + (0.5 if "--start" in unit else 0), rel=1e-6)
        assert main(["explain", "dot", str(tmp_path / "t"), *unit]) == 0
        assert "exact" in capsys.readouterr().out
