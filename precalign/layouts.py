"""Plane widths as data, and the read widths (levels) that follow from them.

A code of n bits is cut into planes, most significant first. Reading the first planes gives a *level*: 8|4|4 has the levels
8, 12 and 16 bits. A read that ends inside the exponent tells nothing, so a level always holds the sign and the exponent:
the first level of sixteen 1-bit planes of binary16 is 6 bits, read from six planes.

In a *rebased* layout the exponent is stored relative to a maximum, in fewer bits (`precalign.rebase`): the widths add up to
1 + e + m, and e follows from them. rebased:8|5 of bfloat16 has e = 5 and the levels 8 and 13.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from precalign.errors import UnavailableError, UsageError
from precalign.formats import BFLOAT16, BINARY16, E2M1, E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ, Format, Specials

if TYPE_CHECKING:
    from numpy.typing import NDArray

INT8 = Format("int8", 1, 6, -5, Specials.FINITE)
"""Integers from -127 to 127 as sign and magnitude, which is a float of one exponent bit and emin = 6: its spacing is 1 everywhere."""

DEFAULT_WIDTHS = {
    BINARY16.name: (8, 4, 4),
    BFLOAT16.name: (12, 4),
    E4M3FN.name: (5, 3),
    E5M2.name: (6, 2),
    E4M3FNUZ.name: (5, 3),
    E5M2FNUZ.name: (6, 2),
    E2M1.name: (3, 1),
    INT8.name: (4, 4),
}
"""Plane widths used where the user names none, by format; also the list of formats that have layouts. Codes of the last two are codecs'."""


@dataclass(frozen=True)
class Layout:
    """How codes of one format are cut into planes.

    Attributes
    ----------
    name : str
        "8|4|4", with "+skip" appended where an addend may be left out.
    format : Format
        Of the codes.
    widths : tuple[int, ...]
        Bits of each plane, most significant first; they add up to the width of a stored code.
    skip : bool
        Whether level 0 is "not read at all".
    rebased : bool
        Whether the exponent is stored relative to a maximum, in as many bits as the widths leave for it.

    Raises
    ------
    UsageError
        If the widths do not add up to the width of a code, or leave no fewer exponent bits than the format has.
    UnavailableError
        If codes of the format cannot be cut into planes yet.
    """

    name: str
    format: Format
    widths: tuple[int, ...]
    skip: bool = False
    rebased: bool = False

    def __post_init__(self) -> None:
        if self.format.name not in DEFAULT_WIDTHS:
            raise UnavailableError(
                f"layouts of {self.format.name} are not supported",
                hint="supported formats: " + ", ".join(sorted(DEFAULT_WIDTHS)),
            )
        fmt, total = self.format, sum(self.widths)
        least, most = (fmt.total_bits,) * 2
        if self.rebased:
            least, most = fmt.trailing_significand_bits + 3, fmt.total_bits - 1
        if min(self.widths, default=0) < 1 or not least <= total <= most:
            what = (
                f"the {fmt.total_bits} bits of {fmt.name}"
                if not self.rebased
                else f"{least} to {most} bits: the sign, 2 to {fmt.exponent_bits - 1} exponent bits and the "
                f"{fmt.trailing_significand_bits} trailing significand bits of {fmt.name}"
            )
            raise UsageError(
                f"layout {self.name}: plane widths of at least 1 must add up to {what}, not {total}",
                hint=f"the default is {'|'.join(map(str, DEFAULT_WIDTHS[fmt.name]))}",
            )

    @cached_property
    def total_bits(self) -> int:
        """Bits of a stored code."""
        return sum(self.widths)

    @cached_property
    def exponent_bits(self) -> int:
        """Exponent bits of a stored code: those of the format, or fewer where it is rebased."""
        return self.total_bits - 1 - self.format.trailing_significand_bits

    @cached_property
    def plane_ends(self) -> tuple[int, ...]:
        """Bits read when the planes up to each one are read."""
        return tuple(accumulate(self.widths))

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Read widths in bits, ascending; the last is the whole code."""
        least = self.total_bits - self.format.trailing_significand_bits
        return (0,) * self.skip + tuple(end for end in self.plane_ends if end >= least)

    @cached_property
    def level_planes(self) -> tuple[int, ...]:
        """How many planes each level reads."""
        return tuple(0 if level == 0 else self.plane_ends.index(level) + 1 for level in self.levels)

    @cached_property
    def first_read(self) -> int:
        """Index of the narrowest level that reads anything."""
        return int(self.skip)

    @cached_property
    def dropped_bits(self) -> NDArray[np.int64]:
        """Bits of a stored code that each level leaves out, (n_levels,)."""
        return self.total_bits - np.array(self.levels, np.int64)

    def kept_trailing_bits(self, level: int) -> int:
        """t, the trailing significand bits that a read at level index `level` keeps (0 for a skipped code)."""
        return max(0, self.format.trailing_significand_bits - int(self.dropped_bits[level]))


def default_layout(fmt: Format, *, skip: bool = False) -> Layout:
    """Return the layout used for `fmt` where none is named: 8|4|4 for binary16, 12|4 for bfloat16, 5|3 for e4m3fn, 6|2 for e5m2.

    Raises
    ------
    UnavailableError
        If codes of the format cannot be cut into planes yet.
    """
    widths = DEFAULT_WIDTHS.get(fmt.name, (fmt.total_bits,))
    return Layout("|".join(map(str, widths)) + "+skip" * skip, fmt, widths, skip)


def parse_layout(text: str, fmt: Format) -> Layout:
    """Read "8|4|4", "8|4|4+skip" or "rebased:8|5" as a layout of `fmt`.

    Raises
    ------
    UsageError
        If the text is not a list of widths, or the widths do not add up.
    UnavailableError
        For formats without layouts.
    """
    found = re.fullmatch(r"(rebased:)?(\d{1,2}(?:[|,]\d{1,2})*)(\+skip)?", text.replace(" ", ""))
    if found is None:
        raise UsageError(
            f"layout {text!r} is not a list of plane widths", hint='write "8|4|4", "8|4|4+skip" or "rebased:8|5"'
        )
    widths = tuple(int(width) for width in re.split(r"[|,]", found[2]))
    name = (found[1] or "") + "|".join(map(str, widths)) + (found[3] or "")
    return Layout(name, fmt, widths, found[3] is not None, found[1] is not None)
