"""What a multiprocessor of each architecture holds; the numbers of NVIDIA's cuda_occupancy.h (CUDA 13.0), which a test recomputes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Limits of one multiprocessor.

    Attributes
    ----------
    name : str
        As NVRTC takes it.
    example : str
        A GPU of it.
    max_threads, max_blocks : int
        Resident at once.
    registers : int
        32-bit registers.
    shared_bytes : int
        Shared memory of all resident blocks, the kilobyte that the driver keeps of each included.
    """

    name: str
    example: str
    max_threads: int
    max_blocks: int
    shared_bytes: int
    registers: int = 65_536

    def resident_blocks(self, threads: int, registers: int, shared_bytes: int) -> int:
        """Return how many blocks of `threads` fit at once; 0 if not even one does.

        Parameters
        ----------
        threads : int
            Of a block.
        registers : int
            Of a thread; allotted to warps in units of 256.
        shared_bytes : int
            Of a block, static and dynamic; allotted in units of 128.
        """
        warps = -(-threads // WARP)
        warp_registers = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        # Each of the four schedulers holds whole warps.
        by_registers = (self.registers // SCHEDULERS // warp_registers * SCHEDULERS) // warps if registers else MANY
        by_shared = self.shared_bytes // (-(-(shared_bytes + RESERVED_SHARED_BYTES) // SHARED_UNIT) * SHARED_UNIT)
        return min(self.max_blocks, self.max_threads // (warps * WARP), by_registers, by_shared)

    def occupancy(self, threads: int, registers: int, shared_bytes: int) -> float:
        """Return the share of the multiprocessor's warps that can be resident."""
        warps = -(-threads // WARP)
        return self.resident_blocks(threads, registers, shared_bytes) * warps / (self.max_threads // WARP)


WARP = 32
SCHEDULERS = 4
REGISTER_UNIT = 256
SHARED_UNIT = 128
RESERVED_SHARED_BYTES = 1024
MANY = 1 << 30

ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("sm_80", "A100", 2048, 32, 164 << 10),
        Architecture("sm_86", "RTX 3090", 1536, 16, 100 << 10),
        Architecture("sm_89", "RTX 4090, L40S", 1536, 24, 100 << 10),
        Architecture("sm_90", "H100, H200", 2048, 32, 228 << 10),
        Architecture("sm_100", "B200", 2048, 32, 228 << 10),
        Architecture("sm_120", "RTX 5090", 1536, 24, 100 << 10),
    )
}
"""Name -> architecture, in the order in which they appeared."""
