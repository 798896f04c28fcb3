"""An NVIDIA GPU through CuPy: the only file that imports CuPy."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import UnavailableError
from precalign.gpu.kernels.config import KERNELS, sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.gpu.devices.base import Array
    from precalign.gpu.kernels import KernelConfig

OPTIONS = ("--fmad=false", "-lineinfo", "-std=c++17", "-default-device")


class CupyDevice:
    """The current CUDA device.

    Parameters
    ----------
    texts : dict of str to str, optional
        CUDA sources and headers by name; those of the package if not given.

    Raises
    ------
    UnavailableError
        If CuPy or a CUDA device is missing.
    """

    name = "gpu"

    def __init__(self, texts: dict[str, str] | None = None) -> None:
        self.texts = tuple(sorted((sources() if texts is None else texts).items()))
        try:
            import cupy
        except ImportError as error:
            raise UnavailableError(
                f"no GPU: CuPy cannot be imported ({error})", hint="pip install 'precalign[gpu]'"
            ) from error
        try:
            cupy.cuda.runtime.getDevice()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise UnavailableError(
                f"no GPU: {error}", hint="`--device cpu` executes the kernels' PTX instead"
            ) from error
        self._cupy = cupy

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> Array:
        """Allocate an array of zeros."""
        return self._cupy.zeros(shape, dtype)

    def upload(self, array: NDArray[Any]) -> Array:
        """Copy a NumPy array to the device."""
        return self._cupy.asarray(array)

    def adopt(self, array: Any) -> Array:  # noqa: ANN401 - any tensor that speaks DLPack
        """Take over a device tensor without copying; CuPy has no bfloat16, so torch's arrives as its codes."""
        if isinstance(array, self._cupy.ndarray):
            return array
        if isinstance(array, np.ndarray):
            return self._cupy.asarray(array)
        if str(getattr(array, "dtype", "")) == "torch.bfloat16":
            array = array.view(_torch_int16(array))
        return self._cupy.from_dlpack(array)

    def download(self, array: Array) -> NDArray[Any]:
        """Copy to NumPy; waits for what was launched before."""
        return np.asarray(self._cupy.asnumpy(array))

    def kernel(self, config: KernelConfig, entry: str) -> Any:  # noqa: ANN401 - a Launch
        """Compile one entry point for this device."""
        return _compiled(self._cupy, config, entry, self.texts)


def _torch_int16(array: Any) -> Any:  # noqa: ANN401 - reached through the tensor, so that torch is not imported here
    return array.new_empty(0).short().dtype


@lru_cache(maxsize=256)
def _compiled(cupy: Any, config: KernelConfig, entry: str, named: tuple[tuple[str, str], ...]) -> Any:  # noqa: ANN401 - CuPy has no types
    options = (*OPTIONS, *(f"-D{name}={value}" for name, value in config.macros().items()))
    texts = dict(named)
    text = texts[KERNELS[entry]]
    for name, header in texts.items():  # NVRTC under CuPy takes no virtual headers
        text = text.replace(f'#include "{name}"', header.replace("#pragma once", ""))
    function = cupy.RawModule(code=text, options=options).get_function(entry)

    def launch(grid: tuple[int, int, int], block: int, arguments: Sequence[Any]) -> None:
        function(grid, (block,), tuple(arguments))

    return launch
