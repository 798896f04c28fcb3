"""What went into an element that differs: where it lies, what was read for it, which operation made it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.cache_inputs import PAGE_TOKENS
from precalign.gpu.validate.points import different

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.gpu.kernels import KernelConfig
    from precalign.gpu.validate.emulated import Emulated


@dataclass(frozen=True)
class Decided:
    """A buffer that a decode step fills, and the point that it belongs to.

    Attributes
    ----------
    point, buffer : str
    axes : tuple of str
        Of one kv head's part; "query head" first where every query head has its own.
    """

    point: str
    buffer: str
    axes: tuple[str, ...]


_KEY_BITS = Decided("key-bits", "key_bits", ("channel",))
_VALUE_BITS = Decided("value-bits", "value_bits", ("token",))
_OUTPUTS = Decided("outputs", "outputs", ("query head", "channel"))
_TWO_PASSES = (
    _KEY_BITS,
    Decided("scores", "scores", ("query head", "token")),
    Decided("probs", "probs", ("query head", "token")),
    _VALUE_BITS,
    _OUTPUTS,
)
_ONE_PASS = (
    _KEY_BITS,
    _VALUE_BITS,
    Decided("partials", "split_maxima", ("query head", "split")),
    Decided("partials", "split_sums", ("query head", "split")),
    Decided("partials", "partials", ("query head", "split", "channel")),
    _OUTPUTS,
)
_SEEDS = Decided("seeds", "references", ("query head",))
_INPUTS = {
    "scores": ("key_bits",),
    "probs": ("scores",),
    "value_bits": ("probs", "references"),
    "outputs": ("probs", "value_bits", "split_maxima", "split_sums", "partials"),
    "split_maxima": ("key_bits",),
    "split_sums": ("key_bits", "split_maxima"),
    "partials": ("key_bits", "value_bits", "split_maxima"),
}
"""Buffer -> what it is made from; those that a kernel does not have are left out."""


def decided(config: KernelConfig) -> tuple[Decided, ...]:
    """Return the buffers that a decode step fills, in the order in which it does."""
    if not config.one_pass:
        return _TWO_PASSES
    return (_KEY_BITS, _SEEDS, *_ONE_PASS[1:]) if config.rule == "online" else _ONE_PASS


def plane_history(plane: str, pages: NDArray[Any], index: tuple[int, ...]) -> list[str]:
    """Tell which token and channel a byte of a plane belongs to, and where its page lies."""
    per_byte = 1 if plane.endswith("first") else 2
    if plane.startswith("key"):
        page, channel, byte = index
        begin = page * PAGE_TOKENS + byte * per_byte
        what = f"channel {channel} of tokens {begin} to {begin + per_byte - 1}"
    else:
        token, byte = index
        page = token // PAGE_TOKENS
        what = f"channels {byte * per_byte} to {(byte + 1) * per_byte - 1} of token {token}"
    return [f"plane {plane}: {what}; physical page {int(pages[page])}"]


def history_of(buffer: str, expected: Emulated, got: dict[str, NDArray[Any]], index: tuple[int, ...]) -> list[str]:
    """Tell what went into an element of a decode step: the bits read, the operation, and whether its inputs agreed."""
    seq_len = expected.scores.shape[1]
    if buffer in {"scores", "probs", "value_bits"} and index[-1] >= seq_len:
        return [f"token {index[-1]} lies behind the sequence of {seq_len} tokens: nothing may be written there"]
    lines = _OPERATIONS[buffer](expected, got, index)
    for source in _INPUTS.get(buffer, ()):
        if source in got:
            wanted = padded(expected.buffer(source), got[source].shape)
            count = int(different(wanted, np.ascontiguousarray(got[source])).sum())
            told = "all equal" if not count else f"{count} of {wanted.size} elements differ"
            lines.append(f"its input {source}: {told}")
    return lines


def padded(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array at the beginning of zeros of a shape: a cache is longer than its sequences."""
    out = np.zeros(shape, array.dtype)
    out[tuple(slice(n) for n in array.shape)] = array
    return out


def _widths(bits: NDArray[np.uint8]) -> str:
    return ", ".join(f"{count} at {width} bits" for width, count in sorted(Counter(bits.tolist()).items()))


def _key_bits(expected: Emulated, _: Any, index: tuple[int, ...]) -> list[str]:  # noqa: ANN401
    top = expected.maxima["key_maxima"]
    return [f"largest biased exponent of the channel: {top[index]}, of all channels: {top.max()}"]


def _scores(expected: Emulated, _: Any, index: tuple[int, ...]) -> list[str]:  # noqa: ANN401
    token = index[1]
    return [
        f"token {token} is slot {token % PAGE_TOKENS} of page {token // PAGE_TOKENS}; channels: {_widths(expected.key_bits)}",
        "operation: acc = fma(q[d], k[t,d], acc) over ascending channels, then times scale",
    ]


def _probs(expected: Emulated, got: dict[str, NDArray[Any]], index: tuple[int, ...]) -> list[str]:
    return [
        f"its score: expected {expected.scores[index]}, got {got['scores'][index]}",
        "operation: exp2_fma((s - max) * log2 e) / sum; in a split 64 lanes and their tree, splits ascending",
    ]


def _value_bits(expected: Emulated, _: Any, index: tuple[int, ...]) -> list[str]:  # noqa: ANN401
    if expected.once is not None:
        scores = ", ".join(f"{s:.6g}" for s in expected.scores[:, index[0]])
        seeds = ", ".join(map(str, expected.once.seeds.tolist()))
        top = expected.maxima["token_maxima"][index]
        return [
            f"scores: {scores}; largest biased exponent of its values: {top}; exponents that M begins with: {seeds}"
        ]
    probs = ", ".join(f"{p:.6g}" for p in expected.probs[:, index[0]])
    return [f"probabilities: {probs}; largest biased exponent of its values: {expected.maxima['token_maxima'][index]}"]


def _references(expected: Emulated, _: Any, index: tuple[int, ...]) -> list[str]:  # noqa: ANN401
    last = expected.scores.shape[1] - 1
    newest = expected.scores[index[0], last // PAGE_TOKENS * PAGE_TOKENS :]
    return [
        f"newest page: tokens {last // PAGE_TOKENS * PAGE_TOKENS} to {last}, scores up to {newest.max():.6g}",
        "operation: largest floor(s log2 e) + max_c E(v) of these",
    ]


def _split(expected: Emulated, _: Any, index: tuple[int, ...]) -> list[str]:  # noqa: ANN401
    assert expected.once is not None  # noqa: S101 - only a one-pass kernel has this buffer
    return [
        f"largest score of split {index[1]}: {expected.once.splits.maxima[index[:2]]:.6g}",
        "operation: page by page, sums times exp2_fma((M - M') * log2 e), then weights against M' and their products added",
    ]


def _outputs(expected: Emulated, _: Any, index: tuple[int, ...]) -> list[str]:  # noqa: ANN401
    del index
    if expected.once is not None:
        return ["operation: splits scaled by exp2_fma((M - max) * log2 e), added ascending, divided once"]
    return [
        f"tokens: {_widths(expected.value_bits)}",
        "operation: acc = fma(p[t], v[t,c], acc) over ascending tokens of a split; splits added ascending",
    ]


_OPERATIONS = {
    "key_bits": _key_bits,
    "scores": _scores,
    "probs": _probs,
    "references": _references,
    "value_bits": _value_bits,
    "split_maxima": _split,
    "split_sums": _split,
    "partials": _split,
    "outputs": _outputs,
}
