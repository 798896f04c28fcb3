"""How much memory encoding takes at its peak, on a sample: the first layer of a comparison."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

from precalign.codecs import CacheShape, CodedPair
from precalign.codecs.base import Codec, RowCodec
from precalign.codecs.planed import planed_heads
from precalign.codecs.store import CodedCache

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from precalign.analysis.compare.contenders import Contender
    from precalign.formats import Format

SAMPLE_TOKENS = 4096


def encode_peak(contender: Contender, keys: NDArray[np.float32], values: NDArray[np.float32], fmt: Format) -> float:
    """Return the peak of what encoding keys and values at once allocates, per byte of the plain cache.

    Parameters
    ----------
    contender : Contender
    keys, values : ndarray[float32], (seq_len, n_kv_heads, head_dim)
        The first `SAMPLE_TOKENS` tokens are looked at.
    fmt : Format
        Of the plain cache.

    Notes
    -----
    What NumPy and Python allocate between the call and its return, the coded bytes among them, the given numbers not; `tracemalloc` counts it, of the
    whole process, so nothing else may run beside it. Scratch inside compiled kernels (a row, a block) is not traced. The codec has encoded before:
    its tables stand and its kernels are compiled.
    """
    sides = {"keys": keys[:SAMPLE_TOKENS], "values": values[:SAMPLE_TOKENS]}
    shape = CacheShape(keys.shape[1], keys.shape[2], "keys", fmt)
    run = _encoder(contender, sides, shape)
    run()
    return _peak(run) / sum(x.size * fmt.total_bits // 8 for x in sides.values())


def _encoder(contender: Contender, sides: dict[str, NDArray[np.float32]], shape: CacheShape) -> Callable[[], object]:
    def of(side: str) -> CacheShape:
        return CacheShape(shape.n_kv_heads, shape.head_dim, side, shape.format)

    def planed() -> object:
        assert isinstance(contender.keys, RowCodec)  # noqa: S101 - `parse_contender` has looked
        assert contender.reading is not None  # noqa: S101 - the caller has looked
        return [planed_heads(contender.keys, x, of(side), contender.reading.layout) for side, x in sides.items()]

    def pair() -> object:
        assert contender.keys is not None  # noqa: S101 - a codec of both sides is given for both
        assert contender.values is not None  # noqa: S101 - likewise
        held = CodedPair(contender.keys, contender.values, shape)
        held.append(sides["keys"], sides["values"])
        return held

    def apart() -> object:
        held = []
        for side, x in sides.items():
            codec = contender.codec(side)
            if isinstance(codec, Codec):
                held.append(CodedCache(codec, of(side)))
                held[-1].append(x)
        return held

    if contender.reading is not None:
        return planed
    return apart if contender.keys is None or contender.values is None else pair


def _peak(run: Callable[[], object]) -> int:
    """Return the peak of traced memory above what was held before."""
    tracing = tracemalloc.is_tracing()
    gc.collect()
    if not tracing:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        held = run()
        _, peak = tracemalloc.get_traced_memory()
        del held
    finally:
        if not tracing:
            tracemalloc.stop()
    return peak - before
