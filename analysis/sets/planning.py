"""The plan of a set: one line per dump, checked against its header before anything is computed; lines, not objects, so that thousands fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from precalign.analysis.facts import dump_facts, layout_facts
from precalign.analysis.parallel import in_order
from precalign.analysis.plan import make_plan
from precalign.analysis.readers.base import printable
from precalign.analysis.readers.identity import Stamp, change, identity
from precalign.errors import InputError, OutputError, PrecalignError, shown
from precalign.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from precalign.analysis.plan import Plan, Task
    from precalign.analysis.readers.address import Place
    from precalign.analysis.readers.identity import Identity
    from precalign.analysis.sets.request import Request

AT_ONCE = 8
"""Headers read at once; most of the time goes into waiting for a store."""
HEAD_COST = 1 << 17
"""What a kv head costs however short it is, in (step, token, query head, rule): reading it, and writing its rows."""
FACTS = (
    *("reader", "stored_format", "storage_format", "query_format"),
    *("n_layers", "n_kv_heads", "n_q_heads", "head_dim", "seq_len", "n_queries", "scale", "scale_source"),
)


@dataclass(frozen=True)
class Planned:
    """One dump of a set.

    Attributes
    ----------
    dump : int
        Its number in the set.
    name, place : str
        As shown.
    identity : Identity
        What tells that it has changed; empty if it was refused before that was known.
    refused : str or None
        Why it is left out.
    facts : dict
        Columns of dumps.parquet.
    form : dict
        Layout and format, which all dumps of a set share.
    heads : tuple of (int, int)
        For each layer, how many of its kv heads are analysed and what one of them costs.
    n_steps : int
    """

    dump: int
    name: str
    place: str
    identity: Identity = ()
    refused: str | None = None
    facts: dict[str, Any] | None = None
    form: dict[str, Any] | None = None
    heads: tuple[tuple[int, int], ...] = ()
    n_steps: int = 0

    @property
    def n_heads(self) -> int:
        """Heads that are analysed, over all layers."""
        return sum(n for n, _ in self.heads)

    @property
    def size_bytes(self) -> int | None:
        """Of all its files; None where it is not known."""
        sizes = [stamp.size for stamp in self.identity]
        return sum(size for size in sizes if size is not None) if sizes and None not in sizes else None

    def line(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(self.__dict__, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def of(cls, line: str) -> Planned:
        """Return what `line` wrote.

        Raises
        ------
        InputError
            If it is something else.
        """
        try:
            held = parse_json(line)
            held["identity"] = tuple(Stamp(*stamp) for stamp in held["identity"])
            held["heads"] = tuple((int(n), int(cost)) for n, cost in held["heads"])
            return _checked(cls(**held))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"the plan of the unfinished run is damaged ({shown(error)})", hint="start again with --overwrite"
            ) from error


def _checked(planned: Planned) -> Planned:
    """Return what was read if its counts are such."""
    sizes = [stamp.size for stamp in planned.identity]
    counts = [planned.dump, planned.n_steps, *(size for size in sizes if size is not None)]
    if not all(type(n) is int for n in counts):
        raise TypeError("a count is no integer")
    return planned


def plan_dumps(request: Request, places: Sequence[Place], names: Sequence[str], *, strict: bool) -> Iterator[Planned]:
    """Yield the plan of every dump, in order.

    Parameters
    ----------
    request : Request
    places, names : sequences
    strict : bool
        Whether the first dump that cannot be used ends the planning.

    Raises
    ------
    InputError
        With `strict`.
    """

    def work(number: int, _advance: Callable[[int], None]) -> Planned:
        return _plan_dump(request, number, places[number], names[number])

    form: dict[str, Any] | None = None
    for found in in_order(range(len(places)), AT_ONCE, work):
        planned = found
        if planned.form is not None and planned.refused is None:
            form = form or planned.form
            planned = _of_form(planned, form)
        if strict and planned.refused is not None:
            raise InputError(planned.refused, hint="without --strict such a dump is left out, and the exit code tells")
        yield planned


def _of_form(planned: Planned, form: dict[str, Any]) -> Planned:
    """Refuse a dump whose tables would have other columns than those of the first, or mean others."""
    assert planned.form is not None  # noqa: S101 - the caller has looked
    if planned.form == form:
        return planned
    had, has = (f"{held['format']} in planes {held['name']}" for held in (form, planned.form))
    return replace(planned, refused=f"{planned.name}: is {has}, the set is {had}, like its first dump", heads=())


def check_same(plans: Iterator[Planned], places: Sequence[Place]) -> None:
    """Look whether dumps are still what was planned; none is opened.

    Raises
    ------
    OutputError
        If one has changed.
    """
    for planned, place in zip(plans, places, strict=True):
        try:
            changed = change(planned.identity, identity(place))
        except PrecalignError as error:
            changed = None if planned.refused is not None else error.message
        if changed is not None:
            raise OutputError(
                f"the unfinished run was begun with another {planned.name}: {changed}",
                hint="start again with --overwrite",
            )


def _plan_dump(request: Request, number: int, place: Place, name: str) -> Planned:
    planned = Planned(number, name, printable(place, limit=4000))
    try:
        with request.reading.open(place) as dump:
            planned = replace(planned, identity=dump.identity)
            plan = make_plan(dump, request.options, request.policies)
            facts = dump_facts(plan)
    except PrecalignError as error:
        return replace(planned, refused=error.message, identity=planned.identity or _stamps(place))
    return replace(
        planned,
        facts={name: facts[name] for name in FACTS},
        form=layout_facts(plan),
        heads=tuple((len(tasks), cost(plan, tasks[0])) for tasks in _by_layer(plan)),
        n_steps=sum(len(task.steps) for task in plan.tasks if task.steps is not None),
    )


def _stamps(place: Place) -> Identity:
    try:
        return identity(place)
    except PrecalignError:
        return ()


def _by_layer(plan: Plan) -> Iterator[list[Task]]:
    for layer in plan.layers:
        yield [task for task in plan.tasks if task.layer is layer]


def cost(plan: Plan, task: Task) -> int:
    """Return what a head costs: (step, token, query head, rule), and the rest of the work in the same unit."""
    if task.steps is None:
        return HEAD_COST
    return HEAD_COST + int(task.steps.visible.sum()) * (task.layer.group or 1) * len(plan.rule_names)


def first_usable(plans: Iterator[Planned]) -> Planned:
    """Return the first dump that is not refused.

    Raises
    ------
    InputError
        If all are, with what is wrong with the first.
    """
    first: Planned | None = None
    count = 0
    for planned in plans:
        if planned.refused is None:
            return planned
        first, count = first or planned, count + 1
    assert first is not None  # noqa: S101 - a set has a dump
    raise InputError(f"none of the {count} dumps can be analysed; the first: {first.refused}")


def read_plan(path: Path) -> Iterator[Planned]:
    """Yield what stands in a plan file.

    Raises
    ------
    InputError
        If it is damaged.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield Planned.of(line)
