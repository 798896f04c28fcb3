"""Which decode steps a policy is calibrated on, and which are held back to verify it: never the same ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.errors import InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.inputs import Steps

HINT = "--holdout takes blocks:N (every second block of N steps) or tail:P (the last P percent)"


@dataclass(frozen=True)
class Holdout:
    """How steps are split.

    blocks:N cuts the steps, in their order, into blocks of N counted from the end, and holds back the last, the third last, and so on:
    both halves then cover all context lengths, and only steps at the borders of blocks have a neighbour on the other side.
    tail:P holds back the last P percent: later tokens and longer contexts than any that was calibrated on.

    Attributes
    ----------
    kind : str
        "blocks" or "tail".
    size : int
        N or P.
    """

    kind: str
    size: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.size}"

    def held_back(self, n_steps: int) -> NDArray[np.bool_]:
        """Return which of the steps are held back, (n_steps,)."""
        from_end = np.arange(n_steps)[::-1]
        blocks = self.kind == "blocks"
        held: NDArray[np.bool_] = (
            from_end // self.size % 2 == 0 if blocks else from_end < -(-n_steps * self.size // 100)
        )
        return held

    def split(self, steps: Steps, name: str) -> tuple[Steps, Steps]:
        """Return the steps to calibrate on and those held back.

        Raises
        ------
        InputError
            If either would be empty; `name` says whose steps they are.
        """
        held_back = self.held_back(len(steps))
        if held_back.all():
            count = "1 decode step" if len(steps) == 1 else f"{len(steps)} decode steps"
            raise InputError(
                f"{name}: --holdout {self} leaves no step to calibrate on: there {'is' if len(steps) == 1 else 'are'} {count}",
                hint="take more --steps, or hold back smaller blocks; a policy needs steps to find it and others to verify it",
            )
        return select(steps, ~held_back), select(steps, held_back)


def select(steps: Steps, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Steps:
    """Return the steps chosen by a mask or by indices."""
    return type(steps)(steps.queries[chosen], steps.first[chosen], steps.visible[chosen])


def parse_holdout(text: str) -> Holdout:
    """Read "blocks:N" or "tail:P".

    Raises
    ------
    UsageError
        If the text is neither, or N is 0, or P is not within 1 .. 99.
    """
    found = re.fullmatch(r"(blocks):(\d{1,9})|(tail):(\d{1,2})%?", text)
    if found is None or int(found[2] or found[4]) == 0:
        raise UsageError(f"--holdout {text}: not understood", hint=HINT)
    return Holdout(found[1] or found[3], int(found[2] or found[4]))
