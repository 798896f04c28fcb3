"""Decode attention on the CPU that reads of every number only the bits a rule asks for, bit-equal to the emulator.

>>> import numpy as np
>>> from precalign.cpu import CpuPlaneCache
>>> rng = np.random.default_rng(0)
>>> keys, values = (rng.standard_normal((1000, 2, 64)).astype(np.float16) for _ in range(2))
>>> cache = CpuPlaneCache("aligned-skip", head_dim=64, n_kv_heads=2, group=4, max_tokens=1024)
>>> cache.append(keys, values, [1000])
>>> cache.attend(rng.standard_normal((1, 8, 64)).astype(np.float16)).shape
(1, 8, 64)
"""

from __future__ import annotations

from precalign.cpu.plane_cache import CpuPlaneCache
from precalign.cpu.twin import FullReadCache

__all__ = ["CpuPlaneCache", "FullReadCache"]
