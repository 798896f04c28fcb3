"""NumPy's `.npy` and `.npz`, and a folder of `.npy` files named like tensors. Pickled arrays are never loaded."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.readers.base import Reader, StoredTensor, TensorFile, damaged, in_turn, printable
from precalign.analysis.readers.mapped import MappedFile
from precalign.errors import InputError
from precalign.formats import BFLOAT16, BINARY16, BINARY32, E5M2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from precalign.formats import Format

NPY_MAGIC = b"\x93NUMPY"
MAX_NPY_HEADER_BYTES = 1 << 16
MAX_COMPRESSED_MEMBER_BYTES = 2 << 30
"""A compressed member cannot be mapped: it is unpacked whole, so its size is bounded."""
FORMATS = {"<f2": BINARY16, "<f4": BINARY32, "|V2": BFLOAT16, "<V2": BFLOAT16}
"""ml_dtypes saves bfloat16 as two bytes without a type."""
E5M2_DESCR = b"'<f1'"
"""What ml_dtypes writes for e5m2; NumPy itself does not understand it. (Its e4m3 formats become one byte without a type, `|V1`.)"""
E5M2_STANDS_FOR = np.dtype("S1")


class NumpyReader(Reader):
    """`.npy`, `.npz` and folders of `.npy`."""

    name = "numpy"

    def recognises(self, path: Path, start: bytes) -> bool:
        """NumPy's magic; a zip with the suffix .npz; a folder that holds .npy files."""
        if path.is_dir():
            return any(path.glob("*.npy"))
        return start.startswith(NPY_MAGIC) or path.suffix in {".npy", ".npz"}

    def open(self, path: Path) -> TensorFile:
        """Map arrays; compressed members of a .npz are unpacked when they are looked at."""
        if path.is_dir():
            return _open_folder(path)
        return _open_npz(path) if path.suffix == ".npz" else _open_npy(path)


def _open_npy(path: Path) -> TensorFile:
    mapped = MappedFile(path)
    shape, dtype, fortran, start = _npy_header(path, mapped.bytes(0, MAX_NPY_HEADER_BYTES + 12), path.name)
    whole = _stored(
        path, path.stem, shape, dtype, mapped.size - start, _viewer(mapped, start, shape, dtype, fortran=fortran)
    )
    tensors = {whole.name: whole}
    if shape[:1] in {(2,), (3,)} and len(shape) >= 4:  # the first axis is keys, values and perhaps queries
        roles = ("keys", "values", "queries")[: shape[0]]
        tensors = {role: _part(whole, role, index) for index, role in enumerate(roles)}
    return TensorFile(tensors, {}, mapped.release, mapped.close)


def _part(whole: StoredTensor, role: str, index: int) -> StoredTensor:
    return StoredTensor(role, whole.shape[1:], whole.format, whole.dtype, lambda: whole.codes()[index])


def _open_folder(path: Path) -> TensorFile:
    files = {member.stem: _open_npy(member) for member in sorted(path.glob("*.npy"))}
    merged = TensorFile(
        {name: next(iter(file.tensors.values())) for name, file in files.items() if len(file.tensors) == 1}
    )
    merged.release = in_turn(file.release for file in files.values())
    merged.close = in_turn(file.close for file in files.values())
    return merged


def _open_npz(path: Path) -> TensorFile:
    mapped = MappedFile(path)
    try:
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise damaged(path, f"not a whole .npz archive ({printable(error)})") from error
    tensors: dict[str, StoredTensor] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in tensors:
            raise damaged(path, f"member {printable(name)} stands twice")
        if name.startswith(("/", "..")) or "/../" in name:  # nothing is ever extracted, but such a file means no good
            raise InputError(
                f"{path}: member {printable(name)} points outside the archive", hint="refused: no tensor is called that"
            )
        tensors[name] = _member(path, mapped, archive, member, name)

    def close() -> None:
        archive.close()
        mapped.close()

    return TensorFile(tensors, {}, mapped.release, close)


