"""8-bit caches and rebased exponents against exact rationals and the slow step: every code at every level, planes, traffic, bounds."""

from fractions import Fraction

import numpy as np
import pytest
from slow_decode import Rebased, exponent_of, read_value, rebased_keys, rebased_values, value_of
from test_profile import compare, random_codes

from precalign.beside import Beside
from precalign.bounds.scores import half_widths
from precalign.decode.codes import BYTE_FORMATS, all_finite, count_nonfinite, exponents, round_to_format, to_binary32
from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16, BINARY32, E4M3FN, E5M2, get_format
from precalign.formats.codes import Kind, decode, kinds
from precalign.inputs import HeadInputs
from precalign.layouts import default_layout, parse_layout
from precalign.planes import join_keys, join_values, split_keys, split_values
from precalign.profile import profile_head
from precalign.rebase import (
    escaped_keys,
    escaped_values,
    key_references,
    read_binary32,
    rebase_keys,
    rebase_values,
    restore,
    value_references,
)
from precalign.rules import get_rule

PLAIN = [("e4m3fn", text) for text in ("5|3", "5|1|1|1+skip", "4|4", "8", "1|1|1|1|1|1|1|1")] + [
    ("e5m2", text) for text in ("6|2", "6|1|1+skip", "4|4+skip")
]
PLAIN += [("e4m3fnuz", "5|3"), ("e5m2fnuz", "6|2")]
REBASED = [
    ("bfloat16", "rebased:8|5"),
    ("bfloat16", "rebased:4|2|2|2+skip"),
    ("bfloat16", "rebased:13"),
    ("e4m3fn", "rebased:4|3"),
    ("e5m2", "rebased:4|1|1"),
    ("binary16", "rebased:8|4|2"),
]


def finite_codes(fmt):
    codes = np.arange(1 << fmt.total_bits, dtype=fmt.code_dtype)
    return codes[kinds(codes, fmt) < Kind.INFINITY]


@pytest.mark.parametrize("fmt", BYTE_FORMATS, ids=lambda f: f.name)
def test_what_every_8_bit_code_means(fmt):
    codes = finite_codes(fmt)
    np.testing.assert_array_equal(to_binary32(codes, fmt), decode(codes, fmt))
    assert exponents(codes, fmt).tolist() == [exponent_of(int(c), fmt.name) for c in codes]
    everything = np.arange(256, dtype=np.uint8)
    assert all_finite(codes, fmt)
    assert not all_finite(everything, fmt)
    assert count_nonfinite(everything, fmt) == 256 - len(codes)
    assert len(codes) == {"e4m3fn": 254, "e5m2": 248}.get(fmt.name, 255)


@pytest.mark.parametrize(("name", "text"), PLAIN)
def test_every_8_bit_code_at_every_level(name, text):
    """Against the midpoint and the bound, as rationals; the bound is attained."""
    fmt = get_format(name)
    layout, codes = parse_layout(text, fmt), finite_codes(fmt)
    h = half_widths(layout)
    for level in range(layout.first_read, len(layout.levels)):
        read = read_binary32(codes, layout, level)
        worst = Fraction(0)
        for code, got in zip(codes.tolist(), read.tolist(), strict=True):
            assert got == read_value(code, layout.levels[level], name)
            error = abs(Fraction(got) - Fraction(value_of(code, name)))
            worst = max(worst, error / Fraction(2) ** exponent_of(code, name))
        assert worst == Fraction(h[level])


def test_the_largest_e4m3_number_may_read_as_more():
    """Of 448, code 0b0_1111_110, all but the last bit: the midpoint ends on the code of NaN, and is meant as 480."""
    layout = parse_layout("7|1", E4M3FN)
    assert read_binary32(np.array([0b0_1111_110], np.uint8), layout, 0).tolist() == [480]


