"""Encoding and decoding by every codec, with peers' quantisers where they know the format; attention over packed codes beside decoding first."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from precalign.analysis.benchmarks.timing import Benchmark, Options, Row, interleave, rows
from precalign.codecs import CODECS, CacheShape, Codec, CodedCache, CodedPair, get_codec
from precalign.codecs.packed import PackedCodec, attend, bytes_read, plain_scores, plain_sum

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DESCRIPTION = "encoding and decoding by every codec, attention over packed codes; gguf's and quanto's quantisers"

GGUF = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1"}
N_KV_HEADS, HEAD_DIM, GROUP = 8, 128, 4
APART = 2.0**-8
"""kivi's decoding rounds twice to 16 bits, which folding into the query does not; the kit holds every codec to its own bound."""
AIMS = [
    "encode: scalar codecs at least 100 MB/s on a core, vector codecs (fibquant, turboquant) 20 MB/s; decode twice that",
    "never slower than gguf's and quanto's own quantisers",
    "attention over packed codes faster than decoding and then attending",
]


class Peer(NamedTuple):
    """Another library's encoder and decoder of the same numbers."""

    name: str
    encode: Callable[[], object]
    decode: Callable[[], object]


def _whole(name: str) -> str:
    """Return the codec's spec with all tokens coded: what stays in a window costs nothing."""
    return f"{name}:window=0" if any(field.name == "window" for field in fields(CODECS[name])) else name


def _filled(name: str, keys: NDArray[np.float32], values: NDArray[np.float32]) -> CodedPair:
    codec = get_codec(name)
    pair = CodedPair(codec, codec, CacheShape(N_KV_HEADS, HEAD_DIM, "keys"))
    pair.append(keys, values)
    return pair


def _gguf(keys: NDArray[np.float32], values: NDArray[np.float32]) -> tuple[dict[str, Peer], str]:
    """Return what gguf does, by codec, over keys and values."""
    try:
        import gguf
        from gguf import quants
    except ImportError:
        return {}, "gguf is not installed: its quantisers were not timed"
    held: dict[str, Peer] = {}
    flat = np.concatenate([keys.reshape(-1, 32), values.reshape(-1, 32)])
    with np.errstate(all="ignore"):
        for name, kind in GGUF.items():
            chosen = getattr(gguf.GGMLQuantizationType, kind)
            coded = quants.quantize(flat, chosen)
            if coded.tobytes() != _filled(name, keys, values).to_bytes():
                raise AssertionError(f"{name}: other bytes than gguf's")
            held[name] = Peer("gguf", partial(quants.quantize, flat, chosen), partial(quants.dequantize, coded, chosen))
    return held, f"{', '.join(GGUF)}: the bytes of gguf's reference quantisers"


def _quanto(keys: NDArray[np.float32], values: NDArray[np.float32]) -> tuple[dict[str, Peer], str]:
    """Return what quanto does as transformers calls it, on one thread, in the cache's binary16."""
    try:
        import torch

        quanto = import_module("optimum.quanto")
    except ImportError:
        return {}, "quanto is not installed: its quantiser was not timed"
    x = torch.from_numpy(np.concatenate([keys, values]).reshape(-1, HEAD_DIM)).half()

    def encode() -> Any:  # noqa: ANN401 - quanto's tensor
        torch.set_num_threads(1)
        scale, shift = quanto.MaxOptimizer()(x, quanto.qint4, 0, 64)
        return quanto.quantize_weight(x, quanto.qint4, 0, scale, shift, 64)

    coded = encode()
    ours = np.concatenate(_filled(_whole("quanto"), keys, values).decode()).reshape(-1, HEAD_DIM)
    if not np.array_equal(coded.dequantize().float().numpy(), ours):
        raise AssertionError("quanto: decodes to other numbers than quanto's")
    return {
        "quanto": Peer("quanto", encode, coded.dequantize),
    }, "quanto: the numbers that quanto's own codes give"


def _coding(keys: NDArray[np.float32], values: NDArray[np.float32], repeats: int) -> tuple[list[Row], list[str]]:
    """Time every codec of the registry, and its peers."""
    megabytes = 2 * keys.size * 2 / 1e6
    (gguf, check), (quanto, other_check) = _gguf(keys, values), _quanto(keys, values)
    peers = gguf | quanto
    encode: dict[str, Callable[[], object]] = {"copy": lambda: (keys.copy(), values.copy())}
    decode = dict(encode)
    for name in CODECS:
        encode[name] = partial(_filled, _whole(name), keys, values)
        decode[name] = _filled(_whole(name), keys, values).decode
        if name in peers:
            encode[f"{name}, {peers[name].name}"] = peers[name].encode
            decode[f"{name}, {peers[name].name}"] = peers[name].decode

    def figures(_name: str, seconds: float) -> dict[str, float]:
        return {"mb_per_s": megabytes / seconds}

    found: list[Row] = []
    for what, contenders in (("encode", encode), ("decode", decode)):
        case = f"{what}, {len(keys)} tokens"
        with np.errstate(all="ignore"):
            found += rows(case, interleave(contenders, repeats), reference="copy", figures=figures)
    return found, [check, other_check]


