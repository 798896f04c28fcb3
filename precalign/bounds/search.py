"""Look for a decode step whose error exceeds its proven bound: random heads of the kinds that strain a bound most.

The error is taken against binary64, whose own error is 2^-28 of what the bound allows for the roundings of binary32 alone
(`precalign.decode.exact`), so a bound that is exceeded by more than that is wrong. The tests repeat part of the search against 150 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.decode.codes import BYTE_FORMATS, round_to_format, to_binary32
from precalign.formats import BFLOAT16, BINARY16, E4M3FN, E5M2
from precalign.formats.codes import Kind, kinds
from precalign.inputs import HeadInputs
from precalign.layouts import parse_layout
from precalign.profile import profile_head
from precalign.rules import KeyView, Rule, ValueView, get_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from precalign.formats import Format

LAYOUTS = {
    BINARY16: ("8|4|4+skip", "6|2|2|2|4+skip", "12|4+skip", "6|1|1|1|1|1|1|1|1|1|1+skip"),
    BFLOAT16: ("12|4+skip", "9|1|1|1|1|1|1|1+skip", "rebased:8|5+skip", "rebased:4|2|1|1|1|1+skip"),
    E4M3FN: ("5|3+skip", "5|1|1|1+skip", "4|4+skip", "rebased:4|3+skip"),
    E5M2: ("6|2+skip", "6|1|1+skip", "rebased:4|1|1+skip"),
}
RULES = (
    "full",
    "alignedkv",
    "aligned-max",
    "aligned-skip:threshold=6",
    "online",
    "certified:tolerance=0.01",
    "certified:tolerance=0.1,relative=0",
    "budget:saving=0.3",
)
LONG_TOKENS = 100_000
MARGIN = 1 + 2.0**-20
"""An error in binary64 may exceed a bound that is attained by its own rounding."""


@dataclass(frozen=True)
class AnyLevels(Rule):
    """Levels at random, also for keys that are not read at all: what no sensible rule would choose."""

    name = "any-levels"
    needs_skip = True

    seed: int = 0

    def key_levels(self, view: KeyView) -> NDArray[np.uint8]:
        """Return levels at random; half of the draws leave all but one alike."""
        return self._draw(len(view.layout.levels), view.key_max_exponents.shape, 0)

    def value_levels(self, view: ValueView, prepass: NDArray[np.int32] | None) -> NDArray[np.uint8]:
        """Return levels at random."""
        del prepass
        return self._draw(len(view.layout.levels), view.probs.shape[1:], 1)

    def _draw(self, n_levels: int, shape: tuple[int, ...], which: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng((self.seed, which))
        levels = rng.integers(rng.integers(0, n_levels), n_levels, shape, dtype=np.uint8)
        if rng.random() < 0.5:
            levels[:] = rng.integers(0, n_levels)
            levels[:, rng.integers(0, shape[1])] = rng.integers(0, n_levels)
        return levels


@dataclass(frozen=True)
class Found:
    """What a search has seen.

    Attributes
    ----------
    cases : int
        (step, query head, rule), each with a score and an output.
    violations : int
        Cases with an error above its bound.
    tightest_score, tightest_output : float
        Smallest bound / error; at least 1 if every bound holds.
    vacuous : int
        Cases whose relative output bound is infinite.
    example : str
        How to repeat the first violation.
    """

    cases: int = 0
    violations: int = 0
    tightest_score: float = np.inf
    tightest_output: float = np.inf
    vacuous: int = 0
    example: str = ""

    def __add__(self, other: Found) -> Found:
        return Found(
            self.cases + other.cases,
            self.violations + other.violations,
            min(self.tightest_score, other.tightest_score),
            min(self.tightest_output, other.tightest_output),
            self.vacuous + other.vacuous,
            self.example or other.example,
        )


LARGEST_EXPONENTS = {BFLOAT16: 30}
"""Where products of any two numbers would overflow binary32."""


def _codes(x: NDArray[Any], fmt: Format) -> NDArray[Any]:
    limit = min(fmt.largest, 2.0 ** (LARGEST_EXPONENTS.get(fmt, fmt.emax) + 1) - 1)
    exact = round_to_format(np.clip(np.asarray(x, np.float64), -limit, limit), fmt)
    if fmt == BINARY16:
        return exact.astype(np.float16).view(np.uint16)
    if fmt == BFLOAT16:
        return (exact.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    magnitudes = np.arange(fmt.largest_code + 1, dtype=fmt.code_dtype)
    sign = np.signbit(exact).astype(fmt.code_dtype) << (fmt.total_bits - 1)
    codes: NDArray[Any] = np.searchsorted(to_binary32(magnitudes, fmt), np.abs(exact)).astype(fmt.code_dtype)
    return codes | sign.astype(fmt.code_dtype)


def _sign(fmt: Format) -> Any:  # noqa: ANN401 - a NumPy integer
    """Return the code of minus zero: of the type of codes, so that it keeps theirs."""
    return fmt.code_dtype.type(1 << (fmt.total_bits - 1))


Arrays = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]


def _plain(rng: np.random.Generator, fmt: Format, n: int, dim: int, group: int) -> Arrays:
    spread = 2.0 ** rng.uniform(-4, 4, dim)
    k, v, q = (rng.standard_normal(shape) for shape in ((n, dim), (n, dim), (group, n, dim)))
    return tuple(_codes(x * s, fmt) for x, s in ((k, spread), (v, 2.0 ** rng.uniform(-8, 8)), (q, 1 / spread)))  # type: ignore[return-value]


def _conspiring(rng: np.random.Generator, fmt: Format, n: int, dim: int, group: int) -> Arrays:
    """Unread bits that all push the same way: low bits of keys follow the sign of the query, those of values one sign."""
    k, v, q = _plain(rng, fmt, n, dim, group)
    low = fmt.code_dtype.type((1 << int(rng.integers(1, fmt.trailing_significand_bits + 1))) - 1)
    up = rng.random(n) < rng.choice([0, 0.5, 1])
    positive = ((q[0, -1] ^ k) >= _sign(fmt)) == up[:, None]
    k = _finite(np.where(positive, k | low, k & ~low), fmt)
    v = _finite(np.where((v >= _sign(fmt)) == up[:, None], v | low, v & ~low), fmt)
    return k, v, np.broadcast_to(q[:, -1:], q.shape).copy()


def _cancelling(rng: np.random.Generator, fmt: Format, n: int, dim: int, group: int) -> Arrays:
    k, v, q = _plain(rng, fmt, n, dim, group)
    half = dim // 2
    k[:, half : 2 * half] = k[:, :half] ^ _sign(fmt)
    q[..., half : 2 * half] = q[..., :half]
    v[n // 2 : n // 2 * 2] = v[: n // 2] ^ _sign(fmt)
    return k, v, q


def _equal(rng: np.random.Generator, fmt: Format, n: int, dim: int, group: int) -> Arrays:
    k, v, q = _plain(rng, fmt, 1, dim, group)
    return np.repeat(k, n, axis=0), np.repeat(v, n, axis=0), np.repeat(q, n, axis=1)


def _one_hot(rng: np.random.Generator, fmt: Format, n: int, dim: int, group: int) -> Arrays:
    k, v, q = _plain(rng, fmt, n, dim, group)
    k[rng.integers(0, n)] = _codes(rng.choice([-40.0, 40.0], dim), fmt)
    return k, v, _codes(rng.choice([-30.0, 30.0], q.shape), fmt)


def _subnormal(rng: np.random.Generator, fmt: Format, n: int, dim: int, group: int) -> Arrays:
    k, v, q = _plain(rng, fmt, n, dim, group)
    mask = _sign(fmt) | fmt.code_dtype.type((1 << fmt.trailing_significand_bits) - 1)
    return k & mask, np.where(rng.random(v.shape) < 0.7, v & mask, v), q


def _any_exponent(rng: np.random.Generator, fmt: Format, n: int, dim: int, group: int) -> Arrays:
    low, high = (-60.0, 28.0) if fmt == BFLOAT16 else (fmt.emin - float(fmt.trailing_significand_bits), float(fmt.emax))
    reach = rng.uniform(0.1, 1)
    shapes = ((n, dim), (n, dim), (group, n, dim))
    parts = (rng.choice([-1.0, 1.0], s) * 2.0 ** (rng.uniform(low, high, s) * reach) for s in shapes)
    return tuple(_codes(x, fmt) for x in parts)  # type: ignore[return-value]


def _any_code(rng: np.random.Generator, fmt: Format, n: int, dim: int, group: int) -> Arrays:
    if fmt == BFLOAT16:  # products of any two codes overflow binary32
        return _any_exponent(rng, fmt, n, dim, group)
    shapes = ((n, dim), (n, dim), (group, n, dim))
    return tuple(_finite(rng.integers(0, 1 << fmt.total_bits, s, dtype=fmt.code_dtype), fmt) for s in shapes)  # type: ignore[return-value]


def _finite(codes: NDArray[Any], fmt: Format) -> NDArray[Any]:
    """Return codes with the leading exponent bit of infinities and NaNs cleared."""
    special = kinds(np.arange(1 << fmt.total_bits), fmt) >= Kind.INFINITY
    leading = fmt.code_dtype.type(1 << (fmt.total_bits - 2))
    return np.where(special[codes], codes & ~leading, codes)


KINDS: dict[str, Callable[[np.random.Generator, Format, int, int, int], Arrays]] = {
    "plain": _plain,
    "conspiring": _conspiring,
    "cancelling": _cancelling,
    "equal": _equal,
    "one-hot": _one_hot,
    "subnormal": _subnormal,
    "any-exponent": _any_exponent,
    "any-code": _any_code,
}


def _longer(rng: np.random.Generator, queries: NDArray[Any], fmt: Format) -> NDArray[np.uint16]:
    """Return 8-bit queries as binary16, some of them with digits that 8 bits do not have."""
    codes = to_binary32(queries, fmt).astype(np.float16).view(np.uint16)
    more = rng.integers(0, 1 << (BINARY16.trailing_significand_bits - fmt.trailing_significand_bits), codes.shape)
    longer: NDArray[np.uint16] = codes | (more * (rng.random() < 0.5)).astype(np.uint16)
    return longer


def make_case(seed: int, index: int, *, long: bool = False) -> tuple[HeadInputs, dict[str, Any]]:
    """Return one head and the arguments of `profile_head` for it; the same numbers give the same head."""
    rng = np.random.default_rng((seed, index))
    fmt = rng.choice(list(LAYOUTS), p=[0.4, 0.3, 0.2, 0.1])  # type: ignore[arg-type]
    kind = list(KINDS)[int(rng.integers(0, len(KINDS)))]
    n = LONG_TOKENS if long else int(rng.choice([1, 2, 5, 64, 65, 200, 330]))
    dim, group = int(rng.choice([1, 4, 17, 64, 128])), int(rng.choice([1, 2, 3]))
    dim, group = (8, 1) if long else (dim, group)
    k, v, q = KINDS[kind](rng, fmt, 8 if long else n, dim, group)
    if long:
        repeat = rng.integers(0, 8, n)
        k, v = k[repeat], v[repeat]
    name = f"{kind}, {fmt.name}, seed {seed}, case {index}"
    query_format = fmt
    if fmt in BYTE_FORMATS and rng.random() < 0.7:
        query_format, q = BINARY16, _longer(rng, q, fmt)
    inputs = HeadInputs(k, v, q, fmt, float(rng.choice([1.0, dim**-0.5, 0.3, 0.01])), name, query_format)
    n_queries = q.shape[1]
    steps = rng.integers(0, n_queries, 1 if long else 40)
    visible = np.full(1, n) if long else rng.integers(1, n + 1, len(steps))
    first = np.where(rng.random(len(steps)) < 0.5, 0, rng.integers(0, visible))
    layout = parse_layout(str(rng.choice(LAYOUTS[fmt])), fmt)
    rules = [get_rule(name) for name in RULES]
    rules += [AnyLevels(seed=int(s)) for s in rng.integers(0, 1 << 30, 3)]
    split = int(rng.choice([64, 128, 256]))
    arguments = {
        "steps": steps,
        "visible": visible,
        "first": first,
        "layout": layout,
        "rules": rules,
        "split_tokens": split,
    }
    return inputs, arguments


def _judge(inputs: HeadInputs, arguments: dict[str, Any]) -> Found:
    found = Found()
    with np.errstate(all="ignore"):
        for profile in profile_head(inputs, **arguments):
            pairs = (
                (profile.score_bound, profile.score_error_max_vs_exact),
                (profile.output_max_bound, profile.output_max_error_vs_exact),
                (profile.output_bound, profile.output_error_vs_exact),
            )
            bad = np.zeros(profile.score_bound.shape, bool)
            for bound, error in pairs:
                bad |= ~(error <= bound * MARGIN)
            score, _, output = (np.where(error > 0, bound / error, np.inf).min() for bound, error in pairs)
            vacuous = int(np.isinf(profile.output_bound).sum())
            example = f"{inputs.name}, rule {profile.rule}" if bad.any() else ""
            found += Found(bad.size, int(bad.sum()), float(score), float(output), vacuous, example)
    return found


def search(cases: int, seed: int) -> Iterator[Found]:
    """Yield what was found so far, head by head, until at least `cases` cases are judged; one head in 2000 has 100,000 tokens."""
    found, index = Found(), 0
    while found.cases < cases:
        inputs, arguments = make_case(seed, index, long=index % 2000 == 1999)
        found += _judge(inputs, arguments)
        index += 1
        yield replace(found)
