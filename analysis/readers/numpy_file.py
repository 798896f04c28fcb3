"""NumPy's `.npy` and `.npz`, and a folder of `.npy` files named like tensors. Pickled arrays are never loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.analysis.readers.address import is_folder
from precalign.analysis.readers.base import Reader, StoredTensor, TensorFile, damaged, in_turn, printable
from precalign.analysis.readers.inflate import Marks
from precalign.analysis.readers.numpy_header import MAX_HEADER_BYTES, NPY_MAGIC, PREFIX_BYTES, read_header
from precalign.analysis.readers.ranges import RangedArray, opened, ranged
from precalign.analysis.readers.zips import content, members

if TYPE_CHECKING:
    from pathlib import Path

    from precalign.analysis.readers.address import Place
    from precalign.analysis.readers.ranges import Source


class NumpyReader(Reader):
    """`.npy`, `.npz` and folders of `.npy`."""

    name = "numpy"

    def recognises(self, path: Place, start: bytes) -> bool:
        """NumPy's magic; a zip with the suffix .npz; a folder that holds .npy files."""
        if is_folder(path):
            return any(path.glob("*.npy"))
        return start.startswith(NPY_MAGIC) or path.suffix in {".npy", ".npz"}

    def open(self, path: Place) -> TensorFile:
        """Read headers; arrays are read by ranges, and unpacked by pieces where they are compressed."""
        if is_folder(path):
            return _open_folder(path)
        return _open_npz(path) if path.suffix == ".npz" else _open_npy(path)


def _open_npy(path: Place) -> TensorFile:
    with opened(path) as file:
        whole = _stored(path, path.stem, file, 0, file.size)
    tensors = {whole.name: whole}
    if whole.shape[:1] in {(2,), (3,)} and len(whole.shape) >= 4:  # the first axis is keys, values and perhaps queries
        roles = ("keys", "values", "queries")[: whole.shape[0]]
        tensors = {role: _part(whole, role, index) for index, role in enumerate(roles)}
    return TensorFile(tensors, close=file.close)


def _part(whole: StoredTensor, role: str, index: int) -> StoredTensor:
    return StoredTensor(role, whole.shape[1:], whole.format, whole.dtype, lambda: whole.codes()[index])


def _open_folder(path: Path) -> TensorFile:
    files: dict[str, TensorFile] = {}
    try:
        for member in sorted(path.glob("*.npy")):
            files[member.stem] = _open_npy(member)
    except BaseException:
        in_turn(file.close for file in files.values())()
        raise
    alone = {name: next(iter(file.tensors.values())) for name, file in files.items() if len(file.tensors) == 1}
    return TensorFile(alone, close=in_turn(file.close for file in files.values()))


def _open_npz(path: Place) -> TensorFile:
    tensors: dict[str, StoredTensor] = {}
    marks = Marks()
    with opened(path) as file:
        for member in members(file):
            name = member.name.removesuffix(".npy")
            if name in tensors:
                raise damaged(path, f"member {printable(name)} stands twice")
            source, begin = content(file, member, marks)
            tensors[name] = _stored(path, name, source, begin, member.size)
    return TensorFile(tensors, close=file.close)


def _stored(path: Place, name: str, source: Source, begin: int, size: int) -> StoredTensor:
    """Return the array that begins at a byte of a source and has a size, header included."""
    head = source.read(begin, min(size, PREFIX_BYTES + MAX_HEADER_BYTES))
    header = read_header(path, name, head, size)
    shape = header.shape[::-1] if header.fortran else header.shape

    def codes() -> RangedArray:
        array = ranged(source, begin + header.data, shape, header.code_dtype)
        return array.transpose([*range(len(shape))][::-1]) if header.fortran else array

    return StoredTensor(name, header.shape, header.format, header.dtype, codes)
