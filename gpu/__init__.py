"""CUDA kernels that read a key/value cache in part, the machines that run them, and the proof that they do what the rules say."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precalign.gpu.devices import open_device
    from precalign.gpu.kernels import KernelConfig
    from precalign.gpu.plane_cache import PlaneCache

_HOMES = {"KernelConfig": "kernels", "PlaneCache": "plane_cache", "open_device": "devices"}

__all__ = ["KernelConfig", "PlaneCache", "open_device"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - imported when first asked for, so that compiling kernels needs no numba
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
