"""What went into an element that differs: where it lies, what was read for it, which operation made it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.plane_cache import PAGE_TOKENS
from precalign.gpu.validate.points import different

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.gpu.validate.emulated import Emulated

DECIDED = {
    "key-bits": ("key_bits", ("channel",)),
    "scores": ("scores", ("query head", "token")),
    "probs": ("probs", ("query head", "token")),
    "value-bits": ("value_bits", ("token",)),
    "outputs": ("outputs", ("query head", "channel")),
}
"""Point -> attribute of `Emulated`, names of its axes."""
_INPUTS = {"scores": ["key-bits"], "probs": ["scores"], "value-bits": ["probs"], "outputs": ["probs", "value-bits"]}


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


def history_of(point: str, expected: Emulated, got: dict[str, NDArray[Any]], index: tuple[int, ...]) -> list[str]:
    """Tell what went into an element of a decode step: the bits read, the operation, and whether its inputs agreed."""
    seq_len = expected.scores.shape[1]
    if point not in {"key-bits", "outputs"} and index[-1] >= seq_len:
        return [f"token {index[-1]} lies behind the sequence of {seq_len} tokens: nothing may be written there"]
    lines = _OPERATIONS[point](expected, got, index)
    for source in _INPUTS.get(point, []):
        wanted = np.ascontiguousarray(getattr(expected, DECIDED[source][0]))
        held = np.ascontiguousarray(got[source][..., : wanted.shape[-1]])
        count = int(different(wanted, held).sum())
        lines.append(f"its input {source}: {'all equal' if not count else f'{count} of {wanted.size} elements differ'}")
    return lines


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
    probs = ", ".join(f"{p:.6g}" for p in expected.probs[:, index[0]])
    return [f"probabilities: {probs}; largest biased exponent of its values: {expected.maxima['token_maxima'][index]}"]


def _outputs(expected: Emulated, _: Any, index: tuple[int, ...]) -> list[str]:  # noqa: ANN401
    del index
    return [
        f"tokens: {_widths(expected.value_bits)}",
        "operation: acc = fma(p[t], v[t,c], acc) over ascending tokens of a split; splits added ascending",
    ]


_OPERATIONS = {
    "key-bits": _key_bits,
    "scores": _scores,
    "probs": _probs,
    "value-bits": _value_bits,
    "outputs": _outputs,
}
