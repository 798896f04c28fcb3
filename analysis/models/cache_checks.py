"""What must hold of a cache class of transformers: one function a property, each saying on one batch what fails, or nothing."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from precalign.analysis.models.cache_subject import CacheCase, Fed, Seen, Subject, held_bytes
from precalign.codecs.conform import DATA
from precalign.errors import PrecalignError

if TYPE_CHECKING:
    from collections.abc import Callable

MUCH_LARGER = 64.0
SCALE_PARAMETERS_BYTES = 8
"""What a group may keep beside its codes: scale and offset in binary32 at most."""


class RefusedError(Exception):
    """The class says that it does not do this."""


def offered(cache: Any, name: str, *arguments: Any) -> None:
    """Call a method that a cache may not have.

    Raises
    ------
    RefusedError
        If it has none, or raises by itself rather than breaking.
    """
    try:
        getattr(cache, name)(*arguments)
    except (NotImplementedError, PrecalignError) as error:
        raise RefusedError(f"{name}: {_first_line(error)}") from error
    except AttributeError as error:
        if error.name == name:
            raise RefusedError(f"no {name}") from error
        raise
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line or ""
        if line.startswith("raise "):
            raise RefusedError(f"{name}: {_first_line(error)}") from error
        raise


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def differs(one: Seen, other: Seen) -> str:
    """Say how two views of the same positions differ, or nothing."""
    begin, end = max(one.begin, other.begin), min(one.end, other.end)
    if one.end != other.end:
        return f"{one.end} tokens are seen instead of {other.end}"
    one, other = one.between(begin, end), other.between(begin, end)
    for side in ("keys", "values"):
        a, b = getattr(one, side), getattr(other, side)
        if a.shape != b.shape:
            return f"{side} of shape {a.shape} instead of {b.shape}"
        if not np.array_equal(a, b, equal_nan=True):
            with np.errstate(invalid="ignore"):
                places = np.argwhere((a != b) & ~(np.isnan(a) & np.isnan(b)))
            first = places[0]
            got, expected = float(a[tuple(first)]), float(b[tuple(first)])
            where = f"sequence {first[0]}, head {first[1]}, token {begin + first[2]}, channel {first[3]}"
            return f"{len(places)} of {a.size} {side} differ, first {where}: {got:g} instead of {expected:g}"
    return ""


def _exact(keys: torch.Tensor, values: torch.Tensor) -> Seen:
    return Seen(0, keys.float().numpy().copy(), values.float().numpy().copy())


def _fed(subject: Subject, case: CacheCase, pieces: tuple[int, ...] = ()) -> Fed:
    """Return a cache that got the case's tokens, cut before the tokens of `pieces`."""
    return _fed_with(subject, case, case.tokens(1), case.tokens(2), pieces)


def _fed_with(
    subject: Subject, case: CacheCase, keys: torch.Tensor, values: torch.Tensor, pieces: tuple[int, ...] = ()
) -> Fed:
    fed = Fed(subject, case)
    for one, other in zip(keys.tensor_split(pieces, 2), values.tensor_split(pieces, 2), strict=True):
        fed.append(one.contiguous(), other.contiguous())
    return fed


