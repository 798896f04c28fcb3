"""Look for two computations that lie further apart than their tolerance: made-up heads, sides of every kind, results rounding by rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.bounds.search import KINDS
from precalign.decode.codes import round_to_format, to_binary32
from precalign.formats import BFLOAT16, BINARY16, Format
from precalign.tolerance.compare import attention
from precalign.tolerance.emulate import Emulation, settle
from precalign.tolerance.side import Side, parse_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Arrays = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]
ORDERS = (
    "any",
    "sequential",
    "reverse",
    "pairwise",
    "numpy",
    "lanes:8/tree",
    "lanes:32(pairwise)/tree",
    "blocked:16/pairwise",
)
CLEAN = "order=sequential,product=fma,division=exact"
GPUS = ("V100", "A100", "H100")


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes
    ----------
    cases : int
        Pairs of numbers compared: scores, probabilities, outputs.
    violations : int
        Of them, further apart than their tolerance.
    tightest_score, tightest_prob, tightest_output : float
        Smallest tolerance / difference; 1 is attained.
    endless : int
        Numbers without a finite tolerance: what may overflow.
    example : str
        The first violation.
    """

    cases: int = 0
    violations: int = 0
    tightest_score: float = float("inf")
    tightest_prob: float = float("inf")
    tightest_output: float = float("inf")
    endless: int = 0
    example: str = ""

    def __add__(self, other: Found) -> Found:
        return Found(
            self.cases + other.cases,
            self.violations + other.violations,
            min(self.tightest_score, other.tightest_score),
            min(self.tightest_prob, other.tightest_prob),
            min(self.tightest_output, other.tightest_output),
            self.endless + other.endless,
            self.example or other.example,
        )


def make_side(rng: np.random.Generator, fmt: Format) -> Side:
    """Return a side of any kind that takes the format."""
    if rng.random() < 0.1:
        return parse_side("exact")
    accumulator = str(
        rng.choice(["binary32", "binary32", "binary32", "binary64", "binary16" if fmt == BINARY16 else "bfloat16"])
    )
    unit = f"unit:{rng.choice(GPUS if fmt == BINARY16 else GPUS[1:])}:{'fp16' if fmt == BINARY16 else 'bf16'}"
    orders = [str(o) for o in rng.choice(ORDERS, 3)]
    wide = accumulator == "binary64"
    softmax = str(
        rng.choice(["two-pass", "two-pass", f"online:{rng.choice([1, 16, 64])}", f"split:{rng.choice([16, 64])}"])
    )
    exp = str(rng.choice(["correct", "exp", "exp2_fma", "ex2.approx", "ex2.approx-folded", "torch-flash"]))
    if exp == "ex2.approx-folded":  # scores are scaled within the exponent there: the emulation does not do it twice
        exp = "folded:2"
    score, output = (unit if rng.random() < 0.25 and not wide else order for order in orders[::2])
    probs = "none" if output == unit else str(rng.choice(["none", "binary16", "bfloat16"]))
    where = "after" if score == unit else str(rng.choice(["after", "after", "before", "both"]))
    return parse_side(
        f"score-order={score},sum-order={orders[1]},output-order={output},"
        f"accumulator={accumulator},product={rng.choice(['fma', accumulator])},"
        f"rounding={rng.choice(['RNE', 'RNE', 'RTZ'])},scale={where},"
        f"score-format={rng.choice(['none', 'none', 'bfloat16'])},exp={exp},"
        f"softmax={softmax},softmax-format={'binary64' if wide else 'binary32'},"
        f"prob-format={probs},division={rng.choice(['exact', 'reciprocal', 'approx'])},"
        f"output={rng.choice(['none', 'binary16', 'bfloat16', 'binary32'])}"
    )


def _rounding_up(rng: np.random.Generator, n: int, dim: int, fmt: Format) -> Arrays:
    """Products just above half an ulp of the sum: every addition rounds the same way."""
    low = 2.0**-12 if fmt == BINARY16 else 2.0 ** rng.choice([-12, -4])
    tail = 1 + 2.0**-fmt.trailing_significand_bits * rng.integers(1, 4, (n, dim))
    keys, query = np.asarray(low * tail, np.float64), np.full(dim, low)
    keys[:, 0], query[0] = 1 + rng.integers(0, 2, n) / 2, 1.0
    values = np.asarray(rng.choice([-1.0, 1.0], (n, dim)) * 2.0 ** rng.integers(-3, 3, dim), np.float64)
    return query, keys, values


