"""The errors a user may meet, each with a hint and an exit code.

Exit codes of the command (documented in docs/commands/index.md):

==== ==========================================================
0    done
1    done, and what was checked does not hold (a validation failed)
2    the command line is wrong
3    the input cannot be used (missing, malformed, unsupported)
4    the output cannot be written
5    a capability that this installation lacks (a package, a device)
70   a defect of precalign itself
130  interrupted
==== ==========================================================
"""

from __future__ import annotations

import re
from typing import ClassVar

MOST_LINE = 1000
"""Characters of a line of a message."""
KEPT_END = 300
"""Of a longer line, characters at its end that stay."""


def escaped(text: str) -> str:
    """Return text without characters that a terminal would obey: they stand as \\x1b, \\n, \\u202e."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(what: object, limit: int = 200) -> str:
    """Return what an input holds as a message may show it: in one line, escaped, not endless."""
    text = escaped(str(what)[: limit + 1])  # no character becomes less than one
    return text if len(text) <= limit else text[: limit - 1] + "…"


def harmless(text: str) -> str:
    """Return a message as it may be printed: escaped, no line endless, and all lines but the first indented.

    A line break that no two blanks follow is escaped like other control characters: what an input holds cannot begin a line of its own.
    """
    return "\n".join(_cut(escaped(line)) for line in re.split(r"\n(?=  )", text))


def _cut(line: str) -> str:
    """Take out the middle of an endless line: what is wrong stands behind the name of the file, however long that is."""
    return line if len(line) <= MOST_LINE else f"{line[: MOST_LINE - KEPT_END - 1]}…{line[-KEPT_END:]}"


class PrecalignError(Exception):
    """Base of every error that precalign raises on purpose.

    Parameters
    ----------
    message : str
        What was expected and what came, naming the file and tensor: "layers.3.keys: head_dim must match
        layers.3.values: 64 vs 128". Made `harmless`.
    hint : str, optional
        What the user can do about it; printed on a line of its own after "Hint:".
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = harmless(message)
        super().__init__(message)
        self.message = message
        self.hint = None if hint is None else shown(hint, MOST_LINE)

    def __reduce__(self) -> tuple[type[PrecalignError], tuple[str], dict[str, str | None]]:
        """Come out of another process as it went in, the hint included."""
        return type(self), (self.message,), {"hint": self.hint}

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nHint: {self.hint}"


class UsageError(PrecalignError):
    """An argument or option that cannot be meant."""

    exit_code = 2


class InputError(PrecalignError):
    """A file, tensor or value that cannot be used."""

    exit_code = 3


class OutputError(PrecalignError):
    """A place that cannot be written."""

    exit_code = 4


class UnavailableError(PrecalignError):
    """A capability that needs a package or device that is not here, or that is not built yet."""

    exit_code = 5
