"""Telling whoever asked that kernels are being compiled: it takes seconds, once, and nothing else would say so.

The command adds to `callbacks` without importing numba; `precalign.jit` calls them when numba compiles what it has not cached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

callbacks: list[Callable[[], None]] = []
"""Called once each, before the first kernel of this process is compiled."""


def announce() -> None:
    """Call every callback that has not been called."""
    while callbacks:
        callbacks.pop()()
