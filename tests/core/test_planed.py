"""Codes of codecs in planes: what a level gives, what a rule decides and what that moves, each against plain integers and loops."""

from fractions import Fraction
from math import floor, frexp, inf, log2

import numpy as np
import pytest

from precalign.codecs import CacheShape, CodedCache, get_codec
from precalign.codecs.planed import INT8, planed_heads, signed_magnitudes
from precalign.codecs.planed_attention import planed_steps
from precalign.decode.codes import exponents
from precalign.errors import UsageError
from precalign.formats import BFLOAT16, BINARY16
from precalign.formats.codes import exponents as exponents_of
from precalign.formats.codes import value_table
from precalign.inputs import Steps
from precalign.layouts import parse_layout
from precalign.rules import get_rule

INTEGERS = ("q8_0", "int8-token")
FLOATS = ("fp8", "fp8:scale=0,per=head", "fp8:format=e5m2", "fp8-token", "mxfp8", "mxfp4", "nvfp4")
LAYOUTS = {"e2m1": ("3|1", "4+skip"), "int8": ("4|4", "4|2|2", "2|1|1|1|1|1|1+skip"), "": ("6|2", "6|1|1", "8")}
HEADS, DIM = 2, 64


def numbers(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, HEADS, DIM)) * 2.0 ** rng.uniform(-4, 4, (1, HEADS, DIM))
    x[:, 1, 7] = 0
    return x.astype(np.float16).astype(np.float32)


def heads_of(name, x, side, widths, fmt=BINARY16):
    codec = get_codec(name)
    return planed_heads(codec, x, CacheShape(HEADS, DIM, side, fmt), parse_layout(widths, codec.element))


def test_integers_are_floats_of_one_exponent_bit():
    every = np.arange(-127, 128)
    codes = signed_magnitudes(every.astype(np.int8).view(np.uint8))
    assert (value_table(INT8)[codes] == every).all()
    assert (exponents(codes, INT8) == 6).all()
    assert len(set(codes.tolist())) == len(every)


