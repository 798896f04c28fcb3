"""Tolerances where only the ranges of the data are known: what holds for every head within them."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import lru_cache
from math import expm1, inf, isfinite, log1p, log2, tanh
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from precalign.errors import UsageError
from precalign.formats import BINARY16, Format, get_format
from precalign.formats.codes import ulp
from precalign.matrix_units import MatrixUnit
from precalign.tolerance.allclose import MARGIN, Allowance
from precalign.tolerance.compare import check_units, formats_of
from precalign.tolerance.outputs import stored_probs
from precalign.tolerance.rounding import SAFETY, Rounding, rounding_to
from precalign.tolerance.scores import lost_before, operand_exponents, scaled
from precalign.tolerance.side import DIVISIONS, Side
from precalign.tolerance.sums import sum_of, unit_rounding
from precalign.tolerance.weights import exp_error

if TYPE_CHECKING:
    from precalign.accumulate.orders import Order


@dataclass(frozen=True)
class Ranges:
    """What is known of the data.

    Attributes
    ----------
    head_dim, seq_len : int
        seq_len is the longest.
    q, k, v : float
        Largest magnitudes.
    scale : float
    storage : Format
    """

    head_dim: int
    seq_len: int
    q: float
    k: float
    v: float
    scale: float
    storage: Format = BINARY16

    def __str__(self) -> str:
        return ",".join(
            f"{f.name}={getattr(getattr(self, f.name), 'name', getattr(self, f.name))}" for f in fields(self)
        )


def parse_ranges(text: str) -> Ranges:
    """Read `head_dim=128,seq_len=4096,q=8,k=2^4,v=4[,scale=0.088][,storage=bf16]`.

    Raises
    ------
    UsageError
        What is not understood, out of range, or missing; the message names it.
    """
    held: dict[str, str] = {}
    known = [f.name for f in fields(Ranges)]
    hint = "--spec head_dim=128,seq_len=4096,q=8,k=16,v=4; also scale=, storage=; 2^4 may be written for 16"
    for setting in text.split(","):
        key, _, value = (part.strip() for part in setting.partition("="))
        if key not in known or not value or key in held:
            raise UsageError(f"spec: cannot read {setting!r}", hint=hint)
        held[key] = value
    missing = [name for name in ("head_dim", "seq_len", "q", "k", "v") if name not in held]
    if missing:
        raise UsageError(f"spec: {', '.join(missing)} missing", hint=hint)
    head_dim, seq_len = (_number(name, held[name], whole=True) for name in ("head_dim", "seq_len"))
    q, k, v = (_number(name, held[name]) for name in ("q", "k", "v"))
    scale = _number("scale", held["scale"]) if "scale" in held else head_dim**-0.5
    storage = get_format(held.get("storage", "binary16"))
    largest = max(q, k, v)
    if largest > storage.largest:
        raise UsageError(
            f"spec: {largest:g} is beyond {storage.name}, whose largest number is {storage.largest:g}", hint=hint
        )
    return Ranges(int(head_dim), int(seq_len), q, k, v, scale, storage)


def _number(name: str, text: str, *, whole: bool = False) -> float:
    power = re.fullmatch(r"2\^(-?\d{1,3})", text)
    try:
        value = 2.0 ** int(power[1]) if power else float(text)
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and value > 0) or (whole and (value != int(value) or value > 2**24)):
        raise UsageError(f"spec: {name}={text} is no positive {'integer up to 2^24' if whole else 'number'}")
    return value


class RangeTolerance(NamedTuple):
    """What holds for every element of every head within the ranges.

    Attributes
    ----------
    absolute : float
        |kernel - reference| at most; infinite where nothing can be promised.
    ulps : float
        The same in ulp of the largest result.
    allowance : Allowance
        The part that grows with the reference as rtol, the rest as atol.
    """

    absolute: float
    ulps: float
    allowance: Allowance


class _Worst(NamedTuple):
    """Largest error of one side, and of it the part relative to the result."""

    score: float
    prob: float
    output: float
    prob_unit: float
    output_unit: float


def within(ranges: Ranges, kernel: Side, reference: Side) -> dict[str, RangeTolerance]:
    """Return the tolerances of scores, probs and outputs for all data within the ranges."""
    for side in (kernel, reference):
        check_units(side, ranges.storage)
    a, b = (_worst(side, ranges) for side in (kernel, reference))
    largest = (ranges.head_dim * ranges.q * ranges.k * ranges.scale, 1.0, ranges.v)
    found = {}
    for name, fmt, top, one, two, units in (
        ("scores", formats_of(kernel)[0], largest[0], a.score, b.score, (0.0, 0.0)),
        ("probs", formats_of(kernel)[1], largest[1], a.prob, b.prob, (a.prob_unit, b.prob_unit)),
        ("outputs", formats_of(kernel)[2], largest[2], a.output, b.output, (a.output_unit, b.output_unit)),
    ):
        # rounding the result: error <= u |x| + u 2^emin, and |x| <= |reference| + all errors
        rtol = sum(units) * (1 + SAFETY)
        atol = ((one + two) * (1 + 4 * rtol) + 2 * rtol * fmt.smallest_normal) * MARGIN
        absolute = min(atol + rtol * (top + one + two), 1.0 if name == "probs" else inf)
        found[name] = RangeTolerance(
            absolute,
            absolute / float(ulp(min(top, fmt.largest), fmt)),
            Allowance(rtol * MARGIN, atol) if isfinite(atol) else Allowance(0.0, inf),
        )
    return found


def depth(order: Order | None, n_terms: int) -> int:
    """Return how many additions the deepest of so many terms goes through, its entry included."""
    return n_terms if order is None else _depth(order, n_terms)


@lru_cache(maxsize=256)
def _depth(order: Order, n_terms: int) -> int:
    schedule = order.schedule(n_terms)
    below = np.zeros(2 * n_terms, np.int64)
    for k, (left, right) in enumerate(zip(schedule.left.tolist(), schedule.right.tolist(), strict=True)):
        below[n_terms + k] = max(below[left], below[right]) + 1
    return int(below[: 2 * n_terms - 1].max()) + 1


def _repeated(times: float, to: Rounding) -> float:
    """(1 + unit)^times - 1, rounded up."""
    return expm1(times * log1p(to.unit)) * (1 + SAFETY) if times * to.unit < 300 else inf


def _score(side: Side, ranges: Ranges) -> float:
    """Largest error of a score: all products as large as they may be, of any sign."""
    n, p = ranges.head_dim, ranges.storage.precision_bits
    query, keys = np.full(n, ranges.q), np.full((1, n), ranges.k)
    size = np.full((1, n), ranges.q * ranges.k)
    to, before = side.to_accumulator, np.zeros((1, n))
    if side.scale != "after":
        size = size * ranges.scale
        before = lost_before(side, query, keys, ranges.scale) + to.unit * 2.0**to.emin * (ranges.q + ranges.k)
    least = 2 * (ranges.storage.emin - p + 1)
    exact = side.scale == "after" and all(
        r.unit == 0 or (2 * p <= r.precision and least >= r.emin - r.precision + 1) for r in (side.to_product, to)
    )
    exponents = operand_exponents(keys, ranges.storage) + operand_exponents(query, ranges.storage)
    sums = sum_of(
        np.zeros((1, n)),
        size,
        side.score_order,
        to,
        before=before,
        lost=before if exact and not isinstance(side.score_order, MatrixUnit) else None,
        product=side.to_product,
        exponents=exponents,
    )
    if side.accumulator.precision_bits > side.softmax_format.precision_bits:
        sums = sums.rounded(side.to_softmax)
    if side.scale == "after":
        sums = scaled(side, sums, ranges.scale)
    if side.score_format is not None:
        sums = sums.rounded(rounding_to(side.score_format))
    return float(sums.lost[0]) * (1 + SAFETY)


def _worst(side: Side, ranges: Ranges) -> _Worst:
    n = ranges.seq_len
    if side.exact:
        return _Worst(0.0, 0.0, 0.0, 0.0, 0.0)
    score = _score(side, ranges)
    reach = ranges.head_dim * ranges.q * ranges.k * ranges.scale + score
    if not isfinite(reach):
        return _Worst(inf, inf, inf, 0.0, 0.0)
    once = float(exp_error(side, np.array([2 * reach]), reach)[0])
    kind, size = side.softmax.kind, min(side.softmax.block or n, n)
    blocks = -(-n // size)
    logs = score + once * {"two-pass": 1, "split": 2, "online": blocks}[kind]
    moved = tanh(logs / 2) * (1 + SAFETY) if n > 1 else 0.0
    extra = {"two-pass": 0, "split": blocks + 1, "online": 2 * (blocks - 1)}[kind]
    softmax, stored = side.to_softmax, rounding_to(stored_probs(side))
    among = _repeated(depth(side.sum_order, size) + extra + DIVISIONS[side.division], softmax)
    among = among / (1 - among) if among < 0.5 else inf
    tiny = n * 2.0**softmax.emin * 4
    sums, lost = _output_sum(side, n, size, ranges.v)
    sums += _repeated(extra, softmax)
    kept = n * stored.unit * 2.0**stored.emin * 2 if stored.unit else 0.0
    output = (
        ranges.v
        * (2 * moved + (1 + 2 * moved) * (among + softmax.unit + stored.unit + kept + sums + 2 * tiny))
        * (1 + 8 * (among + sums))
        + lost
    )
    prob = moved + among + tiny
    return _Worst(score, prob, output * (1 + SAFETY), softmax.unit + stored.unit, rounding_to(side.output).unit)


def _output_sum(side: Side, n: int, size: int, v: float) -> tuple[float, float]:
    """Return what the sum over tokens loses, relative to max |v|, and absolutely (underflow)."""
    order = side.output_order
    if isinstance(order, MatrixUnit):
        kept = unit_rounding(order)
        groups = -(-n // order.group) + (-(-n // size) if side.softmax.kind != "two-pass" else 0)
        largest = 2.0 ** np.ceil(log2(v)) * 2
        if largest > kept.largest:
            return inf, 0.0
        group = (order.group + 1) * 2.0**-order.fraction_bits * 2 + kept.unit
        floor = (order.group + 1) * 2.0 ** (order.min_exponent - order.fraction_bits) + kept.unit * 2.0**kept.emin
        return expm1(groups * log1p(group)), groups * floor
    to = side.to_accumulator
    product = side.to_product
    if 2 * v > min(to.largest, product.largest):
        return inf, 0.0
    blocks = -(-n // size)
    deep = depth(order, size) + (2 * blocks if side.softmax.kind == "online" else 0)
    lost = 2 * n * (to.unit * 2.0**to.emin + (product.unit * 2.0**product.emin if product.unit else 0.0))
    return (1 + _repeated(deep, to)) * (1 + product.unit) - 1, lost
