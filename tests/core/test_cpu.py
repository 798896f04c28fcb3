"""Decode attention on the CPU: every buffer equal to the emulator's, and seeded defects caught."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cpu_oracle import differences

from precalign.cpu import CpuPlaneCache, FullReadCache
from precalign.cpu.records import ALIGNED_SKIP, HeadRules
from precalign.cpu.rows import row_order
from precalign.errors import InputError, UnavailableError, UsageError
from precalign.formats import BFLOAT16, BINARY16, BINARY32
from precalign.gpu.validate.data import KINDS
from precalign.layouts import Layout
from precalign.policy import Policy
from precalign.rules import get_rule

SHAPES = [
    # head_dim, group, split_tokens, tokens of each append by sequence: empty and one-token sequences, page and split ends
    (64, 2, 64, ((70, 0, 1, 200), (3, 1, 0, 2))),
    (96, 3, 128, ((255, 2), (3, 62))),
    (128, 4, 256, ((321,), (0,))),
    (32, 1, 192, ((1,), (63,), (1,))),
    (128, 1, 64, ((700, 64), (1, 0))),
    (256, 8, 256, ((130, 7, 19), (1, 1, 1))),
]
RULES = (
    "full",
    "alignedkv:guard_bits=1",
    "aligned-max",
    "aligned-skip:threshold=13",
    "online",
    "online:two_pass=1",
    "static:key_bits=12,value_bits=16",
    ("alignedkv", "aligned-skip:guard_bits=2"),
)
MATRIX = list(itertools.product(SHAPES, KINDS, RULES))


class Run:
    """A cache that is filled append by append, with the codes it was given."""

    def __init__(self, cls, fmt, number, shape, kind, rule=None, **more):
        head_dim, group, split, self.appends = shape
        rng = np.random.default_rng(number)
        lengths = tuple(sum(column) for column in zip(*self.appends, strict=True))
        self.keys, self.values, self.queries = KINDS[kind](rng, lengths, 2, head_dim, group, fmt)
        pages = (-(-max(lengths) // 64) + 1) * len(lengths)
        given = [] if rule is None else [list(rule) if isinstance(rule, tuple) else rule]
        sizes = {
            "head_dim": head_dim, "group": group, "n_kv_heads": 2, "batch_size": len(lengths), "fmt": fmt,
            "max_tokens": pages // len(lengths) * 64, "split_tokens": split, "threads": 1 + number % 3,
            "page_order": rng.permutation(pages), "keep_scores": True,
        }  # fmt: skip
        self.cache = cls(*given, **(sizes | more))
        self.held = np.zeros(len(lengths), int)

    def steps(self):
        """Append and attend; yield what differs from the emulator after each step."""
        for added in self.appends:
            spans = [slice(begin, begin + n) for begin, n in zip(self.held, added, strict=True)]
            new = (
                np.concatenate([k[s] for k, s in zip(side, spans, strict=True)]) for side in (self.keys, self.values)
            )
            self.cache.append(*new, added)
            self.held += added
            self.cache.attend(self.queries)
            seen = [[k[:n] for k, n in zip(side, self.held, strict=True)] for side in (self.keys, self.values)]
            yield differences(self.cache, *seen, self.queries)


def check_matrix(fmt, numbers):
    for number in numbers:
        shape, kind, rule = MATRIX[number]
        for wrong in Run(CpuPlaneCache, fmt, number, shape, kind, rule).steps():
            assert not wrong, (fmt.name, shape, kind, rule)
    return len(numbers)


@pytest.mark.parametrize("fmt", [BINARY16, BFLOAT16], ids=lambda f: f.name)
def test_every_buffer_equals_the_emulators(fmt):
    """A part of the matrix in which every shape, kind of data and rule occurs: 13 has no factor in common with their numbers."""
    numbers = range(3 if fmt is BINARY16 else 7, len(MATRIX), 13)
    parts = [{MATRIX[n][axis] for n in numbers} for axis in range(3)]
    assert [len(part) for part in parts] == [len(SHAPES), len(KINDS), len(RULES)]
    check_matrix(fmt, numbers)


@pytest.mark.long
@pytest.mark.parametrize("fmt", [BINARY16, BFLOAT16], ids=lambda f: f.name)
def test_every_buffer_equals_the_emulators_on_the_whole_matrix(fmt, proof):
    proof(f"CPU attention over {fmt.name} planes equal to the emulator", check_matrix(fmt, range(len(MATRIX))), 0)


def test_the_twin_equals_the_emulators_full_read():
    for number, (shape, kind) in enumerate(zip(SHAPES, KINDS, strict=False)):
        run = Run(FullReadCache, BINARY16, number, shape, kind)
        for wrong in run.steps():
            # Keys and values lie whole: their codes are compared, not planes.
            assert wrong <= {"key_first", "value_first"}
        pages = run.cache.buffer("block_table")[0]
        stored = run.cache.buffer("value_first")[pages, 1].reshape(-1, shape[0])[: run.held[0]]
        assert np.array_equal(stored, run.values[0][: run.held[0], 1])


def seeded(cache, name, **changes):
    held = getattr(cache, name)
    setattr(cache, name, held._replace(**changes))


def swap(array, a, b):
    array[[a, b]] = array[[b, a]]


DEFECTS = {
    "a byte of a key plane": (lambda c: np.bitwise_xor(c._store.key_first, 1, out=c._store.key_first), "key_first"),
    "a nibble of a value plane": (
        lambda c: np.bitwise_xor(c._store.value_second, 0x10, out=c._store.value_second), "value_second"
    ),
    "the last plane of keys dropped": (lambda c: seeded(c, "_store", key_third=c._store.key_second), "key_third"),
    "planes of values exchanged": (
        lambda c: seeded(c, "_store", value_second=c._store.value_third, value_third=c._store.value_second), "value_second"
    ),
    "a maximum too small": (lambda c: np.subtract(c._store.key_maxima, 1, out=c._store.key_maxima), "key_maxima"),
    "the maxima of tokens too large": (
        lambda c: np.add(c._store.token_maxima, 9, out=c._store.token_maxima), "token_maxima"
    ),
    "two channels exchanged": (lambda c: swap(c._plan.channels, 0, 1), "outputs"),
    "the scale": (lambda c: seeded(c, "_shape", scale=np.nextafter(c._shape.scale, np.float32(1))), "scores"),
    "a guard bit": (
        lambda c: setattr(c, "_head_rules", HeadRules(c._head_rules[0], c._head_rules[1] + 1, *c._head_rules[2:])), "key_bits"
    ),
    "another threshold": (
        lambda c: setattr(c, "_head_rules", c._head_rules._replace(skip_diff=c._head_rules.skip_diff - 6)), "value_bits"
    ),
    "one token less": (lambda c: np.subtract(c._store.lengths, 1, out=c._store.lengths), "probs"),
    "pages exchanged": (lambda c: swap(c._store.block_table[0], 0, 2), "scores"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_seeded_defect_is_caught(name):
    """A change to what the kernels are given, as a mistake in them would make, shows in the buffer named."""
    run = Run(CpuPlaneCache, BINARY16, 3, (64, 2, 64, ((330,),)), "spread", "aligned-skip:threshold=12")
    assert list(run.steps()) == [set()]
    assert run.cache._head_rules.kind[0] == ALIGNED_SKIP
    defect, buffer = DEFECTS[name]
    table = run.cache.buffer("block_table").copy()
    defect(run.cache)
    run.cache.attend(run.queries)
    run.cache.buffer("block_table")[:] = table  # where to look for planes stays known
    assert buffer in differences(run.cache, run.keys, run.values, run.queries)


def test_the_number_of_threads_and_the_order_of_pages_change_nothing():
    results = []
    for threads, order in ((1, None), (2, None), (5, np.arange(22)[::-1])):
        run = Run(
            CpuPlaneCache,
            BINARY16,
            1,
            (64, 2, 64, ((600, 300),)),
            "spread",
            "alignedkv",
            threads=threads,
            page_order=order,
        )
        assert list(run.steps()) == [set()]
        results.append(run.cache.attend(run.queries).copy())
    assert all(np.array_equal(results[0].view(np.uint32), other.view(np.uint32)) for other in results[1:])


def test_helpers_that_never_come_are_not_missed(monkeypatch):
    """A pool whose threads are all busy elsewhere: the caller does everything itself."""

    class Busy:
        def submit(self, *_):
            return self

        def cancel(self):
            return True

    monkeypatch.setattr("precalign.cpu.plane_cache._helpers", lambda _: Busy())
    run = Run(CpuPlaneCache, BINARY16, 2, (64, 2, 64, ((200, 3),)), "normal", "aligned-max", threads=8)
    assert list(run.steps()) == [set()]


def test_following_shares_tokens_and_keeps_results_apart():
    run = Run(CpuPlaneCache, BINARY16, 2, (64, 2, 64, ((200, 3),)), "normal", "full")
    assert list(run.steps()) == [set()]
    other = run.cache.following("static:key_bits=8,value_bits=8")
    full = run.cache.attend(run.queries).copy()
    other.attend(run.queries)
    assert not differences(other, run.keys, run.values, run.queries)
    assert np.array_equal(run.cache.buffer("outputs").reshape(full.shape), full)
    with pytest.raises(UsageError, match="shares another's tokens"):
        other.append(run.keys[0][:1], run.values[0][:1], [1, 0])


def test_a_policy_gives_each_head_its_rule():
    rules = {(0, 0): get_rule("static:key_bits=8,value_bits=12"), (0, 1): get_rule("online")}
    policy = Policy(Layout("8|4|4", BINARY16, (8, 4, 4)), 64, rules)
    given = tuple(policy.rule(0, kv_head) for kv_head in range(2))
    run = Run(CpuPlaneCache, BINARY16, 4, (64, 2, 64, ((150,),)), "spread", given)
    assert list(run.steps()) == [set()]
    assert run.cache.rules == given


def test_statistics_count_what_was_read():
    run = Run(CpuPlaneCache, BINARY16, 5, (64, 2, 64, ((100, 20),)), "spread", "static:key_bits=8,value_bits=12")
    assert list(run.steps()) == [set()]
    assert run.cache.statistics() == {
        "key_bits_per_number": 8.0,
        "value_bits_per_number": 12.0,
        "bytes": 120 * 2 * 64 * 20 / 8,
        "full_bytes": 120 * 2 * 64 * 4,
    }


@pytest.mark.parametrize(
    ("n_codes", "bfloat", "plain"), list(itertools.product((32, 64), (False, True), (False, True)))
)
def test_a_row_comes_apart_into_every_code_once(n_codes, bfloat, plain):
    order = row_order(n_codes, bfloat=bfloat, plain=plain)
    assert sorted(code for vector in order for code in vector) == list(range(n_codes))


SIZES = {"head_dim": 64, "n_kv_heads": 2, "max_tokens": 64}


@pytest.mark.parametrize(
    ("rule", "changes", "error", "message"),
    [
        ("full", {"head_dim": 80}, UnavailableError, "no CPU kernel for head_dim 80"),
        ("full", {"fmt": BINARY32}, UnavailableError, "do not read binary32"),
        ("full", {"split_tokens": 100}, UsageError, "multiple of 64"),
        ("full", {"threads": 0}, UsageError, "threads must be at least 1"),
        ("full", {"page_order": [1]}, UsageError, "permutation of the 1 pages"),
        ("static:key_bits=8", {"fmt": BFLOAT16}, UsageError, "no level of key_bits=8"),
        (["full"], {}, UsageError, "one for each of 2 kv heads, got 1"),
        ("nearest", {}, UsageError, "unknown rule"),
    ],
)
def test_what_cannot_be_meant_is_refused(rule, changes, error, message):
    with pytest.raises(error, match=message):
        CpuPlaneCache(rule, **(SIZES | changes))


def test_wrong_arrays_are_refused_and_change_nothing():
    cache = CpuPlaneCache("full", **SIZES)
    codes = np.zeros((3, 2, 64), np.uint16)
    for arguments, message in [
        ((codes, codes[:2], [3]), "values: expected shape"),
        ((codes.astype(np.float32), codes, [3]), "expected binary16"),
        ((codes, codes, [3, 0]), "counts must be"),
        ((np.zeros((65, 2, 64), np.uint16),) * 2 + ([65],), "this cache holds 64 tokens"),
    ]:
        with pytest.raises(InputError, match=message):
            cache.append(*arguments)
    assert cache.lengths.tolist() == [0]
    with pytest.raises(UsageError, match="keep_scores=True"):
        cache.buffer("scores")
