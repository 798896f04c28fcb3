"""A seeded defect: one small change to a kernel source."""

from __future__ import annotations

from dataclasses import dataclass

from precalign.errors import PrecalignError


@dataclass(frozen=True)
class Mutant:
    """A defect: `old` stands exactly once in `file` and becomes `new`.

    Attributes
    ----------
    kind : str
        What sort of mistake it is.
    rule : str
        A rule under which the changed code is compiled.
    one_pass : bool
        Whether that is in the order of one-pass kernels.
    """

    name: str
    kind: str
    file: str
    old: str
    new: str
    rule: str = "alignedkv"
    one_pass: bool = False

    def apply(self, sources: dict[str, str]) -> dict[str, str]:
        """Return the sources with the defect.

        Raises
        ------
        PrecalignError
            If `old` does not stand exactly once in `file`: the list has fallen behind the sources.
        """
        text = sources[self.file]
        if text.count(self.old) != 1:
            raise PrecalignError(f"mutant {self.name}: {self.old!r} stands {text.count(self.old)} times in {self.file}")
        return sources | {self.file: text.replace(self.old, self.new)}
