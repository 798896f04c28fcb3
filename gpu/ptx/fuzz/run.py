"""Many programs, some processes, one tally."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from precalign.gpu.ptx.fuzz.compare import difference
from precalign.gpu.ptx.fuzz.generate import TOGETHER, Drawer
from precalign.gpu.ptx.fuzz.minimise import minimise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Failure:
    """A program on which the engines differ, made small.

    Attributes
    ----------
    seed : int
    difference : str
        Of the small program.
    text : str
        Its PTX.
    grid, block : tuple of int
    """

    seed: int
    difference: str
    text: str
    grid: tuple[int, ...]
    block: tuple[int, ...]


@dataclass
class Tally:
    """What a run found.

    Attributes
    ----------
    programs, instructions : int
    opcodes : set of str
        With all modifiers, as executed.
    failures : list of Failure
    """

    programs: int = 0
    instructions: int = 0
    opcodes: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)


def compare_group(first: int, n: int, optimise: int = 2) -> tuple[int, set[str], list[Failure]]:
    """Compare the engines on the programs of n seeds from `first` that share a shape.

    Returns
    -------
    instructions : int
    opcodes : set of str
    failures : list of Failure
    """
    programs = [Drawer(seed).draw() for seed in range(first, first + n)]
    found, instructions, opcodes = difference(programs, optimise=optimise)
    if not found:
        return instructions, opcodes, []
    failures = []
    for program in programs:
        if difference([program], optimise=optimise)[0]:
            small = minimise(program)
            told = difference([small])[0] or difference([program], optimise=optimise)[0]
            failures.append(Failure(program.seed, told, small.text(), small.grid, small.block))
    whole = Failure(first, f"only together: {found}", "", programs[0].grid, programs[0].block)
    return instructions, opcodes, failures or [whole]


def groups(first: int, n: int) -> Iterator[tuple[int, int]]:
    """Cut seeds into groups that share a shape."""
    at, end = first, first + n
    while at < end:
        following = min(end, (at // TOGETHER + 1) * TOGETHER)
        yield at, following - at
        at = following


def fuzz(
    n: int,
    seed: int = 0,
    *,
    optimise: int = 2,
    most_failures: int = 3,
    progress: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Draw programs and compare the engines on each.

    Parameters
    ----------
    n : int
        Programs.
    seed : int
        Of the first; the others follow.
    optimise : int
        Level of LLVM's code generator, 0 to 3.
    most_failures : int
        Stop after so many.
    progress : callable
        Told how many programs were done.
    """
    tally = Tally()
    for first, count in groups(seed, n):
        instructions, opcodes, failures = compare_group(first, count, optimise)
        tally.programs += count
        tally.instructions += instructions
        tally.opcodes |= opcodes
        tally.failures += failures
        progress(count)
        if len(tally.failures) >= most_failures:
            break
    return tally
