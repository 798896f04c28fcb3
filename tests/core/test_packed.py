"""Attention straight from packed codes: every codec that offers it, against binary64 over what independent code makes of the bytes."""

import ml_dtypes
import numpy as np
import pytest

from precalign.codecs import CODECS, CacheShape, CodedCache, get_codec
from precalign.codecs.codebook import fibonacci_codebook
from precalign.codecs.packed import PackedCodec, attend, bytes_read, growth
from precalign.codecs.sphere import haar_rotation
from precalign.codecs.turboquant import lloyd_max_centroids
from precalign.errors import UsageError
from precalign.formats import BFLOAT16, BINARY16

SPECS = [
    *(
        "q8_0",
        "kivi",
        "kivi:bits=4,group=16,window=32",
        "kivi:bits=8,group=32,window=0",
        "turboquant",
        "turboquant:bits=1",
    ),
    *("turboquant:bits=3,inner=1", "fibquant", "fibquant:k=2,n=100", "fibquant:k=8,n=200"),
]


def numbers(n_tokens, seed, fmt=BINARY16, heads=2, head_dim=64):
    rng = np.random.default_rng(seed)
    kind = np.float16 if fmt == BINARY16 else ml_dtypes.bfloat16
    drawn = rng.standard_normal((n_tokens, heads, head_dim)) * 2.0 ** rng.uniform(-3, 3, (1, heads, head_dim))
    return drawn.astype(kind).astype(np.float32)


def filled(spec, n_tokens, fmt, side, seed):
    cache = CodedCache(get_codec(spec), CacheShape(2, 64, side, fmt))
    for piece in np.array_split(numbers(n_tokens, seed, fmt), 3):
        cache.append(piece)
    return cache


def test_every_packed_codec_is_here():
    offered = {name for name, codec in CODECS.items() if issubclass(codec, PackedCodec)}
    assert offered == {spec.partition(":")[0] for spec in SPECS}


@pytest.mark.parametrize("fmt", [BINARY16, BFLOAT16], ids=["binary16", "bfloat16"])
@pytest.mark.parametrize("spec", SPECS)
def test_attention_is_that_over_decoded_numbers(spec, fmt):
    """End to end, window included: scores within the bound move log weights, sums add theirs."""
    for n_tokens in (1, 33, 300):
        keys, values = (filled(spec, n_tokens, fmt, side, seed) for side, seed in (("keys", 1), ("values", 2)))
        queries = np.random.default_rng(3).standard_normal((2, 3, 64)).astype(np.float32)
        got = attend(keys, values, queries, 0.125)
        k, v = (cache.decode().transpose(1, 0, 2).astype(np.float64) for cache in (keys, values))
        scores = 0.125 * queries.astype(np.float64) @ k.swapaxes(1, 2)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        p /= p.sum(axis=2, keepdims=True)
        off = np.linalg.norm(got - p @ v, axis=2)
        top_k, top_v = np.abs(k).max() * 8, np.abs(v).max() * 8
        of_scores = (
            0.125 * (keys.codec.packed_error(keys.shape) + growth(100)) * np.linalg.norm(queries, axis=2) * top_k
        )
        # A softmax whose logarithms move by e moves by at most exp(2 e) - 1 in all; its own arithmetic is binary32.
        weights = np.expm1(2 * (of_scores + 1e-6 * np.abs(scores).max())) + growth(n_tokens + 10)
        bound = (weights + values.codec.packed_error(values.shape) + growth(n_tokens)) * top_v
        assert (off <= bound).all()
        if not spec.startswith("kivi"):  # which rounds to 16 bits where folding does not
            assert (off <= 3e-5 * top_v).all()
        assert bytes_read(keys, values) >= len(keys.to_bytes()) + len(values.to_bytes())


def codes_of(rows, width, n):
    """The b-bit codes of rows of bytes, the plainest way."""
    return np.array(
        [
            [int.from_bytes(row.tobytes(), "little") >> (width * i) & ((1 << width) - 1) for i in range(n)]
            for row in rows
        ]
    )


@pytest.mark.parametrize("spec", ["q8_0", "turboquant", "fibquant", "kivi"])
def test_scores_and_sums_of_the_bytes_alone(spec):
    """Every coded number is made of the bytes here, in binary64."""
    n, h, d = 128, 2, 64
    x = numbers(n, 5)
    keys, values = (
        CodedCache(get_codec(spec + (":window=0" if spec == "kivi" else "")), CacheShape(h, d, s))
        for s in ("keys", "values")
    )
    keys.append(x)
    values.append(x)
    as_keys, as_values = slow_numbers(spec, keys.to_bytes()), slow_numbers(spec, values.to_bytes(), "values")
    rng = np.random.default_rng(0)
    queries, weights = rng.standard_normal((h, 4, d)).astype(np.float32), rng.random((h, 4, n)).astype(np.float32)
    codec = keys.codec
    scores = codec.packed_scores(keys.coded()[0], n, keys.coded()[1], keys.shape, queries)
    sums = codec.packed_sum(values.coded()[0], n, values.coded()[1], values.shape, weights)
    exact_scores = np.einsum("hgd,thd->hgt", queries.astype(np.float64), as_keys)
    exact_sums = np.einsum("hgt,thd->hgd", weights.astype(np.float64), as_values)
    assert np.abs(scores - exact_scores).max() <= 2e-5 * np.abs(exact_scores).max()
    assert np.abs(sums - exact_sums).max() <= 2e-5 * np.abs(exact_sums).max()


def slow_numbers(spec, data, side="keys", n=128, h=2, d=64):
    octets = np.frombuffer(data, np.uint8)
    if spec == "q8_0":
        blocks = octets.reshape(-1, 34)
        scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float64)
        return (scales * blocks[:, 2:].view(np.int8)).reshape(n, h, d)
    if spec == "kivi":
        groups = octets.reshape(-1, 12)
        step, low = np.ascontiguousarray(groups[:, :4]).view(np.float16).astype(np.float64).T[:, :, None]
        made = low + step * codes_of(groups[:, 4:], 2, 32)
        if side == "keys":
            return made.reshape(n // 32, h, d, 32).transpose(0, 3, 1, 2).reshape(n, h, d)
        return made.reshape(n, h, d)
    rows = octets.reshape(n * h, -1)
    norms = np.ascontiguousarray(rows[:, :2]).view(np.float16).astype(np.float64)
    if spec == "turboquant":
        unit = lloyd_max_centroids(d, 4)[codes_of(rows[:, 2:], 4, d)]
    else:
        unit = fibonacci_codebook(d, 4, 256, 1).astype(np.float64)[codes_of(rows[:, 2:], 8, d // 4)].reshape(n * h, d)
    return (norms * unit @ haar_rotation(d, 1).astype(np.float64)).reshape(n, h, d)


def test_a_codec_without_a_packed_form_says_so():
    keys = filled("q4_0", 3, BINARY16, "keys", 0)
    with pytest.raises(UsageError, match="codec q4_0: attention does not read its packed form"):
        attend(keys, keys, np.zeros((2, 1, 64), np.float32), 1.0)
