"""The registry of translations: (opcode, kind of its last type) -> what to write."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from precalign.gpu.ptx.operations.registry import Modifiers
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.gpu.ptx.scalars import Scalar

TRANSLATIONS: dict[tuple[str, str], Callable[[Modifiers], Translation]] = {}


@dataclass(frozen=True)
class Translation:
    """An opcode with its modifiers resolved.

    Attributes
    ----------
    results, sources : tuple of Scalar
    write : callable
        (code, vectors of the sources' widths) to the vector of the result, or a tuple of two.
    wide_registers : bool
        Registers wider than the type are allowed.
    model : str
        Not empty where the hardware's result is not specified to the bit: what is computed instead.
    """

    results: tuple[Scalar, ...]
    sources: tuple[Scalar, ...]
    write: Callable[..., Any]
    wide_registers: bool = False
    model: str = ""


def same(scalar: Scalar, n_sources: int, write: Callable[..., str]) -> Translation:
    """Return a translation whose sources and result are of one type."""
    return Translation((scalar,), (scalar,) * n_sources, write)


def translation(names: str, kinds: str) -> Callable[[Any], Any]:
    """Register a function of `Modifiers` for opcodes and kinds of last type, each separated by blanks."""

    def register(resolver: Any) -> Any:  # noqa: ANN401 - returned as it came
        for name in names.split():
            for kind in kinds.split():
                TRANSLATIONS[name, kind] = resolver
        return resolver

    return register


@cache
def translate(opcode: str) -> Translation:
    """Return how an opcode is translated.

    Raises
    ------
    UnsupportedPtxError
        For an unknown opcode, modifier or type.
    """
    m = Modifiers(opcode)
    last = m.rest[-1] if m.rest else ""
    kind = SCALARS[last].kind if last in SCALARS else ""
    resolver = TRANSLATIONS.get((m.name, kind))
    if resolver is None:
        raise m.refuse(f"type .{last}" if any(name == m.name for name, _ in TRANSLATIONS) else "this opcode")
    found = resolver(m)
    m.finish()
    return found
