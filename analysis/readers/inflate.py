"""Deflated bytes read by ranges: unpacked piece by piece, from the last of some marked places on, and never held as a whole."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from precalign.analysis.readers.base import damaged, printable

if TYPE_CHECKING:
    from precalign.analysis.readers.ranges import RangedFile
    from precalign.errors import InputError

MAX_DEFLATE_RATIO = 1032
"""A deflated byte cannot become more: the longest match, 258 bytes, takes two bits at least."""
PACKED_PIECE_BYTES, UNPACKED_PIECE_BYTES = 64 << 10, 1 << 20
MARKS_PER_MEMBER, MAX_MARKS = 64, 256
"""A mark is a copy of zlib's state, 40 to 50 KiB: about 12 MiB for an archive."""


class _Packed(Protocol):
    """What is to be known of a member (`zips.Member`)."""

    @property
    def name(self) -> str: ...
    @property
    def packed_bytes(self) -> int: ...
    @property
    def size(self) -> int: ...


class _Mark(NamedTuple):
    """A place from where unpacking can go on."""

    unpacked: int
    packed: int
    state: Any


class Marks:
    """The marks of an archive: the `MAX_MARKS` used last, shared by threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[int, int], _Mark] = OrderedDict()
        self._lock = Lock()

    def before(self, begin: int, number: int) -> _Mark:
        """Return the last mark of a member up to its `number`-th."""
        with self._lock:
            for n in range(number, 0, -1):
                if (mark := self._held.get((begin, n))) is not None:
                    self._held.move_to_end((begin, n))
                    return _Mark(mark.unpacked, mark.packed, mark.state.copy())
        return _Mark(0, 0, zlib.decompressobj(-zlib.MAX_WBITS))

    def keep(self, begin: int, number: int, mark: _Mark) -> None:
        """Keep a mark of the member that begins there, and let go of the one not used for longest."""
        with self._lock:
            self._held[begin, number] = mark
            self._held.move_to_end((begin, number))
            if len(self._held) > MAX_MARKS:
                self._held.popitem(last=False)


class Inflated:
    """The unpacked bytes of a deflated member.

    Parameters
    ----------
    file : RangedFile
    begin : int
        Where its packed bytes begin.
    member : zips.Member
    marks : Marks

    Attributes
    ----------
    size : int
        What the directory claims; never is more unpacked, and less is an error once it is read.
    gap : int
        As large as the member: what lies between is unpacked anyhow.
    """

    def __init__(self, file: RangedFile, begin: int, member: _Packed, marks: Marks) -> None:
        self._file, self._begin, self._member, self._marks = file, begin, member, marks
        self.size = self.gap = member.size
        self.block = UNPACKED_PIECE_BYTES
        self._stride = max(UNPACKED_PIECE_BYTES, -(-self.size // MARKS_PER_MEMBER))

    def read(self, start: int, length: int) -> bytes:
        """Return bytes, fewer at the end.

        Raises
        ------
        InputError
            As `fill`.
        """
        held = bytearray(max(0, min(length, self.size - start)))
        self.fill(start, memoryview(held))
        return bytes(held)

    def fill(self, start: int, buffer: memoryview) -> None:
        """Unpack as many bytes as a buffer takes.

        Raises
        ------
        InputError
            If the member does not unpack, or ends before that.
        """
        end = start + len(buffer)
        mark = self._marks.before(self._begin, start // self._stride)
        while mark.unpacked < end:
            before = mark.unpacked
            piece, mark = self._piece(mark, end)
            if mark.unpacked > start:
                buffer[max(0, before - start) : mark.unpacked - start] = piece[max(0, start - before) :]

    def _piece(self, mark: _Mark, end: int) -> tuple[bytes, _Mark]:
        """Unpack up to the next mark, and keep it."""
        number = mark.unpacked // self._stride + 1
        wanted = min(number * self._stride, end, mark.unpacked + UNPACKED_PIECE_BYTES) - mark.unpacked
        packed = self._file.read(
            self._begin + mark.packed, min(PACKED_PIECE_BYTES, self._member.packed_bytes - mark.packed)
        )
        try:
            piece = mark.state.decompress(packed, wanted)
        except zlib.error as error:
            raise self._damaged(printable(error)) from error
        used = len(packed) - len(mark.state.unconsumed_tail) - len(mark.state.unused_data)
        if not piece and (used == 0 or mark.state.eof):
            raise self._damaged(f"it ends after {mark.unpacked} bytes, {self.size} were announced")
        after = _Mark(mark.unpacked + len(piece), mark.packed + used, mark.state)
        if after.unpacked == number * self._stride and not mark.state.eof:
            self._marks.keep(self._begin, number, after._replace(state=mark.state.copy()))
        return piece, after

    def _damaged(self, reason: str) -> InputError:
        return damaged(self._file.place, f"member {printable(self._member.name)} cannot be unpacked ({reason})")
