"""The zip that torch.save writes since PyTorch 1.6: data.pkl, and a member for each storage."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from precalign.analysis.readers.base import damaged, printable, shown
from precalign.analysis.readers.inflate import Marks
from precalign.analysis.readers.pickled import MAX_PICKLE_BYTES, PickleError, unpickle
from precalign.analysis.readers.torch_objects import KNOWN, Storage, Storages, parts_of, storage_of
from precalign.analysis.readers.zips import content, members
from precalign.errors import InputError

if TYPE_CHECKING:
    from precalign.analysis.readers.ranges import RangedFile, Source
    from precalign.analysis.readers.zips import Member

ZIP_MAGIC = b"PK\x03\x04"
Places = dict[str, tuple["Source", int]]
"""Key of a storage -> where its bytes lie: a source, and where in it they begin."""


def read_zip(file: RangedFile) -> tuple[Any, Places]:
    """Return what was saved, and where its storages lie.

    Raises
    ------
    InputError, RefusedError, PickleError
        If it is not whole, or not only data.
    """
    found = {member.name: member for member in members(file)}
    prefix = _prefix(file, found)
    marks = Marks()
    _check_byte_order(file, found.get(f"{prefix}/byteorder"), marks)
    pickle = found[f"{prefix}/data.pkl"]
    if pickle.size > MAX_PICKLE_BYTES:
        raise PickleError(f"its pickle has {pickle.size} bytes; {MAX_PICKLE_BYTES} are read")
    source, begin = content(file, pickle, marks)
    storages, places = Storages(), Places()

    def persistent(identifier: object) -> Storage:
        kind, key, _, count = parts_of(identifier, 4)
        storage = storages.add(storage_of(kind, key, count))
        if key not in places:
            places[key] = _place(file, found.get(f"{prefix}/data/{key}"), storage, marks)
        return storage

    return unpickle(io.BytesIO(source.read(begin, pickle.size)), KNOWN, persistent), places


def _prefix(file: RangedFile, found: dict[str, Member]) -> str:
    folders = [name.removesuffix("/data.pkl") for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise damaged(
            file.place, f"{len(folders)} members are called data.pkl, expected 1", "was it saved by torch.save?"
        )
    if f"{folders[0]}/constants.pkl" in found:
        raise InputError(
            f"{shown(file.place)}: a TorchScript archive, which holds a program",
            hint="save tensors, or a dict of tensors, with torch.save",
        )
    return folders[0]


def _check_byte_order(file: RangedFile, member: Member | None, marks: Marks) -> None:
    if member is None:  # older than the record: always little
        return
    source, begin = content(file, member, marks)
    order = source.read(begin, min(member.size, 16))
    if order != b"little":
        raise InputError(
            f"{shown(file.place)}: its numbers are stored in the byte order {printable(order.decode('latin-1'))}",
            hint="little-endian files are read: load and save it on another machine",
        )


def _place(file: RangedFile, member: Member | None, storage: Storage, marks: Marks) -> tuple[Source, int]:
    if member is None:
        raise PickleError(f"storage {storage.key} is not in the archive")
    if member.size < storage.size:
        raise PickleError(f"storage {storage.key} claims {storage.size} bytes and has {member.size}")
    return content(file, member, marks)
