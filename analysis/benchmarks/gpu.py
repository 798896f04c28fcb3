"""`precalign bench gpu`: decode attention over planes against its full-read twin, torch SDPA and flashinfer; an estimate without a GPU."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.benchmarks.decode_problems import Problem, problems
from precalign.analysis.benchmarks.gpu_estimate import estimate
from precalign.analysis.benchmarks.gpu_peers import PEERS, numbers
from precalign.analysis.benchmarks.timing import Benchmark, Options, rows
from precalign.decode.codes import to_binary32
from precalign.errors import PrecalignError, UnavailableError
from precalign.gpu.devices import open_device
from precalign.gpu.plane_cache import PlaneCache
from precalign.gpu.validate.emulated import emulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.analysis.benchmarks.timing import Row
    from precalign.gpu.devices.device import CupyDevice
    from precalign.gpu.kernels import KernelConfig

DESCRIPTION = "decode attention on a GPU, 1k to 128k tokens (an estimate without one)"
CONTEXTS = (1024, 4096, 16384, 65536, 131072)
SMALL_CONTEXTS = (1024, 4096)
FLUSH_BYTES = 1 << 30
"""Written before every timed run, outside its events: it empties the second-level cache and keeps the device busy while the host enqueues."""
PEER_ERROR = 2.0**-8
"""Peers round probabilities and outputs to binary16: |o - full| <= PEER_ERROR max |v| is what is asked of them."""
AIM = 1.3


def run(options: Options) -> Benchmark:
    """Time every rule and order of kernels against the full read; results are compared with the emulation first.

    Without a GPU: sectors measured on the PTX machine over the bandwidth of one, marked as an estimate.

    Raises
    ------
    PrecalignError
        If a kernel's result is not the emulation's.
    """
    try:
        device: Any = open_device("gpu")
    except UnavailableError as error:
        return estimate(DESCRIPTION, options, error.message)
    contexts = SMALL_CONTEXTS if options.small else CONTEXTS
    flush = device.zeros((max(FLUSH_BYTES, 8 * device.l2_bytes),), np.uint8)
    found: list[Row] = []
    checks, speedups = [f"device: {device.model}"], []
    for problem in problems(options, contexts):
        work, figures, told = _contenders(device, problem)
        checks += [line for line in told if line not in checks]
        seconds = _time(device, work, flush, options.repeats)
        found += rows(problem.name, seconds, reference="full", figures=_figures(figures))
        if problem.context >= 16384:
            medians = {name: statistics.median(times) for name, times in seconds.items()}
            speedups.append(min((medians["full"] / medians[name], name) for name in ("alignedkv", "online")))
    del flush
    aims = [f"at least {AIM} times as fast as the full read from 16k tokens on: {_verdict(speedups)}"]
    return Benchmark("gpu", DESCRIPTION, found, checks, aims)


def _verdict(speedups: list[tuple[float, str]]) -> str:
    if not speedups:
        return "not measured with --small"
    least, name = min(speedups)
    return f"{'met' if least >= AIM else 'not met'}, {least:.2f} at least ({name})"


def _figures(known: dict[str, dict[str, float]]) -> Callable[[str, float], dict[str, float]]:
    def figures(name: str, seconds: float) -> dict[str, float]:
        facts = known[name]
        return {"gb_per_s": facts["bytes"] / seconds / 1e9, "bytes_ratio": facts["full_bytes"] / facts["bytes"]}

    return figures


def _time(
    device: CupyDevice,
    contenders: dict[str, Callable[[], object]],
    flush: Any,  # noqa: ANN401 - a CuPy array
    repeats: int,
) -> dict[str, list[float]]:
    """Run the contenders in turn, each with a cold cache; device seconds of every round."""
    for work in contenders.values():
        work()
    device.synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            flush.fill(0)
            seconds[name].append(device.milliseconds(work) / 1e3)
    return seconds


def _contenders(
    device: CupyDevice, problem: Problem
) -> tuple[dict[str, Callable[[], object]], dict[str, dict[str, float]], list[str]]:
    """Return what to time, the bytes that each moves, and what was checked."""
    work: dict[str, Callable[[], object]] = {}
    figures, checked = {}, []
    queries = device.upload(problem.queries[None])
    full: NDArray[np.float32] | None = None
    for config in problem.configs():
        cache = PlaneCache.from_codes(config, [problem.keys], [problem.values], device=device, scale=problem.scale)
        outputs = device.download(cache.attend(queries))[0]
        _check_equal(config, problem, outputs)
        if config.variant == "full":
            full = outputs
        told = cache.statistics()
        figures[config.variant] = {"bytes": told["plane_bytes"], "full_bytes": told["full_plane_bytes"]}
        work[config.variant] = _attend(cache, queries)
        checked.append(f"{config.variant}: outputs of a kv head equal the emulation's, bit for bit")
    assert full is not None  # noqa: S101 - the full read is one of the configurations
    plain = 4.0 * problem.keys.size
    for name, make in PEERS.items():
        try:
            attend = make(device, problem)
        except UnavailableError as error:
            checked.append(f"{name}: left out, {error.message}")
            continue
        difference = float(np.abs(numbers(attend(), full.shape) - full).max())
        allowed = PEER_ERROR * float(np.abs(to_binary32(problem.values, problem.format)).max())
        if not difference <= allowed:
            raise PrecalignError(f"{name}, {problem.name}: outputs differ by {difference:.3g}, {allowed:.3g} allowed")
        checked.append(f"{name}: outputs within 2^-8 of the largest value of the full read's")
        work[name] = attend
        figures[name] = {"bytes": plain, "full_bytes": plain}
    return work, figures, checked


def _attend(cache: PlaneCache, queries: Any) -> Callable[[], object]:  # noqa: ANN401 - a CuPy array
    return lambda: cache.attend(queries)


def _check_equal(config: KernelConfig, problem: Problem, outputs: NDArray[np.float32]) -> None:
    """Raise unless the outputs of kv head 0 are the emulation's."""
    keys, values = (np.ascontiguousarray(side[:, 0]) for side in (problem.keys, problem.values))
    wanted = emulate(config, keys, values, problem.queries[: config.group], problem.scale, None).outputs
    unequal = wanted.view(np.uint32) != np.ascontiguousarray(outputs[: config.group]).view(np.uint32)
    if unequal.any():
        raise PrecalignError(
            f"{problem.name}, {config.variant}: {int(unequal.sum())} outputs differ from the emulation",
            hint="`precalign validate --device gpu` finds the first operation that does",
        )