def _climbing(rng: np.random.Generator, n: int, dim: int, fmt: Format) -> Arrays:
    """Scores that grow from token to token: an online softmax rescales at every block."""
    query = np.zeros(dim)
    query[0] = 1.0
    keys = _stored(rng.standard_normal((n, dim)) / 8, fmt)
    keys[:, 0] = _stored(np.sort(rng.uniform(-8, 8, n)), fmt)
    return query, keys, _stored(rng.standard_normal((n, dim)), fmt)


def _swayed(rng: np.random.Generator, n: int, dim: int, fmt: Format, scale: float) -> Arrays:
    """Weights just above a power of two, where an ulp is largest, on values of both signs: errors of the exponential show whole."""
    query = np.zeros(dim)
    query[0] = 1.0
    keys = np.zeros((n, dim))
    keys[1:, 0] = _stored(np.array(-0.68 / scale), fmt)
    return query, keys, np.where((np.arange(n)[:, None] + rng.integers(0, 2, dim)) % 2, 1.0, -1.0)


def _stored(x: NDArray[np.float64], fmt: Format) -> NDArray[np.float64]:
    return round_to_format(x, fmt)


def make_case(seed: int, index: int) -> tuple[str, Arrays, Format, float, tuple[Side, Side], np.random.Generator]:
    """Return one query with its tokens, and two sides; the same numbers give the same case."""
    rng = np.random.default_rng((seed, index))
    fmt = BINARY16 if rng.random() < 0.7 else BFLOAT16
    n, dim = int(rng.choice([1, 2, 5, 33, 64, 130])), int(rng.choice([1, 4, 17, 64]))
    kinds = [*KINDS, "rounding-up", "climbing", "swayed"]
    kind = kinds[int(rng.integers(0, len(kinds)))]
    scale = float(rng.choice([1.0, dim**-0.5, 0.3, 0.01]))
    if kind == "swayed":
        query, keys, values = _swayed(rng, n, dim, fmt, scale)
    elif kind == "rounding-up":
        query, keys, values = _rounding_up(rng, n, dim, fmt)
    elif kind == "climbing":
        query, keys, values = _climbing(rng, n, dim, fmt)
    else:
        k, v, q = KINDS[kind](rng, fmt, n, dim, 1)
        keys, values, query = (to_binary32(x, fmt).astype(np.float64) for x in (k, v, q[0, 0]))
    sides = make_side(rng, fmt), make_side(rng, fmt)
    if kind == "swayed" and rng.random() < 0.5:  # with nothing else that errs much
        sides = parse_side(f"{CLEAN},exp={rng.choice(['torch-flash', 'cuda-expf', 'base-2:8'])}"), parse_side("exact")
    return kind, (query, keys, values), fmt, scale, sides, rng


def judge(seed: int, index: int) -> Found:
    """Compare the two sides of one case with their tolerance."""
    kind, (query, keys, values), fmt, scale, sides, rng = make_case(seed, index)
    found = attention(query, keys, values, kernel=sides[0], reference=sides[1], scale=scale, storage=fmt)
    results = []
    for sign, side in zip((1, -1), sides, strict=True):
        if side.exact:
            parts = (found.scores, found.probs, found.outputs)
            results.append(tuple(part.centre[0] for part in parts))
            continue
        aligned = np.sign(values[:, 0]) * sign
        push = (
            aligned
            if kind == "swayed"
            else rng.choice([aligned, rng.choice([-1.0, 1.0], len(keys)), np.zeros(len(keys))])
        )
        results.append(tuple(Emulation(settle(side, rng), push).run(query, keys, values, scale)))
    judged = Found()
    tightest = []
    for tolerance, one, other in zip((found.scores, found.probs, found.outputs), *results, strict=True):
        bound, apart = tolerance.absolute[0], np.abs(one - other)
        finite = np.isfinite(bound)
        bad = int((~(apart[finite] <= bound[finite])).sum())
        ratio = bound[finite & (apart > 0)] / apart[finite & (apart > 0)]
        tightest.append(float(ratio.min()) if len(ratio) else float("inf"))
        example = f"{kind}, seed {seed}, case {index}, kernel {sides[0]}, reference {sides[1]}" if bad else ""
        judged += Found(int(finite.sum()), bad, endless=int((~finite).sum()), example=example)
    return judged + Found(tightest_score=tightest[0], tightest_prob=tightest[1], tightest_output=tightest[2])


def search(cases: int, seed: int) -> Iterator[Found]:
    """Yield what was found so far, query by query, until at least `cases` pairs of numbers are compared."""
    found, index = Found(), 0
    with np.errstate(all="ignore"):
        while found.cases < cases:
            found += judge(seed, index)
            index += 1
            yield found
