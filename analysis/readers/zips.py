"""Zip archives as .npz and .pt are: the directory is checked before anything in it is believed, and members are read by ranges.

Python's own module keeps the whole directory whatever its size and unpacks members from their beginning; here both are bounded. What NumPy and
PyTorch write is read: stored and deflated members, with and without zip64. Nothing is ever extracted to a file.

Source: APPNOTE.TXT, the .ZIP file format specification, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precalign.analysis.readers.base import damaged, printable, shown
from precalign.analysis.readers.inflate import MAX_DEFLATE_RATIO, Inflated
from precalign.errors import InputError

if TYPE_CHECKING:
    from precalign.analysis.readers.inflate import Marks
    from precalign.analysis.readers.ranges import RangedFile, Source

MAX_DIRECTORY_BYTES = 32 << 20
MAX_MEMBERS = 1 << 17
STORED, DEFLATED = 0, 8
ENCRYPTED, UTF8 = 1 << 0, 1 << 11
"""Bits of a member's flags."""
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
"""In place of numbers that only fit into the fields of zip64."""
END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
MAX_COMMENT_BYTES = 0xFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """One line of the directory.

    Attributes
    ----------
    name : str
        As stored; show it through `printable`.
    method, flags : int
    packed_bytes, size : int
        In the archive, and unpacked; claims, the first compared with the file's size.
    header : int
        Where its local header begins.
    """

    name: str
    method: int
    flags: int
    packed_bytes: int
    size: int
    header: int


def members(file: RangedFile) -> list[Member]:
    """Return the members of an archive in the order of its directory.

    Raises
    ------
    InputError
        If it is no whole archive, a member stands twice, points outside or has more bytes than the file.
    """
    count, begin, length = _directory(file)
    if length > MAX_DIRECTORY_BYTES or count > MAX_MEMBERS:
        raise damaged(
            file.place,
            f"the archive's directory claims {count} members in {length} bytes; {MAX_MEMBERS} in {MAX_DIRECTORY_BYTES} are read",
            "is this a dump of a cache?",
        )
    held = file.read(begin, length)
    found: dict[str, Member] = {}
    at = 0
    while at < length:
        member, at = _entry(file, held, at)
        if member.name in found:
            raise damaged(file.place, f"member {printable(member.name)} stands twice")
        found[member.name] = member
    if len(found) != count:
        raise damaged(file.place, f"not a whole archive: its directory claims {count} members and lists {len(found)}")
    return list(found.values())


def _directory(file: RangedFile) -> tuple[int, int, int]:
    """Return the number of members, and where the directory begins and how long it is."""
    if file.size == 0:
        raise damaged(file.place, "the file is empty")
    start = max(0, file.size - END.size - MAX_COMMENT_BYTES)
    tail = file.read(start, file.size - start)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if at + END.size <= len(tail) and at + END.size + END.unpack_from(tail, at)[7] == len(tail):
            break
        at = tail.rfind(b"PK\x05\x06", 0, at)
    else:
        raise damaged(file.place, "not a whole archive: the end of its directory is missing")
    _, disk, first_disk, here, count, length, begin, _ = END.unpack_from(tail, at)
    end = start + at
    if FULL16 in {here, count} or FULL32 in {length, begin}:
        count, length, begin, end = _directory64(file, end)
    elif disk or first_disk or here != count:
        raise damaged(file.place, "an archive of several parts", "join the parts first")
    if begin + length > end:
        raise damaged(file.place, "not a whole archive: its directory does not lie before its end")
    return count, begin, length


def _directory64(file: RangedFile, end: int) -> tuple[int, int, int, int]:
    locator = file.read(max(0, end - END64_LOCATOR.size), END64_LOCATOR.size)
    if end < END64_LOCATOR.size or locator[:4] != b"PK\x06\x07":
        raise damaged(file.place, "not a whole archive: its zip64 locator is missing")
    at = END64_LOCATOR.unpack(locator)[2]
    held = file.read(at, END64.size)
    if at + END64.size > end or held[:4] != b"PK\x06\x06":
        raise damaged(file.place, "not a whole archive: its zip64 directory end is missing")
    *_, count, length, begin = END64.unpack(held)
    return count, length, begin, at


