"""Changes of JSON: it stays JSON, mostly, and what stands in it lies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precalign.analysis.fuzz.draw import Draw

WORDS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "[" * 3000, '{"a":' * 3000, "1.5", "-0.0", "1e-400", "0e0", "tru", ""),
    *("null", "true", "false", "[]", "{}", '""', "[[]]", '{"":{}}', "[null]", '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', "0x10", "01"),
)  # fmt: skip
"""What may stand in the place of a value, written as it is."""
MOST_PLACES = 400
"""Of a longer text only the first places are changed."""


class Raw(str):
    """Text that is written as it is."""

    __slots__ = ()


class Pairs(list[list[Any]]):
    """An object as pairs [name, value], of which names may be the same."""


def tree_of(data: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return plain data with objects as `Pairs`."""
    if isinstance(data, dict):
        return Pairs([key, tree_of(value)] for key, value in data.items())
    if isinstance(data, list | tuple):
        return [tree_of(value) for value in data]
    return data


def text_of(tree: Any) -> str:  # noqa: ANN401 - a tree
    """Return the JSON of a tree."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{_scalar(name)}:{text_of(value)}" for name, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(text_of, tree)) + "]"
    return _scalar(tree)


def _scalar(value: Any) -> str:  # noqa: ANN401 - any scalar
    return str(value) if isinstance(value, Raw) else json.dumps(value)


def change_tree(draw: Draw, tree: Any) -> Any:  # noqa: ANN401 - a tree
    """Return a tree after one or a few changes; what is given may be changed too."""
    root = [tree]
    for _ in range(draw.times()):
        if places := _some_places(root):
            _change(draw, *draw.one(places), places)
    return root[0] if root else None


Place = tuple[list[Any], int]
"""A list, or `Pairs`, and an index of it."""


def _some_places(root: list[Any]) -> list[Place]:
    found: list[Place] = []
    for place in _places(root):
        found.append(place)
        if len(found) == MOST_PLACES:
            break
    return found


def _places(held: list[Any]) -> Iterator[Place]:
    pairs = isinstance(held, Pairs)
    for index, entry in enumerate(held):
        yield held, index
        below = entry[1] if pairs else entry
        if isinstance(below, list):
            yield from _places(below)


def _get(held: list[Any], index: int) -> Any:  # noqa: ANN401 - a tree
    return held[index][1] if isinstance(held, Pairs) else held[index]


def _put(held: list[Any], index: int, value: Any) -> None:  # noqa: ANN401 - a tree
    if isinstance(held, Pairs):
        held[index] = [held[index][0], value]
    else:
        held[index] = value


def _change(draw: Draw, held: list[Any], index: int, places: list[Place]) -> None:
    if index >= len(held):  # an earlier change took it away
        return
    what = draw.random()
    if what < 0.45:
        _put(held, index, _other(draw, _get(held, index)))
    elif what < 0.55 and isinstance(held, Pairs):
        held[index] = [draw.one((draw.text(), draw.one(held)[0])), held[index][1]]
    elif what < 0.65:
        del held[index]
    elif what < 0.75:
        held.insert(draw.randint(0, len(held)), held[index])
    elif what < 0.85:
        other, at = draw.one(places)
        if at < len(other):
            _put(held, index, _copy(_get(other, at)))
    elif what < 0.9:
        _put(held, index, [_get(held, index)])
    elif what < 0.95 and isinstance(held, Pairs):
        held.append([draw.text(), _other(draw, None)])
    else:
        held[:] = draw.sample(held, len(held))


def _copy(tree: Any) -> Any:  # noqa: ANN401 - a tree
    if isinstance(tree, Pairs):
        return Pairs([name, _copy(value)] for name, value in tree)
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree


def _other(draw: Draw, value: Any) -> Any:  # noqa: ANN401 - any scalar
    """Return what may stand in the place of a value: of its own kind more often than not."""
    if draw.chance(0.25):
        return Raw(draw.one(WORDS))
    if draw.chance(0.15):
        return draw.one((draw.text(), draw.count(), None, True, [], Pairs()))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.one((draw.count(), value + draw.randint(-3, 3), -value, value * 2, float(value)))
    if isinstance(value, float):
        return draw.one((draw.random(), value * 2.0 ** draw.randint(-1100, 1000), -value, draw.count()))
    if isinstance(value, str):
        return draw.one((draw.text(), value + draw.text()[:20], value[: len(value) // 2], value.upper(), value * 2))
    return draw.one((draw.count(), draw.text(), None))