def _cuts(case: CacheCase) -> list[tuple[int, ...]]:
    n = case.case.n_tokens
    return [] if n == 1 else [(1,), (n // 2,), tuple(range(1, n))]


def _counted(subject: Subject, case: CacheCase) -> str:
    """Compare what an update gives back with what masks are made for."""
    for pieces in [(), *_cuts(case)]:
        fed, n = Fed(subject, case), 0
        keys = case.tokens(1)
        for part in keys.tensor_split(pieces, 2):
            seen = fed.append(part.contiguous(), part.contiguous())
            n += part.shape[2]
            if fed.returned != fed.promised:
                return f"{n} tokens: update gives back {fed.returned} tokens, masks are made for {fed.promised}"
            if (length := int(fed.cache.get_seq_length(0))) != n:
                return f"get_seq_length is {length} after {n} tokens"
            if seen.end != n or seen.keys.shape[:2] != keys.shape[:2] or seen.keys.shape[3] != keys.shape[3]:
                return f"update gives back keys {seen.keys.shape} after {n} tokens"
    return ""


def _stream(subject: Subject, case: CacheCase) -> str:
    whole = _fed(subject, case).see(case)
    for pieces in _cuts(case):
        if failure := differs(_fed(subject, case, pieces).see(case), whole):
            return f"appended in {len(pieces) + 1} pieces: {failure}"
    return ""


def _settled(subject: Subject, case: CacheCase) -> str:
    """Look at the same tokens as others come: a token may be coded once, when it leaves a window, and then stays."""
    fed = _fed(subject, case)
    before, changes = fed.see(case), 0
    for round_ in range(3):
        more = case.tokens(10 + round_, 150)
        fed.append(more, more)
        now = fed.see(case).between(0, case.case.n_tokens)
        if now.begin >= now.end:
            return ""
        failure = differs(now, before.between(now.begin, now.end))
        changes += bool(failure)
        if changes > 1:
            return f"150 tokens later they change, and 150 tokens later again: {failure}"
        before = now
    return ""


def _batch(subject: Subject, case: CacheCase) -> str:
    """Compare a sequence beside much larger ones with the same alone."""
    alone, beside, _ = _alone_and_beside(subject, case)
    return differs(beside, alone)


def _alone_and_beside(subject: Subject, case: CacheCase) -> tuple[Seen, Seen, Seen]:
    pair = replace(case, batch=2)
    keys, values = pair.tokens(1), pair.tokens(2)
    keys[1] *= MUCH_LARGER
    values[1] *= MUCH_LARGER
    one = replace(case, batch=1)
    alone = _fed_with(subject, one, keys[:1], values[:1]).see(one)
    beside = _fed_with(subject, pair, keys, values).see(pair).pick([0])
    return alone, beside, _exact(keys[:1], values[:1])


def error_of(seen: Seen, exact: Seen) -> float:
    """Return the relative error in the 2-norm of what is seen, NaN where that is not finite."""
    exact = exact.between(seen.begin, seen.end)
    off = np.stack([seen.keys - exact.keys, seen.values - exact.values]).astype(np.float64)
    size = np.linalg.norm(np.stack([exact.keys, exact.values]).astype(np.float64))
    return float(np.linalg.norm(off) / size) if size else float(np.linalg.norm(off))


def _batch_error(subject: Subject, case: CacheCase) -> str:
    alone, beside, exact = _alone_and_beside(subject, case)
    one, other = error_of(alone, exact), error_of(beside, exact)
    return "" if other <= 2 * one else f"the error of a sequence is {other:.3g} beside another, {one:.3g} alone"


def _heads(subject: Subject, case: CacheCase) -> str:
    if case.case.n_kv_heads < 2:
        return ""
    keys, values = case.tokens(1), case.tokens(2)
    keys[:, 1] *= MUCH_LARGER
    values[:, 1] *= MUCH_LARGER
    one = replace(case, case=replace(case.case, n_kv_heads=1))
    together = _fed_with(subject, case, keys, values).see(case).pick(slice(None), slice(0, 1))
    alone = _fed_with(subject, one, keys[:, :1].contiguous(), values[:, :1].contiguous()).see(one)
    return differs(together, alone)


def _padded(subject: Subject, case: CacheCase) -> str:
    """Put three tokens of padding in front, as batches of ragged prompts have them."""
    keys, values = case.tokens(1), case.tokens(2)
    padding = torch.zeros_like(case.tokens(3, 3))
    plain = _fed_with(subject, case, keys, values).see(case)
    padded = _fed_with(subject, case, torch.cat([padding, keys], 2), torch.cat([padding, values], 2)).see(case)
    shifted = Seen(padded.begin - 3, padded.keys, padded.values).between(0, case.case.n_tokens)
    return differs(shifted, plain.between(shifted.begin, shifted.end))


def _reorder(subject: Subject, case: CacheCase) -> str:
    pair = replace(case, batch=2)
    for order in ([1, 0], [0, 0]):
        fed = _fed(subject, pair)
        expected = _fed(subject, pair).see(pair).pick(order)
        offered(fed.cache, "reorder_cache", torch.tensor(order))
        if failure := differs(fed.see(pair), expected):
            return f"reorder_cache({order}): {failure}"
    return ""


def _crop(subject: Subject, case: CacheCase) -> str:
    n = case.case.n_tokens
    if n < 2:
        return ""
    gone = max(1, n // 3)
    fed = _fed(subject, case)
    before = _fed(subject, case).see(case)
    offered(fed.cache, "crop", -gone)
    length = int(fed.cache.get_seq_length(0))
    if length != n - gone:
        return f"crop(-{gone}): get_seq_length is {length} instead of {n - gone}"
    fed.n_tokens = n - gone
    seen = fed.see(case)
    failure = differs(seen, before.between(max(seen.begin, before.begin), n - gone))
    return f"crop(-{gone}): {failure}" if failure else ""


def _split(subject: Subject, case: CacheCase) -> str:
    pair = replace(case, batch=2)
    both = _fed(subject, pair).see(pair)
    fed = _fed(subject, pair)
    offered(fed.cache, "batch_select_indices", torch.tensor([1]))
    if failure := differs(fed.see(replace(case, batch=1)), both.pick([1])):
        return f"batch_select_indices([1]): {failure}"
    fed = _fed(subject, pair)
    offered(fed.cache, "batch_repeat_interleave", 2)
    if failure := differs(fed.see(replace(case, batch=4)), both.pick([0, 0, 1, 1])):
        return f"batch_repeat_interleave(2): {failure}"
    return ""


def _reset(subject: Subject, case: CacheCase) -> str:
    fed, fresh = _fed(subject, case), Fed(subject, case)
    offered(fed.cache, "reset")
    fed.n_tokens = 0
    again = case.tokens(5)
    for one in (fed, fresh):
        one.append(again, again)
    return differs(fed.see(case), fresh.see(case))


def _apart(subject: Subject, case: CacheCase) -> str:
    """Fill the second layer, and a second cache, with other numbers."""
    case = replace(case, layers=2)
    plain, fed, other = _fed(subject, case).see(case), _fed(subject, case), case.tokens(7)
    fed.cache.update(other, other, 1)
    Fed(subject, case).append(other, other)
    return differs(fed.see(case), plain)


def _copies(subject: Subject, case: CacheCase) -> str:
    """Overwrite the tensors that were given, as a model that reuses its buffers does."""
    keys, values = case.tokens(1), case.tokens(2)
    fed = _fed_with(subject, case, keys, values)
    if failure := differs(_exact(keys, values), _exact(case.tokens(1), case.tokens(2))):
        return f"update changes what it is given: {failure}"
    keys.fill_(9)
    values.fill_(9)
    return differs(fed.see(case), _fed(subject, case).see(case))


def declared_window(subject: Subject, case: CacheCase) -> int | None:
    """Return how many recent tokens the class, or a layer of it, declares to keep in full precision, or None."""
    found = (subject.claim(name, case) for name in ("residual_length", "window", "window_length"))
    return next((int(window) for window in found if window is not None), None)


def _window(subject: Subject, case: CacheCase) -> str:
    """Look at tokens that all fit into the window which the class declares to be in full precision."""
    window = declared_window(subject, case) or 0
    if case.case.n_tokens >= window:
        return ""
    failure = differs(_fed(subject, case).see(case), _exact(case.tokens(1), case.tokens(2)))
    return f"the window takes {window} tokens: {failure}" if failure else ""


def _finite(subject: Subject, case: CacheCase) -> str:
    seen = _fed(subject, case).see(case)
    for side in ("keys", "values"):
        numbers = getattr(seen, side)
        if not np.isfinite(numbers).all():
            return f"{side}: an infinity or NaN from finite numbers"
        if case.case.data == "zero" and numbers.any():
            return f"{side}: zeros are seen as {np.abs(numbers).max():g}"
    return ""


def _contained(subject: Subject, case: CacheCase) -> str:
    """Let one number of the last token be an infinity or NaN: the other tokens must not notice."""
    n = case.case.n_tokens
    for bad in (float("inf"), float("nan")):
        keys, values = case.tokens(1), case.tokens(2)
        keys[0, 0, -1, 0] = values[0, 0, -1, 0] = bad
        try:
            seen = _fed_with(subject, case, keys, values).see(case).between(0, n - 1)
        except PrecalignError:
            continue  # refused in words
        for side in ("keys", "values"):
            if not np.isfinite(getattr(seen, side)).all():
                return f"{side}: {bad} in the last token makes other tokens infinite or NaN"
    return ""


def _range(subject: Subject, case: CacheCase) -> str:
    """Multiply everything by a power of two: a scale that is found follows, one that is silently 1 does not."""
    keys, values = (torch.clamp(case.tokens(seed), -4, 4) for seed in (1, 2))
    errors = {}
    for power in (0, 12, -6):
        x, y = keys * 2.0**power, values * 2.0**power
        errors[power] = error_of(_fed_with(subject, case, x, y).see(case), _exact(x, y))
    worst = max(errors, key=lambda power: np.nan_to_num(errors[power], nan=np.inf))
    if errors[worst] <= 2 * errors[0]:
        return ""
    return f"relative error {errors[0]:.3g}, and {errors[worst]:.3g} for the same numbers times 2^{worst}"


def _growth(subject: Subject, case: CacheCase) -> str:
    """Append tokens 16 times as large as the first ones."""
    first, later = (torch.clamp(case.tokens(seed), -4, 4) for seed in (1, 2))
    small, large = Fed(subject, case), Fed(subject, case)
    small.append(first * 16, first * 16)
    large.append(first, first)
    n, later = case.case.n_tokens, later * 16
    exact = Seen(n, later.float().numpy(), later.float().numpy())
    errors = []
    for fed in (small, large):
        fed.append(later, later)
        errors.append(error_of(fed.see(case).between(n, 2 * n), exact))
    if errors[1] <= 2 * errors[0]:
        return ""
    return f"error of later tokens {errors[1]:.3g} after small ones, {errors[0]:.3g} after ones of their own size"


def declared_bits(subject: Subject, case: CacheCase) -> float | None:
    """Return the bits of a number that the class, or a layer of it, declares, or None."""
    for name in ("nbits", "bits"):
        value = subject.claim(name, case)
        if isinstance(value, int | float):
            return float(value)
    return 8.0 if subject.claim("fp8_dtype", case) is not None else None


def _bits(subject: Subject, case: CacheCase) -> str:
    """Weigh all tensors that the cache holds after a prompt, and after a step more, against what it declares."""
    fed = _fed(subject, case)
    for _ in range(2):
        real, allowed = held_bytes(fed.cache), _allowed_bytes(subject, case, fed.n_tokens)
        if real > allowed:
            return f"{fed.n_tokens} tokens: {real} bytes are held, at most {allowed} are declared"
        fed.see(case)
    return ""


def _allowed_bytes(subject: Subject, case: CacheCase, n_tokens: int) -> int:
    """Return codes of the declared bits, their scales, the window, the room of a static cache and a few counters."""
    numbers, bits = 2 * case.batch * case.case.n_kv_heads * case.case.head_dim, declared_bits(subject, case)
    counters = 256
    sliding = subject.claim("sliding_window", case)
    most = n_tokens if sliding is None else min(n_tokens, int(sliding))
    room = subject.claim("max_cache_len", case)
    if room is not None:
        most = int(room)
    if bits is None:
        return int(most * numbers * case.case.format.total_bits / 8) + counters
    group = subject.claim("q_group_size", case) or subject.claim("group_size", case) or case.case.head_dim
    in_full = min(n_tokens, declared_window(subject, case) or 0) * numbers * case.case.format.total_bits / 8
    groups = -(-most * numbers // int(group)) + 2
    return int(most * numbers * bits / 8 + groups * SCALE_PARAMETERS_BYTES + in_full) + counters


@dataclass(frozen=True)
class CacheCheck:
    """One thing that must hold of a cache.

    Attributes
    ----------
    what : str
    run : function
        Of a subject and a case; what fails, or nothing.
    data : tuple of str
        Names of `precalign.codecs.conform.DATA`.
    claim : function, optional
        Says why the class makes no such claim, or nothing where it does.
    """

    what: str
    run: Callable[[Subject, CacheCase], str]
    data: tuple[str, ...] = ("normal",)
    claim: Callable[[Subject, CacheCase], str] | None = None


def _has_window(subject: Subject, case: CacheCase) -> str:
    return "" if declared_window(subject, case) is not None else "no window in full precision is declared"


CACHE_CHECKS = {
    "counted": CacheCheck("update gives back as many tokens as masks are made for, and counts them", _counted),
    "stream": CacheCheck("tokens in pieces are seen as all at once", _stream),
    "settled": CacheCheck("later tokens change one at most once, when it leaves a window", _settled),
    "batch": CacheCheck("a sequence of a batch is seen as alone", _batch),
    "batch error": CacheCheck("a sequence of a batch is not twice as wrong as alone", _batch_error),
    "heads": CacheCheck("a head is seen beside others as alone", _heads),
    "padded": CacheCheck("tokens behind padding are seen as without it", _padded),
    "reorder": CacheCheck("reorder_cache moves sequences and changes nothing else", _reorder),
    "crop": CacheCheck("crop takes the last tokens away and changes nothing else", _crop),
    "split": CacheCheck("batch_select_indices and batch_repeat_interleave move whole sequences", _split),
    "reset": CacheCheck("after reset a cache is as new", _reset),
    "apart": CacheCheck("layers and caches do not touch each other", _apart),
    "copies": CacheCheck("what is given is neither changed nor kept", _copies),
    "window": CacheCheck("a prompt that fits the declared window is exact", _window, claim=_has_window),
    "finite": CacheCheck("finite numbers stay finite, zeros zero", _finite, tuple(DATA)),
    "contained": CacheCheck("an infinity or NaN stays in its token, or is refused", _contained),
    "range": CacheCheck("numbers of another size have the same relative error: no scale is silently 1", _range),
    "growth": CacheCheck("tokens much larger than the first ones have no larger error", _growth),
    "bits": CacheCheck("no more bytes are held than bits, scales, window and room declare", _bits),
}
"""Name -> check."""
