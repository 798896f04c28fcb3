"""safetensors: one file, or the index of a sharded set.

The header is checked here rather than by the safetensors package because a hostile or cut file must be refused with its
reason, and before anything it claims is believed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from os.path import isfile
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.readers.address import Place, Remote
from precalign.analysis.readers.base import (
    MAX_AXIS,
    Reader,
    StoredTensor,
    TensorFile,
    check_shape,
    damaged,
    in_turn,
    printable,
    shown,
)
from precalign.analysis.readers.ranges import RangedFile, opened
from precalign.errors import InputError
from precalign.formats import BFLOAT16, BINARY16, BINARY32, E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ
from precalign.strict_json import repeated_name

if TYPE_CHECKING:
    from precalign.formats import Format

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_HEADER_VALUES = 1 << 22
"""Lists, tables and their members: JSON of three bytes each would take twenty times their room."""
FORMATS = {
    "F16": BINARY16, "BF16": BFLOAT16, "F32": BINARY32,
    "F8_E4M3": E4M3FN, "F8_E5M2": E5M2, "F8_E4M3FNUZ": E4M3FNUZ, "F8_E5M2FNUZ": E5M2FNUZ,
}  # fmt: skip
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
INDEX_SUFFIX = ".safetensors.index.json"


class SafetensorsReader(Reader):
    """safetensors files and indices of shards."""

    name = "safetensors"

    def recognises(self, path: Place, start: bytes) -> bool:
        """Look for a header length, then JSON; the suffix decides for files too damaged to tell."""
        return path.name.endswith((".safetensors", INDEX_SUFFIX)) or start[8:9] == b"{"

    def open(self, path: Place) -> TensorFile:
        """Open the file or all shards of an index; the data is read by ranges, also behind a URL."""
        return _open_index(path) if path.name.endswith(INDEX_SUFFIX) else _open_file(path)


def _open_file(path: Place) -> TensorFile:
    with opened(path) as file:
        return _checked(path, file)


def _checked(path: Place, file: RangedFile) -> TensorFile:
    header, data_start = _header(path, file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise damaged(path, "__metadata__ is not a table")
    tensors = {name: _tensor(path, file, name, entry, data_start) for name, entry in header.items()}
    _check_overlaps(path, header)
    texts = {str(key): str(value) for key, value in metadata.items()}
    return TensorFile(tensors, texts, close=file.close)


def _open_index(path: Place) -> TensorFile:
    index = read_index(path)
    shards: list[TensorFile] = []
    merged = TensorFile({}, {str(k): str(v) for k, v in index.metadata.items()})
    try:
        for shard in index.shards:
            shards.append(_open_file(shard))
            _merge(path, merged, shards[-1])
    except BaseException:
        in_turn([shard.close for shard in shards])()
        raise
    merged.close = in_turn([shard.close for shard in shards])
    return merged


def _merge(path: Place, merged: TensorFile, shard: TensorFile) -> None:
    twice = merged.tensors.keys() & shard.tensors.keys()
    if twice:
        raise damaged(path, f"tensor {printable(min(twice))} stands in two shards")
    merged.tensors |= shard.tensors
    merged.metadata |= shard.metadata


@dataclass(frozen=True)
class Index:
    """An index of shards.

    Attributes
    ----------
    shards : list of Path or Remote
        In the order of their names; local ones are there.
    metadata : dict
    """

    shards: list[Place]
    metadata: dict[Any, Any]


def read_index(path: Place) -> Index:
    """Read an index of shards, without opening them.

    Raises
    ------
    InputError
        If it is none, or names a shard that is not a file beside it.
    """
    try:
        index = _json(_whole(path))
        names = sorted(set(index["weight_map"].values()))
        metadata = dict(index.get("metadata", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"not an index of safetensors shards ({printable(error)})") from error
    shards: list[Place] = []
    for name in names:
        if not isinstance(name, str) or "/" in name or name.startswith("."):
            raise InputError(
                f"{shown(path)}: shard {printable(name)!r} is not a file beside the index",
                hint="shards are never read from elsewhere",
            )
        shard = path.beside(name) if isinstance(path, Remote) else path.parent / name
        if not isinstance(shard, Remote) and not isfile(shard):  # noqa: PTH113 - pathlib raises where a name is too long
            raise InputError(
                f"{shown(path)}: shard {printable(name)} is missing", hint="every shard must lie beside the index"
            )
        shards.append(shard)
    return Index(shards, metadata)


def _json(text: bytes, **options: Any) -> Any:  # noqa: ANN401 - unchecked JSON
    if sum(map(text.count, (b"[", b"{", b",", b":"))) > MAX_HEADER_VALUES:
        raise ValueError(f"more than {MAX_HEADER_VALUES} values")
    return json.loads(text, **options)


def _whole(path: Place) -> bytes:
    file = RangedFile(path)
    try:
        if file.size > MAX_HEADER_BYTES:
            raise damaged(path, f"{file.size} bytes are too many for an index", "is this an index of shards?")
        return file.read(0, file.size)
    finally:
        file.close()


def _header(path: Place, file: RangedFile) -> tuple[dict[str, Any], int]:
    if file.size == 0:
        raise damaged(path, "the file is empty")
    if file.size < 8:
        raise damaged(path, f"{file.size} bytes are no safetensors file: the header's length alone takes 8")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise damaged(
            path,
            f"the header claims {length} bytes, the format allows {MAX_HEADER_BYTES}",
            "is this a safetensors file?",
        )
    if 8 + length > file.size:
        raise damaged(path, f"the header claims {length} bytes, the file has {file.size} in all")
    try:
        header = _json(file.read(8, length), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"the header is not JSON ({printable(error)})") from error
    if not isinstance(header, dict):
        raise damaged(path, "the header is not a table of tensors")
    return header, 8 + length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated_name(pairs)) is not None:
        raise ValueError(f"{printable(twice)} stands twice")
    return dict(pairs)


def _tensor(path: Place, file: RangedFile, name: str, entry: Any, data_start: int) -> StoredTensor:  # noqa: ANN401 - unchecked JSON
    what = f"tensor {printable(name)}"
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise damaged(path, f"{what} lacks dtype, shape or data_offsets") from error
    if not all(type(n) is int and 0 <= n <= MAX_AXIS for n in (*shape, begin, end)):
        raise damaged(
            path,
            f"{what} has a size or offset that is no count: shape {printable(shape)}, offsets {printable((begin, end))}",
        )
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise damaged(path, f"{what} has the unknown dtype {printable(dtype)}", "known: " + ", ".join(ITEM_BYTES))
    needed = check_shape(path, what, shape, ITEM_BYTES[dtype])
    if begin > end or end - begin != needed:
        raise damaged(
            path, f"{what} of shape {shape} and dtype {dtype} needs {needed} bytes, its offsets span {end - begin}"
        )
    if data_start + end > file.size:
        raise damaged(path, f"{what} ends at byte {data_start + end}, the file at {file.size}")
    fmt: Format | None = FORMATS.get(dtype)
    code_dtype = np.dtype(np.uint8) if fmt is None else fmt.code_dtype
    return StoredTensor(name, shape, fmt, dtype, lambda: file.array(data_start + begin, shape, code_dtype))


def _check_overlaps(path: Place, header: dict[str, Any]) -> None:
    spans = sorted((*entry["data_offsets"], name) for name, entry in header.items())
    for (_, end, name), (begin, _, other) in pairwise(spans):
        if begin < end:
            raise damaged(path, f"tensors {printable(name)} and {printable(other)} overlap")
