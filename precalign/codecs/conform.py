"""The conformance kit: what must hold of every codec, checked from the smallest case up, so that a failure is a small one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, Codec
from precalign.codecs.half import half_codes, half_values
from precalign.codecs.packed import PackedCodec, growth
from precalign.codecs.pair import CodedPair, PairCodec
from precalign.codecs.store import CodedCache, predicted_bytes
from precalign.errors import PrecalignError, UsageError
from precalign.formats import BFLOAT16, BINARY16

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from precalign.formats import Format

TOKENS = (1, 2, 3, 63, 64, 65, 128, 129, 200, 321)
"""Sequence lengths, ascending: one token, odd ones, both sides of page, group and window ends."""
HEADS = (1, 2)
NOT_PACKED = "attention decodes it first"
HEAD_DIMS = (64, 128)


@dataclass(frozen=True)
class Case:
    """One cache that a check looks at."""

    n_tokens: int
    n_kv_heads: int
    head_dim: int
    format: Format
    data: str

    def __str__(self) -> str:
        return f"{self.n_tokens} tokens, {self.n_kv_heads} kv heads, head_dim {self.head_dim}, {self.format.name}, {self.data}"

    def shape(self, side: str = "keys") -> CacheShape:
        """Return the shape of a side."""
        return CacheShape(self.n_kv_heads, self.head_dim, side, self.format)

    def tokens(self, seed: int = 0) -> NDArray[np.float32]:
        """Draw the numbers, values of the format, (n_tokens, n_kv_heads, head_dim)."""
        rng = np.random.default_rng((seed, self.n_tokens, self.head_dim))
        shape = (self.n_tokens, self.n_kv_heads, self.head_dim)
        x = DATA[self.data](rng, shape, self.format).astype(np.float32)
        if self.format == BINARY16:
            x = x.astype(np.float16).astype(np.float32)
        else:
            x = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return x


def _normal(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> NDArray[np.float64]:
    del fmt
    return rng.standard_normal(shape) * 2.0 ** rng.uniform(-4, 4, (1, *shape[1:]))


def _largest(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> NDArray[np.float64]:
    return rng.choice([-1.0, 1.0], shape) * min(fmt.largest, 2.0**100)


def _subnormal(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format) -> NDArray[np.float64]:
    return rng.integers(-9, 10, shape).astype(np.float64) * 2.0 ** (fmt.emin - fmt.trailing_significand_bits)


DATA: dict[str, Callable[[np.random.Generator, tuple[int, ...], Format], NDArray[np.float64]]] = {
    "normal": _normal,
    "zero": lambda _rng, shape, _fmt: np.zeros(shape),
    "constant": lambda _rng, shape, _fmt: np.full(shape, -1.5),
    "one channel": lambda _rng, shape, _fmt: np.zeros(shape) + 300 * (np.arange(shape[2]) == 5),
    "largest": _largest,
    "subnormal": _subnormal,
}


@dataclass(frozen=True)
class Finding:
    """What a check says of a codec.

    Attributes
    ----------
    check : str
        A name of `CHECKS`.
    holds : bool or None
        None where the codec makes no such claim.
    cases : int
        Looked at.
    example : str
        The smallest case that fails, and how; or why there is no claim.
    """

    check: str
    holds: bool | None
    cases: int
    example: str = ""


def _cases(codec: Codec | PairCodec, data: tuple[str, ...] = ("normal",)) -> Iterator[Case]:
    for n_tokens in TOKENS:
        for fmt in (BINARY16, BFLOAT16):
            for head_dim in HEAD_DIMS:
                for n_kv_heads in HEADS:
                    for kind in data:
                        case = Case(n_tokens, n_kv_heads, head_dim, fmt, kind)
                        if _takes(codec, case):
                            yield case


def _takes(codec: Codec | PairCodec, case: Case) -> bool:
    try:
        CodedPair(codec, codec, case.shape())
    except UsageError:
        return False
    return True


def _filled(codec: Codec | PairCodec, case: Case, pieces: tuple[int, ...] = ()) -> CodedPair:
    pair = CodedPair(codec, codec, case.shape())
    keys, values = case.tokens(1), case.tokens(2)
    for one, other in zip(np.split(keys, pieces), np.split(values, pieces), strict=True):
        pair.append(one, other)
    return pair


def _size(codec: Codec | PairCodec, case: Case) -> str:
    pair = _filled(codec, case)
    real = len(pair.to_bytes())
    expected = pair.nbytes
    if isinstance(codec, Codec):
        expected = sum(predicted_bytes(codec, case.shape(side), case.n_tokens) for side in ("keys", "values"))
    return "" if real == expected else f"{real} bytes, predicted {expected}"


def _bytes_alone(codec: Codec | PairCodec, case: Case) -> str:
    """Decode from nothing but the bytes."""
    pair = _filled(codec, case)
    if isinstance(codec, PairCodec):
        again = CodedPair.from_bytes(codec, case.shape(), case.n_tokens, pair.to_bytes())
        return "" if _same(again.decode(), pair.decode()) else "bytes decode to other numbers"
    for side in ("keys", "values"):
        cache = CodedCache(codec, case.shape(side))
        cache.append(case.tokens(1))
        other = CodedCache.from_bytes(codec, case.shape(side), case.n_tokens, cache.to_bytes())
        if not np.array_equal(other.decode(), cache.decode()):
            return f"{side}: bytes decode to other numbers"
    return ""


def _stream(codec: Codec | PairCodec, case: Case) -> str:
    whole = _filled(codec, case)
    for pieces in ((1,), (case.n_tokens // 2,), tuple(range(1, case.n_tokens))):
        if _filled(codec, case, pieces).to_bytes() != whole.to_bytes():
            return f"appended in {len(pieces) + 1} pieces: other bytes than at once"
    return ""


def _prefix(codec: Codec | PairCodec, case: Case) -> str:
    """Compare the first tokens of a cache with a cache of the first tokens, where both are coded."""
    n = max(1, case.n_tokens * 2 // 3)
    whole, keys, values = _filled(codec, case), case.tokens(1), case.tokens(2)
    part = CodedPair(codec, codec, case.shape())
    part.append(keys[:n], values[:n])
    if not np.array_equal(whole.order[:n], part.order):
        return f"cropped to {n} tokens: they stand in another order"
    for side, (one, other) in zip(("keys", "values"), zip(whole.decode(), part.decode(), strict=True), strict=True):
        coded = codec.coded_tokens(n, case.shape(side))
        if not np.array_equal(one[:coded], other[:coded]):
            return f"cropped to {n} tokens: {side} that were coded already differ"
    return ""


def _heads_apart(codec: Codec | PairCodec, case: Case) -> str:
    """Compare two heads together with each alone."""
    if case.n_kv_heads < 2:
        return ""
    together, keys, values = _filled(codec, case).decode(), case.tokens(1), case.tokens(2)
    alone = CodedPair(codec, codec, CacheShape(1, case.head_dim, "keys", case.format))
    alone.append(np.ascontiguousarray(keys[:, :1]), np.ascontiguousarray(values[:, :1]))
    return "" if _same([side[:, :1] for side in together], alone.decode()) else "a head alone decodes to other numbers"


def _window(codec: Codec | PairCodec, case: Case) -> str:
    pair = _filled(codec, case)
    for side, decoded, exact in zip(("keys", "values"), pair.decode(), (case.tokens(1), case.tokens(2)), strict=True):
        begin = codec.coded_tokens(case.n_tokens, case.shape(side))
        if not np.array_equal(decoded[begin:], exact[begin:]):
            return f"{side}: a token of the window is not exact"
    return ""


def _finite(codec: Codec | PairCodec, case: Case) -> str:
    for side, decoded in zip(("keys", "values"), _filled(codec, case).decode(), strict=True):
        if not np.isfinite(decoded).all():
            return f"{side}: an infinity or NaN from finite numbers"
        if case.data == "zero" and decoded.any():
            return f"{side}: zeros decode to {np.abs(decoded).max():g}"
    return ""


def _refuses(codec: Codec | PairCodec, case: Case) -> str:
    for bad in (np.inf, np.nan):
        keys, values = case.tokens(1), case.tokens(2)
        keys[-1, 0, 0] = bad
        pair = CodedPair(codec, codec, case.shape())
        try:
            pair.append(keys, values)
        except PrecalignError:
            continue
        return f"takes a {bad} without a word"
    return ""


def _stable(codec: Codec | PairCodec, case: Case) -> str:
    """Code what was decoded: it should not move by more than the first coding moved it."""
    pair, keys, values = _filled(codec, case), case.tokens(1), case.tokens(2)
    order = pair.order
    first = [half_values(half_codes(_to_format(x, case.format), case.format), case.format) for x in pair.decode()]
    again = CodedPair(codec, codec, case.shape())
    again.append(*first)
    for side, once, twice, exact in zip(("keys", "values"), first, again.decode(), (keys, values), strict=True):
        moved, before = np.linalg.norm(twice - once[again.order]), np.linalg.norm(once - exact[order])
        if moved > before * (1 + 2.0**-10):
            return f"{side}: coded again moves by {moved:.3g}, the first time by {before:.3g}"
    return ""


def _packed(codec: Codec | PairCodec, case: Case) -> str:
    """Compare attention over packed codes with exact arithmetic over decoded ones, within the codec's own bound."""
    assert isinstance(codec, PackedCodec)  # noqa: S101 - others do not claim it
    rng = np.random.default_rng(case.n_tokens)
    keys, values = (CodedCache(codec, case.shape(side)) for side in ("keys", "values"))  # type: ignore[arg-type] # it is a codec too
    keys.append(case.tokens(1))
    values.append(case.tokens(2))
    rows = (case.n_kv_heads, 3, case.head_dim)
    if keys.n_coded:
        queries, decoded = rng.standard_normal(rows).astype(np.float32), _wide(keys)
        got = codec.packed_scores(keys.coded()[0], keys.n_coded, keys.coded()[1], keys.shape, queries)
        size = np.linalg.norm(queries.astype(np.float64), axis=2)[:, :, None] * np.sqrt(case.head_dim)
        off = np.abs(got - queries.astype(np.float64) @ decoded.swapaxes(1, 2)) / (size * np.abs(decoded).max())
        if not off.max() <= codec.packed_error(keys.shape):
            return f"keys: a score is off by {off.max():.3g} of its terms, bound {codec.packed_error(keys.shape):.3g}"
    if values.n_coded:
        weights, decoded = rng.random((*rows[:2], values.n_coded), np.float32), _wide(values)
        sums = codec.packed_sum(values.coded()[0], values.n_coded, values.coded()[1], values.shape, weights)
        off = np.linalg.norm(sums - weights.astype(np.float64) @ decoded, axis=2)
        relative = (off / (weights.sum(axis=2) * np.sqrt(case.head_dim) * np.abs(decoded).max())).max()
        bound = codec.packed_error(values.shape) + growth(values.n_coded)
        if not relative <= bound:
            return f"values: a sum is off by {relative:.3g} of its terms, bound {bound:.3g}"
    return ""


