"""PyTorch's files, assembled without PyTorch: a pickle in an archive with the numbers beside it, and the older form that is one pickle after the other."""

from __future__ import annotations

import struct
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from precalign.analysis.fuzz.mutations import pickles
from precalign.analysis.fuzz.mutations.archive import Archive, Member, change_archive
from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.mutations.pickles import integer, named, text
from precalign.analysis.fuzz.target import Bound
from precalign.analysis.fuzz.targets.dumps import SHAPES, DumpTarget, data
from precalign.analysis.fuzz.targets.numpy_files import DEFLATE_RATIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case

STORAGES = {"HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4, "ByteStorage": 1}
MAGIC_NUMBER, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True}


def _number(value: float | bool) -> bytes:  # noqa: FBT001 - a value of the file
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    return b"G" + struct.pack(">d", value) if isinstance(value, float) else integer(value)


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _tensor(key: str, shape: Sequence[int], storage: str, *, legacy: bool) -> bytes:
    more = b"N" if legacy else b""  # the old form names a view of a storage, here none
    stored = _tuple(text("storage"), named("torch", storage), text(key), text("cpu"), integer(prod(shape)), more) + b"Q"
    sizes, strides = (_tuple(*map(integer, numbers)) for numbers in (shape, _strides(shape)))
    hooks = named("collections", "OrderedDict") + b")R"
    return (
        named("torch._utils", "_rebuild_tensor_v2") + _tuple(stored, integer(0), sizes, strides, b"\x89", hooks) + b"R"
    )


Tensors = dict[str, tuple[tuple[int, ...], str]]
"""Name -> shape and storage."""


def _dict(tensors: Tensors, numbers: Mapping[str, float | str], *, legacy: bool = False) -> bytes:
    items = [
        text(name) + _tensor(str(key), shape, storage, legacy=legacy)
        for key, (name, (shape, storage)) in enumerate(tensors.items())
    ]
    items += [
        text(name) + (text(value) if isinstance(value, str) else _number(value)) for name, value in numbers.items()
    ]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def _pairs(tensors: Tensors) -> bytes:
    """Return the legacy cache: a tuple of (keys, values) for each layer."""
    made = [_tensor(str(key), shape, storage, legacy=False) for key, (shape, storage) in enumerate(tensors.values())]
    return b"\x80\x02" + _tuple(*(_tuple(*made[at : at + 2]) for at in range(0, len(made), 2))) + b"."


def _cache(tensors: Tensors) -> bytes:
    """Return a cache object of transformers: a class by its name, and its attributes."""
    made = [_tensor(str(key), shape, storage, legacy=False) for key, (shape, storage) in enumerate(tensors.values())]
    module = "transformers.cache_utils"
    layers = [
        named(module, "DynamicLayer")
        + b")\x81}("
        + text("keys")
        + made[at]
        + text("values")
        + made[at + 1]
        + text("is_initialized")
        + b"\x88ub"
        for at in range(0, len(made) - 1, 2)
    ]
    return (
        b"\x80\x02" + named(module, "DynamicCache") + b")\x81}(" + text("layers") + b"](" + b"".join(layers) + b"eub."
    )


def _layers(n: int, storage: str = "HalfStorage", *, queries: bool = True) -> Tensors:
    roles = [role for role in SHAPES if queries or role != "queries"]
    return {f"layers.{layer}.{role}": (SHAPES[role], storage) for layer in range(n) for role in roles}


def _storage(tensors: Tensors) -> list[bytes]:
    return [data(prod(shape), STORAGES[storage]) for shape, storage in tensors.values()]


def _archive(pickle: bytes, storages: Sequence[bytes]) -> Archive:
    members = [Member("d/data.pkl", pickle), Member("d/byteorder", b"little")]
    members += [Member(f"d/data/{key}", octets) for key, octets in enumerate(storages)]
    members += [Member("d/version", b"3\n"), Member("d/.data/serialization_id", b"0" * 40)]
    return Archive(tuple(members))


class Torch(DumpTarget):
    """An archive as torch.save makes it."""

    name = "torch"
    what = "PyTorch files"
    bound = Bound(per_byte=2 * DEFLATE_RATIO)
    FILE = "d.pt"

    def seeds(self) -> list[Case]:
        """Return dictionaries, tuples of pairs and cache objects."""
        pairs = _layers(2, "BFloat16Storage", queries=False)
        made = [
            (_dict(_layers(2), {"scale": 0.5, "sliding_window": 4}), _layers(2)),
            (_dict(_layers(1, "FloatStorage"), {"layers.0.k_scale": 2.0}), _layers(1, "FloatStorage")),
            (_dict(_layers(1, "ByteStorage"), {"note": "x"}), _layers(1, "ByteStorage")),
            (_pairs(pairs), pairs),
            (_cache(pairs), pairs),
        ]
        self._parts = [(pickles.opcodes(pickle), _storage(tensors)) for pickle, tensors in made]
        return [{self.FILE: _archive(b"".join(parts), storages).octets()} for parts, storages in self._parts]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change the pickle, the archive, a storage or bytes."""
        parts, storages = draw.one(self._parts)
        what = draw.random()
        if what < 0.6:
            changed = pickles.change_pickle(draw, parts, [held for held, _ in self._parts])
            return {self.FILE: _archive(changed, storages).octets()}
        archive = _archive(b"".join(parts), storages)
        if what < 0.75:
            return {self.FILE: change_archive(draw, archive).octets()}
        if what < 0.85:
            at = draw.randrange(len(archive.members))
            members = list(archive.members)
            members[at] = replace(members[at], content=change_octets(draw, members[at].content))
            return {self.FILE: replace(archive, members=tuple(members)).octets()}
        if what < 0.9:
            return {self.FILE: draw.octets(4096)}
        return {self.FILE: change_octets(draw, draw.one(seeds)[self.FILE], [draw.one(seeds)[self.FILE]])}


class TorchOld(DumpTarget):
    """The form before PyTorch 1.6: five pickles and the numbers."""

    name = "torch-old"
    what = "PyTorch files of the old form"
    FILE = "d.pth"

    def seeds(self) -> list[Case]:
        """Return dictionaries."""
        self._parts = [self._assemble(_layers(2)), self._assemble(_layers(1, "FloatStorage"))]
        return [{self.FILE: b"".join(parts)} for parts in self._parts]

    @staticmethod
    def _assemble(tensors: Tensors) -> list[bytes]:
        magic = b"\x80\x02" + integer(MAGIC_NUMBER) + b"."
        system = b"\x80\x02}(" + b"".join(text(name) + _number(value) for name, value in SYSTEM.items()) + b"u."
        saved = _dict(tensors, {"scale": 0.5}, legacy=True)
        keys = b"\x80\x02](" + b"".join(text(str(key)) for key in range(len(tensors))) + b"e."
        storages = [
            struct.pack("<q", prod(shape)) + octets
            for (shape, _), octets in zip(tensors.values(), _storage(tensors), strict=True)
        ]
        pieces = [magic, b"\x80\x02" + integer(PROTOCOL) + b".", system, saved, keys]
        return [opcode for pickle in pieces for opcode in pickles.opcodes(pickle)] + storages

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change opcodes or bytes."""
        if draw.chance(0.7):
            return {self.FILE: pickles.change_pickle(draw, draw.one(self._parts), self._parts)}
        return {self.FILE: change_octets(draw, draw.one(seeds)[self.FILE], [draw.one(seeds)[self.FILE]])}