@pytest.mark.parametrize("side", ["keys", "values"])
@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS])
def test_all_planes_give_what_the_codec_decodes(name, side):
    for n in (1, 63, 64, 130):
        x, codec = numbers(n), get_codec(name)
        cache = CodedCache(codec, CacheShape(HEADS, DIM, side))
        cache.append(x)
        for widths in LAYOUTS.get(codec.element.name, LAYOUTS[""]):
            heads = heads_of(name, x, side, widths)
            for i, head in enumerate(heads):
                whole = head.numbers(len(head.layout.levels) - 1)
                assert np.array_equal(whole, cache.decode()[:, i])
            rows = -(-n // 64) * 64 if side == "keys" else n
            of_codes = HEADS * rows * DIM * codec.element.total_bits // 8
            beside = len(cache.to_bytes()) - heads[0].header.size - HEADS * n * DIM * codec.element.total_bits // 8
            assert sum(head.nbytes for head in heads) == of_codes + beside


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_read_in_part_lie_in_the_middle_of_what_they_may_be(name):
    x = numbers(100, 3)
    for widths in LAYOUTS["int8"]:
        for head in heads_of(name, x, "keys", widths):
            exact = np.rint(head.numbers(len(head.layout.levels) - 1) / np.where(head.scales > 0, head.scales, 1))
            for level, bits in enumerate(head.layout.levels):
                if bits in (0, 8):
                    continue
                dropped = 8 - bits
                got = head.numbers(level)
                for q, d, read in zip(exact.flat, head.scales.flat, got.flat, strict=True):
                    magnitude = (int(abs(q)) >> dropped << dropped) + (1 << (dropped - 1))
                    assert abs(read) == np.float32(magnitude) * d
                    assert q == 0 or d == 0 or (read < 0) == (q < 0)
                    off = abs(Fraction(float(read)) - Fraction(float(q)) * Fraction(float(d)))
                    once = Fraction(float(abs(read))) / 2**24  # the product with a binary32 scale is rounded
                    assert off <= Fraction(float(d)) * 2 ** (dropped - 1) + once


def exponent(x, emin=-14):
    return max(frexp(x)[1] - 1, emin) if x else emin


def steps_of(n, *visible):
    return Steps(np.arange(len(visible)), np.zeros(len(visible), np.int64), np.array(visible))


def slow_levels(q, head, visible, layout, guard=0):
    """The key rule as docs/definitions.md has it, with E(code) + E(scale), one channel after the other."""
    terms = []
    for row in q:
        of_row = []
        for c in range(DIM):
            tops = [
                (6 if layout.format == INT8 else exponent(float(v / s) if s else 0, layout.format.emin))
                + (floor(log2(s)) if s else -200)
                for v, s in zip(
                    head.numbers(len(layout.levels) - 1)[:visible, c].astype(float),
                    head.scales[:visible, c].astype(float),
                    strict=True,
                )
            ]
            of_row.append(exponent(row[c]) + max(tops))
        terms.append([max(of_row) - e for e in of_row])
    return [narrowest(min(t[c] for t in terms), layout, guard) for c in range(DIM)]


def narrowest(difference, layout, guard):
    for level, bits in enumerate(layout.levels):
        if bits and layout.total_bits - bits + guard <= difference:
            return level
    return len(layout.levels) - 1


@pytest.mark.parametrize(
    ("name", "widths"), [("q8_0", "4|2|2"), ("int8-token", "4|4"), ("fp8", "5|3"), ("mxfp8", "5|1|1|1")]
)
@pytest.mark.parametrize("guard", [0, -2])
def test_a_step_in_loops(name, widths, guard):
    n, visible = 150, 137
    keys, values = (heads_of(name, numbers(n, seed), s, widths)[1] for seed, s in ((1, "keys"), (2, "values")))
    layout = keys.layout
    rng = np.random.default_rng(5)
    q = (rng.standard_normal((3, 1, DIM)) * 2.0 ** rng.integers(-5, 1, DIM)).astype(np.float16).astype(np.float32)
    rule = get_rule(f"aligned-max:guard_bits={guard}")
    found = planed_steps(q, exponents_of(q, BINARY16), keys, values, rule, steps_of(n, visible), 0.125, query_bits=16)
    levels = slow_levels(q[:, 0].astype(float).tolist(), keys, visible, layout, guard)
    assert found.key_levels[0].tolist() == levels
    assert len(set(levels)) > 1
    for g in range(3):
        reads = [keys.numbers(level)[:visible, c].astype(float) for c, level in enumerate(levels)]
        scores = [0.125 * sum(float(q[g, 0, c]) * reads[c][t] for c in range(DIM)) for t in range(visible)]
        assert np.allclose(found.scores[g, 0, :visible], scores, rtol=1e-12, atol=1e-12)
        assert (found.scores[g, 0, visible:] == -inf).all()
        p = np.exp(np.array(scores) - max(scores))
        p /= p.sum()
        out = sum(p[t] * values.numbers(found.value_levels[0, t])[t].astype(float) for t in range(visible))
        assert np.allclose(found.outputs[g, 0], out, rtol=1e-11, atol=1e-13)
    assert found.moved[0] == slow_moved(keys, values, found, visible)


def slow_moved(keys, values, found, visible):
    """Distinct 32-byte sectors: every byte that is read is named."""
    sectors = set()
    row = DIM // 8
    for plane, width in enumerate(keys.layout.widths):
        for c, level in enumerate(found.key_levels[0]):
            if keys.layout.level_planes[level] > plane:
                for t in range(visible):
                    at = (t // 64 * DIM + c) * 8 * width + t % 64 * width // 8
                    sectors.add(("keys", plane, at // 32))
                    sectors.add(("keys", plane, (at + (t % 64 * width % 8 + width - 1) // 8) // 32))
        for t in range(visible):
            if values.layout.level_planes[found.value_levels[0, t]] > plane:
                sectors |= {("values", plane, (t * row * width + b) // 32) for b in range(row * width)}
    for side, head in (("keys", keys), ("values", values)):
        sectors |= {(side, "beside", b // 32) for b in range(visible * head.beside.shape[1])}
        sectors |= {(side, "once", b // 32) for b in range(head.header.size)}
    sectors |= {("key maxima", c // 32) for c in range(DIM)}
    if not values.scales_tell:
        sectors |= {("value maxima", t // 32) for t in range(visible)}
    return 32 * len(sectors)


def test_every_rule_that_goes_by_exponents_and_no_other():
    n = 130
    keys, values = (heads_of("q8_0", numbers(n, seed), s, "4|4+skip")[0] for seed, s in ((1, "keys"), (2, "values")))
    q = numbers(2, 9)[:, :1].transpose(1, 0, 2)
    steps = steps_of(n, 130, 129)

    def run(rule):
        return planed_steps(q, exponents_of(q, BINARY16), keys, values, get_rule(rule), steps, 0.125, query_bits=16)

    full = run("full")
    for rule in ("alignedkv", "aligned-max", "aligned-skip", "online", "static:key_bits=4,value_bits=8"):
        found = run(rule)
        assert found.moved.max() < full.moved.min(), rule
        assert np.abs(found.outputs - full.outputs).max() < np.abs(full.outputs).max(), rule
    more = run("aligned-max:guard_bits=2")
    assert (more.key_levels >= run("aligned-max").key_levels).all()
    for rule in ("certified", "budget"):
        with pytest.raises(UsageError, match="does not read codes of a codec"):
            run(rule)


def test_what_has_no_codes_for_planes_says_so():
    layout, x = parse_layout("4|4", INT8), numbers(3)
    for name in ("kivi:window=0", "q4_0"):
        with pytest.raises(UsageError, match="its codes cannot be kept in planes"):
            planed_heads(get_codec(name), x, CacheShape(HEADS, DIM, "keys", BFLOAT16), layout)
