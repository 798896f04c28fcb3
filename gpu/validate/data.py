"""Codes to validate with: each kind reaches other branches of rules, kernels and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.formats import Format

_TYPES = {"binary16": np.float16, "bfloat16": ml_dtypes.bfloat16}
Parts = tuple[list["NDArray[Any]"], list["NDArray[Any]"], "NDArray[Any]"]
Kind = Callable[["np.random.Generator", "Sequence[int]", int, int, int, "Format"], Parts]


def _encoded(numbers: NDArray[np.float64], fmt: Format) -> NDArray[Any]:
    """Round to codes; beyond the largest finite number that number. By library types: data needs no more, and nothing is compiled."""
    largest = float(fmt.largest)
    rounded: NDArray[Any] = np.clip(numbers, -largest, largest).astype(_TYPES[fmt.name]).view(fmt.code_dtype)
    return rounded


def _shapes(lengths: Sequence[int], n_kv_heads: int, head_dim: int) -> list[tuple[int, int, int]]:
    return [(length, n_kv_heads, head_dim) for length in lengths]


def _normal(rng: Any, lengths: Any, n_kv_heads: int, head_dim: int, group: int, fmt: Format) -> Parts:  # noqa: ANN401
    shapes = _shapes(lengths, n_kv_heads, head_dim)
    keys, values = ([_encoded(rng.standard_normal(shape), fmt) for shape in shapes] for _ in range(2))
    queries = rng.standard_normal((len(shapes), n_kv_heads * group, head_dim))
    return keys, values, _encoded(queries, fmt)


def _spread(rng: Any, lengths: Any, n_kv_heads: int, head_dim: int, group: int, fmt: Format) -> Parts:  # noqa: ANN401
    """Channels of very different size, as rotated keys have them, so that every width of read occurs."""
    shapes = _shapes(lengths, n_kv_heads, head_dim)
    sizes = 2.0 ** rng.uniform(-9, 2, (n_kv_heads, head_dim))
    keys = [_encoded(rng.standard_normal(shape) * sizes, fmt) for shape in shapes]
    values = [
        _encoded(rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 3, (shape[0], 1, 1)), fmt) for shape in shapes
    ]
    queries = rng.standard_normal((len(shapes), n_kv_heads * group, head_dim))
    queries *= 2.0 ** rng.integers(-4, 5, (len(shapes), n_kv_heads * group, 1))
    return keys, values, _encoded(queries, fmt)


def _peaked(rng: Any, lengths: Any, n_kv_heads: int, head_dim: int, group: int, fmt: Format) -> Parts:  # noqa: ANN401
    """Aim queries at one key: nearly all probability on few tokens, the others skipped or read at 8 bits."""
    keys, values, _ = _spread(rng, lengths, n_kv_heads, head_dim, group, fmt)
    draw = rng.standard_normal((len(keys), n_kv_heads * group, head_dim))
    keys = [_encoded(rng.standard_normal(k.shape), fmt) for k in keys]
    for sequence, k in enumerate(keys):
        if len(k):
            t = rng.integers(0, len(k), n_kv_heads * group)
            heads = np.arange(n_kv_heads * group) // group
            draw[sequence] = 1.5 * _values(k[t, heads], fmt) + 0.1 * draw[sequence]
    return keys, values, _encoded(draw, fmt)


def _flat(rng: Any, lengths: Any, n_kv_heads: int, head_dim: int, group: int, fmt: Format) -> Parts:  # noqa: ANN401
    """All keys of a head alike: equal scores, so that every choice by probability is a tie."""
    _, values, queries = _normal(rng, lengths, n_kv_heads, head_dim, group, fmt)
    row = _encoded(rng.standard_normal((1, n_kv_heads, head_dim)), fmt)
    keys = [np.repeat(row, len(v), axis=0) for v in values]
    return keys, values, queries


def _tiny(rng: Any, lengths: Any, n_kv_heads: int, head_dim: int, group: int, fmt: Format) -> Parts:  # noqa: ANN401
    """Subnormals, signed zeros, the smallest normal numbers and all-zero channels beside ordinary numbers."""
    parts = _normal(rng, lengths, n_kv_heads, head_dim, group, fmt)
    codes = []
    for held in (*parts[0], *parts[1], parts[2]):
        small = rng.integers(0, 4 << fmt.trailing_significand_bits, held.shape).astype(held.dtype) // 2
        small |= (rng.integers(0, 2, held.shape) << (fmt.total_bits - 1)).astype(held.dtype)
        mixed = np.where(rng.random(held.shape) < 0.5, small, held)
        mixed[..., ::7] &= np.array(1 << (fmt.total_bits - 1), held.dtype)  # zeros of either sign
        codes.append(mixed)
    n = len(parts[0])
    return codes[:n], codes[n : 2 * n], codes[-1]


def _wide(rng: Any, lengths: Any, n_kv_heads: int, head_dim: int, group: int, fmt: Format) -> Parts:  # noqa: ANN401
    """Codes drawn evenly from all exponents whose products binary32 holds."""
    middle = fmt.bias
    reach = min(middle, 40)

    def draw(*shape: int) -> NDArray[Any]:
        exponent = rng.integers(max(0, middle - reach), middle + reach, shape)
        fraction = rng.integers(0, 1 << fmt.trailing_significand_bits, shape)
        sign = rng.integers(0, 2, shape) << (fmt.total_bits - 1)
        drawn: NDArray[Any] = (sign | exponent << fmt.trailing_significand_bits | fraction).astype(fmt.code_dtype)
        return drawn

    shapes = _shapes(lengths, n_kv_heads, head_dim)
    keys, values = ([draw(*shape) for shape in shapes] for _ in range(2))
    return keys, values, draw(len(shapes), n_kv_heads * group, head_dim)


def _negative(rng: Any, lengths: Any, n_kv_heads: int, head_dim: int, group: int, fmt: Format) -> Parts:  # noqa: ANN401
    """Channels whose largest magnitudes are all negative: a signed maximum would take the wrong exponent."""
    keys, values, queries = _spread(rng, lengths, n_kv_heads, head_dim, group, fmt)
    for held in (*keys, *values):
        big = (held & np.array((1 << (fmt.total_bits - 1)) - 1, held.dtype)) > _encoded(np.array([0.25]), fmt)[0]
        held[big] |= np.array(1 << (fmt.total_bits - 1), held.dtype)
    return keys, values, queries


def _values(codes: NDArray[Any], fmt: Format) -> NDArray[np.float64]:
    from precalign.decode.codes import to_binary32

    return to_binary32(codes, fmt).astype(np.float64)


KINDS: dict[str, Kind] = {
    "normal": _normal,
    "spread": _spread,
    "peaked": _peaked,
    "flat": _flat,
    "tiny": _tiny,
    "wide": _wide,
    "negative": _negative,
}
