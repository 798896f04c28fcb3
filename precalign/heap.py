"""What the C library does with memory that arrays give back."""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""From glibc's malloc.h."""
KEPT_BYTES = 256 << 20
LARGEST_FROM_HEAP_BYTES = 32 << 20
"""The most that glibc takes as a threshold on 64-bit systems."""
PAD_BYTES = 16 << 20


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MB of freed memory instead of giving every array back to the system; return whether it could.

    An analysis makes and drops arrays of megabytes by the thousand. glibc gives each back at once, and the system clears every page anew
    when the next is made, which took a quarter of the time of an analysis of many heads. For processes that are ours: commands and
    workers. A program that imports precalign keeps its own settings. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_FROM_HEAP_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, PAD_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
