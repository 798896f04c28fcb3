"""Every codec: sizes, streams, round trips and edges; and bit for bit against plain implementations that share no code with it."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precalign.codecs import CODECS, CacheShape, Codec, CodedCache, CodedPair, get_codec, predicted_bytes
from precalign.codecs.codebook import directions, fibonacci_codebook, nearest_codewords, source
from precalign.codecs.repack import greedy_order, pack_block, pack_limit, unpack_block
from precalign.codecs.sphere import haar_rotation
from precalign.codecs.turboquant import lloyd_max_centroids
from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16, E2M1, E4M3FN
from precalign.interop.mx import mx_encode
from precalign.layouts import default_layout
from precalign.planes import split_values

ONE_SIDED = sorted(name for name, codec in CODECS.items() if issubclass(codec, Codec))
PAIRS = sorted(set(CODECS) - set(ONE_SIDED))
FORMATS = {"binary16": BINARY16, "bfloat16": BFLOAT16}


def rounded(x, fmt=BINARY16):
    return x.astype(np.float16 if fmt == BINARY16 else ml_dtypes.bfloat16).astype(np.float32)


def draw(n_tokens, n_kv_heads=2, head_dim=64, seed=0, fmt=BINARY16):
    rng = np.random.default_rng(seed)
    spread = 2.0 ** rng.uniform(-4, 4, (1, n_kv_heads, head_dim))
    return rounded(rng.standard_normal((n_tokens, n_kv_heads, head_dim)) * spread, fmt)


def shape_of(x, side="keys", fmt=BINARY16):
    return CacheShape(x.shape[1], x.shape[2], side, fmt)


def coded(name, x, side="keys", fmt=BINARY16):
    cache = CodedCache(get_codec(name), shape_of(x, side, fmt))
    cache.append(x)
    return cache


EDGES = {
    "zeros": np.zeros((140, 2, 64), np.float32),
    "constant": np.full((140, 2, 64), np.float32(-1.5)),
    "huge": np.where(np.arange(64) % 2, np.float32(65504), np.float32(-65504)) * np.ones((140, 2, 1), np.float32),
    "subnormal": rounded(np.random.default_rng(1).integers(-9, 9, (140, 2, 64)) * 2.0**-24),
    "one spike": np.eye(1, 64, 5, dtype=np.float32)[None] * np.ones((140, 2, 1), np.float32) * 300,
}


@pytest.mark.parametrize("side", ["keys", "values"])
@pytest.mark.parametrize("name", ONE_SIDED)
def test_bytes_are_as_long_as_predicted_and_decode_to_the_same(name, side):
    for n_tokens in (1, 2, 31, 127, 128, 129, 200, 257):
        x = draw(n_tokens)
        cache = coded(name, x, side)
        data = cache.to_bytes()
        assert len(data) == cache.nbytes == predicted_bytes(cache.codec, cache.shape, n_tokens)
        again = CodedCache.from_bytes(cache.codec, cache.shape, n_tokens, data)
        assert np.array_equal(again.decode(), cache.decode())
        assert again.to_bytes() == data
        with pytest.raises(
            InputError, match=f"{n_tokens} tokens of {side} take {len(data)} bytes, got {len(data) + 1}"
        ):
            CodedCache.from_bytes(cache.codec, cache.shape, n_tokens, data + b"\0")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", ONE_SIDED)
def test_tokens_one_by_one_give_the_bytes_of_all_at_once(name, fmt):
    x = draw(300, fmt=FORMATS[fmt])
    for side in ("keys", "values"):
        whole = coded(f"{name}:scale=0.25" if "stream" in get_codec(name).disclaims else name, x, side, FORMATS[fmt])
        assert "stream" not in whole.codec.disclaims
        parts = CodedCache(whole.codec, whole.shape)
        for piece in np.split(x, [1, 2, 3, 60, 127, 128, 129, 130, 258, 299]):
            parts.append(piece)
        assert parts.to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", sorted(CODECS))
def test_edges_stay_finite_and_within_the_range(name, edge):
    x = np.tile(EDGES[edge], (2, 1, 1))
    codec = get_codec(name)
    pair = CodedPair(codec, codec, shape_of(x))
    pair.append(x, x)
    for decoded in pair.decode():
        assert np.isfinite(decoded).all()
        top = np.abs(x).max()
        # A step that underflows is off by up to 2^-25, 31 times in a code of 5 bits.
        assert np.abs(decoded).max() <= 2 * top + (0 if edge != "subnormal" else 31 * 2.0**-25)
        if edge == "zeros":
            assert not decoded.any()


def test_what_is_not_finite_or_of_another_shape_is_refused():
    cache = CodedCache(get_codec("q8_0"), CacheShape(2, 64, "keys"))
    bad = draw(3)
    bad[1, 0, 5] = np.inf
    with pytest.raises(InputError, match="keys: holds infinities or NaNs"):
        cache.append(bad)
    with pytest.raises(InputError, match=r"expected float32 \(n_tokens, 2, 64\), got float32 \(3, 64, 2\)"):
        cache.append(draw(3).transpose(0, 2, 1))
    with pytest.raises(InputError, match="float64"):
        cache.append(draw(3).astype(np.float64))


@pytest.mark.parametrize(
    ("text", "head_dim", "message"),
    [
        ("q4", 64, "unknown codec 'q4'"),
        ("kivi:bit=2", 64, "unknown parameter 'bit'"),
        ("kivi:bits=two", 64, "bits must be of type int, not 'two'"),
        ("kivi:bits=3", 64, "takes 1, 2, 4 or 8 bits"),
        ("kivi:window=100", 64, "window must be a multiple of the group"),
        ("q4_0", 48, "head_dim 48 is no multiple of 32"),
        ("nvfp4", 40, "head_dim 40 is no multiple of 16"),
        ("int4-token", 96, "power of two"),
        ("fp8:format=e3m4", 64, "format=e4m3fn|e5m2"),
        ("fibquant:k=5", 64, "head_dim 64 is no multiple of 5"),
        ("turboquant:bits=1,inner=1", 64, "takes 1 .* to 8 bits"),
        ("packkv:order=random", 64, "order greedy|median|none"),
        ("ott:norm=3", 64, "norm 1 or 2"),
    ],
)
def test_wrong_parameters_are_named(text, head_dim, message):
    def use():
        codec = get_codec(text)
        CodedPair(codec, codec, CacheShape(2, head_dim, "keys"))

    with pytest.raises(UsageError, match=message):
        use()


def test_a_pair_codec_stands_on_both_sides():
    with pytest.raises(UsageError, match="codec packkv codes keys and values together"):
        CodedPair(get_codec("packkv"), get_codec("kivi"), CacheShape(2, 64, "keys"))


# --- ggml, against gguf's reference quantisers

GGML = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1"}


def ggml_inputs():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((3000, 32)) * 2.0 ** rng.integers(-20, 12, (3000, 1))
    rows[::7] = rng.integers(-8, 9, (len(rows[::7]), 32)) * 2.0 ** rng.integers(-8, 8, (len(rows[::7]), 1))  # ties
    rows[::11] = 0
    rows[1::11] = rows[1::11, :1]
    return rounded(np.clip(rows, -65504, 65504)).reshape(-1, 3, 32)


@pytest.mark.parametrize("name", GGML)
def test_ggml_formats_are_those_of_gguf(name):
    quants = pytest.importorskip("gguf.quants", reason="needs gguf, the reference quantisers of ggml")
    kind = getattr(pytest.importorskip("gguf").GGMLQuantizationType, GGML[name])
    x = ggml_inputs()
    cache = coded(name, x)
    with np.errstate(all="ignore"):
        expected = quants.quantize(x.reshape(-1, 32), kind)
    assert cache.to_bytes() == expected.tobytes()
    assert np.array_equal(cache.decode(), quants.dequantize(expected, kind).reshape(x.shape))


def test_iq4_nl_decodes_as_gguf_and_codes_as_stated():
    quants = pytest.importorskip("gguf.quants", reason="needs gguf, the reference quantisers of ggml")
    kind = pytest.importorskip("gguf").GGMLQuantizationType.IQ4_NL
    x = ggml_inputs()[:400]
    cache = coded("iq4_nl", x)
    octets = np.frombuffer(cache.to_bytes(), np.uint8).reshape(-1, 18)
    assert np.array_equal(cache.decode(), quants.dequantize(octets, kind).reshape(x.shape))
    grid = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
    for block, row in zip(octets[:300], x.reshape(-1, 32)[:300].astype(np.float64), strict=True):
        codes = np.concatenate([block[2:] & 15, block[2:] >> 4])
        if not row.any():
            assert not block.any()
            continue
        scaled = row * (-127 / row[np.argmax(np.abs(row))])
        distance = np.abs(scaled[:, None] - grid)
        assert (distance[np.arange(32), codes] <= distance.min(axis=1) + 1e-4).all()
        d = float(block[:2].view(np.float16)[0])
        best = (row**3 * grid[codes]).sum() / (row**2 * grid[codes] ** 2).sum()
        assert abs(d - best) <= 2.0**-10 * abs(best) + 2.0**-24


# --- floats, against ml_dtypes


@pytest.mark.parametrize(("fmt", "kind"), [("e4m3fn", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)])
def test_fp8_is_that_of_ml_dtypes(fmt, kind):
    x = rounded(np.random.default_rng(0).standard_normal((200, 2, 64)) * 2.0 ** np.arange(-20, 12, 0.5))
    for scale in (1.0, 0.125):
        largest = float(ml_dtypes.finfo(kind).max)
        expected = np.clip(x / np.float32(scale), -largest, largest).astype(kind)
        cache = coded(f"fp8:format={fmt},scale={scale}", x)
        assert cache.to_bytes()[4:] == expected.tobytes()
        assert np.array_equal(cache.decode(), expected.astype(np.float32) * np.float32(scale))


def test_fp8_finds_a_scale_that_does_not_saturate():
    x = draw(50) * 100
    for per, axis in (("tensor", None), ("head", (0, 2))):
        cache = coded(f"fp8:scale=0,per={per}", x)
        scales = np.frombuffer(cache.to_bytes()[: cache.codec.start_bytes(cache.shape)], "<f4")
        assert np.array_equal(scales, np.atleast_1d(np.abs(x).max(axis=axis) / np.float32(448)))
        assert np.abs(cache.decode() - x).max() <= np.abs(x).max() / 16


def test_nvfp4_is_that_of_ml_dtypes():
    x = draw(64)
    cache = coded("nvfp4", x)
    overall = np.frombuffer(cache.to_bytes()[:4], "<f4")[0]
    assert overall == np.float32(float(np.abs(x).max()) / (6 * 448))
    blocks = x.reshape(-1, 16)
    scales = (np.abs(blocks).max(axis=1) / np.float32(6) / overall).clip(0, 448).astype(ml_dtypes.float8_e4m3fn)
    steps = scales.astype(np.float32) * overall
    codes = (blocks / np.where(steps == 0, np.inf, steps)[:, None]).clip(-6, 6).astype(ml_dtypes.float4_e2m1fn)
    decoded = codes.astype(np.float32) * steps[:, None]
    assert np.array_equal(cache.decode(), decoded.reshape(x.shape))
    rows = np.frombuffer(cache.to_bytes()[4:], np.uint8).reshape(-1, 36)
    assert np.array_equal(rows[:, 32:].reshape(-1), scales.view(np.uint8))
    nibbles = codes.view(np.uint8).reshape(-1, 64)
    assert np.array_equal(rows[:, :32], nibbles[:, 0::2] | nibbles[:, 1::2] << 4)


@pytest.mark.parametrize(
    ("name", "kind", "emax"), [("mxfp8", ml_dtypes.float8_e4m3fn, 8), ("mxfp4", ml_dtypes.float4_e2m1fn, 2)]
)
def test_mx_is_that_of_ml_dtypes(name, kind, emax):
    x = draw(64)
    blocks = x.reshape(-1, 32).astype(np.float64)
    shared = np.floor(np.log2(np.abs(blocks).max(axis=1, keepdims=True))) - emax
    largest = float(ml_dtypes.finfo(kind).max)
    codes = (blocks / 2.0**shared).clip(-largest, largest).astype(np.float32).astype(kind)
    assert np.array_equal(coded(name, x).decode(), (codes.astype(np.float64) * 2.0**shared).reshape(x.shape))


@pytest.mark.parametrize(("name", "element"), [("mxfp8", E4M3FN), ("mxfp4", E2M1)])
def test_mx_over_the_whole_range_of_bfloat16_is_that_of_the_conversion_by_the_specification(name, element):
    rng = np.random.default_rng(0)
    wide = np.ldexp(rng.integers(-255, 256, (3000, 1, 2, 32)), rng.integers(-140, 120, (3000, 1, 2, 1))).reshape(
        -1, 1, 64
    )
    x = rounded(np.concatenate([wide, np.zeros((2, 1, 64))]).astype(np.float32), BFLOAT16)
    assert (np.abs(x[x != 0]) < 2.0**-126).any()  # subnormals
    octets = np.frombuffer(coded(name, x, fmt=BFLOAT16).to_bytes(), np.uint8).reshape(len(x), -1)
    blocks = mx_encode(x.reshape(-1, 64), element)
    assert np.array_equal(octets[:, -2:], blocks.scales)
    assert np.array_equal(codes_of(octets[:, :-2], element.total_bits, 64), blocks.elements)


def codes_of(rows, width, n):
    streams = (int.from_bytes(row.tobytes(), "little") for row in rows)
    return np.array([[stream >> (width * i) & ((1 << width) - 1) for i in range(n)] for stream in streams])


@pytest.mark.parametrize("head_dim", [64, 51])
@pytest.mark.parametrize("fmt", FORMATS)
def test_planes_are_those_that_rules_read(fmt, head_dim):
    x = draw(20, 1, head_dim, fmt=FORMATS[fmt])
    kind = np.float16 if fmt == "binary16" else ml_dtypes.bfloat16
    planes = split_values(x[:, 0].astype(kind).view(np.uint16), default_layout(FORMATS[fmt]))
    assert coded("planes", x, fmt=FORMATS[fmt]).to_bytes() == np.concatenate(planes, axis=1).tobytes()


# --- uniform groups, one number at a time in the cache's own arithmetic


def slow_group(numbers, bits, kind):
    low, high = min(numbers), max(numbers)
    step = kind((high - low) / kind(2**bits - 1))
    codes = [0 if step == 0 else int(np.rint(np.clip(kind(kind(x - low) / step), 0, 2**bits - 1))) for x in numbers]
    decoded = [float(kind(kind(kind(c) * step) + low)) for c in codes]
    stream = sum(c << (bits * i) for i, c in enumerate(codes))
    return step.tobytes() + kind(low).tobytes() + stream.to_bytes(len(codes) * bits // 8, "little"), decoded


@pytest.mark.parametrize(("fmt", "kind"), [(BINARY16, np.float16), (BFLOAT16, ml_dtypes.bfloat16)])
@pytest.mark.parametrize("side", ["keys", "values"])
@pytest.mark.parametrize("bits", [2, 4])
def test_kivi_number_by_number(side, bits, fmt, kind):
    x = draw(96 + 7, 2, 32, seed=bits, fmt=fmt)
    x[:40, 1, 3] = 1.5
    cache = coded(f"kivi:bits={bits},group=32,window=64", x, side, fmt)
    n_coded = 64 if side == "keys" else 39
    expected, decoded = b"", np.array(x)
    places = [
        (slice(t, t + 32), h, c) if side == "keys" else (t, h, slice(0, 32))
        for t in (range(0, n_coded, 32) if side == "keys" else range(n_coded))
        for h in range(2)
        for c in (range(32) if side == "keys" else [0])
    ]
    for place in places:
        octets, numbers = slow_group([kind(v) for v in x[place]], bits, kind)
        expected += octets
        decoded[place] = numbers
    window = x[n_coded:].astype(kind).tobytes()
    assert cache.to_bytes() == window + expected
    assert np.array_equal(cache.decode(), decoded)


def test_quanto_is_one_token_at_a_time():
    x = draw(129 + 5, 1, 128)
    cache = coded("quanto:bits=2", x)
    expected = b"".join(
        slow_group([np.float16(v) for v in x[t, 0, c : c + 64]], 2, np.float16)[0] for t in range(129) for c in (0, 64)
    )
    assert cache.to_bytes() == x[129:].astype(np.float16).tobytes() + expected


def test_published_sizes():
    shape = CacheShape(8, 128, "keys")
    per_number = {
        "kivi:bits=2,group=32,window=0": 3.0,
        "kivi:bits=2,group=128,window=0": 2.25,
        "fp8": 8,
        "int8-token": 8.25,
        "fp8-token": 8.25,
        "int4-token": 4.25,
        "nvfp4": 4.5,
        "mxfp8": 8.25,
        "mxfp4": 4.25,
        "q8_0": 8.5,
        "q4_0": 4.5,
        "q4_1": 5,
        "q5_0": 5.5,
        "q5_1": 6,
        "iq4_nl": 4.5,
        "quanto:bits=4,window=0": 4.5,
        "quanto:bits=2,window=0": 2.5,
        "fibquant:k=4,n=256": 2 + 16 / 128,
        "turboquant:bits=3": 3 + 16 / 128,
        "turboquant:bits=3,inner=1": 3 + 32 / 128,
        "planes": 16,
    }
    for name, expected in per_number.items():
        codec = get_codec(name)
        header = codec.start_bytes(shape)
        assert (predicted_bytes(codec, shape, 1024) - header) * 8 == expected * 1024 * 8 * 128, name


# --- rotations and codebooks


def test_int4_token_is_exact_where_the_transform_is():
    from scipy.linalg import hadamard

    x = np.random.default_rng(5).integers(-9, 10, (40, 2, 64)).astype(np.float32)
    cache = coded("int4-token", x)
    h = hadamard(64) / 8
    rotated = x.reshape(-1, 64).astype(np.float64) @ h
    low, high = rotated.min(axis=1, keepdims=True), rotated.max(axis=1, keepdims=True)
    low = low.astype(np.float16).astype(np.float32)
    step = ((high.astype(np.float32) - low) / np.float32(15)).astype(np.float16).astype(np.float32)
    codes = np.rint(np.clip((rotated.astype(np.float32) - low) / step, 0, 15))
    expected = (codes.astype(np.float64) * step + low) @ h
    assert np.abs(cache.decode().reshape(-1, 64) - expected).max() <= 64 * 2.0**-24 * np.abs(expected).max() * 8


def test_rotations_are_orthogonal():
    for n in (2, 5, 64):
        r = haar_rotation(n, 3).astype(np.float64)
        assert np.abs(r @ r.T - np.eye(n)).max() < n * 2.0**-22


def test_turboquant_distortions_are_the_published_ones():
    x = rounded(np.random.default_rng(0).standard_normal((1500, 1, 1024)))
    for bits, published in ((1, 0.3634), (2, 0.1175), (3, 0.0345), (4, 0.0095)):
        decoded = coded(f"turboquant:bits={bits}", x).decode()
        distortion = ((decoded - x) ** 2).sum() / (x**2).sum()
        assert distortion == pytest.approx(published, rel=0.01), bits


def test_turboquant_takes_the_nearest_centroid_and_its_centroids_are_fixed_points():
    from scipy.integrate import quad

    d, centroids = 64, lloyd_max_centroids(64, 3)
    edges = np.concatenate([[-1], (centroids[1:] + centroids[:-1]) / 2, [1]])
    for c, a, b in zip(centroids, edges[:-1], edges[1:], strict=True):
        mass, moment = (quad(lambda x, k=k: x**k * (1 - x * x) ** ((d - 3) / 2), a, b)[0] for k in (0, 1))
        assert moment / mass == pytest.approx(c, abs=2e-4)
    x = draw(50)
    decoded = coded("turboquant:bits=3", x).decode().reshape(-1, 64).astype(np.float64)
    rows, r = x.reshape(-1, 64).astype(np.float64), haar_rotation(64, 1).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rotated = rows / norms @ r.T
    nearest = centroids[np.abs(rotated[..., None] - centroids).argmin(axis=-1)]
    expected = nearest @ r * norms.astype(np.float16)
    off = np.abs(decoded - expected).max(axis=1) > 1e-4 * norms[:, 0]
    assert off.mean() < 0.01  # a coordinate half-way between two centroids may go either way


def test_turboquant_inner_products_are_unbiased():
    rng = np.random.default_rng(2)
    x, q = rounded(rng.standard_normal((1, 1, 64))), rng.standard_normal(64)
    found = [coded(f"turboquant:bits=2,inner=1,seed={seed}", x).decode()[0, 0] @ q for seed in range(1, 401)]
    assert abs(np.mean(found) - x[0, 0] @ q) < 4 * np.std(found) / 20


def test_fibquant_takes_the_nearest_codeword():
    x = draw(60, 1, 32)
    book, r = fibonacci_codebook(32, 4, 64, 1).astype(np.float64), haar_rotation(32, 1).astype(np.float64)
    cache = coded("fibquant:k=4,n=64", x)
    rows = x.reshape(-1, 32).astype(np.float64)
    blocks = (rows / np.linalg.norm(rows, axis=1, keepdims=True) @ r.T).reshape(-1, 4)
    distance = ((blocks[:, None] - book) ** 2).sum(axis=-1)
    octets = np.frombuffer(cache.to_bytes(), np.uint8).reshape(60, 8)
    stream = [int.from_bytes(row[2:].tobytes(), "little") for row in octets]
    chosen = np.array([(s >> (6 * i)) & 63 for s in stream for i in range(8)])
    assert (distance[np.arange(len(blocks)), chosen] <= distance.min(axis=1) + 1e-6).all()


@pytest.mark.parametrize(("k", "n", "published"), [(2, 16, 0.939), (2, 64, 0.984), (2, 256, 0.996), (4, 256, 0.948)])
def test_fibquant_cosines_are_at_least_the_published_ones(k, n, published):
    x = rounded(np.random.default_rng(0).standard_normal((400, 1, 256)))
    y = coded(f"fibquant:k={k},n={n}", x).decode()
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    assert published - 0.003 <= cosine.mean() <= published + 0.006


@pytest.mark.parametrize("k", [2, 3, 4, 8])
def test_the_source_is_a_block_of_a_random_unit_vector(k):
    d, n = 64, 40_000
    blocks = source(d, k, n, np.random.default_rng(k)).astype(np.float64)
    squares = (blocks**2).sum(axis=1)
    mean, variance = k / d, 2 * k * (d - k) / (d * d * (d + 2))  # of Beta(k/2, (d - k)/2)
    assert abs(squares.mean() - mean) < 4 * np.sqrt(variance / n)
    unit = blocks / np.sqrt(squares)[:, None]
    assert np.abs(unit.mean(axis=0)).max() < 4 / np.sqrt(n * k) * 1.2
    spread = directions(k, 500)
    assert np.abs(np.linalg.norm(spread, axis=1) - 1).max() < 1e-12
    assert np.abs(spread.mean(axis=0)).max() < 0.06


# --- pairs


@pytest.mark.parametrize("name", [*PAIRS, "packkv:order=median", "ott:group=64,bits=4,outliers=5"])
def test_pairs_stream_and_come_back_from_their_bytes(name):
    codec, keys, values = get_codec(name), draw(400, seed=1), draw(400, seed=2)
    whole = CodedPair(codec, codec, shape_of(keys))
    whole.append(keys, values)
    parts = CodedPair(codec, codec, shape_of(keys))
    for piece in np.split(np.arange(400), [1, 5, 190, 191, 192, 193, 330]):
        parts.append(keys[piece], values[piece])
    data = whole.to_bytes()
    assert parts.to_bytes() == data
    assert len(data) == whole.nbytes == whole.key_bytes + whole.value_bytes
    again = CodedPair.from_bytes(codec, shape_of(keys), 400, data)
    for one, other in zip(whole.decode(), again.decode(), strict=True):
        assert np.array_equal(one, other)
    assert sorted(whole.order) == list(range(400))
    for broken in (data[:-1000], data[:10], b""):
        with pytest.raises(InputError, match="are not those of 400 tokens"):
            CodedPair.from_bytes(codec, shape_of(keys), 400, broken)


def slow_pools(keys, group, n, outliers):
    """Positions of tokens that stay exact, and which of them are the pool."""
    pool, side = [], []
    for begin in range(0, n, group):
        if len(side) + outliers > 32:
            break
        size = {t: sum(abs(float(v)) for v in keys[t].reshape(-1)) for t in [*pool, *range(begin, begin + group)]}
        best = sorted(size, key=lambda t: size[t])[:outliers]
        side += [t for t in pool if t not in best]
        pool = best
    return set(pool), set(side)


def test_ott_keeps_the_tokens_of_smallest_keys():
    rng = np.random.default_rng(0)
    keys = rounded(rng.standard_normal((1100, 2, 64)) * 2.0 ** rng.uniform(-6, 0, (1100, 1, 1)))
    values = draw(1100, seed=2)
    codec = get_codec("ott:group=64,outliers=4")
    pair = CodedPair(codec, codec, shape_of(keys))
    pair.append(keys, values)
    pool, side = slow_pools(keys, 64, 1024, 4)
    assert side
    got_keys, got_values = pair.decode()
    exact = {
        t for t in range(1056) if np.array_equal(got_keys[t], keys[t]) and np.array_equal(got_values[t], values[t])
    }
    assert pool | side <= exact
    assert len(exact) <= len(pool | side) + 32  # the window
    plain = kivi_error(keys)
    assert ((got_keys - keys) ** 2).sum() <= plain * 1.02


def kivi_error(keys):
    cache = coded("kivi:group=64,window=64", keys)
    return ((cache.decode() - keys) ** 2).sum()


def slow_pack(codes):
    """The stream of a block, as text of bits, most readable form of the definition."""
    widest = max(max(row) for row in codes).bit_length()
    fields = []
    for first in range(0, 64, 16):
        for c in range(len(codes[0])):
            column = [codes[t][c] for t in range(first, first + 16)]
            width = (max(column) - min(column)).bit_length()
            fields += [(min(column), widest), (width, widest.bit_length()), *((v - min(column), width) for v in column)]
    value, at = 0, 0
    for number, width in fields:
        value |= number << at
        at += width
    return bytes([widest]) + value.to_bytes((at + 7) // 8, "little")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(0, 12))
def test_packs_bit_by_bit(seed, n_channels, bits):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (64, n_channels)) >> np.random.default_rng(
        seed
    ).integers(0, bits + 1, n_channels)
    codes = codes.astype(np.int64)
    out = np.zeros(pack_limit(n_channels, int(codes.max()).bit_length()), np.uint8)
    used = pack_block(codes, out)
    assert out[:used].tobytes() == slow_pack(codes.tolist())
    back = np.empty_like(codes)
    unpack_block(out, back)
    assert np.array_equal(back, codes)


def test_the_greedy_order_packs_no_wider_than_none():
    rng = np.random.default_rng(4)
    codes = (rng.integers(0, 4, (64, 20)) + 20 * rng.integers(0, 4, (64, 1))).astype(np.int32)
    order = greedy_order(codes)
    assert sorted(order) == list(range(64))
    assert len(slow_pack(codes[order].tolist())) < len(slow_pack(codes.tolist())) * 0.8


def slow_greedy(codes):
    """Channel by channel, in Python's integers."""
    order, free = [], list(range(64))
    while free:
        if len(order) % 16 == 0:
            mean = [sum(codes[t][c] for t in free) for c in range(len(codes[0]))]
            size = {t: math.sqrt(sum(v * v for v in codes[t])) for t in free}
            best = max(
                free, key=lambda t: sum(m * v for m, v in zip(mean, codes[t], strict=True)) / size[t] if size[t] else 0
            )
            pack = [best]
        else:
            columns = {t: zip(*(codes[u] for u in (*pack, t)), strict=True) for t in free}
            width = {t: sum((max(column) - min(column)).bit_length() for column in columns[t]) for t in free}
            best = min(free, key=lambda t: width[t])
            pack.append(best)
        order.append(best)
        free.remove(best)
    return order


