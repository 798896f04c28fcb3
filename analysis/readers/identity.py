"""What tells that a dump has changed: sizes and time stamps of its files, or what a store says of its objects."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from precalign.analysis.readers.address import Place, Remote, entries
from precalign.analysis.readers.base import printable, shown
from precalign.analysis.readers.safetensors_file import INDEX_SUFFIX, read_index
from precalign.errors import InputError

STAMPS = (
    "ETag",
    "etag",
    "md5",
    "generation",
    "checksum",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)
"""What stores call a stamp that changes with the content; all that are there count."""


class Stamp(NamedTuple):
    """One file or object.

    Attributes
    ----------
    name : str
        As it may be shown.
    size : int or None
        Bytes; None where a store does not tell.
    stamp : str
        Time of the last change in nanoseconds, or what the store states.
    """

    name: str
    size: int | None
    stamp: str


Identity = tuple[Stamp, ...]


def identity(place: Place) -> Identity:
    """Return the stamps of all files of a dump: one file, an index and its shards, a folder of .npy.

    Raises
    ------
    InputError
        If one of them is not there or cannot be looked at.
    """
    return tuple(_stamp(part) for part in _parts(place))


def _parts(place: Place) -> list[Place]:
    if isinstance(place, Path) and place.is_dir():
        return [*sorted(place.glob("*.npy"))]
    if place.name.endswith(INDEX_SUFFIX):
        return [place, *read_index(place).shards]
    return [place]


def _stamp(place: Place) -> Stamp:
    name = printable(place.name)
    if isinstance(place, Remote):
        info = entries(place)
        size = info.get("size")
        stated = ";".join(f"{key}={info[key]}" for key in STAMPS if info.get(key) is not None)
        return Stamp(name, size if isinstance(size, int) else None, printable(stated, limit=500))
    try:
        found = place.stat()
    except OSError as error:
        raise InputError(f"{shown(place)}: cannot be read: {error.strerror or error}") from error
    return Stamp(name, found.st_size, str(found.st_mtime_ns))


def change(before: Identity, now: Identity) -> str | None:
    """Return what has changed, in words, or None."""
    if before == now:
        return None
    old, new = ({stamp.name: stamp for stamp in stamps} for stamps in (before, now))
    if gone := sorted(old.keys() ^ new.keys()):
        return f"{gone[0]} {'is gone' if gone[0] in old else 'has come'}"
    name = next(name for name in old if old[name] != new[name])
    if old[name].size != new[name].size:
        return f"{name} had {old[name].size} bytes and has {new[name].size}"
    return f"{name} was written again"


def check_unchanged(place: Place, before: Identity) -> None:
    """Refuse a dump that is not what it was.

    Raises
    ------
    InputError
        If any of its files has changed or is gone.
    """
    try:
        changed = change(before, identity(place))
    except InputError as error:
        changed = error.message
    if changed is not None:
        raise InputError(
            f"{shown(place)}: changed while it was read: {changed}", hint="wait until it is written, then run again"
        )
