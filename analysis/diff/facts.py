"""What two summaries say of the dump, the request, the layout and the version, and where they say different things."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPARED = ("schema", "precalign", "dump", "set", "options", "layout", "reference")
"""Parts of summary.json that are given, not computed."""


def different_facts(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Return {fact, a, b} for what differs, by its dotted name; null stands for what one does not say."""
    one, other = (dict(_flat({name: held[name] for name in COMPARED if name in held}, "")) for held in (a, b))
    return [
        {"fact": name, "a": one.get(name), "b": other.get(name)}
        for name in dict.fromkeys([*one, *other])
        if _text(one.get(name)) != _text(other.get(name))
    ]


def _flat(held: dict[str, Any], lead: str) -> Iterator[tuple[str, Any]]:
    for name, value in held.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{lead}{name}.")
        elif (
            f"{lead}{name}" != "dump.layers"
        ):  # the shapes of single layers: what they have in common stands beside them
            yield f"{lead}{name}", value


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
