"""A stand-in for CuPy: arrays are NumPy's, and a cubin that NVRTC made is executed as the PTX that came with it.

It has what `CupyDevice` uses and nothing else, and it is as strict as CuPy where that matters: kernels take only its own arrays and
NumPy scalars, grids and blocks are tuples, CPU tensors are refused, and a file is read when the kernel is asked for.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from precalign.gpu import nvrtc
from precalign.gpu.ptx.kernel import PtxKernel


class FakeArray(np.ndarray):
    device = SimpleNamespace(id=0)


def of(array):
    return np.array(array, order="C").view(FakeArray)


class CUDARuntimeError(RuntimeError):
    pass


class FakeCupy:
    """Put into sys.modules as "cupy"; `launches` lists what was launched, `waits` counts waits for the device."""

    ndarray = FakeArray

    def __init__(self, monkeypatch, *, n_devices=1):
        self.launches, self.waits, self.ptx = [], 0, {}
        self.n_devices = n_devices
        compile_ptx = nvrtc.compile_ptx

        def remembering(*args, **kwargs):
            made = compile_ptx(*args, **kwargs)
            self.ptx[made.cubin] = made.ptx
            return made

        monkeypatch.setattr("precalign.gpu.devices.device.compile_ptx", remembering)
        monkeypatch.setitem(__import__("sys").modules, "cupy", self)
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(
                getDevice=self._get_device,
                getDeviceProperties=lambda _: {"name": b"Fake GPU", "l2CacheSize": 1 << 16},
                deviceSynchronize=self._wait,
                CUDARuntimeError=CUDARuntimeError,
            ),
            Device=lambda _: SimpleNamespace(compute_capability="80"),
            Event=lambda: SimpleNamespace(record=lambda: None, synchronize=self._wait),
            get_elapsed_time=lambda start, end: 0.5,
            get_current_stream=lambda: SimpleNamespace(ptr=0),
        )

    def _get_device(self):
        if not self.n_devices:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return 0

    def _wait(self):
        self.waits += 1

    def zeros(self, shape, dtype):
        return np.zeros(shape, dtype).view(FakeArray)

    def asarray(self, array):
        return array if isinstance(array, FakeArray) else of(array)

    def asnumpy(self, array):
        self._wait()
        assert isinstance(array, FakeArray)
        return np.array(array)

    def from_dlpack(self, tensor):
        if tensor.__dlpack_device__()[0] == 1 and not getattr(tensor, "is_fake_cuda", False):
            raise BufferError("CPU arrays cannot be directly imported to CuPy")
        return np.from_dlpack(tensor).view(FakeArray)

    def RawModule(self, *, path):  # noqa: N802 - CuPy's name
        ptx = self.ptx[Path(path).read_bytes()]
        return SimpleNamespace(get_function=lambda name: self._function(ptx, name))

    def _function(self, ptx, name):
        kernel = PtxKernel(ptx, name)

        def launch(grid, block, args):
            assert isinstance(grid, tuple)
            assert isinstance(block, tuple)
            assert all(isinstance(a, FakeArray) or type(a) in (np.int32, np.float32) for a in args)
            self.launches.append(name)
            kernel(grid, block, [a.view(np.ndarray) if isinstance(a, FakeArray) else a for a in args])

        return launch
