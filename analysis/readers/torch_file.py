"""PyTorch's `.pt`, `.pth` and `.bin`, read without torch and without running any code that the file asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.readers.base import Reader, StoredTensor, TensorFile, damaged, printable, shown
from precalign.analysis.readers.pickled import Known, Pairs, PickleError, Record, RefusedError
from precalign.analysis.readers.ranges import RangedArray, opened
from precalign.analysis.readers.torch_legacy import read_legacy
from precalign.analysis.readers.torch_objects import FORMATS, ITEM_BYTES, MAX_NAME_BYTES, NoTensor, Tensor
from precalign.analysis.readers.torch_zip import ZIP_MAGIC, read_zip
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precalign.analysis.readers.address import Place
    from precalign.analysis.readers.ranges import RangedFile
    from precalign.analysis.readers.torch_zip import Places

MAX_DEPTH = 8
MAX_VALUES, MAX_NAMED_VALUES = 1 << 21, 1 << 17
"""Values looked at in all containers, and those among them with a name: one container may stand in many."""
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257
SAVE_TENSORS = "save tensors, or a dict of tensors, instead of the object: torch.save({'layers.0.keys': ...}, path)"


class TorchReader(Reader):
    """Tensors, dictionaries, tuples of (keys, values) and transformers' cache objects, saved by torch.save."""

    name = "torch"

    def recognises(self, path: Place, start: bytes) -> bool:
        """Go by the suffix, because a .pt is a zip like any other; an old one is a bare pickle."""
        del start
        return path.suffix in {".pt", ".pth", ".bin"}

    def open(self, path: Place) -> TensorFile:
        """Read the pickle as data; storages are read by ranges."""
        with opened(path) as file:
            try:
                saved, places = _read(file)
                found = TensorFile({}, {}, file.close)
                for name, value in _named(saved):
                    if isinstance(value, Tensor):
                        found.tensors[name or "tensor"] = _stored(name or "tensor", value, places)
                    elif isinstance(value, NoTensor):
                        found.tensors[name or "tensor"] = _unreadable(name or "tensor", value)
                    else:
                        found.metadata[name] = str(value)
            except RefusedError as error:
                raise InputError(
                    f"{shown(path)}: refused: the pickle asks for {printable(error)}, and loading it could run code",
                    hint=SAVE_TENSORS,
                ) from error
            except PickleError as error:
                raise damaged(path, f"not a PyTorch file that can be read ({printable(error, limit=300)})") from error
        return found


def _read(file: RangedFile) -> tuple[Any, Places]:
    if file.size == 0:
        raise damaged(file.place, "the file is empty")
    if file.read(0, len(ZIP_MAGIC)) == ZIP_MAGIC:
        return read_zip(file)
    if file.read(TAR_MAGIC_AT, len(TAR_MAGIC)) == TAR_MAGIC:
        raise InputError(
            f"{shown(file.place)}: the tar form of PyTorch before 0.1.10 is not read",
            hint="load it with an old PyTorch and save it again",
        )
    return read_legacy(file)


def _named(saved: object) -> Iterator[tuple[str, Any]]:
    """Yield tensors and single numbers or texts with their names, down to `MAX_DEPTH`; numbers in a list have no name of their own."""
    seen = named = 0

    def walk(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - whatever was saved
        nonlocal seen, named
        for key, item in _items(value):
            seen += 1
            if seen > MAX_VALUES:
                raise PickleError(f"it holds more than {MAX_VALUES} values")
            if type(item) in LEAVES:
                if type(key) is int and not isinstance(value, Pairs) and type(item) in SCALARS:
                    continue
                named += 1
                if named > MAX_NAMED_VALUES:
                    raise PickleError(f"it holds more than {MAX_NAMED_VALUES} tensors and numbers with names")
                yield _joined(name, key), item
            elif depth < MAX_DEPTH and isinstance(item, list | tuple | Record):
                yield from walk(item, _joined(name, key), depth + 1)

    return walk(Pairs([("", saved)]), "", 0)


SCALARS = frozenset([bool, int, float, str])
LEAVES = SCALARS | {Tensor, NoTensor}


def _items(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - whatever was saved
    if isinstance(value, Pairs):
        yield from value
    elif isinstance(value, Record):
        for state in value.states:
            yield from state
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _joined(name: str, key: Any) -> str:  # noqa: ANN401 - whatever was saved
    own = _text(key)
    if len(name) + len(own) >= MAX_NAME_BYTES:
        raise PickleError(f"it holds a name of more than {MAX_NAME_BYTES} characters")
    return f"{name}.{own}" if name else own


def _text(key: Any) -> str:  # noqa: ANN401 - whatever was saved
    if isinstance(key, Known):
        return key.name
    if isinstance(key, tuple) and len(key) <= MAX_DEPTH and all(type(part) in SCALARS for part in key):
        return str(key)
    if type(key) not in SCALARS and key is not None and not isinstance(key, bytes):
        raise PickleError(f"it holds a dictionary whose key is a {type(key).__name__}")
    return str(key)


def _stored(name: str, tensor: Tensor, places: Places) -> StoredTensor:
    source, begin = places[tensor.storage.key]
    size = ITEM_BYTES[tensor.dtype]
    fmt = FORMATS.get(tensor.dtype)
    dtype = np.dtype(np.uint8 if size == 1 else f"V{size}") if fmt is None else fmt.code_dtype
    strides = tuple(size * stride for stride in tensor.strides)

    def codes() -> RangedArray:
        return RangedArray(source, begin + size * tensor.offset, tensor.shape, strides, dtype)

    return StoredTensor(name, tensor.shape, fmt, tensor.dtype, codes)


def _unreadable(name: str, tensor: NoTensor) -> StoredTensor:
    def codes() -> RangedArray:
        raise InputError(f"{printable(name)} is {tensor.what}", hint=SAVE_TENSORS)

    return StoredTensor(name, tensor.shape, None, tensor.what, codes)
