"""Recorded results of matrix units, token ids, and arrays given to kernels: NumPy files whose contents are used at once."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.fuzz.mutations.archive import DEFLATED, STORED, Archive, Member, change_archive
from precalign.analysis.fuzz.mutations.npy import Array, change_array
from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.target import Bound, FileTarget
from precalign.analysis.fuzz.targets.numpy_files import DEFLATE_RATIO
from precalign.analysis.readers.arrays import load_array
from precalign.analysis.recordings import replay_file
from precalign.gpu.ptx.arguments import parse_argument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case


def _codes(shape: Sequence[int], description: str, width: int) -> Array:
    text = "(" + "".join(f"{size}," for size in shape) + ")"
    octets = bytes((11 * i) % 60 for i in range(prod(shape) * width))
    return Array(description, text, octets)


def _recorded(terms: int) -> dict[str, Array]:
    held = {name: _codes((3, terms), "'<u2'", 2) for name in ("a", "b")}
    return held | {name: _codes((3,), "'<u4'", 4) for name in ("c", "d_fp32", "d_fp16")}


class Recordings(FileTarget):
    """GPU_FORMAT.npz."""

    name = "recordings"
    what = "recordings of matrix units (.npz)"
    bound = Bound(per_byte=2 * DEFLATE_RATIO)
    FILE = "A100_fp16.npz"

    def seeds(self) -> list[Case]:
        """Return recordings stored and compressed."""
        self._arrays = _recorded(16)
        return [{self.FILE: self._archive(self._arrays, method).octets()} for method in (STORED, DEFLATED)]

    @staticmethod
    def _archive(arrays: dict[str, Array], method: int) -> Archive:
        return Archive(tuple(Member(f"{name}.npy", held.octets(), method) for name, held in arrays.items()))

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change an array, the archive or bytes."""
        what, arrays, method = draw.random(), dict(self._arrays), draw.one((STORED, DEFLATED))
        if what < 0.5:
            name = draw.one(sorted(arrays))
            arrays[name] = change_array(draw, arrays[name])
        if what < 0.75:
            archive = self._archive(arrays, method)
            return {self.FILE: (archive if what < 0.4 else change_archive(draw, archive)).octets()}
        return {self.FILE: draw.octets(2048) if what < 0.8 else change_octets(draw, draw.one(seeds)[self.FILE])}

    def read(self, path: Path) -> None:
        """Emulate every result."""
        for _ in replay_file(path):
            continue


class ArrayArgument(FileTarget):
    """An argument of `precalign kernels run`."""

    name = "kernel-array"
    what = "arrays given to a kernel (.npy)"
    FILE = "x.npy"

    def seeds(self) -> list[Case]:
        """Return arrays of numbers."""
        self._arrays = [_codes((3, 4), "'<f4'", 4), _codes((5,), "'<i8'", 8), _codes((), "'|u1'", 1)]
        return [{self.FILE: held.octets()} for held in self._arrays]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change the header or bytes."""
        if draw.chance(0.7):
            return {self.FILE: change_array(draw, draw.one(self._arrays)).octets()}
        return {self.FILE: draw.octets(2048) if draw.chance(0.2) else change_octets(draw, draw.one(seeds)[self.FILE])}

    def read(self, path: Path) -> None:
        """Load it."""
        held = parse_argument(path.name, 0, np.random.default_rng(0), load_array).array
        if held is not None:
            held.tobytes()
