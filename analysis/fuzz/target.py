"""What can be fuzzed: valid inputs, ways to damage them, and the reader that is given them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from precalign.errors import InputError, PrecalignError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from precalign.analysis.fuzz.draw import Draw

Case = dict[str, bytes]
"""File name -> content, in the order in which they are written; the first is the one that is opened."""
TEXT = "text"
"""Name of the only file of a case that is a text and is not written to the disk."""


@dataclass(frozen=True)
class Bound:
    """What memory a reader may take beside the process that it runs in.

    Attributes
    ----------
    constant_bytes : int
    per_byte : int
        Times the size of all files of a case.
    """

    constant_bytes: int = 16 << 20
    per_byte: int = 16

    def of(self, size: int) -> int:
        """Return the bytes for a case of so many."""
        return self.constant_bytes + self.per_byte * size

    def __str__(self) -> str:
        return f"{self.constant_bytes >> 20} MiB + {self.per_byte} × size"


class Target(ABC):
    """One reader or parser.

    A target is used from one thread of one process. Everything that it does must depend on its arguments alone.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    """What is read, in a few words."""
    bound: ClassVar[Bound] = Bound()
    refusals: ClassVar[tuple[type[PrecalignError], ...]] = (InputError, UnavailableError, UsageError)
    """What a reader may raise; anything else is a finding."""

    @abstractmethod
    def seeds(self) -> Sequence[Case]:
        """Return valid inputs, the same ones every time.

        Raises
        ------
        UnavailableError
            If a package is missing that makes or reads them.
        """

    @abstractmethod
    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Return a case: valid inputs after some changes, or none at all."""

    def place(self, case: Case, folder: Path) -> None:
        """Write what the reader will read; nothing where it reads no files."""
        del case, folder

    @abstractmethod
    def run(self, case: Case, folder: Path) -> None:
        """Read it, as a command would; everything that is read is looked at."""

    def warm(self, case: Case, folder: Path) -> None:
        """Read a seed, so that all is imported and compiled that cases may need; it must not be refused."""
        self.run(case, folder)


class FileTarget(Target):
    """A reader of files."""

    def place(self, case: Case, folder: Path) -> None:
        """Write the files of a case."""
        for name, content in case.items():
            path = folder / name
            if "/" in name:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def run(self, case: Case, folder: Path) -> None:
        """Open the first file."""
        self.read(folder / next(iter(case)))

    @abstractmethod
    def read(self, path: Path) -> None:
        """Read what lies there."""


class TextTarget(Target):
    """A parser of text that is no file: an option, a specification."""

    def run(self, case: Case, folder: Path) -> None:
        """Parse the text; bytes that are no UTF-8 come as they come from a command line."""
        del folder
        self.parse(case[TEXT].decode("utf-8", "surrogateescape"))

    @abstractmethod
    def parse(self, text: str) -> None:
        """Parse it."""
