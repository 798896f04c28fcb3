"""Kernels of the kinds that textbooks hold, and defects planted in them, on the PTX machine."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's wheels are not installed")

from precalign.errors import InputError
from precalign.gpu.ptx import Kernel, KernelFault, Uninitialised

FOLDER = Path(__file__).parent / "textbook"
SEEDS = (None, 3)


def source(name, *edits):
    text = (FOLDER / f"{name}.cu").read_text()
    for old, new in edits:
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return text


ENGINE = "checked"
both_engines = pytest.mark.usefixtures("engine")


@pytest.fixture(params=["checked", "compiled"])
def engine(request, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ENGINE", request.param)


def kernel(name, *edits, **macros):
    return Kernel(source(name, *edits), name, macros=macros, file=f"{name}.cu", engine=ENGINE)


def line_of(name, fragment, *edits):
    lines = source(name, *edits).splitlines()
    return next(i for i, line in enumerate(lines, 1) if fragment in line)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_reduction(rng, seed):
    numbers = rng.integers(-50, 50, 1000).astype(np.float32)  # every partial sum is exact
    total = np.zeros(1, np.float32)
    report = kernel("reduction")(4, 256, [numbers, np.int32(1000), total], seed=seed)
    assert total[0] == numbers.sum()
    (load,) = [line for line in report.memory.values() if line.opcode.startswith("ld.global")]
    assert (load.requests, load.bytes, load.sectors) == (32, 4000, 125)


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_scan(rng, seed):
    numbers, sums = rng.integers(-1000, 1000, 200).astype(np.int32), np.empty(200, np.int32)
    kernel("scan")(1, 200, [numbers, Uninitialised(sums)], shared_bytes=1600, seed=seed)
    np.testing.assert_array_equal(sums, np.cumsum(numbers))


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_transpose_and_its_bank_conflicts(rng, seed):
    matrix, turned = rng.standard_normal((70, 50)).astype(np.float32), np.empty((50, 70), np.float32)
    conflicts = []
    for pad in (0, 1):
        turned[:] = 0
        report = kernel("transpose", PAD=pad)((2, 3), (32, 8), [matrix, turned, np.int32(70), np.int32(50)], seed=seed)
        np.testing.assert_array_equal(turned, matrix.T)
        conflicts.append(sum(line.conflicts for line in report.memory.values()))
    assert conflicts[1] == 0
    # Without padding a column of n rows lies in one bank: n - 1 conflicts for each of the 50 columns and row tiles.
    assert conflicts[0] == 50 * (31 + 31 + 5)


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_softmax(rng, seed):
    rows, probs = rng.standard_normal((9, 77)).astype(np.float32), np.empty((9, 77), np.float32)
    report = kernel("softmax")(9, 32, [rows, Uninitialised(probs), np.int32(77)], seed=seed)
    wide = np.exp(rows.astype(np.float64) - rows.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probs, wide / wide.sum(axis=1, keepdims=True), rtol=1e-6)
    assert any(opcode.startswith("ex2.approx") for opcode in report.models)


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_histogram(rng, seed):
    octets, counts = rng.integers(0, 256, 5001).astype(np.uint8), np.zeros(256, np.uint32)
    kernel("histogram")(3, 128, [octets, np.int32(5001), counts], seed=seed)
    np.testing.assert_array_equal(counts, np.bincount(octets, minlength=256))


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_matmul(rng, seed):
    a, b = (rng.integers(-9, 9, (48, 48)).astype(np.float32) for _ in range(2))
    c = np.empty((48, 48), np.float32)
    kernel("matmul")((3, 3), (16, 16), [a, b, Uninitialised(c), np.int32(48)], seed=seed)
    np.testing.assert_array_equal(c, a @ b)


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_argmax(rng, seed):
    rows, places = rng.integers(0, 20, (13, 45)).astype(np.float32), np.empty(13, np.int32)
    kernel("argmax")(13, 32, [rows, np.int32(45), Uninitialised(places)], seed=seed)
    np.testing.assert_array_equal(places, rows.argmax(axis=1))


@both_engines
@pytest.mark.parametrize("n", [1, 64, 131])
def test_copy(rng, n):
    numbers, copied = rng.standard_normal(n).astype(np.float32), np.empty(n, np.float32)
    kernel("copy")(2, 32, [numbers, Uninitialised(copied), np.int32(n)])
    np.testing.assert_array_equal(copied, numbers)


@both_engines
def test_half_axpy(rng):
    x, y = (rng.standard_normal(200).astype(np.float16) for _ in range(2))
    a = np.array([1.25, -0.5], np.float16)
    exact = np.tile(a, 100).astype(np.float64) * x + y  # 11-bit factors of such sizes: exact in binary64
    kernel("axpy")(4, 32, [y, x, a.view(np.uint32)[0], np.int32(100)])
    np.testing.assert_array_equal(y, exact.astype(np.float16))


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_bitonic_sort(rng, seed):
    numbers = rng.integers(-1000, 1000, 256).astype(np.int32)
    wanted = np.sort(numbers)
    kernel("bitonic")(1, 256, [numbers], seed=seed)
    np.testing.assert_array_equal(numbers, wanted)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_missing_barrier_is_a_race(seed):
    edit = ("    __syncthreads();\n    for (int half", "    for (int half")
    arguments = [np.ones(512, np.float32), np.int32(512), np.zeros(1, np.float32)]
    with pytest.raises(KernelFault, match=r"reduction\.cu:(6|9): (race|uninitialised)"):
        kernel("reduction", edit)(2, 256, arguments, seed=seed)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_missing_second_barrier_is_a_race(seed):
    edit = ("        __syncthreads();\n    }", "    }")
    a = np.ones((48, 48), np.float32)
    with pytest.raises(KernelFault, match=r"matmul\.cu:\d+: race"):
        kernel("matmul", edit)((3, 3), (16, 16), [a, a.copy(), np.zeros_like(a), np.int32(48)], seed=seed)


@both_engines
def test_off_by_one_is_out_of_bounds():
    edit = ("i < n ? in[i]", "i <= n ? in[i]")
    line = line_of("reduction", "i <= n", edit)
    arguments = [np.ones(300, np.float32), np.int32(300), np.zeros(1, np.float32)]
    with pytest.raises(
        KernelFault, match=rf"reduction\.cu:{line}: out-of-bounds: 4 bytes at byte 1200 of .* 1200 bytes"
    ):
        kernel("reduction", edit)(2, 256, arguments)


@both_engines
def test_shared_overrun_is_out_of_bounds():
    edit = ("own[256];", "own[255];")
    with pytest.raises(KernelFault, match=r"bitonic\.cu:6: out-of-bounds: 4 bytes at byte 1020 of shared .*own"):
        kernel("bitonic", edit)(1, 256, [np.zeros(256, np.int32)])


MISALIGNED = """
extern "C" __global__ void k(float4* out) {
    __shared__ %s float own[128];
    for (int i = 0; i < 4; ++i) own[4 * threadIdx.x + i] = i;
    __syncthreads();
    out[threadIdx.x] = *(float4*)&own[4 * (threadIdx.x ^ 1)];
}"""


@both_engines
def test_wide_read_of_an_array_without_align():
    out = np.zeros((32, 4), np.float32)
    with pytest.raises(KernelFault, match=r"a\.cu:\d: misaligned: 16 bytes"):
        Kernel(MISALIGNED % "", "k", file="a.cu", engine=ENGINE)(1, 32, [out])
    Kernel(MISALIGNED % "__align__(16)", "k", file="a.cu", engine=ENGINE)(1, 32, [out])
    np.testing.assert_array_equal(out, np.tile(np.arange(4, dtype=np.float32), (32, 1)))


def test_uninitialised_shared_read():
    edit = ("    for (int i = threadIdx.x; i < 256; i += blockDim.x)\n        own[i] = 0;\n", "")
    with pytest.raises(KernelFault, match=r"histogram\.cu:\d+: uninitialised: .*own"):
        kernel("histogram", edit)(1, 128, [np.zeros(10, np.uint8), np.int32(10), np.zeros(256, np.uint32)])


def test_uninitialised_global_read():
    with pytest.raises(KernelFault, match=r"reduction\.cu:\d+: uninitialised: read of byte 0"):
        kernel("reduction")(1, 256, [np.ones(9, np.float32), np.int32(9), Uninitialised(np.zeros(1, np.float32))])


@both_engines
@pytest.mark.parametrize("seed", SEEDS)
def test_divergent_barrier(seed):
    edit = ("    if (threadIdx.x == 0)\n", "    if (threadIdx.x < 100) __syncthreads();\n    if (threadIdx.x == 0)\n")
    line = line_of("reduction", "if (threadIdx.x < 100)", edit)
    arguments = [np.ones(256, np.float32), np.int32(256), np.zeros(1, np.float32)]
    with pytest.raises(KernelFault, match=rf"reduction\.cu:{line}: barrier: reached by 100 of the block's 256"):
        kernel("reduction", edit)(1, 256, arguments, seed=seed)


@both_engines
def test_shuffle_that_some_lanes_never_reach():
    text = """extern "C" __global__ void k(int* out) {
    int v = threadIdx.x;
    if (threadIdx.x < 20) v = __shfl_xor_sync(0xffffffff, v, 1);
    out[threadIdx.x] = v;
}"""
    with pytest.raises(KernelFault, match=r"s\.cu:3: barrier: waits for lanes"):
        Kernel(text, "k", file="s.cu", engine=ENGINE)(1, 32, [np.zeros(32, np.int32)])


def test_warp_barrier_orders_a_warp_but_not_a_block():
    text = """extern "C" __global__ void k(int* out) {
    __shared__ int own[64];
    own[threadIdx.x] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = own[threadIdx.x ^ MASK];
}"""
    out = np.zeros(64, np.int32)
    Kernel(text, "k", macros={"MASK": "5"})(1, 64, [out])
    np.testing.assert_array_equal(out, np.arange(64) ^ 5)
    with pytest.raises(KernelFault, match=r"kernel\.cu:5: race: read .* write of another thread"):
        Kernel(text, "k", macros={"MASK": "32"})(1, 64, [out])


@both_engines
def test_write_to_a_read_only_array():
    numbers = np.zeros(256, np.int32)
    numbers.flags.writeable = False
    with pytest.raises(KernelFault, match="read-only"):
        kernel("bitonic")(1, 256, [numbers])


def test_a_source_that_does_not_compile_gives_the_compilers_words():
    with pytest.raises(InputError, match=r"broken\.cu\(1\): error"):
        Kernel("nonsense", "k", file="broken.cu")


@both_engines
def test_tensor_cores_are_refused():
    text = """extern "C" __global__ void k(unsigned* p) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%0, %1}, {%0}, {%0, %1};"
        : "+r"(p[0]), "+r"(p[1]));
}"""
    with pytest.raises(Exception, match=r"kernel\.cu:\d: PTX line \d+: mma\.sync.* is not modelled"):
        Kernel(text, "k", engine=ENGINE)(1, 32, [np.zeros(2, np.uint32)])
