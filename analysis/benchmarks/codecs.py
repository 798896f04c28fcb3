"""Encoding and decoding by every codec, with gguf's reference quantisers where they know the format."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.benchmarks.timing import Benchmark, Options, Row, interleave, rows
from precalign.codecs import CacheShape, Codec, CodedCache, get_codec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DESCRIPTION = "encoding and decoding by every codec; gguf's quantisers where they know the format"

SCALAR = (
    *("kivi", "quanto", "fp8", "int8-token", "fp8-token", "int4-token", "nvfp4", "mxfp8", "mxfp4"),
    *("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"),
)
VECTOR = ("fibquant", "turboquant")
GGUF = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1"}


def _filled(codec: Codec, x: NDArray[np.float32]) -> CodedCache:
    cache = CodedCache(codec, CacheShape(x.shape[1], x.shape[2], "keys"))
    cache.append(x)
    return cache


def _peers(x: NDArray[np.float32]) -> tuple[dict[str, tuple[Callable[[], object], Callable[[], object]]], str]:
    """Return what gguf does, by codec: (encode, decode)."""
    try:
        import gguf
        from gguf import quants
    except ImportError:
        return {}, "gguf is not installed: its quantisers were not timed"
    held: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    flat = x.reshape(-1, 32)
    with np.errstate(all="ignore"):
        for name, kind in GGUF.items():
            chosen = getattr(gguf.GGMLQuantizationType, kind)
            coded = quants.quantize(flat, chosen)
            if coded.tobytes() != _filled(_one_sided(name), x).to_bytes():
                raise AssertionError(f"{name}: other bytes than gguf's")
            held[name] = (partial(quants.quantize, flat, chosen), partial(quants.dequantize, coded, chosen))
    return held, f"{', '.join(GGUF)}: the bytes of gguf's reference quantisers"


def _one_sided(name: str) -> Codec:
    codec = get_codec(name)
    assert isinstance(codec, Codec)  # noqa: S101 - pair codecs are not in the lists above
    return codec


def run(options: Options) -> Benchmark:
    """Time every codec on one thread, in binary16 megabytes of the cache a second."""
    n_tokens = 512 if options.small else 4096
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_tokens, 8, 128)).astype(np.float16).astype(np.float32)
    megabytes = x.size * 2 / 1e6
    peers, check = _peers(x)
    encode: dict[str, Callable[[], object]] = {"copy": x.copy}
    decode: dict[str, Callable[[], object]] = {"copy": x.copy}
    for name in (*SCALAR, *VECTOR):
        codec = _one_sided(name)
        encode[name] = partial(_filled, codec, x)
        decode[name] = _filled(codec, x).decode
        if name in peers:
            encode[f"{name}, gguf"], decode[f"{name}, gguf"] = peers[name]

    def figures(_name: str, seconds: float) -> dict[str, float]:
        return {"mb_per_s": megabytes / seconds}

    found: list[Row] = []
    for what, contenders in (("encode", encode), ("decode", decode)):
        case = f"{what}, {n_tokens} tokens x 8 kv heads x head_dim 128"
        with np.errstate(all="ignore"):
            found += rows(case, interleave(contenders, options.repeats), reference="copy", figures=figures)
    aims = [
        "encode: scalar codecs at least 100 MB/s on a core, vector codecs 20 MB/s; decode twice that",
        "never slower than gguf's own quantisers",
    ]
    return Benchmark("codecs", DESCRIPTION, found, checks=[check], aims=aims)
