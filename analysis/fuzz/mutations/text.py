"""Changes of text: words, lines, characters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.fuzz.draw import Draw

_WORD = re.compile(r"\w+|\s+|[^\w\s]")
NUMBERS = (
    *("0", "1", "-1", "00", "007", "1e3", "1e999", "-1e999", "nan", "inf", "-inf", "0x7fffffff", "0xffffffffffffffff", "0b1", "0f3F800000"),
    *("2147483648", "4294967296", "1099511627776", "9223372036854775808", "18446744073709551616", "-9223372036854775809", "9" * 30, "9" * 5000),
    *("1.5", ".", "1_000", "１", "½", "0.1e-400", "--1", "+1", "1e", "e1"),
)  # fmt: skip
"""Numbers as text, some of which are none."""
MARKS = tuple("{}[]()<>,.;:|+-*/%@!=\"'`#$&^~?_ \t\n\r\0\x1b\u2028\u202e")
MOST_CHARACTERS = 1 << 16


def change_text(draw: Draw, text: str, others: Sequence[str] = (), words: Sequence[str] = ()) -> str:
    """Return a text after one or a few changes.

    Parameters
    ----------
    draw : Draw
    text : str
    others : sequence of str
        Texts whose parts may be mixed in.
    words : sequence of str
        That mean something to the parser.
    """
    pieces = _WORD.findall(text)
    for _ in range(draw.times()):
        at = draw.randint(0, len(pieces))
        _change(draw, pieces, at, others, words)
    return "".join(pieces)[:MOST_CHARACTERS]


def _change(draw: Draw, pieces: list[str], at: int, others: Sequence[str], words: Sequence[str]) -> None:
    what, end = draw.random(), at + draw.one((1, 1, 1, 3, 10))
    if what < 0.15:
        del pieces[at:end]
    elif what < 0.25:
        pieces[at:at] = pieces[at:end] * draw.one((1, 1, 2, 20))
    elif what < 0.45:
        pieces[at : at + 1] = [draw.one(NUMBERS)]
    elif what < 0.55:
        pieces[at : at + draw.randint(0, 1)] = [draw.one(MARKS) * draw.one((1, 1, 1, 2, 2000))]
    elif what < 0.7 and words:
        pieces[at : at + draw.randint(0, 1)] = [draw.one(words)]
    elif what < 0.75:
        pieces[at : at + 1] = [draw.text()]
    elif what < 0.85 and pieces:
        other = draw.randrange(len(pieces))
        pieces[min(at, len(pieces) - 1)], pieces[other] = pieces[other], pieces[min(at, len(pieces) - 1)]
    elif what < 0.9 and others:
        other_pieces = _WORD.findall(draw.one(others)[:4000])
        start = draw.randint(0, len(other_pieces))
        pieces[at:end] = other_pieces[start : start + draw.randint(1, 40)]
    elif what < 0.93:
        del pieces[at:]
    else:
        _change_characters(draw, pieces, min(at, len(pieces) - 1))


def _change_characters(draw: Draw, pieces: list[str], at: int) -> None:
    if at < 0 or not pieces[at]:
        return
    word = pieces[at]
    cut = draw.randint(0, len(word))
    pieces[at] = word[:cut] + draw.one((*MARKS, chr(draw.randrange(1, 0x3000)), "")) + word[cut + draw.randint(0, 1) :]
