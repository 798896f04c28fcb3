"""What a `PlaneCache` accepts, gives back and launches; on the PTX machine, and through a stand-in for CuPy."""

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's wheels are not installed")

from fake_cupy import FakeCupy

from precalign.errors import InputError, UnavailableError, UsageError
from precalign.formats import BFLOAT16, BINARY16
from precalign.gpu import KernelConfig, PlaneCache, open_device
from precalign.gpu.cache_inputs import check_extents
from precalign.gpu.devices.ptx import PtxDevice
from precalign.gpu.validate.case import Case
from precalign.gpu.validate.check import check
from precalign.policy import Policy

CONFIG = KernelConfig(64, 2)
POLICY = {
    "schema": "precalign.policy/1",
    "format": "binary16",
    "layout": "8|4|4",
    "split_tokens": 128,
    "heads": [
        {"layer": 1, "kv_head": 0, "rule": "static:key_bits=12,value_bits=8"},
        {"layer": 1, "kv_head": 1, "rule": "static:value_bits=12"},
        {"layer": 2, "kv_head": 0, "rule": "alignedkv"},
    ],
}


def small(device=None, config=CONFIG, **options):
    given = {"n_kv_heads": 2, "batch_size": 2, "max_tokens": 70, "device": device or PtxDevice()} | options
    return PlaneCache(config, **given)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


# Into the cache and out again


@pytest.mark.parametrize(("head_dim", "fmt"), [(64, BINARY16), (96, BFLOAT16)], ids=str)
def test_codes_come_back_as_they_were(head_dim, fmt):
    rng = np.random.default_rng(1)
    keys, values = ([rng.integers(0, 1 << 16, (n, 2, head_dim), np.uint16) for n in (70, 0, 1)] for _ in range(2))
    config = KernelConfig(head_dim, 2, fmt)
    cache = PlaneCache.from_codes(config, keys, values, device=PtxDevice(), page_order=[3, 0, 5, 1, 2, 4])
    more = [rng.integers(0, 1 << 16, (3, 2, head_dim), np.uint16) for _ in range(2)]
    cache.append(*more, [0, 2, 1])
    wanted = [[*side] for side in (keys, values)]
    for side, new in zip(wanted, more, strict=True):
        side[1], side[2] = new[:2], np.concatenate([side[2], new[2:]])
    for sequence in range(3):
        for got, side in zip(cache.to_codes(sequence), wanted, strict=True):
            np.testing.assert_array_equal(got, side[sequence])
    with pytest.raises(UsageError, match="no sequence 3"):
        cache.to_codes(3)


def test_dump_to_cache_and_back(shared):
    from precalign.analysis.readers import open_dump
    from precalign.analysis.validation import cache_of_layer

    with open_dump(shared / "data/kv/novel-1024-bf16.safetensors") as dump:
        layer = dump.layers[2]
        config = KernelConfig(layer.head_dim, layer.group, dump.format_of(layer))
        cache = cache_of_layer(dump, layer, config, device=PtxDevice())
        head = dump.read_head(layer, 1)
    keys, values = cache.to_codes(0)
    np.testing.assert_array_equal(keys[:, 1], head.keys)
    np.testing.assert_array_equal(values[:, 1], head.values)


def test_statistics_count_bits_and_bytes():
    policy = Policy.from_json(POLICY)
    cache = PlaneCache.from_policy(
        policy, 1, head_dim=64, group=2, n_kv_heads=2, batch_size=2, max_tokens=100, device=PtxDevice(), one_pass=True
    )
    assert cache.config.split_tokens == 128
    cache.append(draw(0, 80, 2, 64), draw(1, 80, 2, 64), [70, 10])
    cache.attend(draw(2, 2, 4, 64))
    told = cache.statistics()
    assert told["key_bits_per_number"] == 14
    assert told["value_bits_per_number"] == 10
    assert told["full_plane_bytes"] == 2 * 80 * 2 * 64 * 2
    assert told["plane_bytes"] == 80 * 64 * ((12 + 16) + (8 + 12)) / 8
    assert told["cache_bytes"] == 2 * 2 * (4 * 64) * 64 * 2


# What is refused


def test_policies_that_do_not_fit():
    policy, options = Policy.from_json(POLICY), {"head_dim": 64, "group": 2, "batch_size": 1, "max_tokens": 64}
    with pytest.raises(InputError, match="alignedkv"):
        PlaneCache.from_policy(policy, 2, n_kv_heads=1, device=PtxDevice(), **options)
    with pytest.raises(InputError, match="layer 0"):
        PlaneCache.from_policy(policy, 0, n_kv_heads=1, device=PtxDevice(), **options)
    wide = Policy.from_json(POLICY | {"split_tokens": 512})
    with pytest.raises(UnavailableError, match="split_tokens 512"):
        PlaneCache.from_policy(wide, 1, n_kv_heads=2, device=PtxDevice(), **options)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (draw(0, 1, 2, 96), r"keys: expected shape \(1, 2, 64\), got \(1, 2, 96\)"),
        (draw(0, 1, 2, 64).astype(np.float32), "keys: expected float16 or uint16 codes, got float32"),
        (np.zeros((2, 1, 64), np.float16).transpose(1, 0, 2)[:, ::-1], "contiguous"),
        ([[1.0]], "got list"),
    ],
)
def test_tensors_that_do_not_fit(keys, words):
    cache = small()
    with pytest.raises(InputError, match=words):
        cache.append(keys, draw(0, 1, 2, 64), [1, 0])
    assert cache.lengths.tolist() == [0, 0]


