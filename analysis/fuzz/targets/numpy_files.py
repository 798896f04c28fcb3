"""NumPy's files: archives, single arrays, folders of arrays."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from precalign.analysis.fuzz.mutations.archive import DEFLATED, STORED, Archive, Member, change_archive
from precalign.analysis.fuzz.mutations.npy import Array, change_array
from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.target import Bound
from precalign.analysis.fuzz.targets.dumps import SHAPES, DumpTarget, data

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case

WIDTHS = {"'<f2'": 2, "'<f4'": 4, "'|V2'": 2, "'|V1'": 1, "'<f1'": 1, "'|u1'": 1}
FILE = "d.npz"
DEFLATE_RATIO = 1032
"""Bytes that one byte of a compressed member can become."""


def array(shape: Sequence[int], description: str = "'<f2'", *, fortran: bool = False) -> Array:
    """Return a valid array."""
    text = "(" + "".join(f"{size}," for size in shape) + ")"
    return Array(description, text, data(prod(shape), WIDTHS[description]), str(fortran))


def _layers(n: int, description: str = "'<f2'", name: str = "layers.{layer}.{role}") -> dict[str, Array]:
    return {
        name.format(layer=layer, role=role): array(shape, description)
        for layer in range(n)
        for role, shape in SHAPES.items()
    }


Named = dict[str, Array]


def _archive(arrays: Named, methods: Sequence[int] = (STORED,)) -> Archive:
    members = (
        Member(f"{name}.npy", held.octets(), methods[number % len(methods)])
        for number, (name, held) in enumerate(arrays.items())
    )
    return Archive(tuple(members))


class Npz(DumpTarget):
    """An archive of arrays."""

    name = "npz"
    what = "NumPy archives"
    bound = Bound(per_byte=2 * DEFLATE_RATIO)

    def seeds(self) -> list[Case]:
        """Return archives stored and compressed, in several formats."""
        half = _layers(2)
        self._parts: list[tuple[Named, Sequence[int]]] = [
            (half, (STORED,)),
            (half, (DEFLATED,)),
            (_layers(1, "'|V2'") | {"k_scale": array((2,), "'<f4'")}, (STORED, DEFLATED)),
            ({role: array((2, *shape), "'<f4'") for role, shape in SHAPES.items()}, (STORED,)),
            (_layers(1, "'|u1'") | {"v_scale": array((), "'<f4'")}, (STORED,)),
            (_layers(1, "'<f1'"), (DEFLATED,)),
            ({name: replace(held, fortran="True") for name, held in half.items()}, (STORED,)),
        ]
        return [{FILE: _archive(*parts).octets()} for parts in self._parts]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change the archive, a header of an array, or bytes."""
        arrays, methods = draw.one(self._parts)
        what = draw.random()
        if what < 0.4:
            return {FILE: change_archive(draw, _archive(arrays, methods)).octets()}
        if what < 0.75:
            name = draw.one(sorted(arrays))
            changed = _archive(arrays | {name: change_array(draw, arrays[name])}, methods)
            return {FILE: (change_archive(draw, changed) if draw.chance(0.2) else changed).octets()}
        if what < 0.8:
            return {FILE: draw.octets(4096)}
        return {FILE: change_octets(draw, draw.one(seeds)[FILE], [draw.one(seeds)[FILE]])}


class Npy(DumpTarget):
    """One array of keys, values and perhaps queries."""

    name = "npy"
    what = "single NumPy arrays"
    FILE = "d.npy"

    def seeds(self) -> list[Case]:
        """Return arrays of two and three roles, in several formats."""
        self._arrays = [
            array((2, 2, 1, 2, 5, 4)),
            array((3, 1, 2, 5, 4), "'<f4'"),
            array((2, 2, 5, 4), "'|V2'"),
            array((2, 2, 5, 4), fortran=True),
            array((2, 1, 2, 5, 4), "'<f1'"),
        ]
        return [{self.FILE: held.octets()} for held in self._arrays]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change the header or bytes."""
        what = draw.random()
        if what < 0.7:
            return {self.FILE: change_array(draw, draw.one(self._arrays)).octets()}
        if what < 0.75:
            return {self.FILE: draw.octets(4096)}
        return {self.FILE: change_octets(draw, draw.one(seeds)[self.FILE])}


class NpyFolder(DumpTarget):
    """A folder of arrays."""

    name = "npy-folder"
    what = "folders of NumPy arrays"
    FOLDER = "d"

    def seeds(self) -> list[Case]:
        """Return folders of one and two layers."""
        self._arrays = [_layers(2), _layers(1, "'<f4'") | {"k_scale": array((1,), "'<f4'")}]
        return [self._case(arrays) for arrays in self._arrays]

    def _case(self, arrays: Named) -> Case:
        return {f"{self.FOLDER}/{name}.npy": held.octets() for name, held in arrays.items()}

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change an array, a name, or which there are."""
        arrays = dict(draw.one(self._arrays))
        name = draw.one(sorted(arrays))
        what = draw.random()
        if what < 0.5:
            arrays[name] = change_array(draw, arrays[name])
        elif what < 0.7:
            arrays[_file_name(draw.text())] = arrays.pop(name)
        elif what < 0.75:
            del arrays[name]
        case = self._case(arrays)
        if what >= 0.75 and case:
            file = draw.one(sorted(case))
            case[file] = change_octets(draw, case[file]) if draw.chance(0.8) else draw.octets(256)
        return case or {f"{self.FOLDER}/x.npy": b""}

    def run(self, case: Case, folder: Path) -> None:
        """Open the folder."""
        del case
        self.read(folder / self.FOLDER)


def _file_name(text: str) -> str:
    """Return a name that a file system takes."""
    kept = text.replace("/", "\\").replace("\0", "").encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
    return kept or "x"
