"""Readers of dumped key/value caches: one file per format, one registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.analysis.readers.address import Remote, is_folder, place_of
from precalign.analysis.readers.base import Reader, printable, shown
from precalign.analysis.readers.dump import Dump, HeadTensors
from precalign.analysis.readers.identity import identity
from precalign.analysis.readers.layers import LayerInfo
from precalign.analysis.readers.names import parse_mapping
from precalign.analysis.readers.numpy_file import NumpyReader
from precalign.analysis.readers.ranges import opened
from precalign.analysis.readers.safetensors_file import SafetensorsReader
from precalign.analysis.readers.torch_file import TorchReader
from precalign.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from precalign.analysis.readers.address import Place
    from precalign.analysis.readers.names import Naming
    from precalign.formats import Format

START_BYTES = 16
"""Of a file, by which formats are told apart."""
# Asked in this order; adding a format is one file and one entry.
READERS: tuple[Reader, ...] = (TorchReader(), NumpyReader(), SafetensorsReader())


def open_dump(
    path: str | Place,
    *,
    mapping: Naming | None = None,
    axes: str | None = None,
    storage_format: Format | None = None,
    byte_format: Format | None = None,
) -> Dump:
    """Open a dump without reading tensor data.

    Parameters
    ----------
    path : str, Path or Remote
        safetensors, its shard index, .npz, .npy, a folder of .npy, .pt or .pth; or a URL of a file, which is read by ranges.
    mapping : Naming, optional
        Names that follow no known convention (`parse_mapping`).
    axes : str, optional
        Order of the axes where it is not (batch, heads, tokens, head_dim).
    storage_format : Format, optional
        To which binary32 tensors are rounded.
    byte_format : Format, optional
        Of tensors of bytes without a type.

    Raises
    ------
    InputError
        If there is no such file, no reader knows it, it is damaged, or no layer is found in it.
    """
    place = path if isinstance(path, Remote) else place_of(path)
    if not isinstance(place, Remote):
        _check_there(place)
    stamps = identity(place)  # before anything is read
    reader = _reader_of(place)
    file = reader.open(place)
    try:
        return Dump(
            place,
            reader.name,
            file,
            mapping=mapping,
            axes=axes,
            storage_format=storage_format,
            byte_format=byte_format,
            identity=stamps,
        )
    except BaseException:
        file.close()
        raise


def _check_there(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{shown(path)}: no such file", hint="is the path right?") from error
    except (OSError, ValueError) as error:  # links in a circle, names that are too long or hold a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shown(path)}: cannot be read: {reason}", hint="is the path right?") from error


def _reader_of(place: Place) -> Reader:
    start, folder = b"", is_folder(place)
    if not folder:
        with opened(place) as file:
            start = file.read(0, START_BYTES)
        file.close()
    for reader in READERS:
        if reader.recognises(place, start):
            return reader
    what = "a folder without .npy files" if folder else "empty" if not start else "no format that is known here"
    raise InputError(
        f"{shown(place)}: {what}", hint="formats: safetensors, .npz, .npy, .pt, .pth; docs/dump-formats.md"
    )


__all__ = [
    "READERS",
    "Dump",
    "HeadTensors",
    "LayerInfo",
    "Remote",
    "open_dump",
    "parse_mapping",
    "place_of",
    "printable",
]
