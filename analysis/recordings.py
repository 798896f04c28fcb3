"""Recorded results of matrix units against their emulation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign import matrix_units
from precalign.analysis.readers.base import printable, shown
from precalign.analysis.readers.numpy_file import NumpyReader
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from precalign.analysis.readers.base import StoredTensor

_NAME = re.compile(r"([A-Za-z0-9]+)_([a-z0-9]+)\.npz")
_OUTPUTS = ("fp32", "fp16")
_RESULTS = tuple(f"d_{output}" for output in _OUTPUTS)
_NAMES = ("a", "b", "c", *_RESULTS)
_WIDTHS = ("uint8", "uint16", "uint32")


@dataclass(frozen=True)
class Replay:
    """One recorded file and output format against the emulation.

    Attributes
    ----------
    file : str
        Name of the file.
    unit : str
        Spec of the matrix unit.
    n_results, n_mismatches : int
        Dot products, and those whose results are not bit for bit the same.
    first_mismatch : int or None
        Row of the first one.
    """

    file: str
    unit: str
    n_results: int
    n_mismatches: int
    first_mismatch: int | None


def _load(path: Path) -> dict[str, NDArray[np.unsignedinteger]]:
    file = NumpyReader().open(path)
    try:
        arrays = {name: _codes(path, file.tensors[name]) for name in _NAMES if name in file.tensors}
    finally:
        file.close()
    results = [name for name in _RESULTS if name in arrays]
    if not {"a", "b", "c"} <= arrays.keys() or not results:
        raise InputError(
            f"{shown(path)}: expected arrays a, b, c and d_fp32 or d_fp16, got {printable(', '.join(file.tensors) or 'none')}",
            hint="docs/matrix-units.md describes the files",
        )
    shape = arrays["a"].shape
    for name in ("a", "b", "c", *results):
        expected = shape if name in {"a", "b"} else shape[:1]
        if arrays[name].shape != expected or len(shape) != 2:
            raise InputError(
                f"{shown(path)}: array {name} has shape {printable(arrays[name].shape)}: a and b are (n_results, n_terms), c and results (n_results,)"
            )
    return arrays


def _codes(path: Path, stored: StoredTensor) -> NDArray[np.unsignedinteger]:
    if stored.dtype not in _WIDTHS:
        raise InputError(
            f"{shown(path)}: array {printable(stored.name)} has dtype {printable(stored.dtype)}, expected {', '.join(_WIDTHS)}"
        )
    if 0 in stored.shape:
        raise InputError(f"{shown(path)}: array {printable(stored.name)} is empty: shape {printable(stored.shape)}")
    codes: NDArray[np.unsignedinteger] = np.array(stored.codes(), order="C").view(stored.dtype)
    return codes


def replay_file(path: Path) -> Iterator[Replay]:
    """Emulate every result of one GPU_FORMAT.npz.

    Raises
    ------
    InputError
        If the file cannot be read or its name says no GPU and format.
    UsageError
        If the GPU has no such matrix unit.
    """
    name = _NAME.fullmatch(path.name)
    if name is None:
        raise InputError(f"{path}: expected a name like H100_fp16.npz, GPU and input format")
    arrays = _load(path)
    for output in _OUTPUTS:
        if f"d_{output}" not in arrays:
            continue
        unit = matrix_units.get_unit(name[1], name[2], output)
        got = matrix_units.replay(
            arrays["a"], arrays["b"], arrays["c"].astype(np.uint32), unit=name[1], inputs=name[2], output=output
        )
        wrong = np.flatnonzero(got != arrays[f"d_{output}"])
        yield Replay(path.name, unit.name, len(got), len(wrong), int(wrong[0]) if len(wrong) else None)


def replay_folder(folder: Path) -> list[Replay]:
    """Emulate every recording of a folder (or one file).

    Raises
    ------
    InputError
        If there is no recording.
    """
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else [folder]
    if not files or not files[0].exists():
        raise InputError(f"{folder}: no recording here", hint="expected files like H100_fp16.npz")
    return [replay for file in files for replay in replay_file(file)]
