"""The header of a `.npy`: parsed here, because NumPy's own parser warns, tries again what is malformed and raises many kinds of errors.

Source: numpy.lib.format, versions 1.0 to 3.0.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from precalign.analysis.readers.base import check_shape, damaged, printable, shown
from precalign.errors import InputError
from precalign.formats import BFLOAT16, BINARY16, BINARY32, E5M2, Format

NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
"""NumPy's own limit."""
VERSIONS = {(1, 0): ("<H", "latin-1"), (2, 0): ("<I", "latin-1"), (3, 0): ("<I", "utf-8")}
"""Version -> type of the header's length, encoding."""
PREFIX_BYTES = len(NPY_MAGIC) + 2 + 4
FORMATS = {"<f2": BINARY16, "<f4": BINARY32, "|V2": BFLOAT16, "<V2": BFLOAT16, "<f1": E5M2, "|f1": E5M2}
"""ml_dtypes saves bfloat16 as two bytes without a type, and e5m2 as a float of one byte, which NumPy itself does not understand. (Its
e4m3 formats become one byte without a type, `|V1`.)"""
SIMPLE = re.compile(r"[<>|=]?([biufcmMSUVO?])(\d{0,9})(\[\d{0,4}[a-zA-Zμ]{1,2}\])?")


@dataclass(frozen=True)
class NpyHeader:
    """What an array says of itself.

    Attributes
    ----------
    shape : tuple of int
    format : Format or None
    dtype : str
        As it may be shown.
    item_bytes : int
    fortran : bool
        First axis fastest.
    data : int
        Where the numbers begin.
    """

    shape: tuple[int, ...]
    format: Format | None
    dtype: str
    item_bytes: int
    fortran: bool
    data: int

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Of the codes: unsigned integers where the format is known, bytes where it is one wide."""
        if self.format is not None:
            return self.format.code_dtype
        return np.dtype(np.uint8 if self.item_bytes == 1 else f"V{self.item_bytes}")


def read_header(path: object, name: str, head: bytes, available: int) -> NpyHeader:
    """Parse the beginning of an array.

    Parameters
    ----------
    path : Path or Remote
    name : str
        Of the array, for messages.
    head : bytes
        `PREFIX_BYTES` + `MAX_HEADER_BYTES` of it, or all.
    available : int
        Bytes of the array, header included.

    Raises
    ------
    InputError
        If it is no header, holds pickled objects, or claims more than is there.
    """
    what = f"array {printable(name)}"
    if not head:
        raise damaged(path, "the file is empty" if available == 0 else f"{what} is empty")
    fields, data = _fields(path, what, head)
    shape, fortran, descr = fields["shape"], fields["fortran_order"], fields["descr"]
    if not isinstance(shape, tuple) or not all(type(n) is int for n in shape) or not isinstance(fortran, bool):
        raise damaged(path, f"{what} has a header that cannot be read (shape {printable(shape)})")
    if any(n < 0 for n in shape):
        raise damaged(path, f"{what} has a negative size: {printable(shape)}")
    dtype, item_bytes = _dtype(path, what, descr)
    needed = check_shape(path, what, shape, item_bytes)
    if needed > available - data:
        raise damaged(
            path,
            f"{what} of shape {shape} and dtype {dtype} needs {needed} bytes, there are {max(0, available - data)}",
        )
    fmt = FORMATS.get(descr) if isinstance(descr, str) else None
    return NpyHeader(shape, fmt, dtype, item_bytes, fortran, data)


def _fields(path: object, what: str, head: bytes) -> tuple[dict[str, Any], int]:
    if not head.startswith(NPY_MAGIC):
        raise damaged(path, f"{what} does not begin as a NumPy array does")
    version = tuple(head[len(NPY_MAGIC) : len(NPY_MAGIC) + 2])
    if version not in VERSIONS:
        raise damaged(path, f"{what} has the unknown format version {version}")
    kind, encoding = VERSIONS[version]
    begin = len(NPY_MAGIC) + 2 + np.dtype(kind).itemsize
    length = int.from_bytes(head[len(NPY_MAGIC) + 2 : begin], "little")
    if length > MAX_HEADER_BYTES or begin + length > len(head):
        raise damaged(path, f"{what} claims a header of {length} bytes")
    try:
        fields = ast.literal_eval(head[begin : begin + length].decode(encoding).strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise damaged(path, f"{what} has a header that cannot be read ({printable(error)})") from error
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise damaged(
            path, f"{what} has a header that cannot be read (it is no table of descr, fortran_order and shape)"
        )
    return fields, begin + length


def _dtype(path: object, what: str, descr: object) -> tuple[str, int]:
    """Return a dtype's name and the bytes of an element."""
    if isinstance(descr, str) and FORMATS.get(descr) == E5M2:
        return "float8_e5m2", 1
    if not isinstance(descr, str):
        return "records", 0  # these may lie beside tensors; they are none, so nobody asks what they hold
    match = SIMPLE.fullmatch(descr)
    try:
        dtype = np.dtype(descr) if match is not None else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None:
        raise damaged(path, f"{what} has a header that cannot be read (dtype {printable(descr)!r})")
    if dtype.hasobject:
        raise InputError(
            f"{shown(path)}: {what} holds pickled Python objects",
            hint="refused: they could run code; save plain arrays",
        )
    return str(dtype), dtype.itemsize
