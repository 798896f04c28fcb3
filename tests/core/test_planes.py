"""Planes: every code survives the cut, and a truncated read is where the definition says."""

from fractions import Fraction

import numpy as np
import pytest

from precalign.errors import UnavailableError, UsageError
from precalign.formats import BFLOAT16, BINARY16, BINARY32
from precalign.layouts import default_layout, parse_layout
from precalign.planes import join_keys, join_values, split_keys, split_values, truncate

LAYOUTS = [
    (BINARY16, "8|4|4"),
    (BINARY16, "6|2|2|2|4"),
    (BINARY16, "1" + "|1" * 15),
    (BINARY16, "8|5|3+skip"),
    (BFLOAT16, "12|4"),
]
ALL_CODES = np.arange(1 << 16, dtype=np.uint16)


@pytest.mark.parametrize(("fmt", "text"), LAYOUTS)
def test_every_code_survives(fmt, text):
    layout = parse_layout(text, fmt)
    codes = np.random.default_rng(1).permutation(ALL_CODES).reshape(-1, 32)[:1999]
    np.testing.assert_array_equal(join_keys(split_keys(codes, layout), layout, len(codes)), codes)
    np.testing.assert_array_equal(join_values(split_values(codes, layout), layout, 32), codes)


def test_packing_of_four_bit_planes():
    """Two codes to a byte, the earlier in the low nibble: along tokens for keys, along head_dim for values."""
    layout = default_layout(BINARY16)
    codes = np.array([[0x1234, 0x5678], [0x9ABC, 0xDEF0]], np.uint16)
    high, middle, low = split_keys(codes, layout)
    assert high.shape == (1, 2, 64)
    assert middle.shape == low.shape == (1, 2, 32)
    assert high[0, 0, :3].tolist() == [0x12, 0x9A, 0]
    assert middle[0, :, 0].tolist() == [0xB3, 0xF7]
    assert low[0, :, 0].tolist() == [0xC4, 0x08]
    assert [plane.tolist() for plane in split_values(codes, layout)] == [
        [[0x12, 0x56], [0x9A, 0xDE]],
        [[0x73], [0xFB]],
        [[0x84], [0x0C]],
    ]


def real(code, fmt):
    m = fmt.trailing_significand_bits
    field, trailing = code >> m & (1 << fmt.exponent_bits) - 1, code & (1 << m) - 1
    exponent = max(field, 1) - fmt.bias
    magnitude = Fraction(trailing + (1 << m) * (field > 0)) * Fraction(2) ** (exponent - m)
    return (-magnitude if code >> m + fmt.exponent_bits else magnitude), exponent


@pytest.mark.parametrize(("fmt", "text"), LAYOUTS)
def test_truncated_reads_keep_their_bound(fmt, text):
    """All finite codes of every sign and exponent, a stride of the significands."""
    layout = parse_layout(text, fmt)
    for level in range(layout.first_read, len(layout.levels)):
        kept = layout.kept_trailing_bits(level)
        assert kept == layout.levels[level] - 1 - fmt.exponent_bits
        reads = truncate(ALL_CODES, layout, level)
        assert reads[0] == (0 if layout.levels[level] == 16 else 1 << 15 - layout.levels[level])
        for code in range(0, 1 << 16, 37):
            if code >> fmt.trailing_significand_bits & (1 << fmt.exponent_bits) - 1 == (1 << fmt.exponent_bits) - 1:
                continue
            (x, exponent), (read, _) = real(code, fmt), real(int(reads[code]), fmt)
            bound = 0 if layout.levels[level] == 16 else Fraction(2) ** (exponent - kept - 1)
            assert abs(x - read) <= bound


def test_levels():
    assert default_layout(BINARY16).levels == (8, 12, 16)
    assert default_layout(BINARY16, skip=True).levels == (0, 8, 12, 16)
    assert default_layout(BFLOAT16).levels == (12, 16)
    assert parse_layout("1" + "|1" * 15, BINARY16).levels == tuple(range(6, 17))
    assert parse_layout("8|4|4", BFLOAT16).levels == (12, 16)
    assert parse_layout("8|4|4", BFLOAT16).level_planes == (2, 3)


@pytest.mark.parametrize(
    ("text", "fmt", "error", "says"),
    [
        ("8|4", BINARY16, UsageError, "add up to the 16 bits"),
        ("8|8|0", BINARY16, UsageError, "at least 1"),
        ("eight", BINARY16, UsageError, "not a list"),
        ("16|16", BINARY32, UnavailableError, "binary32"),
    ],
)
def test_layouts_that_cannot_be(text, fmt, error, says):
    with pytest.raises(error, match=says):
        parse_layout(text, fmt)
