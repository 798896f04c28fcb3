"""Zip archives: a writer of which every field can be made to lie."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.fuzz.draw import Draw

STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
_LOCAL, _CENTRAL, _END = "<4s5H3L2H", "<4s6H3L5H2L", "<4s4H2LH"
LOCAL_FIELDS = ("version", "flags", "method", "time", "date", "crc", "packed", "size", "name_length", "extra_length")
CENTRAL_FIELDS = (
    *("made_by", "version", "flags", "method", "time", "date", "crc", "packed", "size", "name_length", "extra_length", "comment_length"),
    *("disk", "internal", "external", "offset"),
)  # fmt: skip
END_FIELDS = ("disk", "central_disk", "entries_here", "entries", "central_size", "central_offset", "comment_length")
_WIDE = {"crc", "packed", "size", "external", "offset", "central_size", "central_offset"}
MOST_MEMBER_BYTES = 1 << 16


@dataclass(frozen=True)
class Member:
    """A member in the making.

    Attributes
    ----------
    name : str
    content : bytes
    method : int
        How it is compressed.
    local, central : dict
        Fields that lie, in the header before the data and in the directory at the end.
    extra : bytes
        Extra field of both.
    packed : bytes or None
        Data in place of the compressed content.
    align : bool
        Whether the data begins at a multiple of 64 bytes, as torch.save and others have it.
    """

    name: str
    content: bytes
    method: int = STORED
    local: dict[str, int] = field(default_factory=dict)
    central: dict[str, int] = field(default_factory=dict)
    extra: bytes = b""
    packed: bytes | None = None


@dataclass(frozen=True)
class Archive:
    """An archive in the making.

    Attributes
    ----------
    members : tuple of Member
    end : dict
        Fields of the end record that lie.
    zip64 : bool
        Whether an end record of 64 bits stands before it.
    before, comment : bytes
        What stands in front of everything and at the end.
    """

    members: tuple[Member, ...]
    end: dict[str, int] = field(default_factory=dict)
    zip64: bool = False
    before: bytes = b""
    comment: bytes = b""

    def octets(self) -> bytes:
        """Return the file."""
        out, directory = bytearray(self.before), bytearray()
        for member in self.members:
            name = member.name.encode("utf-8", "surrogatepass")
            packed = _packed(member)
            true = {
                "version": 20, "made_by": 20, "flags": 0x800, "method": member.method, "time": 0, "date": 33,
                "crc": zlib.crc32(member.content), "packed": len(packed), "size": len(member.content),
                "name_length": len(name), "extra_length": len(member.extra), "comment_length": 0, "disk": 0, "internal": 0,
                "external": 0, "offset": len(out),
            }  # fmt: skip
            directory += _record(_CENTRAL, b"PK\x01\x02", CENTRAL_FIELDS, true | member.central) + name + member.extra
            out += _record(_LOCAL, b"PK\x03\x04", LOCAL_FIELDS, true | member.local) + name + member.extra + packed
        start = len(out)
        out += directory
        count = len(self.members)
        if self.zip64:
            at = len(out)
            out += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), start)
            out += struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
        ends = {
            "disk": 0, "central_disk": 0, "entries_here": count, "entries": count, "central_size": len(directory),
            "central_offset": start, "comment_length": len(self.comment),
        }  # fmt: skip
        return bytes(out + _record(_END, b"PK\x05\x06", END_FIELDS, ends | self.end) + self.comment)


def _packed(member: Member) -> bytes:
    if member.packed is not None:
        return member.packed
    if member.method == DEFLATED:
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        return packer.compress(member.content) + packer.flush()
    if member.method == BZIP2:
        return bz2.compress(member.content, 1)
    if member.method == LZMA:
        filters = [{"id": lzma.FILTER_LZMA1, "preset": 0}]
        raw = lzma.compress(member.content, lzma.FORMAT_RAW, filters=filters)
        return struct.pack("<BBH", 9, 4, 5) + b"\x5d\x00\x00\x04\x00" + raw
    return member.content


def _record(form: str, magic: bytes, names: Sequence[str], values: dict[str, int]) -> bytes:
    numbers = (values[name] % (1 << (32 if name in _WIDE else 16)) for name in names)
    return struct.pack(form, magic, *numbers)


def change_archive(draw: Draw, archive: Archive) -> Archive:
    """Return an archive after one or a few changes; its members' contents stay what they are."""
    for _ in range(draw.times()):
        archive = _changed(draw, archive)
    return archive


def _changed(draw: Draw, archive: Archive) -> Archive:
    what, members = draw.randrange(10), list(archive.members)
    if what == 0:
        return replace(archive, end=archive.end | {draw.one(END_FIELDS): draw.count()})
    if what == 1:
        return replace(
            archive, zip64=not archive.zip64, end=archive.end | {"central_offset": 0xFFFFFFFF, "entries": 0xFFFF}
        )
    if what == 2:
        return replace(archive, before=draw.octets(64), comment=draw.octets(64))
    if not members:
        return archive
    at = draw.randrange(len(members))
    if what == 3:
        members.insert(draw.randint(0, len(members)), members[at])
    elif what == 4:
        del members[at]
    else:
        members[at] = _changed_member(draw, members[at], members)
    return replace(archive, members=tuple(members))


def _changed_member(draw: Draw, member: Member, members: Sequence[Member]) -> Member:
    what = draw.randrange(8)
    if what == 0:
        suffix = draw.one(("", ".npy"))
        return replace(
            member, name=draw.one((draw.text(), draw.text() + suffix, "/" + member.name, "../" + member.name))[:60_000]
        )
    if what == 1:
        return replace(member, name=draw.one(members).name)
    if what == 2:
        return replace(member, method=draw.one((STORED, DEFLATED, BZIP2, LZMA, 1, 9, 93, 99)))
    if what == 3:
        return replace(
            member, local=member.local | {draw.one(LOCAL_FIELDS): draw.one((draw.count(), draw.randint(0, 300)))}
        )
    if what == 4:
        return replace(
            member, central=member.central | {draw.one(CENTRAL_FIELDS): draw.one((draw.count(), draw.randint(0, 300)))}
        )
    if what == 5:
        number = draw.one((draw.count(), draw.randint(0, len(member.content) + 2)))
        lie = {draw.one(("size", "packed", "offset")): number}
        return replace(member, central=member.central | lie, local=member.local | lie)
    if what == 6:
        wide = struct.pack("<2H3Q", 1, 24, *(draw.count() % (1 << 64) for _ in range(3)))
        return replace(member, extra=draw.one((wide, wide[: draw.randint(0, 27)], draw.octets(40))))
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bomb.compress(member.content[:128] + bytes(draw.one((1 << 10, 1 << 16, 1 << 20)))) + bomb.flush()
    return replace(
        member,
        method=DEFLATED,
        packed=zeros[:MOST_MEMBER_BYTES],
        central=member.central | {"size": draw.one((1 << 10, 1 << 20, 1 << 31, 0xFFFFFFFE))},
    )
