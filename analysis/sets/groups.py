"""Groups of tasks: what is computed at once, anywhere, and how its rows travel back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from precalign.analysis.head import analyze_head
from precalign.analysis.plan import make_plan
from precalign.analysis.readers.identity import change
from precalign.analysis.results.schema import TABLES, table_schema
from precalign.analysis.sets.request import versions
from precalign.errors import InputError, PrecalignError, UnavailableError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from precalign.analysis.head import HeadResult
    from precalign.analysis.readers.address import Place
    from precalign.analysis.readers.identity import Identity
    from precalign.analysis.sets.planning import Planned
    from precalign.analysis.sets.request import Request

GROUP_COST = 1 << 22
"""Half a second of work or so: long beside what it takes to hand out a group, short beside a run that is killed."""
MAGIC = b"precalign group 1\n"
MOST_RATIO = 1 << 12
"""Bytes that a byte of packed rows can become."""
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Part:
    """Heads of one dump.

    Attributes
    ----------
    dump : int
        Number of the dump in the set.
    place : Path or Remote
    name : str
    identity : Identity
    begin, end : int
        Tasks of its plan.
    """

    dump: int
    place: Place
    name: str
    identity: Identity
    begin: int
    end: int


@dataclass(frozen=True)
class Group:
    """What one task of the scheduler computes.

    Attributes
    ----------
    index : int
    parts : tuple of Part
    steps : int
        Decode steps, for progress.
    """

    index: int
    parts: tuple[Part, ...]
    steps: int = 0

    @property
    def n_heads(self) -> int:
        """Heads in it."""
        return sum(part.end - part.begin for part in self.parts)


def make_groups(plans: Iterator[Planned], places: Sequence[Place]) -> Iterator[Group]:
    """Cut the heads of all dumps into groups of about equal cost, in order; the cuts depend on the plan alone."""
    index, parts, held, steps = 0, list[Part](), 0, 0.0
    for planned in plans:
        if planned.refused is not None:
            continue
        per_head = planned.n_steps / planned.n_heads
        for begin, end, cost in _runs(planned):
            if parts and held + cost > GROUP_COST:
                yield Group(index, tuple(parts), round(steps))
                index, parts, held, steps = index + 1, [], 0, 0.0
            _append(parts, Part(planned.dump, places[planned.dump], planned.name, planned.identity, begin, end))
            held, steps = held + cost, steps + per_head * (end - begin)
    if parts:
        yield Group(index, tuple(parts), round(steps))


def _runs(planned: Planned) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, cost) of every head."""
    head = 0
    for n, cost in planned.heads:
        for _ in range(n):
            yield head, head + 1, cost
            head += 1


def _append(parts: list[Part], part: Part) -> None:
    if parts and parts[-1].dump == part.dump:
        last = parts.pop()
        part = Part(part.dump, part.place, part.name, part.identity, last.begin, part.end)
    parts.append(part)


@dataclass
class Finished:
    """What came of a group.

    Attributes
    ----------
    heads : list of dict
        For each head in order: dump, layer, kv_head, skipped (why it was left out, or None), conversions, rows (table -> count). For
        a dump that was refused: dump and refused.
    tables : dict of str to pyarrow.Table
        Rows of all heads.
    """

    heads: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, pa.Table] = field(default_factory=dict)


def compute(
    request: Request, group: Group, levels: Sequence[int], expected: dict[str, str], advance: Callable[[int], None]
) -> bytes:
    """Analyse the heads of a group and return them as bytes (`pack`).

    Parameters
    ----------
    request : Request
    group : Group
    levels : sequence of int
        Of the set's layout.
    expected : dict
        `versions` of whoever asks.
    advance : callable
        Told how many steps are done; it may raise to stop the work.

    Raises
    ------
    UnavailableError
        If this process has other versions than whoever asks.
    """
    if (mine := versions()) != expected:
        different = [f"{name} {expected[name]} vs {mine[name]}" for name in expected if expected[name] != mine[name]]
        raise UnavailableError(
            f"a worker has other versions than this command: {', '.join(different)}",
            hint="install the same ones everywhere: the result must not depend on who computed it",
        )
    schemas = {name: table_schema(name, levels) for name in TABLES}
    heads: list[dict[str, Any]] = []
    rows: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
    for part in group.parts:
        try:
            results = _heads(request, part, schemas, advance)
        except PrecalignError as error:
            heads.append({"dump": part.dump, "refused": error.message})
            continue
        for result in results:
            heads.append(_entry(part, result))
            for name, table in result.tables:
                rows[name].append(table)
    tables = {name: pa.concat_tables([schemas[name].empty_table(), *held]) for name, held in rows.items()}
    return pack(Finished(heads, tables))