@pytest.mark.parametrize("bits", [1, 3, 8, 24])
def test_the_greedy_order_token_by_token(bits):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (64, 12)).astype(np.int32)
    assert greedy_order(codes).tolist() == slow_greedy(codes.tolist())


def test_of_equally_near_codewords_the_first_is_taken():
    book = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    book[70:90] = book[20:40]
    indices = np.empty(100, np.uint16)
    nearest_codewords(book * np.float32(1.0), np.ascontiguousarray(book.T), indices)
    assert indices.tolist() == [*range(70), *range(20, 40), *range(90, 100)]
    nearest_codewords(np.zeros((100, 4), np.float32), np.zeros((4, 7), np.float32), indices)
    assert not indices.any()


def test_packkv_is_within_half_a_step_and_attention_does_not_see_the_order():
    keys, values = draw(330, seed=7), draw(330, seed=8)
    codec = get_codec("packkv")
    pair = CodedPair(codec, codec, shape_of(keys))
    pair.append(keys, values)
    order, (k, v) = pair.order, pair.decode()
    for decoded, x, rel in ((k, keys, 0.1), (v, values, 0.2)):
        span = x.max(axis=(1, 2)) - x.min(axis=(1, 2))
        assert (np.abs(decoded - x[order]).max(axis=(1, 2)) <= rel * span[order] / 2 * (1 + 1e-5) + 1e-6).all()
    q = np.random.default_rng(1).standard_normal(64)

    def attention(some_keys, some_values):
        s = some_keys[:, 0].astype(np.float64) @ q / 8
        p = np.exp(s - s.max())
        return p @ some_values[:, 0] / p.sum()

    back = np.argsort(order)
    np.testing.assert_allclose(attention(k, v), attention(k[back], v[back]), rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ONE_SIDED),
    st.sampled_from(["keys", "values"]),
    st.integers(1, 300),
    st.integers(1, 3),
    st.sampled_from([32, 64, 128]),
)
def test_predicted_bytes_over_many_shapes(name, side, n_tokens, n_kv_heads, head_dim):
    x = draw(n_tokens, n_kv_heads, head_dim, n_tokens)
    try:
        cache = coded(name, x, side)
    except UsageError:
        return
    assert len(cache.to_bytes()) == predicted_bytes(cache.codec, cache.shape, n_tokens)


