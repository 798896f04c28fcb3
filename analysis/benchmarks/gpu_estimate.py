"""What a GPU could gain, from sectors that the PTX machine measures: an estimate, and always called one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.analysis.benchmarks.decode_problems import N_KV_HEADS, problems
from precalign.analysis.benchmarks.timing import Benchmark, Options, Row
from precalign.gpu.devices.ptx import PtxDevice
from precalign.gpu.plane_cache import PlaneCache
from precalign.traffic import SECTOR_BYTES

if TYPE_CHECKING:
    from precalign.analysis.benchmarks.decode_problems import Problem

BANDWIDTH_GB_PER_S = 3350.0
"""Of the memory of an H100 SXM, by its data sheet."""
CONTEXTS = (1024, 4096, 16384)
SMALL_CONTEXTS = (1024,)
MEASURED_KV_HEADS = 1
"""All kv heads of a problem are alike: one is measured, N_KV_HEADS are told."""


def estimate(description: str, options: Options, reason: str) -> Benchmark:
    """Return the roofline: sectors that each kernel reads and writes, as the PTX machine measures them, over the bandwidth.

    Parameters
    ----------
    description : str
    options : Options
    reason : str
        Why there is no measurement.
    """
    found = []
    for problem in problems(options, SMALL_CONTEXTS if options.small else CONTEXTS, MEASURED_KV_HEADS):
        found += _rows(problem)
    checks = [
        f"sectors of global loads and stores, counted on the PTX machine for one of {N_KV_HEADS} kv heads that are alike",
        f"ESTIMATE, no time was measured: bytes of these sectors over {BANDWIDTH_GB_PER_S:.0f} GB/s (an H100's memory)",
    ]
    return Benchmark("gpu", description, found, checks, unavailable=reason)


def _rows(problem: Problem) -> list[Row]:
    sectors: dict[str, tuple[int, int]] = {}
    for config in problem.configs():
        device = PtxDevice()
        cache = PlaneCache.from_codes(config, [problem.keys], [problem.values], device=device, scale=problem.scale)
        device.reports.clear()
        cache.attend(problem.queries[None])
        loads, stores = (
            N_KV_HEADS * sum(r.sectors("global", kind) for r in device.reports.values()) for kind in ("ld", "st")
        )
        sectors[config.variant] = loads, stores
    base = sum(sectors["full"])
    result = []
    for name, (loads, stores) in sectors.items():
        ms = (loads + stores) * SECTOR_BYTES / BANDWIDTH_GB_PER_S / 1e6
        figures = {
            "sectors_read": float(loads),
            "sectors_written": float(stores),
            "bytes_ratio": base / (loads + stores),
        }
        result.append(Row(f"ESTIMATE: {problem.name}", name, ms, ms, 0.0, (loads + stores) / base, figures))
    return result
