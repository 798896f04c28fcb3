"""What `precalign kernels build` says of registers, occupancy and arithmetic."""

import ctypes
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's wheels are not installed")

from precalign.errors import UsageError
from precalign.formats import BFLOAT16, BINARY16
from precalign.gpu import sass
from precalign.gpu.architectures import ARCHITECTURES
from precalign.gpu.build import build_file, build_kernels, check_architectures
from precalign.gpu.kernels import KERNELS, KernelConfig
from precalign.gpu.nvrtc import nvidia_folders

ORACLE = """
#include <cuda_occupancy.h>
extern "C" int blocks(int major, int minor, int threads_per_sm, int shared_per_sm, int threads, int registers, int shared) {
    cudaOccDeviceProp gpu;
    gpu.computeMajor = major; gpu.computeMinor = minor;
    gpu.maxThreadsPerBlock = 1024; gpu.maxThreadsPerMultiprocessor = threads_per_sm;
    gpu.regsPerBlock = 65536; gpu.regsPerMultiprocessor = 65536; gpu.warpSize = 32;
    gpu.sharedMemPerBlock = 48 << 10; gpu.sharedMemPerMultiprocessor = shared_per_sm; gpu.numSms = 100;
    gpu.sharedMemPerBlockOptin = shared_per_sm - 1024; gpu.reservedSharedMemPerBlock = 1024;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024; kernel.numRegs = registers; kernel.sharedSizeBytes = shared;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF; kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = 0; kernel.numBlockBarriers = 1;
    cudaOccDeviceState state;
    state.carveoutConfig = 100;
    cudaOccResult result;
    return cudaOccMaxActiveBlocksPerMultiprocessor(&result, &gpu, &kernel, &state, threads, 0)
        ? -1 : result.activeBlocksPerMultiprocessor;
}
"""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    headers = [f for f in nvidia_folders("include") if (f / "cuda_occupancy.h").is_file()]
    if not headers or not shutil.which("g++"):
        pytest.skip("needs cuda_occupancy.h of the wheel nvidia-cuda-runtime and g++")
    folder = tmp_path_factory.mktemp("oracle")
    (folder / "oracle.cpp").write_text(ORACLE)
    library = folder / "oracle.so"
    command = ["g++", "-shared", "-fPIC", "-w", f"-I{headers[0]}", str(folder / "oracle.cpp"), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library)).blocks


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=lambda a: a.name)
def test_occupancy_is_nvidias(oracle, arch):
    number = int(arch.name.removeprefix("sm_"))
    for threads in (32, 64, 96, 128, 256, 500, 512, 1024):
        for registers in (10, 16, 24, 32, 33, 40, 48, 56, 63, 64, 65, 80, 96, 128, 168, 200, 255):
            for shared in (0, 1, 272, 2192, 6500, 17408, 33000, 49152):
                expected = oracle(
                    number // 10, number % 10, arch.max_threads, arch.shared_bytes, threads, registers, shared
                )
                assert arch.resident_blocks(threads, registers, shared) == expected, (threads, registers, shared)


@pytest.mark.parametrize("fmt", [BINARY16, BFLOAT16], ids=str)
def test_attention_kernels_build_clean(fmt):
    configs = [KernelConfig(256, 8, fmt, rule) for rule in ("alignedkv", "online")]
    built = list(build_kernels(configs, ["sm_80", "sm_120"]))
    assert {b.kernel for b in built} == set(KERNELS)
    assert {b.arch for b in built} == {"sm_80", "sm_120"}
    assert [b.problems for b in built if b.problems] == []
    scores = next(b for b in built if b.kernel == "key_scores")
    assert scores.ptx_fma == 8 * 8 * 4  # channels unrolled, heads, tokens
    assert scores.widest_load_bytes == 4


SPILLING = """extern "C" __global__ void __launch_bounds__(1024, 2) k(float* p) {
    float x[96];
#pragma unroll
    for (int i = 0; i < 96; ++i) x[i] = p[i * 32 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 96; ++i) p[i * 32 + threadIdx.x] = x[95 - i] * x[(i * 7) % 96];
}"""
LOCAL = """extern "C" __global__ void k(float* p, int n) {
    float x[64];
    for (int i = 0; i < 64; ++i) x[i] = p[i];
    p[0] = x[n & 63];
}"""
CONTRACTIBLE = """extern "C" __global__ void k(float* p) {
    asm("{ .reg .f32 t; mul.f32 t, %1, %1; add.f32 %0, t, %1; }" : "=f"(p[0]) : "f"(p[1]));
}"""
CLEAN = 'extern "C" __global__ void k(float* p) { p[threadIdx.x] = p[threadIdx.x] * 3.0f + 1.0f; }'


