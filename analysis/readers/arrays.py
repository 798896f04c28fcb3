"""Single arrays that are wanted whole: token ids, arguments of a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.readers.base import damaged, printable, shown
from precalign.analysis.readers.numpy_header import MAX_HEADER_BYTES, PREFIX_BYTES, read_header
from precalign.analysis.readers.ranges import opened
from precalign.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NUMBERS = "iufb"
"""Kinds of NumPy dtypes that hold real numbers."""


def load_array(path: Path, kinds: str = NUMBERS) -> NDArray[Any]:
    """Read a .npy.

    Parameters
    ----------
    path : Path
    kinds : str
        Kinds of dtypes that are taken.

    Raises
    ------
    InputError
        If it cannot be read, is no such array, or holds less than it claims.
    """
    with opened(path) as file:
        header = read_header(path, path.stem, file.read(0, min(file.size, PREFIX_BYTES + MAX_HEADER_BYTES)), file.size)
        dtype = _dtype(header.dtype)
        if dtype is None or dtype.kind not in kinds:
            raise InputError(f"{shown(path)}: expected an array of numbers, got {printable(header.dtype)}")
        count = int(np.prod(header.shape, dtype=object))
        octets = file.read(header.data, count * dtype.itemsize)
        file.close()
    try:
        return np.frombuffer(octets, dtype).reshape(header.shape, order="F" if header.fortran else "C").copy("C")
    except ValueError as error:  # no elements, but axes that NumPy cannot hold
        raise damaged(path, f"shape {printable(header.shape)} is no shape of an array") from error


def _dtype(name: str) -> np.dtype[Any] | None:
    """Return the dtype of a name, None for those that NumPy does not know: records, ml_dtypes' own."""
    try:
        return np.dtype(name)
    except TypeError:
        return None