def decode_then_attend(
    keys: CodedCache, values: CodedCache, queries: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Return what `attend` does, the long way: both caches as numbers, then the same loops over them."""
    return plain_attend(keys.decode(), values.decode(), queries, scale)


def plain_attend(
    keys: NDArray[np.float32], values: NDArray[np.float32], queries: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Return the outputs of a decode step over numbers (n_tokens, n_kv_heads, head_dim)."""
    scores = np.empty((*queries.shape[:2], len(keys)), np.float32)
    plain_scores(keys, queries, scores)
    scores *= np.float32(scale)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
    out = np.zeros(queries.shape, np.float32)
    plain_sum(values, weights, out)
    return out


def _checked(name: str, keys: CodedCache, values: CodedCache, queries: NDArray[np.float32], scale: float) -> float:
    """Hold attention over packed codes against that over decoded numbers, to a few roundings of the cache's format; return how far they lie apart."""
    long_way = decode_then_attend(keys, values, queries, scale)
    off = np.linalg.norm(attend(keys, values, queries, scale) - long_way, axis=2)
    apart = float((off / np.linalg.norm(long_way, axis=2)).max())
    if not apart <= APART:
        raise AssertionError(
            f"{name}: attention over packed codes is {apart:.3g} of the output's norm off, above {APART:g}"
        )
    return apart


def _attention(keys: NDArray[np.float32], values: NDArray[np.float32], repeats: int) -> tuple[list[Row], str]:
    """Time one decode step from packed codes, from decoded ones and with decoding, for codecs that offer it."""
    rng = np.random.default_rng(1)
    queries, scale = rng.standard_normal((N_KV_HEADS, GROUP, HEAD_DIM)).astype(np.float32), HEAD_DIM**-0.5
    found: list[Row] = []
    apart: dict[str, float] = {}
    offered = [name for name, codec in CODECS.items() if issubclass(codec, PackedCodec)]
    for name in offered:
        codec = get_codec(name)
        assert isinstance(codec, Codec)  # noqa: S101 - a packed codec is one
        of_keys, of_values = (CodedCache(codec, CacheShape(N_KV_HEADS, HEAD_DIM, side)) for side in ("keys", "values"))
        of_keys.append(keys)
        of_values.append(values)
        apart[name] = _checked(name, of_keys, of_values, queries, scale)
        numbers = of_keys.decode(), of_values.decode()
        read = {
            "packed codes": bytes_read(of_keys, of_values),
            "decode, then attend": bytes_read(of_keys, of_values) + sum(x.nbytes for x in numbers),
            "decoded before": sum(x.nbytes for x in numbers),
        }
        contenders: dict[str, Callable[[], object]] = {
            "packed codes": partial(attend, of_keys, of_values, queries, scale),
            "decode, then attend": partial(decode_then_attend, of_keys, of_values, queries, scale),
            "decoded before": partial(plain_attend, numbers[0], numbers[1], queries, scale),
        }

        def figures(what: str, seconds: float, read: dict[str, int] = read) -> dict[str, float]:
            return {"read_mb": read[what] / 1e6, "gb_per_s": read[what] / seconds / 1e9}

        case = f"attention, {name}, {len(keys)} tokens"
        found += rows(case, interleave(contenders, repeats), reference="decode, then attend", figures=figures)
    listed = ", ".join(f"{name} {x:.1e}" for name, x in apart.items())
    return (
        found,
        f"attention over packed codes against decoded numbers, of the output's norm at most {APART:g}: {listed}",
    )


def run(options: Options) -> Benchmark:
    """Time on one thread, in binary16 megabytes of the cache a second; bytes read by attention are those of the codec."""
    n_tokens = 256 if options.small else 2048
    rng = np.random.default_rng(0)
    shape = (n_tokens, N_KV_HEADS, HEAD_DIM)
    keys, values = (rng.standard_normal(shape).astype(np.float16).astype(np.float32) for _ in range(2))
    found, checks = _coding(keys, values, options.repeats)
    attention, check = _attention(keys, values, options.repeats)
    what = f"timed on one thread: keys and values of {N_KV_HEADS} kv heads, head_dim {HEAD_DIM}; {GROUP} query heads to a kv head"
    return Benchmark("codecs", DESCRIPTION, found + attention, checks=[what, *checks, check], aims=AIMS)
