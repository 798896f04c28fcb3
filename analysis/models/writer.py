"""A dump on its way to the disk: one file per layer beside the target, joined when all are there.

The layer files stay if the work is interrupted, and the same capture goes on from them.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from precalign.analysis.readers import printable
from precalign.analysis.results.directory import writing
from precalign.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from precalign.formats import Format

DTYPES = {"binary16": "F16", "bfloat16": "BF16"}
SUFFIX = ".safetensors"
COPY_BYTES = 16 << 20


class DumpWriter:
    """Layers of a dump, one after the other.

    Parameters
    ----------
    target : Path
        Ends in .safetensors.
    identity : mapping
        What the dump is of, plain data; only an unfinished capture of the same identity is gone on with.
    overwrite : bool
        Whether a file there may be replaced.

    Raises
    ------
    OutputError
        If something is there, or an unfinished capture of something else.
    """

    def __init__(self, target: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
        self.target = target
        check_dump_target(target, overwrite=overwrite)
        self.parts = target.with_name(target.name + ".partial")
        mark = self.parts / "capture.json"
        text = json.dumps(identity, sort_keys=True)
        with writing(target):
            if mark.is_file() and mark.read_text(encoding="utf-8") != text:
                raise OutputError(
                    f"{printable(self.parts)}: holds an unfinished capture of another kind",
                    hint="finish that one with its own options, or remove the folder",
                )
            self.parts.mkdir(parents=True, exist_ok=True)
            mark.write_text(text, encoding="utf-8")

    def has(self, layer: int) -> bool:
        """Whether an earlier run has written this layer."""
        return self._part(layer).is_file()

    def add(self, layer: int, tensors: Mapping[str, NDArray[Any]], fmt: Format, facts: Mapping[str, str]) -> None:
        """Write one layer: keys, values and queries as codes, and what is to be known of it."""
        part = self._part(layer)
        table: dict[str, Any] = {"__metadata__": dict(facts)}
        begin = 0
        for role, codes in tensors.items():
            offsets = [begin, begin + codes.nbytes]
            table[f"layers.{layer}.{role}"] = {
                "dtype": DTYPES[fmt.name],
                "shape": list(codes.shape),
                "data_offsets": offsets,
            }
            begin += codes.nbytes
        with writing(self.target):
            fresh = part.with_suffix(".new")
            with fresh.open("wb") as out:
                _write_header(out, table)
                for codes in tensors.values():
                    out.write(np.ascontiguousarray(codes).data)
                _to_disk(out)
            fresh.replace(part)

    def finish(self, layers: Iterable[int], metadata: Mapping[str, str], shard_bytes: int) -> list[Path]:
        """Join the layers to one file, or to shards of about `shard_bytes` with their index; return what was written, to open first."""
        parts = [self._part(layer) for layer in layers]
        with writing(self.target):
            shards = _groups(parts, shard_bytes)
            if len(shards) == 1:
                fresh = self.parts / "joined"
                join(shards[0], fresh, metadata)
                fresh.replace(self.target)
                written = [self.target]
            else:
                written = self._shards(shards, metadata)
            shutil.rmtree(self.parts)
        return written

    def _part(self, layer: int) -> Path:
        return self.parts / f"layer-{layer:05d}{SUFFIX}"

    def _shards(self, shards: list[list[Path]], metadata: Mapping[str, str]) -> list[Path]:
        stem = self.target.name.removesuffix(SUFFIX)
        paths, weight_map = [], {}
        for number, parts in enumerate(shards, 1):
            path = self.target.with_name(f"{stem}-{number:05d}-of-{len(shards):05d}{SUFFIX}")
            fresh = self.parts / "joined"
            for name in join(parts, fresh, metadata):
                weight_map[name] = path.name
            fresh.replace(path)
            paths.append(path)
        index = index_path(self.target)
        fresh = self.parts / "index"
        fresh.write_text(json.dumps({"metadata": dict(metadata), "weight_map": weight_map}, indent=1), encoding="utf-8")
        fresh.replace(index)
        return [index, *paths]


def index_path(target: Path) -> Path:
    """Return the index that stands for a dump in shards."""
    return target.with_name(target.name + ".index.json")


def check_dump_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that must not be written, before any work is done.

    Raises
    ------
    OutputError
        If it has another suffix, is there and must not be replaced, or is no file.
    """
    if not target.name.endswith(SUFFIX):
        raise OutputError(
            f"{printable(target)}: a dump is written as {SUFFIX}", hint=f"-o {printable(target.stem)}{SUFFIX}"
        )
    for place in (target, index_path(target)):
        if place.is_dir():
            raise OutputError(f"{printable(place)}: is a directory")
        if os.path.lexists(place) and not overwrite:
            raise OutputError(
                f"{printable(place)}: exists already", hint="choose another name, or replace it with --overwrite"
            )


def _groups(parts: list[Path], shard_bytes: int) -> list[list[Path]]:
    groups: list[list[Path]] = [[]]
    held = 0
    for part in parts:
        size = part.stat().st_size
        if groups[-1] and held + size > shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(part)
        held += size
    return groups


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file that this class wrote, and where its data begins."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    return header, 8 + length


def join(parts: list[Path], target: Path, metadata: Mapping[str, str]) -> list[str]:
    """Write the tensors of several files into one, copying bytes; return their names."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin, sources = 0, []
    for part in parts:
        header, data = header_of(part)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            low, high = entry["data_offsets"]
            table[name] = entry | {"data_offsets": [begin + low, begin + high]}
        begin += part.stat().st_size - data
        sources.append((part, data))
    with target.open("wb") as out:
        _write_header(out, table)
        for part, data in sources:
            with part.open("rb") as file:
                file.seek(data)
                shutil.copyfileobj(file, out, COPY_BYTES)
        _to_disk(out)
    return [name for name in table if name != "__metadata__"]


def _write_header(out: BinaryIO, table: Mapping[str, Any]) -> None:
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)


def _to_disk(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())
