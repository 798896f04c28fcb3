"""Where kernels run: a GPU through CuPy, or a PTX machine on this CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from precalign.gpu.devices.base import Device

DEVICES = ("cpu", "gpu", "auto")


def open_device(name: str, *, texts: dict[str, str] | None = None, engine: str = "checked") -> Device:
    """Return a device by name.

    Parameters
    ----------
    name : str
        "cpu" executes the kernels' PTX; "gpu" is the current CUDA device; "auto" the GPU where there is one.
    texts : dict of str to str, optional
        CUDA sources by file name, if not those of the package.
    engine : str
        Of the PTX machine: "checked", "compiled" or "both".

    Raises
    ------
    UsageError
        If a name is none of these.
    UnavailableError
        If "gpu" is asked for and there is none, or the CUDA compiler is missing.
    """
    if name not in DEVICES:
        raise UsageError(f"no device {name!r}", hint="devices: " + ", ".join(DEVICES))
    if name != "cpu":
        from precalign.gpu.devices.device import CupyDevice

        try:
            return CupyDevice(texts)
        except UnavailableError:
            if name == "gpu":
                raise
    from precalign.gpu.devices.ptx import PtxDevice

    return PtxDevice(texts=texts, engine=engine)