@pytest.mark.parametrize("name", ["ott:group=32,window=8", "packkv:window=0"])
def test_damaged_parts_of_a_pair_are_refused(name):
    """Lengths add up to what is there, and yet none of the parts is what the codec has made: nothing outside of them is read."""
    codec, x = get_codec(name), draw(136)
    shape = shape_of(x)
    pair = CodedPair(codec, codec, shape)
    pair.append(x, x[::-1].copy())
    whole = np.frombuffer(pair.to_bytes(), np.uint8)
    at = 2 * len(pair._window[0]) * shape.token_bytes
    sizes = whole[at : at + 12].view("<u4").astype(np.int64)
    assert CodedPair.from_bytes(codec, shape, 136, whole.tobytes()).decode()[0].shape == x.shape
    for moved in ([0, 8, -8], [8, -8, 0], [-sizes[0], sizes[0], 0], [0, -sizes[1], sizes[1]], [0, sizes[2], -sizes[2]]):
        if not np.any(moved):
            continue
        lied = whole.copy()
        lied[at : at + 12] = (sizes + moved).astype("<u4").view(np.uint8)
        with pytest.raises(InputError, match="are not the bytes of 128 coded tokens"):
            CodedPair.from_bytes(codec, shape, 136, lied.tobytes()).decode()


