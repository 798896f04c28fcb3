"""Changes of bytes, whatever they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.analysis.fuzz.draw import HOSTILE_TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.fuzz.draw import Draw

MOST_BYTES = 1 << 16
"""A case grows no further, unless it is larger to begin with."""
_TOKENS = tuple(text.encode("utf-8", "surrogatepass") for text in HOSTILE_TEXT)


def change_octets(draw: Draw, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes after one or a few changes.

    Parameters
    ----------
    draw : Draw
    data : bytes
    others : sequence of bytes
        Other inputs, parts of which may be mixed in.
    """
    held = bytearray(data)
    for _ in range(draw.times()):
        draw.one(_CHANGES)(draw, held, others)
    return bytes(held[: max(MOST_BYTES, len(data) + 4096)])


def _span(draw: Draw, held: bytearray) -> tuple[int, int]:
    start = draw.randint(0, len(held))
    return start, min(len(held), start + draw.one((1, 2, 4, 8, 32, 256, MOST_BYTES)))


def _flip(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    for _ in range(draw.one((1, 1, 2, 8, 64))):
        if held:
            held[draw.randrange(len(held))] ^= 1 << draw.randrange(8)


def _set(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    if held:
        held[draw.randrange(len(held))] = draw.one((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x1B, draw.randrange(256)))


def _insert(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    at = draw.randint(0, len(held))
    held[at:at] = draw.octets(512)


def _token(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    start, end = _span(draw, held)
    held[start : end if draw.chance(0.5) else start] = draw.one(_TOKENS)


def _delete(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    start, end = _span(draw, held)
    del held[start:end]


def _repeat(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    start, end = _span(draw, held)
    at = draw.randint(0, len(held))
    held[at:at] = bytes(held[start:end]) * draw.one((1, 1, 2, 7))


def _truncate(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    del held[draw.randint(0, len(held)) :]


def _truncate_near(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    near = draw.one((draw.randint(0, 64), max(0, len(held) - draw.randint(0, 64))))
    del held[near:]


def _extend(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    held += draw.octets(4096)


def _integer(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    """Put an extreme number where a number may stand."""
    width = draw.one((1, 2, 4, 8))
    if len(held) < width:
        return
    at = draw.one((draw.randint(0, len(held) - width), draw.randint(0, min(128, len(held) - width))))
    number = draw.count() % (1 << 8 * width)
    held[at : at + width] = number.to_bytes(width, draw.one(("little", "big")))


def _add(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    """Add a little to a number."""
    width = draw.one((1, 2, 4, 8))
    if len(held) >= width:
        at = draw.randint(0, len(held) - width)
        number = int.from_bytes(held[at : at + width], "little") + draw.one((-8, -2, -1, 1, 2, 8))
        held[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")


def _splice(draw: Draw, held: bytearray, others: Sequence[bytes]) -> None:
    """Go on with another input from somewhere on."""
    if others:
        other = draw.one(others)
        held[draw.randint(0, len(held)) :] = other[draw.randint(0, len(other)) :]


def _exchange(draw: Draw, held: bytearray, _others: Sequence[bytes]) -> None:
    (a, b), (c, d) = sorted((_span(draw, held), _span(draw, held)))
    if b <= c:
        held[:] = held[:a] + held[c:d] + held[b:c] + held[a:b] + held[d:]


_CHANGES = (
    _flip, _flip, _set, _insert, _token, _delete, _repeat, _truncate, _truncate_near, _extend, _integer, _integer, _add, _splice, _exchange,
)  # fmt: skip
