"""Makes a failing program small: takes statements out as long as it still fails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from precalign.gpu.ptx.fuzz.compare import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from precalign.gpu.ptx.fuzz.generate import Program, Statement


def _smaller(statements: list[Statement]) -> Iterator[list[Statement]]:
    """Yield what is left when one part is taken out: a half, a statement, or the shell around others."""
    n = len(statements)
    size = n // 2
    while size >= 1:
        for start in range(0, n, size):
            yield statements[:start] + statements[start + size :]
        size //= 2
    for i, statement in enumerate(statements):
        before, after = statements[:i], statements[i + 1 :]
        for body in statement.bodies:
            yield [*before, *body, *after]
        for number, body in enumerate(statement.bodies):
            for less in _smaller(body):
                bodies = [*statement.bodies[:number], less, *statement.bodies[number + 1 :]]
                yield [*before, replace(statement, bodies=bodies), *after]


def minimise(program: Program, fails: Callable[[Program], bool] | None = None) -> Program:
    """Return a program that still fails and from which no part can be taken.

    Parameters
    ----------
    program : Program
        One that fails.
    fails : callable, optional
        Tells whether a program fails; by default, whether the engines differ on it.
    """
    still_fails = fails or (lambda p: bool(difference([p])[0]))
    shrinking = True
    while shrinking:
        shrinking = False
        for statements in _smaller(program.statements):
            smaller = replace(program, statements=statements)
            if still_fails(smaller):
                program, shrinking = smaller, True
                break
    return program
