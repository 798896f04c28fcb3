"""What differs between GPUs, as data: how much memory hands out at once, how fast, and what a multiprocessor could compute meanwhile.

docs/traffic.md gives the source of every number, and says which rest on an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass

from precalign.errors import UsageError
from precalign.traffic import GRANULES

DOCUMENTED, REPORTED, ASSUMED = "documented", "reported", "assumed"


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes
    ----------
    name : str
        As `--gpu` takes it.
    product : str
        The vendor's name.
    architecture : str
        "sm_90"; "gfx942" for AMD.
    memory : str
        Kind of memory.
    bandwidth_gb_per_s : float
        Peak of the memory, 10^9 bytes per second.
    l2_bytes : int
        Of the last cache that all multiprocessors share; a cache on the side of the memory is not counted.
    sector_bytes, line_bytes : int
        What the L2 cache fills by, and what one tag stands for.
    fetch_bytes : int
        What the L2 cache brings from memory when it lacks a byte: 32, 64 or 128.
    fetch_basis : str
        "documented" by the vendor, "reported" by users, or "assumed".
    multiprocessors : int
    fp32_tflops : float
        Peak of binary32 outside the matrix units, a fused multiply-add being two.
    """

    name: str
    product: str
    architecture: str
    memory: str
    bandwidth_gb_per_s: float
    l2_bytes: int
    sector_bytes: int
    line_bytes: int
    fetch_bytes: int
    fetch_basis: str
    multiprocessors: int
    fp32_tflops: float

    @property
    def fetch_unit(self) -> str:
        """The unit of `precalign.traffic` that counts what memory moves: sectors, atoms or lines."""
        return next(unit for unit, size in GRANULES.items() if size == self.fetch_bytes)

    @property
    def bytes_per_second(self) -> float:
        """Peak bandwidth."""
        return self.bandwidth_gb_per_s * 1e9

    @property
    def lane_operations_per_second(self) -> float:
        """Instructions times lanes: a fused multiply-add is one."""
        return self.fp32_tflops * 1e12 / 2


MIB = 1 << 20
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", "NVIDIA A100 SXM4 80 GB", "sm_80", "HBM2e", 2039, 40 * MIB, 32, 128, 64, REPORTED, 108, 19.5),
        Gpu("rtx3090", "NVIDIA GeForce RTX 3090", "sm_86", "GDDR6X", 936, 6 * MIB, 32, 128, 32, ASSUMED, 82, 35.6),
        Gpu("rtx4090", "NVIDIA GeForce RTX 4090", "sm_89", "GDDR6X", 1008, 72 * MIB, 32, 128, 32, ASSUMED, 128, 82.6),
        Gpu("l40s", "NVIDIA L40S", "sm_89", "GDDR6", 864, 96 * MIB, 32, 128, 32, ASSUMED, 142, 91.6),
        Gpu("h100", "NVIDIA H100 SXM5 80 GB", "sm_90", "HBM3", 3350, 50 * MIB, 32, 128, 64, ASSUMED, 132, 67.0),
        Gpu("h200", "NVIDIA H200 SXM", "sm_90", "HBM3e", 4800, 50 * MIB, 32, 128, 64, ASSUMED, 132, 67.0),
        Gpu("b200", "NVIDIA B200", "sm_100", "HBM3e", 7700, 126 * MIB, 32, 128, 64, ASSUMED, 148, 80.0),
        Gpu("rtx5090", "NVIDIA GeForce RTX 5090", "sm_120", "GDDR7", 1792, 96 * MIB, 32, 128, 32, ASSUMED, 170, 104.8),
        Gpu("mi300x", "AMD Instinct MI300X", "gfx942", "HBM3", 5300, 32 * MIB, 128, 128, 128, ASSUMED, 304, 163.4),
        Gpu("mi325x", "AMD Instinct MI325X", "gfx942", "HBM3e", 6000, 32 * MIB, 128, 128, 128, ASSUMED, 304, 163.4),
    )
}
"""Name -> GPU, by vendor and in the order in which they appeared."""


def get_gpus(text: str) -> list[Gpu]:
    """Return the GPUs of "all", or of names separated by commas.

    Raises
    ------
    UsageError
        If a name is not known; the message lists those there are.
    """
    if text == "all":
        return list(GPUS.values())
    names = [name.strip().lower() for name in text.split(",")]
    unknown = [name for name in names if name not in GPUS]
    if unknown:
        raise UsageError(f"--gpu {text}: unknown GPU {unknown[0]!r}", hint="known: all, " + ", ".join(GPUS))
    return [GPUS[name] for name in dict.fromkeys(names)]
