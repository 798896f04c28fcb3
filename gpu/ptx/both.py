"""One launch on both engines, compared byte by byte and count by count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from precalign.errors import PrecalignError
from precalign.gpu.ptx.launch import Uninitialised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.gpu.ptx.kernel import PtxKernel
    from precalign.gpu.ptx.report import Report


class EngineDisagreement(PrecalignError):  # noqa: N818 - it may be either engine's error
    """The two engines made different results or counts of one launch: a defect of one of them."""

    exit_code: ClassVar[int] = 1


def run_both(
    checked: PtxKernel,
    compiled: PtxKernel,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    arguments: Sequence[Any],
    *,
    shared_bytes: int = 0,
    seed: int | None = None,
) -> Report:
    """Run a launch in place on the checked engine, and on copies on the compiled one.

    Parameters
    ----------
    checked, compiled : PtxKernel
        The same kernel for either engine.
    grid, block, arguments, shared_bytes, seed
        As of `PtxKernel`.

    Returns
    -------
    Report
        Of the checked engine, which the other's equals.

    Raises
    ------
    KernelFault
        If the checked engine finds one.
    EngineDisagreement
        If a byte of an array or a count differs.
    """
    copies = _copies(arguments)
    report = checked(grid, block, arguments, shared_bytes=shared_bytes, seed=seed)
    other = compiled(grid, block, copies, shared_bytes=shared_bytes, seed=seed)
    for number, (one, two) in enumerate(zip(arguments, copies, strict=True)):
        a, b = (x.array if isinstance(x, Uninitialised) else x for x in (one, two))
        if isinstance(a, np.ndarray) and a.ndim and a.tobytes() != b.tobytes():
            octet = int(np.nonzero(a.reshape(-1).view(np.uint8) != b.reshape(-1).view(np.uint8))[0][0])
            raise EngineDisagreement(f"{report.kernel}, argument {number}: the engines differ from byte {octet} on")
    if report.to_json() != other.to_json():
        named = (n for n, value in report.to_json().items() if value != other.to_json()[n])
        raise EngineDisagreement(f"{report.kernel}: the engines count differently: {', '.join(named)}")
    return report


def _copies(arguments: Sequence[Any]) -> list[Any]:
    """Copy the arrays; what is one array stays one."""
    made: dict[tuple[int, int], Any] = {}

    def copy(array: Any) -> Any:  # noqa: ANN401 - an array
        key = (array.ctypes.data, array.nbytes)
        if key not in made:
            made[key] = array.copy()
            made[key].flags.writeable = array.flags.writeable
        return made[key].view(array.dtype).reshape(array.shape) if made[key].dtype != array.dtype else made[key]

    def one(argument: Any) -> Any:  # noqa: ANN401 - as the caller passes
        if isinstance(argument, Uninitialised):
            return Uninitialised(copy(argument.array))
        return copy(argument) if isinstance(argument, np.ndarray) and argument.ndim else argument

    return [one(a) for a in arguments]
