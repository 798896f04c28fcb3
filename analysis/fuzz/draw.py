"""Where everything random of a case comes from: its target, seed and number, so that it can be made again."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

COUNTS = (
    *(0, 1, 2, 3, 7, 8, 9, 16, 127, 128, 255, 256, 1000, 4096, 65_535, 65_536, 1 << 24, (1 << 31) - 1, 1 << 31),
    *((1 << 32) - 1, 1 << 32, 1 << 40, 1 << 53, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30),
    *(-1, -2, -128, -(1 << 31), -(1 << 40), -(1 << 63)),
)
"""Integers at which some counter, product or type ends."""

CANARY = "canary-was-run"
"""What code of an input would leave in the working folder if it were ever run."""
FORGED = "Error: forged"
"""A line that no message may begin with: it stands behind line breaks in names."""

HOSTILE_TEXT = (
    *("../../etc/passwd", "/etc/passwd", "a/../../b", "..", ".", "", "..\\..\\x", "x/" * 300),
    *(
        "\x1b[2J\x1b[31mred",
        "\x1b]0;title\x07",
        f"name\n{FORGED}",
        f"\r\n{FORGED}",
        f"a\u2028{FORGED}",
        "\x00",
        "\x7f\x9b2J",
    ),
    *(
        "\u202etxt.exe",
        "\ufeff",
        "\ud800",
        "🙂",
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[bold]x[/]",
        "[/]",
    ),
    *("{layer}", "{0.__class__}", "%n%s%x", "${HOME}", "`id`", "'\"", "a" * 5000, "9" * 5000),
    *(
        "layers.0.keys",
        "layers.00.keys",
        "layers.-1.keys",
        "layers.１.keys",
        "layers." + "9" * 5000 + ".keys",
        "keys",
        "scale",
        "k_scale",
    ),
    *(f"__import__('os').system('touch {CANARY}')", "nan", "inf", "-0", "1e999", "1_0", "0x10", "True", "None"),
)
"""Names and texts that a careless program obeys, prints, believes or chokes on."""


class Draw(Random):
    """Random choices of one case.

    Parameters
    ----------
    target : str
    seed, case : int
    """

    def __init__(self, target: str, seed: int, case: int) -> None:
        super().__init__(f"{target}/{seed}/{case}")

    def chance(self, probability: float) -> bool:
        """Be true that often."""
        return self.random() < probability

    def count(self) -> int:
        """Return an integer that is likely to be at some end."""
        if self.chance(0.3):
            return self.choice(COUNTS) + self.randint(-2, 2)
        return self.choice(COUNTS)

    def text(self) -> str:
        """Return a name or text that means no good."""
        if self.chance(0.1):
            return "".join(self.choice(HOSTILE_TEXT)[:40] for _ in range(2))
        return self.choice(HOSTILE_TEXT)

    def one(self, of: Sequence[T]) -> T:
        """Return one of some; there must be one."""
        return of[int(self.random() * len(of))]

    def octets(self, most: int) -> bytes:
        """Return up to so many random bytes, of which some kinds are likelier."""
        length = self.randint(0, self.choice((4, 16, 64, most)))
        return self.choice((self.randbytes, bytes, lambda n: b"\xff" * n))(min(length, most))

    def times(self) -> int:
        """Return how many changes are made at once: mostly one."""
        return self.choice((1, 1, 1, 2, 2, 3, 5))