def _heads(
    request: Request, part: Part, schemas: dict[str, pa.Schema], advance: Callable[[int], None]
) -> list[HeadResult]:
    """Analyse the heads of one dump and check that it is still what was planned."""
    with request.reading.open(part.place) as dump:
        _same(part, dump.identity)
        plan = make_plan(dump, request.options, request.policies)
        results = []
        for task in plan.tasks[part.begin : part.end]:
            result = analyze_head(plan, task, schemas, advance)
            results.append(replace(result, profiles=[], stats={}))  # the rows say all that is needed
        dump.check_unchanged()
    return results


def _same(part: Part, now: Identity) -> None:
    changed = change(part.identity, now)
    if changed is not None:
        raise InputError(f"{part.name}: changed after the run began: {changed}")


def _entry(part: Part, result: HeadResult) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for name, table in result.tables:
        counts[name] = counts.get(name, 0) + table.num_rows
    did = {role: [c.elements, c.inexact, c.overflowed] for role, c in result.conversions.items()}
    place = {"dump": part.dump, "layer": result.place.layer, "kv_head": result.place.kv_head}
    return place | {"skipped": result.skipped, "conversions": did, "rows": counts}


def pack(finished: Finished) -> bytes:
    """Return heads and rows as bytes that tell whether they are whole."""
    streams: dict[str, bytes] = {}
    lengths: dict[str, tuple[int, int]] = {}
    for name, table in finished.tables.items():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        stream = sink.getvalue()
        # The whole stream at once, because tables are wide and short; each table by itself, so that none keeps others in memory.
        packed = pa.compress(stream, codec="zstd", asbytes=True)
        streams[name], lengths[name] = packed, (len(packed), stream.size)
    header = json.dumps({"heads": finished.heads, "lengths": lengths}, separators=(",", ":")).encode()
    body = b"".join([len(header).to_bytes(8, "little"), header, *streams.values()])
    return MAGIC + hashlib.sha256(body).digest() + body


def whole(packed: bytes) -> bool:
    """Whether bytes are what `pack` returned, to the last one."""
    start = len(MAGIC) + DIGEST_BYTES
    return packed.startswith(MAGIC) and hashlib.sha256(packed[start:]).digest() == packed[len(MAGIC) : start]


def unpack(packed: bytes, *, with_tables: bool = True) -> Finished:
    """Return what `pack` was given; the bytes are `whole`.

    Raises
    ------
    InputError
        If somebody else has made them.
    """
    try:
        return _unpacked(packed, with_tables=with_tables)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        OSError,
        RecursionError,
    ) as error:
        raise InputError(
            f"a finished group is damaged ({shown(error)})", hint="start again with --overwrite"
        ) from error


def _unpacked(packed: bytes, *, with_tables: bool) -> Finished:
    body = memoryview(packed)[len(MAGIC) + DIGEST_BYTES :]
    end = 8 + int.from_bytes(body[:8], "little")
    header = json.loads(bytes(body[8:end]))
    if not with_tables:
        return Finished(header["heads"])
    tables = {}
    for name, (length, size) in header["lengths"].items():
        if not 0 <= size <= MOST_RATIO * max(length, 1):
            raise ValueError(f"{length} bytes do not unpack to {size}")
        stream = pa.decompress(body[end : end + length], decompressed_size=size, codec="zstd")
        tables[name] = pa.ipc.open_stream(stream).read_all()
        end += length
    return Finished(header["heads"], tables)
