"""JSON as its standard has it (RFC 8259), and nothing that Python's parser takes beside it."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Parse JSON from somebody else.

    Raises
    ------
    ValueError
        If it is none, is nested too deeply, holds a number that is none or that no binary64 holds, or a name twice in one object.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is larger than any binary64 number")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated_name(pairs)) is not None:
        raise ValueError(f"{twice[:100]!r} stands twice")
    return dict(pairs)


def repeated_name(pairs: list[tuple[str, Any]]) -> str | None:
    """Return the first name of an object that stands in it twice, None if none does."""
    if len({name for name, _ in pairs}) == len(pairs):
        return None
    counts = Counter(name for name, _ in pairs)
    return next(name for name, count in counts.items() if count > 1)
