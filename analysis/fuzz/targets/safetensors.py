"""safetensors files, and indices of shards."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any

from precalign.analysis.fuzz.mutations.json_tree import change_tree, text_of, tree_of
from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.targets.dumps import SHAPES, DumpTarget, data

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case

BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1}
FILE, INDEX = "d.safetensors", "d.safetensors.index.json"


def safetensors(
    shapes: Mapping[str, Sequence[int]], dtype: str = "F16", metadata: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a valid file."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, shape in shapes.items():
        size = prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return header, data(at // BYTES[dtype], BYTES[dtype])


def file_of(header: bytes, tensors: bytes, length: int | None = None) -> bytes:
    """Return a file; `length` is what it claims for its header."""
    return ((len(header) if length is None else length) % (1 << 64)).to_bytes(8, "little") + header + tensors


def layers(
    n: int, name: str = "layers.{layer}.{role}", *, first: int = 0, queries: bool = True
) -> dict[str, Sequence[int]]:
    """Return names and shapes of a dump of n layers."""
    roles = [role for role in SHAPES if queries or role != "queries"]
    return {name.format(layer=layer, role=role): SHAPES[role] for layer in range(first, first + n) for role in roles}


def _seeds() -> list[tuple[dict[str, Any], bytes]]:
    stacked = {role: (2, *shape) for role, shape in SHAPES.items()}
    scaled = layers(1) | {"layers.0.k_scale": (2,), "v_scale": (1,)}
    return [
        safetensors(layers(2), metadata={"scale": "0.25", "sliding_window": "4"}),
        safetensors(layers(1, queries=False), "BF16"),
        safetensors(stacked, "F32", {"layers.1.scale": "0.5", "k_scale": "1.5,2"}),
        safetensors(scaled, "F32"),
        safetensors(layers(3, "past_key_values.{layer}.{role}", first=7) | layers(1), "F8_E4M3", {"v_scale": "2"}),
        safetensors(layers(1), "U8"),
    ]


def change_file(draw: Draw, header: Mapping[str, Any], tensors: bytes) -> bytes:
    """Return a damaged file: its header as JSON, its lengths, its bytes, or shapes that fit and should not be believed."""
    what = draw.random()
    if what < 0.5:
        text = text_of(change_tree(draw, tree_of(header))).encode("utf-8", "surrogatepass")
        length = draw.one((draw.count(), len(text) + draw.randint(-9, 9))) if draw.chance(0.1) else None
        return file_of(text, tensors, length)
    if what < 0.7:
        return file_of(json.dumps(_with_consistent_lie(draw, header)).encode(), tensors)
    if what < 0.75:
        return draw.octets(4096)
    if what < 0.85:
        text = change_octets(draw, json.dumps(header).encode())
        return file_of(text, tensors)
    return change_octets(draw, file_of(json.dumps(header).encode(), tensors))


def _with_consistent_lie(draw: Draw, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header whose sizes are those of its shapes: it is the shapes that are odd, or the names."""
    changed, at = dict[str, Any](), 0
    for name, entry in header.items():
        if name == "__metadata__":
            changed[name] = entry
            continue
        shape = list(entry["shape"])
        if draw.chance(0.5):
            place = draw.randrange(len(shape))
            shape[place] = draw.one((0, 1, 2, abs(draw.count())))
            if draw.chance(0.5):
                shape.insert(draw.randint(0, len(shape)), draw.one((0, 1, abs(draw.count()))))
        dtype = draw.one([*BYTES, "I8", "F64"]) if draw.chance(0.2) else entry["dtype"]
        size = prod(shape) * {**BYTES, "I8": 1, "F64": 8}[dtype]
        changed[draw.text()[:4000] + name if draw.chance(0.1) else name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [at, at + size],
        }
        at += size
    return changed


class Safetensors(DumpTarget):
    """One file."""

    name = "safetensors"
    what = "safetensors dumps"

    def seeds(self) -> list[Case]:
        """Return files of several formats, names and metadata."""
        self._parts = _seeds()
        return [{FILE: file_of(json.dumps(header).encode(), tensors)} for header, tensors in self._parts]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change header, lengths or bytes."""
        if draw.chance(0.05):
            return {FILE: change_octets(draw, draw.one(seeds)[FILE], [draw.one(seeds)[FILE]])}
        return {FILE: change_file(draw, *draw.one(self._parts))}


class Index(DumpTarget):
    """An index with two shards."""

    name = "index"
    what = "indices of safetensors shards"

    def seeds(self) -> list[Case]:
        """Return an index with metadata, and its shards."""
        self._shards = {f"s{n}.safetensors": safetensors(layers(1, first=n)) for n in range(2)}
        weights = {name: file for file, (header, _) in self._shards.items() for name in header}
        self._index = {"metadata": {"scale": "0.25", "total_size": 3}, "weight_map": weights}
        return [{INDEX: json.dumps(self._index).encode()} | self._files()]

    def _files(self) -> Case:
        return {name: file_of(json.dumps(header).encode(), tensors) for name, (header, tensors) in self._shards.items()}

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change the index, a shard, or which files are there."""
        case, what = dict(seeds[0]), draw.random()
        if what < 0.6:
            case[INDEX] = text_of(change_tree(draw, tree_of(self._index))).encode("utf-8", "surrogatepass")
        elif what < 0.8:
            case[INDEX] = change_octets(draw, case[INDEX])
        elif what < 0.95:
            name = draw.one(sorted(self._shards))
            case[name] = change_file(draw, *self._shards[name])
        else:
            del case[draw.one(sorted(self._shards))]
        return case
