"""Temporary copies of remote dumps in formats that cannot be read by ranges: one at a time, and gone when they are closed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from precalign.analysis.readers.address import Remote, entries, file_system, reading
from precalign.analysis.readers.base import damaged, in_turn, shown
from precalign.analysis.readers.safetensors_file import INDEX_SUFFIX
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.analysis.readers.base import Reader, TensorFile

PIECE_BYTES = 8 << 20
FREE_SHARE = 0.5
"""Of the free space of the temporary folder a copy may take."""
_ONE = Lock()
"""Held while a copy exists: a process never holds two."""


def by_ranges(place: Remote) -> bool:
    """Whether a remote dump is read by ranges rather than copied: it is safetensors, by its name."""
    return place.name.endswith((".safetensors", INDEX_SUFFIX))


def open_copy(place: Remote, open_local: Callable[[Path], tuple[Reader, TensorFile]]) -> tuple[Reader, TensorFile]:
    """Copy an object to the temporary folder and open the copy; closing the file removes it.

    Raises
    ------
    InputError
        If the object is not there, is larger than the free space allows, changes its size meanwhile, or cannot be opened.
    """
    size = entries(place).get("size")
    _ONE.acquire()
    folder = Path(tempfile.mkdtemp(prefix="precalign-copy-"))
    leave = in_turn([lambda: shutil.rmtree(folder, ignore_errors=True), _ONE.release])
    try:
        copy = folder / Path(place.name).name
        _copy(place, copy, size)
        reader, file = open_local(copy)
    except InputError as error:
        leave()
        message = error.message
        for name in (str(copy), shown(copy)):
            message = message.replace(name, shown(place))
        raise InputError(message, hint=error.hint) from error
    except BaseException:
        leave()
        raise
    file.close = in_turn([file.close, leave])
    return reader, file


def _copy(place: Remote, copy: Path, size: object) -> None:
    free = shutil.disk_usage(copy.parent).free
    if not isinstance(size, int) or size > FREE_SHARE * free:
        raise InputError(
            f"{shown(place)}: {size if isinstance(size, int) else 'an unknown number of'} bytes are too many to copy: "
            f"{free} are free in the temporary folder",
            hint="convert it to safetensors, which is read by ranges, or set TMPDIR to a larger disk",
        )
    fs, path = file_system(place.url)
    got = 0
    with reading(place), fs.open(path, "rb") as source, copy.open("wb") as target:
        while piece := source.read(PIECE_BYTES):
            got += len(piece)
            if got > size:
                break
            target.write(piece)
    if got != size:
        raise damaged(place, f"{got} bytes came, {size} were announced", "is it still being written? wait for that")
