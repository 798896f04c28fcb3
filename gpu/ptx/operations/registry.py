"""The registry of opcodes: what each one computes on arrays, one element a lane."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from precalign.gpu.ptx.faults import UnsupportedPtxError
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.scalars import Scalar

Array = Any


@dataclass(frozen=True)
class Operation:
    """An opcode with its modifiers resolved.

    Attributes
    ----------
    results, sources : tuple of Scalar
        Types of the destination and of each source operand.
    function : callable
        Source arrays (of `Scalar.dtype`) to result array, or to a tuple of them.
    wide_registers : bool
        Registers wider than the type are allowed, as for cvt.
    model : str
        Not empty where the hardware's result is not specified to the bit: what is computed instead.
    """

    results: tuple[Scalar, ...]
    sources: tuple[Scalar, ...]
    function: Callable[..., Any]
    wide_registers: bool = False
    model: str = ""


class Modifiers:
    """The modifiers of one opcode; each must be taken by somebody.

    Parameters
    ----------
    opcode : str
        "fma.rn.ftz.f32".
    """

    def __init__(self, opcode: str) -> None:
        self.opcode = opcode
        self.name, *self.rest = opcode.split(".")

    def take(self, *options: str, default: str = "") -> str:
        """Take the one of `options` that is there."""
        for option in options:
            if option in self.rest:
                self.rest.remove(option)
                return option
        return default

    def flag(self, option: str) -> bool:
        """Take a modifier that is there or not."""
        return bool(self.take(option))

    def scalar(self, *allowed: str) -> Scalar:
        """Take the last modifier, a type; `allowed` limits which."""
        name = self.rest.pop() if self.rest else ""
        if name not in SCALARS or (allowed and name not in allowed):
            raise self.refuse(f".{name}" if name else "a missing type")
        return SCALARS[name]

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self.rest:
            raise self.refuse(f".{self.rest[0]}")

    def refuse(self, what: str) -> UnsupportedPtxError:
        """Return the error for something not modelled."""
        return UnsupportedPtxError(f"{self.opcode}: {what} is not modelled here")


Resolver = "Callable[[Modifiers], Operation]"
REGISTRY: dict[tuple[str, str], Any] = {}
"""(opcode, kind of its last type) -> resolver. Kinds: u, s, b, f, packed, pred."""


def operation(name: str, kinds: str) -> Callable[[Any], Any]:
    """Register a resolver for an opcode and the kinds of last type it serves, separated by blanks."""

    def register(resolver: Any) -> Any:  # noqa: ANN401 - returned as it came
        for kind in kinds.split():
            REGISTRY[name, kind] = resolver
        return resolver

    return register


@cache
def resolve(opcode: str) -> Operation:
    """Return what an opcode computes.

    Raises
    ------
    UnsupportedPtxError
        For an unknown opcode, modifier or type.
    """
    modifiers = Modifiers(opcode)
    last = modifiers.rest[-1] if modifiers.rest else ""
    kind = SCALARS[last].kind if last in SCALARS else ""
    resolver = REGISTRY.get((modifiers.name, kind))
    if resolver is None:
        known = any(name == modifiers.name for name, _ in REGISTRY)
        what = f"type .{last}" if known else "this opcode"
        raise modifiers.refuse(what)
    resolved: Operation = resolver(modifiers)
    modifiers.finish()
    return resolved
