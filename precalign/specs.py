"""Things with parameters, as a user writes them: "name" or "name:parameter=value,parameter=value"."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from precalign.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def spec_text(described: Any) -> str:  # noqa: ANN401 - a dataclass with a name
    """Return "name" or "name:parameter=value,..", with the parameters that differ from their defaults: what `parse_spec` reads."""
    held = {f.name: getattr(described, f.name) for f in fields(described) if getattr(described, f.name) != f.default}
    shown = (
        f"{name}={value:g}" if isinstance(value, int | float) else f"{name}={value}" for name, value in held.items()
    )
    return f"{described.name}:{','.join(shown)}" if held else str(described.name)


def parse_spec(text: str, known: Mapping[str, type[T]], kind: str) -> T:
    """Return the dataclass of `known` that the text describes.

    Parameters
    ----------
    text : str
    known : mapping of str to dataclass
        Its fields, all with defaults, are the parameters.
    kind : str
        What messages call it: "rule", "codec".

    Raises
    ------
    UsageError
        If the name or a parameter is not known, or a value is not of the type of the parameter's default.
    """
    name, _, parameters = text.partition(":")
    found: Any = known.get(name)
    if found is None:
        raise UsageError(f"unknown {kind} {name!r}", hint=f"{kind}s: " + ", ".join(sorted(known)))
    types: dict[str, type[Any]] = {field.name: type(field.default) for field in fields(found)}
    arguments = {}
    for part in filter(None, parameters.split(",")):
        key, _, value = part.partition("=")
        if key not in types:
            listed = ", ".join(types) or "none"
            raise UsageError(f"{kind} {name}: unknown parameter {key!r}", hint=f"parameters of {name}: {listed}")
        try:
            arguments[key] = types[key](value)
        except ValueError:
            raise UsageError(f"{kind} {name}: {key} must be of type {types[key].__name__}, not {value!r}") from None
    made: T = found(**arguments)
    return made
