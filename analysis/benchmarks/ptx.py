"""The PTX machine: decode steps on either engine, checked equal first; compiling apart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.benchmarks.timing import Benchmark, Options, Row, interleave, rows
from precalign.gpu.devices.ptx import PtxDevice
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.plane_cache import PlaneCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DESCRIPTION = "a decode step on the PTX machine: the checked engine, the compiled engine, and compiling"

N_KV_HEADS, HEAD_DIM, GROUP = 8, 128, 4
CHECKED_TOKENS, LONG_TOKENS = 1024, 128 * 1024
RULES = ("full", "alignedkv")
ENGINES = ("checked", "compiled")


class _Step:
    """One decode step over a filled cache on one engine."""

    def __init__(self, rule: str, engine: str, n_tokens: int) -> None:
        rng = np.random.default_rng(0)
        self.device = PtxDevice(engine=engine)
        self.cache = PlaneCache(
            KernelConfig(HEAD_DIM, GROUP, rule=rule),
            n_kv_heads=N_KV_HEADS,
            batch_size=1,
            max_tokens=n_tokens,
            device=self.device,
        )
        # Filled in parts: drawn numbers of 128k tokens would take a gigabyte in binary64.
        for start in range(0, n_tokens, 8192):
            n = min(8192, n_tokens - start)
            keys, values = (_codes(rng, n, N_KV_HEADS, HEAD_DIM) for _ in "kv")
            self.cache.append(keys, values, [n])
        self.queries = _codes(rng, 1, N_KV_HEADS * GROUP, HEAD_DIM)

    def run(self) -> NDArray[np.float32]:
        """Attend; afterwards the device's reports tell of this step alone."""
        self.device.reports.clear()
        outputs: NDArray[np.float32] = self.cache.attend(self.queries)
        return outputs

    @property
    def lane_instructions(self) -> int:
        """Thread instructions of the latest step."""
        return sum(report.lane_instructions for report in self.device.reports.values())


def _codes(rng: np.random.Generator, *shape: int) -> NDArray[np.uint16]:
    return rng.standard_normal(shape).astype(np.float16).view(np.uint16)


def _check(steps: dict[str, _Step], case: str) -> str:
    """Compare outputs and reports of the engines."""
    outputs = {name: step.run().copy() for name, step in steps.items()}
    reports = {name: {k: r.to_json() for k, r in step.device.reports.items()} for name, step in steps.items()}
    one, two = ENGINES
    if outputs[one].tobytes() != outputs[two].tobytes() or reports[one] != reports[two]:
        raise AssertionError(f"{case}: the engines differ")
    sectors = sum(report.sectors() for report in steps[one].device.reports.values())
    return f"{case}: outputs, requests and {sectors:,} sectors of both engines are equal"


def _figures(steps: dict[str, _Step]) -> Callable[[str, float], dict[str, float]]:
    """Return figures in CPU time, which other users of the machine disturb less: the least of three runs."""

    def figures(name: str, _seconds: float) -> dict[str, float]:
        cpu = []
        for _ in range(3):
            start = time.process_time()
            steps[name].run()
            cpu.append(time.process_time() - start)
        n = steps[name].lane_instructions
        return {"cpu_ms": min(cpu) * 1e3, "million_lane_instructions_per_cpu_s": n / min(cpu) / 1e6}

    return figures


def _compiling(options: Options) -> list[Row]:
    """Translate the kernels of a decode step anew each round."""
    from precalign.gpu.kernels.config import KERNELS, sources
    from precalign.gpu.nvrtc import compile_ptx
    from precalign.gpu.ptx.compiled.program import build_all
    from precalign.gpu.ptx.compiler import Compiler
    from precalign.gpu.ptx.parser import parse

    texts, config = sources(), KernelConfig(HEAD_DIM, GROUP, rule="alignedkv")
    headers = {name: text for name, text in texts.items() if name.endswith(".cuh")}
    entries = ("key_scores", "softmax", "values", "combine")
    files = {KERNELS[entry] for entry in entries}
    ptx = {f: compile_ptx(texts[f], "sm_80", headers=headers, macros=config.macros(), file=f).ptx for f in files}
    modules = {entry: parse(ptx[KERNELS[entry]]) for entry in entries}

    def checked() -> None:
        for entry, module in modules.items():
            Compiler(module.entries[entry]).compile()

    def compiled() -> None:
        for entry, module in modules.items():
            build_all([(module, module.entries[entry])])

    contenders = {"checked": checked, "compiled": compiled}
    seconds = interleave(contenders, min(3, options.repeats))
    return rows("compiling the four kernels of alignedkv", seconds, reference="checked")


def run(options: Options) -> Benchmark:
    """Time a decode step of every rule on both engines, one long step on the compiled engine, and compiling.

    Raises
    ------
    UnavailableError
        If NVRTC is not installed.
    """
    table, checks = [], []
    for rule in RULES:
        steps = {engine: _Step(rule, engine, CHECKED_TOKENS) for engine in ENGINES}
        case = f"{rule}: {N_KV_HEADS} kv heads x {CHECKED_TOKENS:,} tokens x {HEAD_DIM}, groups of {GROUP}"
        checks.append(_check(steps, case))
        seconds = interleave({name: step.run for name, step in steps.items()}, options.repeats)
        table += rows(case, seconds, reference="compiled", figures=_figures(steps))
    tokens = LONG_TOKENS // 8 if options.small else LONG_TOKENS
    long = {"compiled": _Step("alignedkv", "compiled", tokens)}
    seconds = interleave({"compiled": long["compiled"].run}, min(3, options.repeats))
    table += rows(f"alignedkv: {N_KV_HEADS} kv heads x {tokens:,} tokens", seconds, figures=_figures(long))
    table += _compiling(options)
    aims = [
        "1,024 tokens: under 500 ms on the checked engine, all checks on; under 50 ms on the compiled one, compiling apart",
        "128k tokens: under 10 s on the compiled engine",
    ]
    return Benchmark("ptx", DESCRIPTION, table, checks=checks, aims=aims)