def _wide(cache: CodedCache) -> NDArray[np.float64]:
    return cache.decode()[: cache.n_coded].transpose(1, 0, 2).astype(np.float64)


def _to_format(x: NDArray[np.float32], fmt: Format) -> NDArray[np.float32]:
    from precalign.rounding import round_to

    return np.asarray(round_to(x, fmt, saturate=True)).astype(np.float32)


def _same(one: object, other: object) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))  # type: ignore[call-overload]


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    what: str
    run: Callable[[Codec | PairCodec, Case], str]
    data: tuple[str, ...] = ("normal",)


CHECKS = {
    "size": Check("as many bytes as predicted, window, scales and tables included", _size),
    "bytes": Check("the bytes alone decode to the same numbers", _bytes_alone),
    "stream": Check("tokens one by one give the bytes of all at once", _stream),
    "prefix": Check("later tokens do not change coded ones, nor their order: a cache may be cropped", _prefix),
    "heads": Check("a head alone decodes as beside others", _heads_apart),
    "window": Check("tokens of the window are exact", _window),
    "finite": Check("finite numbers stay finite, zeros zero", _finite, tuple(DATA)),
    "refuses": Check("infinities and NaNs are refused, not changed", _refuses),
    "stable": Check("coding what was decoded moves it no further", _stable),
    "packed": Check("attention over packed codes is that over decoded ones, within a bound", _packed),
}
"""Name -> check."""


def conform(codec: Codec | PairCodec) -> Iterator[Finding]:
    """Yield what each check finds.

    Raises
    ------
    UsageError
        If no case of the kit fits the codec.
    """
    disclaims = codec.disclaims
    if not isinstance(codec, PackedCodec):
        disclaims = disclaims | {"packed": NOT_PACKED}
    for name, check in CHECKS.items():
        if name in disclaims:
            yield Finding(name, None, 0, f"not claimed: {disclaims[name]}")
            continue
        cases, example = 0, ""
        for case in _cases(codec, check.data):
            cases += 1
            try:
                failure = check.run(codec, case)
            except Exception as error:  # noqa: BLE001 - whatever a codec under test raises is a finding
                failure = f"{type(error).__name__}: {error}"
            if failure:
                example = f"{case}: {failure}"
                break
        if cases == 0:
            raise UsageError(f"codec {codec}: takes no cache of head_dim {' or '.join(map(str, HEAD_DIMS))}")
        yield Finding(name, not example, cases, example)
