"""What all readers of dumps are asked for, and the layers that their seeds hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from precalign.analysis.fuzz.target import FileTarget
from precalign.analysis.inspection import inspect_dump
from precalign.analysis.plan import Options, make_plan
from precalign.analysis.readers import open_dump
from precalign.formats import BINARY16, E4M3FN

if TYPE_CHECKING:
    from pathlib import Path

    from precalign.analysis.readers import Dump

OPTIONS = Options(jobs=1)
SHAPES = {"keys": (1, 2, 5, 4), "values": (1, 2, 5, 4), "queries": (1, 4, 3, 4)}
"""Of the tensors in a seed: (batch, heads, tokens, head_dim)."""


def data(count: int, width: int = 2) -> bytes:
    """Return bytes of so many finite numbers of a format of so many bytes."""
    return bytes((37 * i) % 251 % (96 if i % width == width - 1 else 256) for i in range(count * width))


class DumpTarget(FileTarget):
    """A format of dumps."""

    def read(self, path: Path) -> None:
        """Open, inspect and plan, and read heads."""
        with open_dump(path, storage_format=BINARY16, byte_format=E4M3FN) as dump:
            look_at(dump)
            dump.check_unchanged()


def look_at(dump: Dump) -> None:
    """Do what `precalign inspect` and the beginning of `precalign analyze` do."""
    looked = inspect_dump(dump)
    looked.headline()
    layers = list(looked.layers(stats=False))
    for layer in layers:
        layer.shape_cells()
    json.dumps(looked.to_json(layers), allow_nan=False)
    plan = make_plan(dump, OPTIONS)
    for task in (plan.tasks[0], plan.tasks[-1]):
        dump.read_head(task.layer, task.kv_head)