def _member(
    path: Path, mapped: MappedFile, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str
) -> StoredTensor:
    if member.compress_type != zipfile.ZIP_STORED:
        return _compressed_member(path, archive, member, name)
    local = mapped.bytes(member.header_offset, 30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise damaged(path, f"member {printable(name)} does not begin where the archive says")
    name_bytes, extra_bytes = struct.unpack("<HH", local[26:30])
    begin = member.header_offset + 30 + name_bytes + extra_bytes
    if begin + member.file_size > mapped.size:
        raise damaged(path, f"member {printable(name)} ends beyond the file")
    head = mapped.bytes(begin, min(member.file_size, MAX_NPY_HEADER_BYTES + 12))
    shape, dtype, fortran, offset = _npy_header(path, head, name)
    view = _viewer(mapped, begin + offset, shape, dtype, fortran=fortran)
    return _stored(path, name, shape, dtype, member.file_size - offset, view)


def _compressed_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> StoredTensor:
    if member.file_size > MAX_COMPRESSED_MEMBER_BYTES:
        raise InputError(
            f"{path}: member {printable(name)} is compressed and unpacks to {member.file_size} bytes",
            hint="save large dumps with numpy.savez (not savez_compressed) or as safetensors: those are mapped, not unpacked",
        )

    def unpacked(limit: int | None = None) -> bytes:
        try:
            with archive.open(member) as stream:
                # The size in the directory is a claim: never unpack beyond it.
                return stream.read(member.file_size if limit is None else limit)
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
            raise damaged(path, f"member {printable(name)} cannot be unpacked ({printable(error)})") from error
        except Exception as error:  # zlib.error, lzma.LZMAError: no common base but Exception
            raise damaged(path, f"member {printable(name)} cannot be unpacked ({printable(error)})") from error

    shape, dtype, fortran, offset = _npy_header(path, unpacked(MAX_NPY_HEADER_BYTES + 12), name)

    def codes() -> NDArray[Any]:
        data = np.frombuffer(unpacked(), np.uint8)[offset:]
        count = int(np.prod(shape, dtype=np.int64))
        if data.size < count * dtype.itemsize:
            raise damaged(path, f"member {printable(name)} unpacks to fewer bytes than its shape {shape} needs")
        flat = data[: count * dtype.itemsize].view(_code_dtype(dtype))
        return flat.reshape(shape, order="F" if fortran else "C")

    return _stored(path, name, shape, dtype, member.file_size - offset, codes)


def _npy_header(path: Path, head: bytes, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    shown = f"array {printable(name)}"
    if not head:
        raise damaged(path, "the file is empty")
    if not head.startswith(NPY_MAGIC):
        raise damaged(path, f"{shown} does not begin as a NumPy array does")
    # A type of the same size that NumPy knows and no array of numbers has.
    stream = io.BytesIO(head.replace(E5M2_DESCR, b"'|S1'", 1))
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except KeyError as error:
        raise damaged(path, f"{shown} has the unknown format version {error}") from error
    except (ValueError, SyntaxError, TypeError, EOFError, RecursionError, MemoryError) as error:
        raise damaged(path, f"{shown} has a header that cannot be read ({printable(error)})") from error
    if dtype.hasobject:
        raise InputError(
            f"{path}: {shown} holds pickled Python objects", hint="refused: they could run code; save plain arrays"
        )
    if any(n < 0 for n in shape):
        raise damaged(path, f"{shown} has a negative size: {shape}")
    return tuple(int(n) for n in shape), dtype, fortran, stream.tell()


def _format(dtype: np.dtype[Any]) -> Format | None:
    return E5M2 if dtype == E5M2_STANDS_FOR else FORMATS.get(dtype.str)


def _code_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    fmt = _format(dtype)
    return np.dtype(np.uint8) if fmt is None else fmt.code_dtype


def _viewer(
    mapped: MappedFile, start: int, shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran: bool
) -> Callable[[], NDArray[Any]]:
    def view() -> NDArray[Any]:
        array = mapped.array(start, shape[::-1] if fortran else shape, _code_dtype(dtype))
        return array.T if fortran else array

    return view


def _stored(
    path: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    available: int,
    codes: Callable[[], NDArray[Any]],
) -> StoredTensor:
    needed = dtype.itemsize
    for n in shape:
        needed *= n  # Python integers: a claim of 2^40 elements does not wrap around
    if needed > available:
        raise damaged(
            path,
            f"array {printable(name)} of shape {shape} and dtype {dtype} needs {needed} bytes, there are {available}",
        )
    return StoredTensor(name, shape, _format(dtype), str(dtype), codes)
