"""Names of tensors, and what --map and --axes make of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.fuzz.mutations.json_tree import change_tree, text_of, tree_of
from precalign.analysis.fuzz.mutations.text import change_text
from precalign.analysis.fuzz.target import TEXT, Target
from precalign.analysis.fuzz.targets.dumps import SHAPES, look_at
from precalign.analysis.readers import Dump, parse_mapping
from precalign.analysis.readers.base import StoredTensor, TensorFile
from precalign.analysis.readers.names import NAMINGS
from precalign.formats import BINARY16

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case

WORDS = (
    "{layer}",
    "{layer}{layer}",
    "{",
    "}",
    "keys",
    "values",
    "queries",
    "layers",
    "k_scale",
    "=",
    "(?P<layer>",
    "(a+)+$",
    "[",
    "\\",
    "bshd",
    "hsd",
    "sdh",
)


class Names(Target):
    """Tensors that exist as names and shapes alone."""

    name = "names"
    what = "names of tensors and --map"

    def seeds(self) -> list[Case]:
        """Return one dump for each convention, and some with names of their own."""
        self._held: list[dict[str, Any]] = []
        for naming in NAMINGS:
            roles = {"keys": naming.keys, "values": naming.values, "queries": naming.queries or "q"}
            self._held.append(
                {
                    "names": {template.replace("{layer}", "3"): SHAPES[role] for role, template in roles.items()},
                    "map": [],
                }
            )
        own = ["keys=blk-{layer}/k", "values=blk-{layer}/v", "queries=blk-{layer}/q"]
        named = {f"blk-{layer}/{role[0]}": SHAPES[role] for layer in (0, 1) for role in SHAPES}
        self._held.append({"names": named, "map": own})
        self._held.append(
            {
                "names": named,
                "map": own,
                "axes": "bhsd",
                "metadata": {"layers.0.scale": "0.5", "scale": "2", "k_scale": "1,2"},
            }
        )
        return [{TEXT: json.dumps(held).encode()} for held in self._held]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change names, templates and shapes."""
        held = dict(draw.one(self._held))
        if draw.chance(0.4):
            name = draw.one(sorted(held["names"]))
            changed = draw.one((change_text(draw, name, (), WORDS), draw.text()))
            held["names"] = {changed if old == name else old: shape for old, shape in held["names"].items()}
        elif held["map"] and draw.chance(0.6):
            at = draw.randrange(len(held["map"]))
            held["map"] = [
                change_text(draw, item, held["map"], WORDS) if i == at else item for i, item in enumerate(held["map"])
            ]
        else:
            return {TEXT: text_of(change_tree(draw, tree_of(held))).encode("utf-8", "surrogatepass")}
        return {TEXT: json.dumps(held).encode()}

    def run(self, case: Case, folder: Path) -> None:
        """Find the layers; texts that are no such dump are left out: this is not a file of the user's."""
        try:
            held = json.loads(case[TEXT])
            named = {name: shape for name, shape in held["names"].items() if _is_shape(shape)}
            items = [str(item) for item in held.get("map") or ()]
            axes = held.get("axes")
            metadata = {str(key): str(value) for key, value in dict(held.get("metadata") or {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        file = TensorFile({name: _tensor(name, tuple(shape)) for name, shape in named.items()}, metadata)
        mapping = parse_mapping(items)
        path = folder / "d.safetensors"
        look_at(Dump(path, "safetensors", file, mapping=mapping, axes=axes if isinstance(axes, str) else None))


def _is_shape(shape: Any) -> bool:  # noqa: ANN401 - any JSON
    """Whether a reader would hand this on: counts, and no more numbers than a small file holds."""
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        return False
    total = 1
    for n in shape:
        total *= n
    return total <= 4096 and len(shape) <= 32


def _tensor(name: str, shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor(name, shape, BINARY16, "F16", lambda: np.zeros(shape, np.uint16))