def test_counts_that_do_not_fit():
    cache = small()
    for counts, words in (([1], "counts"), ([-1, 2], "counts"), ([128, 1], "sequence 0 would hold 129")):
        if words != "counts":
            cache.append(draw(0, 1, 2, 64), draw(0, 1, 2, 64), [1, 0])
        with pytest.raises(InputError, match=words):
            cache.append(draw(0, 129, 2, 64), draw(0, 129, 2, 64), counts)


@pytest.mark.parametrize(
    ("extents", "words"),
    [
        ((0, 1, 1), "n_kv_heads must be at least 1"),
        ((1, 65_536, 1), "65,535"),
        ((1, 1, 2**31), "tokens of a sequence"),
        ((1, 60_000, 2**25), "pages"),
        ((4096, 8192, 64), "channels"),
    ],
)
def test_extents_that_no_launch_reaches(extents, words):
    with pytest.raises(UsageError, match=words):
        check_extents(CONFIG, *extents)


def test_torch_tensors_are_taken_as_they_are():
    torch = pytest.importorskip("torch")
    cache, device = small(config=KernelConfig(64, 2, BFLOAT16)), PtxDevice()
    keys = torch.randn(1, 2, 64).to(torch.bfloat16)
    adopted = device.adopt(keys)
    assert adopted.ctypes.data == keys.data_ptr()
    cache.append(keys, keys, [0, 1])
    np.testing.assert_array_equal(cache.to_codes(1)[0], keys.view(torch.int16).numpy().view(np.uint16))
    with pytest.raises(InputError, match=r"expected bfloat16 or uint16 codes, got torch\.float16"):
        cache.append(keys.half(), keys, [1, 0])
    with pytest.raises(InputError, match="detach"):
        small().append(keys.half().requires_grad_(), keys.half(), [1, 0])


# One token for each, as a graph replays it


def test_one_token_each_is_what_append_does():
    one, many = small(), small()
    for step in range(3):
        keys, values = draw(step, 2, 2, 64), draw(step + 9, 2, 2, 64)
        one.append_one(keys, values)
        many.append(keys, values, [1, 1])
    queries = draw(5, 2, 4, 64)
    np.testing.assert_array_equal(one.attend(queries), many.attend(queries))
    assert one.synchronize().tolist() == [3, 3]


def test_tokens_without_a_place_are_counted_and_touch_nothing():
    cache = small(max_tokens=64)
    keys = draw(0, 128, 2, 64)
    cache.append(keys[:127], keys[:127], [64, 63])
    with pytest.raises(InputError, match="65 tokens"):
        cache.append_one(keys[:2], keys[:2])
    before = cache.buffer("key_first")
    for _ in range(2):  # what replays of a captured append_one launch
        cache._launches.store(*cache._new_tokens(keys[:2], keys[:2], 2), cache._buffers["one_each"], 1)
    with pytest.raises(InputError, match="3 tokens found no place, the first in sequence 0"):
        cache.synchronize()
    assert cache.lengths.tolist() == [64, 64]
    changed = np.argwhere((cache.buffer("key_first") != before).any(axis=(1, 2, 3))).ravel()
    assert changed.tolist() == [1]


# Through CuPy


@pytest.mark.parametrize("rule", ["alignedkv", "online"])
def test_cupy_device_launches_what_the_ptx_machine_does(monkeypatch, rule):
    cupy = FakeCupy(monkeypatch)
    config = KernelConfig(64, 2, rule=rule)
    keys, values, queries = draw(0, 80, 2, 64), draw(1, 80, 2, 64), draw(2, 2, 4, 64)
    outputs = []
    for device in (open_device("gpu"), PtxDevice()):
        cache = small(device, config, max_tokens=300)
        cache.append(keys, values, [70, 10])
        cupy.launches.clear()
        before = cupy.waits
        result = cache.attend(cupy.asarray(queries) if device.name == "gpu" else queries)
        if device.name == "gpu":
            assert cupy.launches == list(config.entries()[3:])
            assert cupy.waits == before, "attend waited for the device"
        outputs.append(np.array(device.download(result)))
    np.testing.assert_array_equal(*outputs)


def test_validation_runs_on_a_device_that_measures_nothing(monkeypatch):
    FakeCupy(monkeypatch)
    result = check(Case(KernelConfig(64, 1, rule="full", one_pass=True), 1, ((66,),)), open_device("gpu"))
    assert not result.tallies.failed
    assert result.tallies["outputs"].checked == 64
    assert not {"sectors", "memory", "order"} & set(result.tallies.points)


def test_cupy_device_refuses_what_is_elsewhere(monkeypatch):
    torch = pytest.importorskip("torch")
    FakeCupy(monkeypatch)
    cache = small(open_device("gpu"))
    with pytest.raises(InputError, match=r"keys: cannot be used on this device \(gpu\): CPU arrays"):
        cache.append(torch.zeros(1, 2, 64, dtype=torch.float16), draw(0, 1, 2, 64), [1, 0])


def test_no_device_is_told(monkeypatch):
    FakeCupy(monkeypatch, n_devices=0)
    with pytest.raises(UnavailableError, match="no CUDA-capable device"):
        open_device("gpu")
    assert open_device("auto").name == "cpu"