@pytest.mark.parametrize(
    ("source", "words"),
    [(SPILLING, "spill"), (LOCAL, "local memory"), (CONTRACTIBLE, "may be contracted"), (CLEAN, None)],
)
def test_what_fails_a_build(source, words):
    (built,) = build_file(source, "k.cu", ["sm_80"], {}, {}, 128)
    assert (not built.problems) if words is None else any(words in problem for problem in built.problems)


def test_machine_code_is_looked_at():
    if sass.disassembler() is None:
        pytest.skip("needs nvdisasm: pip install nvidia-cuda-nvdisasm")
    (built,) = build_file(CLEAN, "k.cu", ["sm_90"], {}, {}, 128)
    assert (built.sass_loads, built.sass_fma, built.sass_mul, built.sass_add) == (1, 0, 1, 1)


def test_unknown_architecture():
    with pytest.raises(UsageError, match="sm_90"):
        check_architectures(["sm_1"])


def precalign(*arguments, cwd):
    command = [sys.executable, "-m", "precalign.cli.main", "kernels", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


AXPY = """extern "C" __global__ void axpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}"""


@pytest.fixture
def axpy(tmp_path):
    (tmp_path / "axpy.cu").write_text(AXPY)
    return tmp_path


RUN = ["run", "axpy.cu", "--kernel", "axpy", "--grid", "4", "--block", "256", "--args", "float32:2"]


def test_run_a_users_kernel(axpy):
    run = precalign(
        *RUN, "--args", "x=arange:float32:1000", "--args", "y=zeros:float32:1000", "--args", "int32:1000",
        "--orders", "2", "--json", "-o", "out", cwd=axpy,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["arrays"]["y"]["first"][:3] == [0, 2, 4]
    assert found["order_dependent"] == []
    loads = [line for line in found["report"]["memory"] if line["opcode"].startswith("ld.global")]
    assert [line["sectors"] for line in loads] == [125, 125]
    assert {p.name for p in (axpy / "out").iterdir()} == {"x.npy", "y.npy"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([*RUN, *("--args", "x=zeros:float32:9", "--args", "y=zeros:float32:9", "--args", "int32:10")], 1, "axpy.cu:3: out-of-bounds"),
        ([*RUN, *("--args", "x=zeros:float32:9", "--args", "y=empty:float32:9", "--args", "int32:9")], 1, "uninitialised"),
        ([*RUN, "--args", "x=zeros:float32:9"], 3, "takes 4 arguments"),
        ([*RUN, "--args", "x=sines:float32:9"], 2, "random"),
        ([*RUN, "--args", "x=zeros:object:9"], 2, "object"),
        ([*RUN, "--args", "x=zeros:float32:99999999999"], 2, "GiB"),
        ([*RUN, "--args", "absent.npy"], 3, "absent.npy"),
        (["run", "absent.cu", "--kernel", "k", "--grid", "1", "--block", "1"], 3, "absent.cu"),
        (["run", "axpy.cu", "--kernel", "k", "--grid", "1", "--block", "1"], 2, "axpy"),
        (["run", "axpy.cu", "--kernel", "axpy", "--grid", "a", "--block", "1"], 2, "--grid"),
        (["build", "--arch", "sm_1"], 2, "sm_120"),
        (["build", "--head-dim", "80"], 5, "256"),
        (["source", "-o", "."], 4, "does not exist"),
    ],
)  # fmt: skip
def test_mistakes_are_told(axpy, arguments, code, words):
    run = precalign(*arguments, cwd=axpy)
    assert run.returncode == code, run.stderr
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_sources_can_be_copied_and_validated_against(tmp_path):
    assert precalign("source", "-o", "mine", cwd=tmp_path).returncode == 0
    assert {p.name for p in (tmp_path / "mine").iterdir()} >= set(KERNELS.values())
    assert importlib.util.find_spec("precalign.gpu.kernels") is not None
    assert Path(tmp_path / "mine" / "planes.cuh").is_file()
