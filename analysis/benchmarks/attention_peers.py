"""What `precalign bench attention` compares with: torch's ways to attend, and plain reading of memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.decode.codes import to_binary32
from precalign.formats import BFLOAT16, BINARY16, BINARY32, get_format
from precalign.interop import from_codes
from precalign.jit import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.cpu import FullReadCache
    from precalign.formats import Format
    from precalign.jit import Array

_TYPES = {BINARY16.name: "float16", BFLOAT16.name: "bfloat16", BINARY32.name: "float32"}


@kernel
def _sum(numbers: Array) -> int:
    total = 0
    for i in range(len(numbers)):
        total += numbers[i]
    return total


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def read_bandwidth(twin: FullReadCache, threads: int) -> Callable[[], object]:
    """Return the reading of every byte of the twin's keys and values as integers that are added up, in equal parts by thread."""
    parts = [
        part
        for name in ("key_first", "value_first")
        for part in np.array_split(twin.memory(name).view(np.int64), threads)
    ]
    return lambda: list(_pool(threads).map(_sum, parts))


def torch_contenders(
    keys: NDArray[Any], values: NDArray[Any], queries: NDArray[Any], fmt: Format, scale: float, threads: int
) -> dict[str, Callable[[], Any]]:
    """Return torch's fused attention and its matmuls, in the cache's own format, the other one, and binary32; none without torch.

    A group of query heads is given as so many queries of one head: no byte of the cache is read twice, nothing is expanded.
    """
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(threads)
    n_kv_heads, head_dim = keys.shape[1:]
    attention = torch.nn.functional.scaled_dot_product_attention
    contenders: dict[str, Callable[[], Any]] = {}
    own = [from_codes(np.ascontiguousarray(side.swapaxes(0, 1)), fmt, "torch") for side in (keys, values)]
    group = from_codes(queries, fmt, "torch").reshape(n_kv_heads, -1, head_dim)
    for name, kind in _TYPES.items():
        dtype = getattr(torch, kind)
        k, v, q = (tensor.to(dtype) for tensor in (*own, group))

        def fused(q: Any = q, k: Any = k, v: Any = v) -> Any:  # noqa: ANN401 - torch has no types here
            with torch.no_grad():
                return attention(q[None], k[None], v[None], scale=scale)[0]

        def plain(q: Any = q, k: Any = k, v: Any = v) -> Any:  # noqa: ANN401
            with torch.no_grad():
                return torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ v

        contenders |= {f"torch sdpa, {name}": fused, f"torch matmul, {name}": plain}
    return contenders


def check_outputs(
    case: str,
    twin: NDArray[np.float32],
    torch: dict[str, Callable[[], Any]],
    keys: NDArray[Any],
    values: NDArray[Any],
    queries: NDArray[Any],
    fmt: Format,
    scale: float,
) -> list[str]:
    """Compare the twin and every torch contender with attention in binary64 on one kv head; each within a bound for its format.

    A score errs by at most (2u + head_dim 2^-24) sum|q k| scale, where u is the unit roundoff in which operands and scores are
    rounded; a probability by e^(2 that) - 1 relative, and by its own rounding, u relative or half the smallest number of its format; the sum of
    n products by n 2^-24 relative. A largest |v| bounds them all.
    """
    head_dim = keys.shape[2]
    k, v = (to_binary32(np.ascontiguousarray(side[:, 0]), fmt).astype(np.float64) for side in (keys, values))
    group = queries.shape[1] // keys.shape[1]
    q = to_binary32(queries[0, :group], fmt).astype(np.float64)
    scores = scale * (q @ k.T)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    exact = weights @ v / weights.sum(axis=1, keepdims=True)
    largest = scale * float((np.abs(q) @ np.abs(k).T).max())
    results = {f"{case}: twin": (twin[0, :group], BINARY32)}
    for name, call in torch.items():
        used = get_format(name.rpartition(", ")[2])
        results[name] = (np.asarray(call()[0].float().numpy()), used)
    n = len(k)
    for name, (got, used) in results.items():
        u = 2.0**-used.precision_bits
        half_least = 2.0 ** (used.emin - used.trailing_significand_bits - 1)
        score = (2 * u + head_dim * 2.0**-24) * largest
        bound = (np.expm1(2 * score) + 3 * u + n * (half_least + 2.0**-24)) * float(np.abs(v).max())
        apart = float(np.abs(got - exact).max())
        if not apart <= bound:
            raise AssertionError(f"{case}: {name} is {apart:.3g} from attention in binary64, more than {bound:.3g}")
    return [
        f"{case}: the twin and {len(torch)} ways of torch lie within their formats' bounds of attention in binary64"
    ]
