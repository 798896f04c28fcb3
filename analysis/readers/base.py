"""What a reader of one file format offers: named tensors that are read only where they are looked at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from precalign.decode.codes import BYTE_FORMATS
from precalign.errors import MOST_LINE, InputError
from precalign.errors import shown as as_shown
from precalign.formats import BFLOAT16, BINARY16, BINARY32, Format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from precalign.analysis.readers.address import Place

STORED_FORMATS = (BINARY16, BFLOAT16, BINARY32, *BYTE_FORMATS)
"""Formats of tensors that can be analysed; binary32 after rounding to one of 16 bits."""
RAW_BYTES = ("U8", "uint8", "|V1")
"""What files call bytes without a type, in which some engines keep 8-bit caches."""


def printable(name: object, limit: int = 100) -> str:
    """Return text from a file as it may be shown: no control characters, no escapes, not endless.

    Names in a dump are somebody else's bytes; a terminal must not obey them.
    """
    return as_shown(name, limit)


def shown(place: object) -> str:
    """Return a path or URL as it may be shown, whole unless it is absurdly long."""
    return as_shown(place, MOST_LINE)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes
    ----------
    name : str
        As stored; show it through `printable`.
    shape : tuple[int, ...]
    format : Format or None
        None if it is no floating-point format that precalign analyses; codes are then bytes where they are one byte wide.
    dtype : str
        As the file calls it, for messages.
    codes : callable
        () -> codes as an array of the shape, or a `RangedArray` that is read when it becomes an array of its own: cheap to call.
    """

    name: str
    shape: tuple[int, ...]
    format: Format | None
    dtype: str
    codes: Callable[[], Any]


@dataclass
class TensorFile:
    """An opened file.

    Attributes
    ----------
    tensors : dict[str, StoredTensor]
    metadata : dict[str, str]
        What the file says about itself.
    close : callable
    """

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


class Reader(ABC):
    """One file format. Readers never trust a length that the file claims before comparing it with the file's size."""

    name: ClassVar[str]

    @abstractmethod
    def recognises(self, path: Place, start: bytes) -> bool:
        """Whether this is such a file, from its first bytes (empty for a directory)."""

    @abstractmethod
    def open(self, path: Place) -> TensorFile:
        """Open it without reading tensor data.

        Raises
        ------
        InputError
            If the file is not whole or not what it claims to be.
        """


def in_turn(actions: Iterable[Callable[[], None]]) -> Callable[[], None]:
    """Return one action that does all."""
    held = list(actions)

    def act() -> None:
        for action in held:
            action()

    return act


def damaged(path: object, what: str, hint: str | None = None) -> InputError:
    """Return the error for a file that is not whole."""
    return InputError(
        f"{shown(path)}: {what}", hint=hint or "the file is damaged or its copy was cut short; fetch it again"
    )


MAX_AXES, MAX_AXIS = 64, 1 << 62


def check_shape(path: object, what: str, shape: tuple[int, ...], item_bytes: int) -> int:
    """Return the bytes that a shape needs; counts are integers without bound, so that no claim wraps around.

    Raises
    ------
    InputError
        If it has more axes than any tensor, or longer ones: no array has such a shape even without elements.
    """
    if (
        len(shape) > MAX_AXES
        or min(shape, default=0) < 0
        or prod(max(n, 1) for n in shape) * max(item_bytes, 1) > MAX_AXIS
    ):
        raise damaged(path, f"{what} has a shape that no tensor has: {printable(shape)}")
    return item_bytes * prod(shape)
