"""What the machine refuses and what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from precalign.errors import InputError, PrecalignError, UnavailableError

if TYPE_CHECKING:
    from precalign.gpu.ptx.program import Instruction, Location, Operand


class PtxSyntaxError(InputError):
    """Text that is not the PTX this package reads."""


class UnsupportedPtxError(UnavailableError):
    """An opcode, modifier or type that the machine does not model: it refuses rather than guesses."""


def operands_of(instruction: Instruction, count: int) -> tuple[Operand, ...]:
    """Return the operands of an instruction that takes so many.

    Raises
    ------
    PtxSyntaxError
        If there are more or fewer.
    """
    got = len(instruction.operands)
    if got != count:
        raise PtxSyntaxError(
            f"{instruction.opcode}: {count} {'operand' if count == 1 else 'operands'} expected, got {got}"
        )
    return instruction.operands


class KernelFault(PrecalignError):  # noqa: N818 - what it finds is called a fault
    """A defect of the kernel under test.

    Parameters
    ----------
    kind : str
        "out-of-bounds", "misaligned", "uninitialised", "race", "barrier", "deadlock" or "read-only".
    message : str
        What happened, to which thread.
    location : Location
        Where in the source.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, kind: str, message: str, location: Location) -> None:
        super().__init__(f"{location}: {kind}: {message}")
        self.kind = kind
        self.location = location