def check_rebased(codes, fmt, text, side):
    """Planes and back to the same codes; every number at every level against rationals; escapes as defined."""
    layout = parse_layout(text, fmt)
    keys = side == "keys"
    rebase, split, join = (rebase_keys, split_keys, join_keys) if keys else (rebase_values, split_values, join_values)
    stored = rebase(codes, layout)
    assert int(stored.codes.max()) < 1 << layout.total_bits
    back = join(split(stored.codes, layout), layout, len(codes) if keys else codes.shape[1])
    np.testing.assert_array_equal(back, stored.codes)
    np.testing.assert_array_equal(restore(stored, layout), codes)
    slow = (rebased_keys if keys else rebased_values)(codes.tolist(), fmt.name, layout.total_bits)
    np.testing.assert_array_equal(stored.escaped, [[code.escaped for code in row] for row in slow])
    np.testing.assert_array_equal((escaped_keys if keys else escaped_values)(codes, layout), stored.escaped)
    for level in range(layout.first_read, len(layout.levels)):
        read, h = read_binary32(codes, layout, level, stored.escaped), Fraction(half_widths(layout)[level])
        for row, got_row in zip(slow, read.tolist(), strict=True):
            for code, got in zip(row, got_row, strict=True):
                assert got == read_value(code, layout.levels[level], fmt.name)
                assert abs(Fraction(got) - Fraction(value_of(code, fmt.name))) <= h * Fraction(2) ** exponent_of(
                    code, fmt.name
                )
    return int(codes.size * len(layout.levels))


