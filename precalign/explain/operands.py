"""An operand: its code, its fields, and its digits on the axis of powers of two."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import UsageError
from precalign.formats.codes import Kind, decode, kinds
from precalign.rounding import encode

if TYPE_CHECKING:
    from precalign.formats import Format


@dataclass(frozen=True)
class Digits:
    """A number sign * magnitude * 2^lowest, as a row of binary digits.

    Attributes
    ----------
    negative : bool
    magnitude : int
    lowest : int
        Exponent of the last digit that is carried: the absolute precision pi.
    """

    negative: bool
    magnitude: int
    lowest: int

    @property
    def highest(self) -> int:
        """Exponent of the leading digit; that of the last one for zero."""
        return self.lowest + max(self.magnitude.bit_length() - 1, 0)

    @property
    def value(self) -> Fraction:
        """The exact number."""
        size = Fraction(self.magnitude) * Fraction(2) ** self.lowest
        return -size if self.negative else size

    def digit(self, exponent: int) -> str:
        """Return the digit of 2^exponent; "" where none is carried."""
        if exponent < self.lowest or exponent > self.highest:
            return ""
        return str((self.magnitude >> (exponent - self.lowest)) & 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "negative": self.negative,
            "digits": f"{self.magnitude:b}",
            "highest_exponent": self.highest,
            "lowest_exponent": self.lowest,
        }


@dataclass(frozen=True)
class Operand:
    """A number of a format.

    Attributes
    ----------
    code : int
    format : Format
    given : str
        As the user wrote it.
    rounded : bool
        Whether what was written is no number of the format, and was rounded to nearest.
    """

    code: int
    format: Format
    given: str = ""
    rounded: bool = False

    @property
    def kind(self) -> Kind:
        """Zero, subnormal, normal, infinity or NaN."""
        return Kind(int(kinds(self.code, self.format)))

    @property
    def value(self) -> float:
        """The value, exact (every format's values are binary64 numbers)."""
        return float(decode(self.code, self.format))

    @property
    def finite(self) -> bool:
        """Whether it is a number."""
        return self.kind < Kind.INFINITY

    @property
    def fields(self) -> tuple[str, str, str]:
        """Sign, exponent and trailing significand as binary digits."""
        fmt = self.format
        magnitude = self.code & ((1 << fmt.magnitude_bits) - 1)
        sign = f"{self.code >> fmt.magnitude_bits:b}" if fmt.signed else ""
        trailing = magnitude & ((1 << fmt.trailing_significand_bits) - 1)
        width = fmt.trailing_significand_bits
        return sign, f"{magnitude >> width:0{fmt.exponent_bits}b}", f"{trailing:0{width}b}" if width else ""

    @property
    def digits(self) -> Digits:
        """The significand with its hidden bit, down to the last place."""
        fmt = self.format
        magnitude = self.code & ((1 << fmt.magnitude_bits) - 1)
        field, trailing = divmod(magnitude, 1 << fmt.trailing_significand_bits)
        negative = bool(fmt.signed and self.code >> fmt.magnitude_bits)
        if not fmt.has_zero:
            return Digits(negative=False, magnitude=1, lowest=magnitude - fmt.bias)
        significand = trailing | ((field > 0) << fmt.trailing_significand_bits)
        return Digits(negative, significand, max(field, 1) - fmt.bias - fmt.trailing_significand_bits)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        held: dict[str, Any] = {
            "code": f"0x{self.code:0{-(-self.format.total_bits // 4)}x}",
            "fields": list(self.fields),
            "kind": self.kind.name.lower(),
        }
        if self.finite:
            held |= {"value": self.value, "digits": self.digits.to_json()}
        return held | {"given": self.given, "rounded": self.rounded}


MOST_CHARACTERS = 2000
"""Of an operand: the longest exact decimal of a binary64 number has 1,075 digits."""


def parse_operand(text: str, fmt: Format) -> Operand:
    """Read an operand: a code ("0x3C00", "0b0_01111_0000000000"), a hexadecimal value ("0x1.8p3") or a decimal one.

    A value that is no number of the format is rounded to nearest, ties to even, and says so.

    Raises
    ------
    UsageError
        If it is none of these, or a code of more bits than the format has.
    """
    plain = text.strip().lower().replace("_", "")
    if len(plain) > MOST_CHARACTERS:
        raise UsageError(f"an operand of {len(plain)} characters", hint=f"at most {MOST_CHARACTERS} are read")
    if re.fullmatch(r"0x[0-9a-f]+|0b[01]+", plain):
        code = int(plain, 0)
        if code >> fmt.total_bits:
            raise UsageError(
                f"{text} has more than the {fmt.total_bits} bits of {fmt.name}",
                hint="write values as decimals or as 0x1.8p3",
            )
        return Operand(code, fmt, text)
    try:
        value = float.fromhex(plain) if "0x" in plain else float(plain)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is neither a code nor a number",
            hint="codes: 0x3C00, 0b0011110000000000; values: 1.5, 1e-3, 0x1.8p0, inf, nan",
        ) from None
    code = int(encode(np.float64(value), fmt))
    # Decimals are taken exactly: 0.1 is one tenth here, not the nearest binary64.
    exact = _exact(plain, value)
    rounded = math.isfinite(value) and (
        math.isinf(float(decode(code, fmt))) or exact != Fraction(float(decode(code, fmt)))
    )
    return Operand(code, fmt, text, rounded)


def _exact(text: str, value: float) -> Fraction | None:
    if not math.isfinite(value):
        return None
    if "0x" in text:
        return Fraction(value)
    digits, _, exponent = text.partition("e")
    if exponent and not -MOST_CHARACTERS <= int(exponent) <= MOST_CHARACTERS:  # far below the least number, or zero
        return Fraction(0) if not re.search("[1-9]", digits) else None
    return Fraction(text)
