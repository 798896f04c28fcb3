"""An NVIDIA GPU through CuPy: the only file that imports CuPy."""

from __future__ import annotations

import importlib
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import UnavailableError
from precalign.gpu.kernels.config import KERNELS, sources
from precalign.gpu.nvrtc import compile_ptx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from precalign.gpu.devices.base import Array
    from precalign.gpu.kernels import KernelConfig


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

    Notes
    -----
    Kernels are compiled by `precalign.gpu.nvrtc`, the compiler of `precalign kernels build`, and loaded as cubins: the machine code that is
    inspected there runs here. They are launched on CuPy's current stream.
    """

    name = "gpu"

    def __init__(self, texts: dict[str, str] | None = None) -> None:
        self.texts = tuple(sorted((sources() if texts is None else texts).items()))
        try:
            cupy = importlib.import_module("cupy")
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
        self._events: tuple[Any, Any] | None = None

    @property
    def model(self) -> str:
        """What the device calls itself."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._cupy.cuda.runtime.getDevice())
        name = properties["name"]
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def l2_bytes(self) -> int:
        """Size of the second-level cache."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._cupy.cuda.runtime.getDevice())
        return int(properties["l2CacheSize"])

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> Array:
        """Allocate an array of zeros."""
        return self._cupy.zeros(shape, dtype)

    def upload(self, array: NDArray[Any]) -> Array:
        """Copy a NumPy array to the device."""
        return self._cupy.asarray(array)

    def adopt(self, array: Any) -> Array:  # noqa: ANN401 - any tensor that speaks DLPack
        """Take over a device tensor without copying; CuPy has no bfloat16, so torch's arrives as its codes.

        Raises
        ------
        ValueError
            If the tensor is on another device.
        """
        if isinstance(array, np.ndarray):
            return self._cupy.asarray(array)
        if not isinstance(array, self._cupy.ndarray):
            if str(getattr(array, "dtype", "")) == "torch.bfloat16":
                array = array.view(array.new_empty(0).short().dtype)
            array = self._cupy.from_dlpack(array)
        own = self._cupy.cuda.runtime.getDevice()
        if array.device.id != own:
            raise ValueError(f"the tensor is on CUDA device {array.device.id}, the cache on device {own}")
        return array

    def download(self, array: Array) -> NDArray[Any]:
        """Copy to NumPy; waits for what was launched before."""
        return np.asarray(self._cupy.asnumpy(array))

    def kernel(self, config: KernelConfig, entry: str) -> Any:  # noqa: ANN401 - a Launch
        """Compile one entry point for this device."""
        own = self._cupy.cuda.runtime.getDevice()
        capability = self._cupy.cuda.Device(own).compute_capability
        return _loaded(self._cupy, own, f"sm_{capability}", config, entry, self.texts)

    def milliseconds(self, work: Callable[[], object]) -> float:
        """Return how long the device works on what `work` launches, by events on the stream around it."""
        event = self._cupy.cuda.Event
        start, end = self._events = self._events or (event(), event())
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, end))

    def synchronize(self) -> None:
        """Wait for everything that was launched."""
        self._cupy.cuda.runtime.deviceSynchronize()

    def stream_pointer(self) -> int:
        """Return the current stream's handle, for another framework to work on the same stream."""
        return int(self._cupy.cuda.get_current_stream().ptr)


@lru_cache(maxsize=256)
def _loaded(
    cupy: Any,  # noqa: ANN401 - CuPy has no types
    device: int,
    arch: str,
    config: KernelConfig,
    entry: str,
    texts: tuple[tuple[str, str], ...],
) -> Any:  # noqa: ANN401
    del device  # a module belongs to one
    named = dict(texts)
    headers = {name: text for name, text in texts if name.endswith(".cuh")}
    file = KERNELS[entry]
    cubin = compile_ptx(named[file], arch, headers=headers, macros=config.macros(), file=file).cubin
    with tempfile.TemporaryDirectory(prefix="precalign-") as folder:
        path = Path(folder) / f"{entry}.cubin"
        path.write_bytes(cubin)
        function = cupy.RawModule(path=str(path)).get_function(entry)  # loads it: the file is not needed any more

    def launch(grid: tuple[int, int, int], block: int, arguments: Sequence[Any]) -> None:
        function(grid, (block,), tuple(arguments))

    return launch
