"""Operands of an instruction, from text to records."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from precalign.errors import shown
from precalign.gpu.ptx.faults import PtxSyntaxError
from precalign.gpu.ptx.program import (
    Address,
    Immediate,
    Label,
    Negated,
    Operand,
    Pair,
    Register,
    Sink,
    SpecialRegister,
    SymbolAddress,
    Vector,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]{1,16}|0[bB][01]{1,64}|0[0-7]{0,22}|[1-9][0-9]{0,19})U?")
"""Of 64 bits, or little more; longer ones are no PTX."""
_SPECIAL = re.compile(
    r"%(?:tid|ntid|ctaid|nctaid)\.[xyz]|%(?:laneid|warpid|nwarpid|lanemask_(?:eq|le|lt|ge|gt))|WARP_SZ"
)
_NAME = re.compile(r"[%$\w]+")


class Names(NamedTuple):
    """What a name can stand for where an instruction is written."""

    register: Callable[[str], Register | None]
    symbols: set[str]
    is_branch: bool


def parse_operands(text: str, names: Names, where: str) -> tuple[Operand, ...]:
    """Split at the commas outside of braces and brackets, and parse each operand."""
    return tuple(_operand(piece.strip(), names, where) for piece in _split(text))


def _split(text: str) -> list[str]:
    pieces, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "{[(") - (char in "}])")
        if char == "," and depth == 0:
            pieces.append(text[start:i])
            start = i + 1
    last = text[start:]
    return [*pieces, last] if last.strip() else pieces


def parse_integer(text: str) -> int:
    """Return the value of a PTX integer literal: decimal, 0x, 0b, or octal after a leading 0."""
    digits = text.rstrip("U")
    sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
    if re.fullmatch(r"0[0-7]+", digits):
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def _operand(text: str, names: Names, where: str) -> Operand:
    if text.startswith("["):
        return _address(text[1:-1].strip(), names, where)
    if text.startswith("{"):
        return Vector(tuple(_element(piece.strip(), names, where) for piece in _split(text[1:-1])))
    if "|" in text:
        first, second = text.split("|", 1)
        return Pair(_atom(first.strip(), names, where), _atom(second.strip(), names, where))
    if text.startswith("!"):
        return Negated(_register(text[1:].strip(), names, where))
    return _atom(text, names, where)


def _element(text: str, names: Names, where: str) -> Operand:
    """Parse an element of a vector, which is none itself."""
    if text.startswith("{"):
        raise PtxSyntaxError(f"{where}: a vector in a vector: {shown(text)}")
    return _operand(text, names, where)


def _atom(text: str, names: Names, where: str) -> Operand:
    if text == "_":
        return Sink()
    if literal := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", text):
        return Immediate(int(literal[1] or literal[2], 16), 32 if literal[1] else 64)
    if _INTEGER.fullmatch(text):
        return Immediate(parse_integer(text))
    register = names.register(text)
    if register is not None:
        return register
    if text == "WARP_SZ":
        return Immediate(32)
    if _SPECIAL.fullmatch(text):
        return SpecialRegister(text[1:])
    if names.is_branch:
        return Label(text)
    if (summed := re.fullmatch(r"([$\w]+)\s*(?:\+\s*([0-9]{1,18}))?", text)) and summed[1] in names.symbols:
        return SymbolAddress(summed[1], int(summed[2] or 0))
    raise PtxSyntaxError(f"{where}: unknown operand: {shown(text)}")


def _register(text: str, names: Names, where: str) -> Register:
    register = names.register(text)
    if register is None:
        raise PtxSyntaxError(f"{where}: no such register: {shown(text)}")
    return register


def _address(text: str, names: Names, where: str) -> Address:
    if _INTEGER.fullmatch(text):
        return Address(None, parse_integer(text))
    parts = re.fullmatch(r"([%$\w]+)\s*(?:\+\s*(-?\w+))?", text)
    if not parts or (parts[2] and not _INTEGER.fullmatch(parts[2])):
        raise PtxSyntaxError(f"{where}: unknown address: [{shown(text)}]")
    offset = parse_integer(parts[2]) if parts[2] else 0
    register = names.register(parts[1])
    if register is not None:
        return Address(register, offset)
    if parts[1] in names.symbols:
        return Address(SymbolAddress(parts[1]), offset)
    raise PtxSyntaxError(f"{where}: unknown address: [{shown(text)}]")