def spread(codes, seed, head_dim=16):
    """Rows that mix codes of all sizes, so that much escapes, and rows of neighbours, where little does."""
    mixed = np.random.default_rng(seed).permutation(codes)
    rows = np.concatenate([mixed, np.sort(codes)])
    return rows[: len(rows) // head_dim * head_dim].reshape(-1, head_dim)


@pytest.mark.parametrize("side", ["keys", "values"])
@pytest.mark.parametrize(("name", "text"), REBASED)
def test_rebased_codes(name, text, side):
    fmt = get_format(name)
    codes = finite_codes(fmt)
    check_rebased(spread(codes[:: max(1, len(codes) // 512)], 3), fmt, text, side)


@pytest.mark.long
@pytest.mark.parametrize("side", ["keys", "values"])
@pytest.mark.parametrize(("name", "text"), REBASED)
def test_every_rebased_code(name, text, side, proof):
    fmt = get_format(name)
    checked = check_rebased(spread(finite_codes(fmt), 4), fmt, text, side)
    proof(f"{name} in planes {text}, {side}: every finite code at every level, against rationals", checked, 0)


@pytest.mark.parametrize("fmt", BYTE_FORMATS, ids=lambda f: f.name)
def test_every_pair_of_8_bit_code_and_maximum(fmt):
    """A value beside every possible maximum of its token: escaped exactly where the planes have no binade for it."""
    codes = finite_codes(fmt)
    pairs = np.stack(np.broadcast_arrays(codes[:, None], codes), axis=-1).reshape(-1, 2)
    layout = parse_layout("rebased:4|" + str(fmt.trailing_significand_bits), fmt)
    stored = rebase_values(pairs, layout)
    np.testing.assert_array_equal(restore(stored, layout), pairs)
    size = np.abs(to_binary32(pairs, fmt).astype(np.float64))
    top = value_references(pairs, fmt)[:, None].astype(float)
    np.testing.assert_array_equal(stored.escaped, (size > 0) & (size < 2.0 ** (top - 6)))


def test_thirty_one_binades_are_held_and_the_rest_escapes():
    """bfloat16 in 13 bits: 2^0 down to 2^-30 beside a maximum of 1; 2^-31 and below escape, zeros do not."""
    values = np.array([[1.0, *(2.0**-n * 1.9921875 for n in range(1, 40)), 0.0, -0.0]], np.float32)
    codes = (values.view(np.uint32) >> 16).astype(np.uint16)
    escaped = escaped_values(codes, parse_layout("rebased:8|5", BFLOAT16))
    assert escaped[0].tolist() == [False] * 31 + [True] * 9 + [False] * 2


def test_references_of_pages_and_tokens():
    keys = np.zeros((130, 2), np.float32)
    keys[3, 0], keys[64, 0], keys[129, 1] = 8, -0.5, 3
    codes = (keys.view(np.uint32) >> 16).astype(np.uint16)
    assert key_references(codes, BFLOAT16).tolist() == [[3, -126], [-1, -126], [-126, 1]]
    found = value_references(codes, BFLOAT16)
    assert [int(found[t]) for t in (0, 3, 64, 129)] == [-126, 3, -1, 1]


def test_levels_of_new_layouts():
    assert parse_layout("rebased:8|5", BFLOAT16).levels == (8, 13)
    assert parse_layout("rebased:8,5+skip", BFLOAT16).levels == (0, 8, 13)
    assert parse_layout("rebased:8|5", BFLOAT16).name == "rebased:8|5"
    assert parse_layout("rebased:8|5", BFLOAT16).exponent_bits == 5
    assert parse_layout("4|4", E4M3FN).levels == (8,)
    assert parse_layout("4|4+skip", E5M2).levels == (0, 8)
    assert default_layout(E4M3FN).levels == (5, 8)
    assert default_layout(E5M2, skip=True).levels == (0, 6, 8)
    assert parse_layout("rebased:4|3", E4M3FN).levels == (4, 7)


@pytest.mark.parametrize(
    ("text", "fmt", "says"),
    [
        ("rebased:8|8", BFLOAT16, "2 to 7 exponent bits"),
        ("rebased:8|1", BFLOAT16, "10 to 15 bits"),
        ("rebased:4|4", E4M3FN, "6 to 7 bits"),
        ("rebased:", BFLOAT16, "not a list"),
        ("5|4", E4M3FN, "the 8 bits of e4m3fn"),
    ],
)
def test_new_layouts_that_cannot_be(text, fmt, says):
    with pytest.raises(UsageError, match=says):
        parse_layout(text, fmt)


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2"])
def test_rounding_to_8_bits(name):
    """Every midpoint of neighbours and its neighbours in binary64: to nearest, ties to even; beyond the largest, infinity."""
    fmt = get_format(name)
    values = np.sort(decode(finite_codes(fmt), fmt))
    values = values[values >= 0]
    middle = (values[1:] + values[:-1]) / 2
    low, high = np.nextafter(middle, 0), np.nextafter(middle, np.inf)
    np.testing.assert_array_equal(round_to_format(low, fmt)[1:], values[1:-1])
    np.testing.assert_array_equal(round_to_format(high, fmt)[1:], values[2:])
    even = round_to_format(middle, fmt)
    assert set(even[1:].tolist()) <= set(values.tolist())
    assert np.isinf(round_to_format(np.array([fmt.largest * 1.2]), fmt)[0])


def byte_codes(x, fmt):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = getattr(ml_dtypes, f"float8_{fmt.name}")
    return np.clip(x, -fmt.largest, fmt.largest).astype(np.float32).astype(dtype).view(np.uint8)


def byte_head(seed, seq_len, head_dim, group, fmt, query_fmt):
    rng = np.random.default_rng(seed)
    keys, values = (rng.standard_normal((seq_len, head_dim)) * 2.0 ** rng.uniform(-3, 3, head_dim) for _ in range(2))
    keys[rng.random(keys.shape) < 0.05] = 0
    values[rng.random(keys.shape) < 0.1] *= 2.0**-7
    if query_fmt in BYTE_FORMATS:
        queries = byte_codes(rng.standard_normal((group, seq_len, head_dim)), query_fmt)
    else:
        queries = random_codes(rng, (group, seq_len, head_dim), query_fmt)
    return HeadInputs(byte_codes(keys, fmt), byte_codes(values, fmt), queries, fmt, head_dim**-0.5, "fp8", query_fmt)


@pytest.mark.parametrize(
    ("fmt", "query_fmt", "layout", "rule", "shape"),
    [
        (E4M3FN, BFLOAT16, "5|3", "alignedkv", (90, 16, 2)),
        (E4M3FN, BINARY16, "5|1|2+skip", "aligned-skip:threshold=5", (70, 24, 1)),
        (E4M3FN, E4M3FN, "4|4", "online", (67, 8, 2)),
        (E4M3FN, BINARY16, "rebased:4|3", "online", (130, 16, 2)),
        (E5M2, BINARY16, "6|2", "aligned-max:guard_bits=1", (80, 17, 3)),
        (E5M2, BFLOAT16, "rebased:5|1+skip", "aligned-skip:threshold=4", (66, 12, 1)),
        (E5M2, BINARY16, "6|1|1", "static:key_bits=6,value_bits=7", (66, 12, 1)),
    ],
)
def test_steps_over_8_bit_caches(fmt, query_fmt, layout, rule, shape):
    seq_len, head_dim, group = shape
    inputs = byte_head(seq_len, seq_len, head_dim, group, fmt, query_fmt)
    compare(inputs, [0, seq_len - 1, 7], [0, 0, 20], [1, seq_len, 66], rule, layout, split=64)


@pytest.mark.parametrize("rule", ["alignedkv", "aligned-skip:threshold=6", "online", "full"])
def test_steps_over_rebased_caches(rule):
    """Zeros, subnormals and numbers below the window in every page; a step may begin and end inside a page."""
    rng = np.random.default_rng(11)
    seq_len, head_dim = 150, 12
    keys, values = (random_codes(rng, (seq_len, head_dim), BFLOAT16) for _ in range(2))
    for codes in (keys, values):
        far = rng.random(codes.shape) < 0.08
        codes[far] = (codes[far] & 0x807F) | (rng.integers(0, 90, int(far.sum())) << 7).astype(np.uint16)
    inputs = HeadInputs(keys, values, random_codes(rng, (2, seq_len, head_dim), BFLOAT16), BFLOAT16, 0.3)
    layout = parse_layout("rebased:8|5+skip", BFLOAT16)
    assert escaped_keys(keys, layout).sum() > 30
    compare(inputs, [0, 149, 70], [0, 0, 37], [1, 150, 71], rule, "rebased:8|5+skip", split=64)


def test_full_reads_of_rebased_caches_are_exact():
    """The same bits as the plain layout gives, whatever escapes."""
    rng = np.random.default_rng(5)
    codes = [rng.integers(0, 1 << 16, (n, 8)).astype(np.uint16) & np.uint16(0xBFFF) for n in (100, 100, 100)]
    inputs = HeadInputs(codes[0], codes[1], codes[2][None] & np.uint16(0x3FFF), BFLOAT16, 1.0)
    steps = {"steps": np.array([0, 99]), "visible": np.array([60, 100]), "rules": [get_rule("full")]}
    plain, rebased = (
        profile_head(inputs, layout=parse_layout(text, BFLOAT16), **steps)[0] for text in ("12|4", "rebased:8|5")
    )
    for name in ("score_error_max_vs_exact", "output_error_vs_exact", "full_read_error_vs_exact"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(rebased, name))
    assert (rebased.traffic.metadata.bytes > 0).all()


def test_blocks_of_a_rebased_cache_do_not_depend_on_each_other():
    """A block that ends inside a page knows the whole page's references: results do not depend on how steps are cut."""
    rng = np.random.default_rng(8)
    keys = random_codes(rng, (128, 8), BFLOAT16)
    keys[127] = 0x7000  # a late maximum that lets the whole last page escape
    inputs = HeadInputs(keys, keys.copy(), random_codes(rng, (1, 128, 8), BFLOAT16), BFLOAT16, 1e-30)
    layout, rules = parse_layout("rebased:8|5", BFLOAT16), [get_rule("alignedkv")]
    arguments = {"steps": np.array([70, 127]), "visible": np.array([71, 128]), "rules": rules, "layout": layout}
    (whole,) = profile_head(inputs, **arguments)
    (parts,) = profile_head(inputs, memory_limit_bytes=1, **arguments)
    for name, array in whole.traffic.columns().items():
        np.testing.assert_array_equal(array, parts.traffic.columns()[name], err_msg=name)
    np.testing.assert_array_equal(whole.score_error_max_vs_exact, parts.score_error_max_vs_exact)


def test_places_that_do_not_fit_are_refused():
    none = np.zeros((2, 1025), bool)
    with pytest.raises(InputError, match="head_dim up to 1024, not 1025"):
        Beside.of(none, none)


def test_queries_have_their_own_format():
    inputs = byte_head(1, 4, 8, 1, E4M3FN, BFLOAT16)
    assert inputs.query_exponents.dtype == inputs.key_exponents.dtype == np.int16
    with pytest.raises(InputError, match="queries: expected uint8"):
        HeadInputs(inputs.keys, inputs.values, inputs.queries, E4M3FN, 1.0)
    with pytest.raises(InputError, match="keys: holds infinities or NaNs"):
        HeadInputs(inputs.keys | 0x7F, inputs.values, inputs.queries, E4M3FN, 1.0, "head", BFLOAT16)


def test_escaped_codes_stand_in_for_themselves():
    code = Rebased.of(0x0080, "bfloat16", 0, 13)
    assert code.escaped
    assert read_value(code, 8, "bfloat16") == value_of(0x0080, "bfloat16")


def test_formats_without_layouts_are_listed():
    from precalign.errors import UnavailableError

    with pytest.raises(UnavailableError, match="binary32") as found:
        parse_layout("16|16", BINARY32)
    assert "e4m3fn" in found.value.hint
