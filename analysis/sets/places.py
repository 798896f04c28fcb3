"""Which dumps arguments mean: files, patterns, folders and URLs become a list, the same on every machine."""

from __future__ import annotations

import re
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING

from precalign.analysis.readers.address import Place, Remote, file_system, is_url, place_of, reading, unique
from precalign.analysis.readers.base import printable
from precalign.analysis.readers.safetensors_file import INDEX_SUFFIX, read_index
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SUFFIXES = (".safetensors", INDEX_SUFFIX, ".npz", ".pt", ".pth")
"""What a folder is searched for. A folder of .npy is a dump itself; lone .npy files are taken only where they are named."""
MAGIC = re.compile(r"[*?\[]")


def is_set(arguments: Sequence[str]) -> bool:
    """Whether arguments mean a set: anything but one dump by its name."""
    if len(arguments) != 1:
        return True
    (argument,) = arguments
    place = place_of(argument)
    if isinstance(place, Remote):
        return MAGIC.search(str(place)) is not None or _is_remote_folder(place)
    if place.is_dir():
        return not any(place.glob("*.npy"))
    return not place.exists() and MAGIC.search(argument) is not None


def find_dumps(arguments: Sequence[str]) -> list[Place]:
    """Return the dumps that arguments mean, each once: in the order of the arguments, then by name.

    Parameters
    ----------
    arguments : sequence of str
        Files; patterns with ``*``, ``?``, ``[..]`` and ``**`` (any number of folders); folders, searched to the bottom; URLs of these.
        A pattern that matches a folder means what is in it. Shards that an index beside them names are one dump. Names that begin
        with a dot are left out, and a link that leads back to where it lies is not followed.

    Raises
    ------
    InputError
        If an argument means nothing, or a store cannot be listed.
    """
    found = unique(place for argument in arguments for place in _meant(argument))
    if not found:
        raise InputError("no dump was named", hint="give files, folders or patterns")
    return found


def _meant(argument: str) -> list[Place]:
    place = place_of(argument)
    if isinstance(place, Remote):
        places = _remote(place)
    elif place.is_dir():
        places = _in_folder(place)
    elif place.exists() or MAGIC.search(argument) is None:
        return [place]  # one that is not there is refused by its reader, like any other that cannot be read
    else:
        places = _matches(place)
    if not places:
        raise InputError(
            f"{printable(place)}: no dump there",
            hint="folders are searched for "
            + ", ".join(SUFFIXES)
            + " and folders of .npy; a pattern takes what it matches",
        )
    return places


def _in_folder(folder: Path) -> list[Place]:
    places: list[Place] = []
    for here, files in _walk(folder, frozenset()):
        if any(file.suffix == ".npy" for file in files):
            places.append(here)
        else:
            places += _with_indices([file for file in files if file.name.endswith(SUFFIXES)])
    return places


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder with its files; one that contains itself by a link is entered once."""
    status = folder.stat()
    key = (status.st_dev, status.st_ino)
    if key in above:
        return
    entries = _listed(folder)
    yield folder, [entry for entry in entries if entry.is_file()]
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry, above | {key})


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{printable(folder)}: cannot be listed: {error.strerror or error}") from error


def _with_indices(files: list[Path]) -> list[Place]:
    """Replace shards by the index that names them."""
    indices: dict[Path, Path] = {}
    for folder in {file.parent for file in files}:
        for index in folder.glob(f"*{INDEX_SUFFIX}"):
            try:
                indices |= {shard: index for shard in read_index(index).shards if isinstance(shard, Path)}
            except InputError:  # a bad index is a bad dump: its own reader says why
                continue
    return list(dict.fromkeys(indices.get(file, file) for file in files))


def _matches(pattern: Path) -> list[Place]:
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if MAGIC.search(part))
    start = Path(*parts[:first])
    found = sorted(set(_match(start, parts[first:], frozenset()))) if start.is_dir() else []
    files = _with_indices([path for path in found if path.is_file()])
    inside = [place for path in found if path.is_dir() for place in _in_folder(path)]
    return [*files, *inside]


def _match(folder: Path, parts: tuple[str, ...], above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _match_deep(folder, parts, above)
        return
    fits = re.compile(translate(part)).match
    for entry in _listed(folder) if MAGIC.search(part) else [folder / part]:
        if fits(entry.name) is None or not entry.exists():
            continue
        if not rest:
            yield entry
        elif entry.is_dir():
            yield from _match(entry, rest, above)


def _match_deep(folder: Path, parts: tuple[str, ...], above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Match the parts behind ``**`` here and in every folder below; ``**`` at the end means all files."""
    rest = parts[1:]
    if rest:
        yield from _match(folder, rest, above)
    status = folder.stat()
    key = (status.st_dev, status.st_ino)
    if key in above:
        return
    for entry in _listed(folder):
        if entry.is_dir():
            yield from _match_deep(entry, parts, above | {key})
        elif not rest and entry.is_file():
            yield entry


def _is_remote_folder(place: Remote) -> bool:
    fs, path = file_system(place.url)
    with reading(place):
        return bool(fs.isdir(path))


def _remote(place: Remote) -> list[Place]:
    fs, path = file_system(place.url)
    with reading(place):
        fs.invalidate_cache()
        if MAGIC.search(str(place)):
            names = sorted(name for name in fs.glob(path) if fs.isfile(name))
        elif fs.isdir(path):
            names = sorted(name for name in fs.find(path) if name.endswith(SUFFIXES))
        else:
            return [place]
    names = [name for name in names if not name.rpartition("/")[2].startswith(".")]
    return _with_remote_indices([Remote(_url(fs.unstrip_protocol, name)) for name in names])


def _url(unstrip: Callable[[str], str], name: str) -> str:
    """Return the URL of a name that a store listed; some list URLs already."""
    return name if is_url(name) else unstrip(name)


def _with_remote_indices(found: list[Remote]) -> list[Place]:
    indices: dict[Place, Place] = {}
    for index in found:
        if index.name.endswith(INDEX_SUFFIX):
            try:
                indices |= dict.fromkeys(read_index(index).shards, index)
            except InputError:
                continue
    return list(dict.fromkeys(indices.get(place, place) for place in found))


def names_of(places: Sequence[Place]) -> list[str]:
    """Return a name for each dump, all different: its path below the folder that all share, as it may be shown."""
    parts = [str(place).split("/") for place in places]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    names: dict[str, int] = {}
    for p in parts:
        name = printable("/".join(p[shared:]), limit=1000)
        number = 1
        while (told := name if number == 1 else f"{name}#{number}") in names:
            number += 1
        names[told] = number
    return list(names)