def _entry(file: RangedFile, held: bytes, at: int) -> tuple[Member, int]:
    if at + ENTRY.size > len(held) or held[at : at + 4] != b"PK\x01\x02":
        raise damaged(file.place, "not a whole archive: its directory holds something else than members")
    fields = ENTRY.unpack_from(held, at)
    flags, method, packed, size = fields[3], fields[4], fields[8], fields[9]
    name_bytes, extra_bytes, comment_bytes, header = fields[10], fields[11], fields[12], fields[16]
    name_end = at + ENTRY.size + name_bytes
    end = name_end + extra_bytes + comment_bytes
    if end > len(held):
        raise damaged(file.place, "not a whole archive: a member's line in its directory is cut short")
    name = _name(file, held[at + ENTRY.size : name_end], flags)
    size, packed, header = _wide(file, name, (size, packed, header), held[name_end : name_end + extra_bytes])
    _check(file, name, packed, header)
    return Member(name, method, flags, packed, size, header), end


def _name(file: RangedFile, held: bytes, flags: int) -> str:
    try:
        return held.decode("utf-8" if flags & UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise damaged(file.place, f"a member's name is not UTF-8: {printable(held)}") from error


def _wide(file: RangedFile, name: str, numbers: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Return unpacked size, packed size and offset with those that only zip64 can hold put in."""
    missing = [n == FULL32 for n in numbers]
    if not any(missing):
        return numbers
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and length >= 8 * sum(missing) and at + 4 + length <= len(extra):
            wide = iter(struct.unpack_from(f"<{sum(missing)}Q", extra, at + 4))
            size, packed, header = (next(wide) if gone else n for n, gone in zip(numbers, missing, strict=True))
            return size, packed, header
        at += 4 + length
    raise damaged(file.place, f"member {printable(name)} lacks the sizes of zip64")


def _check(file: RangedFile, name: str, packed: int, header: int) -> None:
    if name.startswith(("/", "\\", "..")) or ".." in name.replace("\\", "/").split("/"):
        raise InputError(  # nothing is ever extracted, but such a file means no good
            f"{shown(file.place)}: member {printable(name)} points outside the archive",
            hint="refused: no tensor is called that",
        )
    if header + LOCAL.size + packed > file.size:
        raise damaged(file.place, f"member {printable(name)} ends beyond the file")


def content(file: RangedFile, member: Member, marks: Marks) -> tuple[Source, int]:
    """Return a source of a member's unpacked bytes, and where in it they begin.

    Parameters
    ----------
    file : RangedFile
    member : Member
    marks : Marks
        Of the archive: from where deflated members can be unpacked.

    Raises
    ------
    InputError
        If it does not lie where the directory says, is encrypted, packed in another way, or claims more than can be packed so.
    """
    where = f"member {printable(member.name)}"
    if member.flags & ENCRYPTED:
        raise InputError(f"{shown(file.place)}: {where} is encrypted", hint="save it without a password")
    begin = _begin(file, member)
    if member.method == STORED:
        if member.packed_bytes != member.size:
            raise damaged(file.place, f"{where} is stored in {member.packed_bytes} bytes and claims {member.size}")
        return file, begin
    if member.method != DEFLATED:
        raise InputError(
            f"{shown(file.place)}: {where} is packed by method {member.method}, which is not read",
            hint="methods: stored (numpy.savez), deflate (numpy.savez_compressed)",
        )
    if member.size > MAX_DEFLATE_RATIO * member.packed_bytes:
        raise damaged(file.place, f"{where} claims {member.size} bytes, more than {member.packed_bytes} can unpack to")
    return Inflated(file, begin, member, marks), 0


def _begin(file: RangedFile, member: Member) -> int:
    where = f"member {printable(member.name)}"
    held = file.read(member.header, LOCAL.size)
    if len(held) < LOCAL.size or held[:4] != b"PK\x03\x04":
        raise damaged(file.place, f"{where} does not begin where the archive says")
    *_, name_bytes, extra_bytes = LOCAL.unpack(held)
    begin: int = member.header + LOCAL.size + name_bytes + extra_bytes
    if begin + member.packed_bytes > file.size:
        raise damaged(file.place, f"{where} ends beyond the file")
    return begin