@pytest.mark.parametrize("name", PAIRS)
def test_more_tokens_than_bits_are_refused_before_anything_is_laid_out(name):
    codec, shape = get_codec(name), CacheShape(2, 64, "keys")
    n = (1 << 40) // 128 * 128 + codec.window
    window = 2 * (n - codec.coded_tokens(n, shape)) * shape.token_bytes
    with pytest.raises(InputError, match="are not those of"):
        CodedPair.from_bytes(codec, shape, n, bytes(window + 12))


def test_positions_outside_of_the_cache_are_refused():
    codec, x = get_codec("ott:group=32,window=8"), draw(40)
    pair = CodedPair(codec, codec, shape_of(x))
    pair.append(x, x)
    whole = np.frombuffer(pair.to_bytes(), np.uint8).copy()
    at = 2 * len(pair._window[0]) * shape_of(x).token_bytes + 12
    n = int(whole[at + 4 : at + 8].view("<u4")[0])
    assert n > 0
    whole[at + 8 : at + 12] = np.array([32], "<u4").view(np.uint8)
    with pytest.raises(InputError, match="are not the bytes"):
        CodedPair.from_bytes(codec, shape_of(x), 40, whole.tobytes()).decode()


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o[:0],
        lambda o: o[:40],
        lambda o: np.append(np.uint8(25), o[1:]),
        lambda o: np.full(len(o), 24, np.uint8),
    ],
)
def test_a_pack_says_no_more_than_it_holds(change):
    codes = np.random.default_rng(0).integers(0, 16, (64, 8))
    out = np.zeros(2 + pack_limit(8, 4), np.uint8)
    octets = out[: pack_block(codes, out)]
    held = np.empty_like(codes)
    assert unpack_block(octets, held)
    assert (held == codes).all()
    assert not unpack_block(np.ascontiguousarray(change(octets)), held)


def test_codes_of_no_encoder_warn_of_nothing():
    """Scales that are infinite or not a number are decoded as what they are."""
    for name in ("fp8", "mxfp8", "int8-token", "turboquant", "fibquant:n=64", "q8_0"):
        codec, shape = get_codec(name), CacheShape(2, 64, "keys")
        octets = b"\xff" * predicted_bytes(codec, shape, 40)
        assert CodedCache.from_bytes(codec, shape, 40, octets).decode().shape == (40, 2, 64)
