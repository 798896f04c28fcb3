"""The form of torch.save before PyTorch 1.6: pickles one behind the other, then the storages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precalign.analysis.readers.pickled import MAX_LINE_BYTES, MAX_PICKLE_BYTES, Pairs, PickleError, unpickle
from precalign.analysis.readers.torch_objects import ITEM_BYTES, KNOWN, Storage, Storages, parts_of, storage_of

if TYPE_CHECKING:
    from precalign.analysis.readers.ranges import RangedFile
    from precalign.analysis.readers.torch_zip import Places

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
BLOCK_BYTES = 64 << 10
COUNT_BYTES = 8
"""Before each storage stands how many elements it has."""


class PickleStream:
    """A file from its beginning, read in blocks, as `unpickle` takes it; it ends after `MAX_PICKLE_BYTES`."""

    def __init__(self, file: RangedFile) -> None:
        self._file, self._end = file, min(file.size, MAX_PICKLE_BYTES)
        self._block, self._begin, self._at = b"", 0, 0

    def tell(self) -> int:
        """Return how far it was read."""
        return self._at

    def read(self, length: int) -> bytes:
        """Return bytes, fewer at the end."""
        end = min(self._at + length, self._end)
        if not self._begin <= self._at <= end <= self._begin + len(self._block):
            self._begin = self._at
            self._block = self._file.read(self._at, min(max(end - self._at, BLOCK_BYTES), self._end - self._at))
        held = self._block[self._at - self._begin : end - self._begin]
        self._at = end
        return held

    def readline(self) -> bytes:
        """Return a line, which is a name; what is longer is cut."""
        begin = self._at
        held = self.read(MAX_LINE_BYTES)
        line = held[: held.find(b"\n") + 1] or held
        self._at = begin + len(line)
        return line


def read_legacy(file: RangedFile) -> tuple[Any, Places]:
    """Return what was saved, and where its storages lie.

    Raises
    ------
    InputError, RefusedError, PickleError
        If it is not whole, or not only data.
    """
    stream = PickleStream(file)
    if unpickle(stream, {}) != MAGIC or unpickle(stream, {}) != VERSION:
        raise PickleError("it does not begin as torch.save begins")
    _check_byte_order(unpickle(stream, {}))
    storages = Storages()
    parts: dict[str, tuple[str, int]] = {}
    saved = unpickle(stream, KNOWN, lambda identifier: _storage(identifier, storages, parts))
    keys = unpickle(stream, {})
    places = _places(file, stream.tell(), keys, storages)
    for part, (whole, offset) in parts.items():
        places[part] = file, places[whole][1] + offset
    return saved, places


def _check_byte_order(system: object) -> None:
    if not isinstance(system, Pairs) or ("little_endian", True) not in system:
        raise PickleError("it does not say that its numbers are little-endian, or says that they are not")


def _storage(identifier: object, storages: Storages, parts: dict[str, tuple[str, int]]) -> Storage:
    """Return a storage, or the part of one that old versions called a view."""
    kind, key, _, count, view = parts_of(identifier, 5)
    whole = storages.add(storage_of(kind, key, count))
    if view is None:
        return whole
    if not isinstance(view, tuple) or len(view) != 3:
        raise PickleError(f"a part of storage {key} that is none")
    name, offset, length = view
    part = storage_of(kind, name, length)
    if type(offset) is not int or not 0 <= offset <= whole.count - part.count or name in storages:
        raise PickleError(f"a part of storage {key} that does not lie in it")
    place = whole.key, offset * ITEM_BYTES[whole.dtype]
    if parts.setdefault(part.key, place) != place:
        raise PickleError(f"a part of storage {key} that is named twice and is not the same")
    return part


def _places(file: RangedFile, at: int, keys: object, storages: Storages) -> Places:
    if not isinstance(keys, list) or len(keys) != len(storages):
        raise PickleError("it does not list its storages")
    places: Places = {}
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or key in places:
            raise PickleError("it lists a storage that no tensor has")
        count = int.from_bytes(file.read(at, COUNT_BYTES), "little")
        begin = at + COUNT_BYTES
        at = begin + storage.size
        if count != storage.count or at > file.size:
            raise PickleError(f"storage {key} claims {storage.count} elements and has {min(count, file.size - begin)}")
        places[key] = file, begin
    return places
