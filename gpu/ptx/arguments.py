"""Arguments of a kernel as text: arrays from files, zeros, random numbers, scalars."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import UsageError
from precalign.gpu.ptx.launch import Uninitialised

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS = (
    "int32:5, float32:0.5, x.npy, zeros:float32:1024, empty:float32:32x64, random:float32:1024, arange:int32:256, null"
)
_DTYPE = re.compile(r"[<>=|]?[A-Za-z_]+[0-9]{0,3}")
"""What names one type; NumPy would parse more: tuples, records, comma-separated lists."""
_SHAPE = re.compile(r"[0-9]{1,18}(x[0-9]{1,18}){0,31}")
_MOST_BYTES = 1 << 34


@dataclass(frozen=True)
class Argument:
    """One argument.

    Attributes
    ----------
    name : str
        Of its output file and in reports: "arg0" or the name given as name=....
    value : ndarray, NumPy scalar, Uninitialised or None
        As the machine takes it.
    """

    name: str
    value: Any

    @property
    def array(self) -> np.ndarray[Any, Any] | None:
        """The array behind a pointer, or None for a scalar."""
        held = self.value.array if isinstance(self.value, Uninitialised) else self.value
        return held if isinstance(held, np.ndarray) and held.ndim else None


def parse_argument(text: str, position: int, rng: np.random.Generator, load: Callable[[Path], Any]) -> Argument:
    """Read one argument: "[name=]FORM", a FORM being one of `FORMS`.

    Parameters
    ----------
    text : str
    position : int
        Its place, for the name.
    rng : numpy.random.Generator
        For "random".
    load : callable
        Reads a .npy as an array.

    Raises
    ------
    UsageError
        If it is not understood.
    InputError
        From `load`, if a file is not an array.
    """
    name, equals, form = text.partition("=")
    if not equals:
        name, form = f"arg{position}", text
    if form == "null":
        return Argument(name, None)
    if form.endswith(".npy"):
        return Argument(name, load(Path(form)))
    parts = form.split(":")
    if len(parts) == 2:
        return Argument(name, _scalar(parts[0], parts[1], text))
    if len(parts) == 3 and _SHAPE.fullmatch(parts[2]):
        return Argument(name, _made(parts[0], _dtype(parts[1], text), tuple(map(int, parts[2].split("x"))), rng, text))
    raise UsageError(f"argument {text!r} is not understood", hint=f"forms: {FORMS}")


def _dtype(name: str, text: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name) if _DTYPE.fullmatch(name) else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None:
        raise UsageError(f"argument {text!r}: {name!r} is no NumPy dtype")
    if dtype.kind not in "iufb":
        raise UsageError(f"argument {text!r}: {name!r} is no dtype of numbers")
    return dtype


def _scalar(dtype: str, number: str, text: str) -> Any:  # noqa: ANN401 - a NumPy scalar
    kind = _dtype(dtype, text)
    try:
        return np.array(float(number) if kind.kind == "f" else int(number, 0)).astype(kind)[()]
    except (ValueError, OverflowError):
        raise UsageError(f"argument {text!r}: {number!r} is no {dtype}") from None


def _made(how: str, dtype: np.dtype[Any], shape: tuple[int, ...], rng: np.random.Generator, text: str) -> Any:  # noqa: ANN401
    if np.prod([float(n) for n in shape]) * dtype.itemsize > _MOST_BYTES:
        raise UsageError(f"argument {text!r}: an array of over {_MOST_BYTES >> 30} GiB")
    try:
        made = _filled(how, dtype, shape, rng)
    except MemoryError:
        raise UsageError(f"argument {text!r}: there is no memory for such an array") from None
    if made is not None:
        return made
    raise UsageError(f"argument {text!r}: arrays are made by zeros, empty, arange or random", hint=f"forms: {FORMS}")


def _filled(how: str, dtype: np.dtype[Any], shape: tuple[int, ...], rng: np.random.Generator) -> Any:  # noqa: ANN401 - None where `how` is no way
    if how == "zeros":
        return np.zeros(shape, dtype)
    if how == "empty":
        return Uninitialised(np.zeros(shape, dtype))
    if how == "arange":
        return np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    if how == "random":
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        return rng.integers(0, 256, shape).astype(dtype)
    return None
