"""The PTX machine as a device: kernels run on the CPU, checked and measured, by either of its engines or by both."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import UsageError
from precalign.gpu.kernels.config import KERNELS, sources
from precalign.gpu.ptx import Kernel, Report
from precalign.gpu.ptx.both import run_both
from precalign.gpu.ptx.kernel import ENGINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.gpu.devices.base import Array
    from precalign.gpu.kernels import KernelConfig
    from precalign.gpu.ptx.kernel import Engine

CHOICES = (*ENGINES, "both")


@lru_cache(maxsize=256)
def _compiled(config: KernelConfig, entry: str, texts: tuple[tuple[str, str], ...], engine: Engine) -> Kernel:
    named = dict(texts)
    headers = {name: text for name, text in texts if name.endswith(".cuh")}
    return Kernel(named[KERNELS[entry]], entry, headers, config.macros(), file=KERNELS[entry], engine=engine)


class PtxDevice:
    """A device that is this CPU, executing PTX.

    Parameters
    ----------
    seed : int, optional
        Draws the order of blocks and warps of every launch.
    texts : dict of str to str, optional
        CUDA sources and headers by name; those of the package if not given.
    engine : str
        "checked", "compiled", or "both": every launch on both, each byte and each count compared.

    Attributes
    ----------
    reports : dict of str to Report
        What all launches of each entry point did, added up; clear it to start anew.
    """

    name = "cpu"

    def __init__(self, seed: int | None = None, texts: dict[str, str] | None = None, engine: str = "checked") -> None:
        if engine not in CHOICES:
            raise UsageError(f"no engine {engine!r}", hint="engines: " + ", ".join(CHOICES))
        self.seed, self.engine = seed, engine
        self.texts = tuple(sorted((sources() if texts is None else texts).items()))
        self.reports: dict[str, Report] = {}

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> Array:
        """Allocate an array of zeros."""
        return np.zeros(shape, dtype)

    def upload(self, array: NDArray[Any]) -> Array:
        """Copy a NumPy array."""
        return np.array(array, order="C")

    def adopt(self, array: Any) -> Array:  # noqa: ANN401 - any tensor that speaks DLPack
        """Take over an array or CPU tensor without copying; torch's bfloat16 arrives as its codes."""
        if isinstance(array, np.ndarray):
            return array
        if str(getattr(array, "dtype", "")) == "torch.bfloat16":
            array = array.view(array.new_empty(0).short().dtype)
        return np.from_dlpack(array)

    def download(self, array: Array) -> NDArray[Any]:
        """Copy to NumPy."""
        return np.array(array)

    def kernel(self, config: KernelConfig, entry: str) -> Any:  # noqa: ANN401 - a Launch
        """Compile one entry point."""
        engines: tuple[Engine, ...] = ("checked", "compiled")
        kernels = [_compiled(config, entry, self.texts, e) for e in engines if self.engine in (e, "both")]

        def launch(grid: tuple[int, int, int], block: int, arguments: Sequence[Any]) -> None:
            if len(kernels) == 2:
                report = run_both(kernels[0], kernels[1], grid, block, arguments, seed=self.seed)
            else:
                report = kernels[0](grid, block, arguments, seed=self.seed)
            self.reports.setdefault(entry, Report(entry)).add(report)

        return launch
