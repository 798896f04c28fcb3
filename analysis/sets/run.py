"""From arguments to the result of a set: planned, computed in groups, kept as they finish, put together at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from precalign.analysis.results.directory import writing
from precalign.analysis.results.schema import REPORT_FILE, SUMMARY_FILE
from precalign.analysis.sets.assemble import assemble
from precalign.analysis.sets.engines import drive, engine
from precalign.analysis.sets.groups import compute, make_groups, unpack
from precalign.analysis.sets.places import names_of
from precalign.analysis.sets.planning import check_same, first_usable, plan_dumps, read_plan
from precalign.analysis.sets.request import versions
from precalign.analysis.sets.workspace import HINT, workspace
from precalign.errors import InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from precalign.analysis.readers.address import Place
    from precalign.analysis.sets.groups import Group
    from precalign.analysis.sets.request import Request
    from precalign.analysis.sets.workspace import Workspace

    Progress = Callable[[int], None]
    Render = Callable[[Path], str]


@dataclass(frozen=True)
class Watch:
    """Who is told how far a run is.

    Attributes
    ----------
    planned : callable
        Called once with the number of decode steps of the set.
    advance : callable
        Called with steps that are done since the last call, from worker threads too.
    """

    planned: Callable[[int], None] = lambda _: None
    advance: Progress = lambda _: None


def analyze_set(
    request: Request,
    places: Sequence[Place],
    target: Path,
    *,
    command: str,
    cluster: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    watch: Watch | None = None,
    render: Render | None = None,
) -> dict[str, Any]:
    """Analyse many dumps; go on where an earlier run of the same ended.

    Parameters
    ----------
    request : Request
    places : sequence of Path or Remote
        From `find_dumps`.
    target : Path
        The directory of the result. It becomes a result when everything else is there, with its summary.json.
    command : str
        What an unfinished run is said to go on with; without secrets.
    cluster : str, optional
        As `engine`; threads of this process if not given.
    overwrite : bool
        Whether an earlier result, or an unfinished run of something else, may be replaced.
    strict : bool
        Whether the first dump that cannot be used ends the run.
    watch : Watch, optional
    render : callable, optional
        Makes report.html of the finished directory.

    Returns
    -------
    dict
        What summary.json holds.

    Raises
    ------
    InputError
        If no dump can be used, or one cannot and `strict` is set.
    OutputError
        If the directory cannot be written, or something else was begun or is being written there.
    UnavailableError
        As `engine`, and if workers have other versions than this process.
    """
    watch = watch or Watch()
    names = names_of(places)
    manifest = {"command": command, "options": request.facts(), "versions": versions(), "dumps": _listed(names, places)}
    with workspace(target, overwrite=overwrite) as space:
        space.begin(manifest, overwrite=overwrite)
        if space.published():
            space.remove()
        else:
            if not _still_planned(space, places, overwrite=overwrite):
                _plan(space, request, places, names, strict=strict)
            form = first_usable(read_plan(space.plan)).form
            assert form is not None  # noqa: S101 - it is usable
            watch.planned(sum(planned.n_steps for planned in read_plan(space.plan) if planned.refused is None))
            n_groups = _compute(space, request, places, form["levels_bits"], cluster, watch, strict=strict)
            assemble(request, space, n_groups, form)
            _page(space, render)
            space.publish()
    loaded: dict[str, Any] = json.loads((target / SUMMARY_FILE).read_text(encoding="utf-8"))
    return loaded


def _listed(names: Sequence[str], places: Sequence[Place]) -> list[list[str]]:
    return [[name, str(place)] for name, place in zip(names, places, strict=True)]


def _still_planned(space: Workspace, places: Sequence[Place], *, overwrite: bool) -> bool:
    """Whether an earlier run has planned the same dumps, none of which has changed since."""
    if not space.plan.exists():
        return False
    try:
        check_same(read_plan(space.plan), places)
    except OutputError:
        if not overwrite:
            raise
        space.start_again()
        return False
    return True


def _plan(space: Workspace, request: Request, places: Sequence[Place], names: Sequence[str], *, strict: bool) -> None:
    try:
        space.write_plan(plan_dumps(request, places, names, strict=strict))
        first_usable(read_plan(space.plan))
    except InputError:
        space.forget()
        raise


def _compute(
    space: Workspace,
    request: Request,
    places: Sequence[Place],
    levels: Sequence[int],
    cluster: str | None,
    watch: Watch,
    *,
    strict: bool,
) -> int:
    """Compute all groups that are not finished and return how many there are in all."""
    count = 0

    def missing() -> Iterator[Group]:
        nonlocal count
        for group in make_groups(read_plan(space.plan), places):
            count += 1
            if space.finished(group.index):
                watch.advance(group.steps)
            else:
                yield group

    groups = missing()
    first = next(groups, None)
    if first is None:  # no engine is started for nothing
        return count
    work = partial(_work, request, levels, versions())
    with engine(cluster, request.options.jobs, work, watch.advance) as running:
        for group, packed in drive(running, chain([first], groups)):
            if strict:
                _check_none_refused(packed)
            space.keep(group.index, packed)
    return count


def _work(request: Request, levels: Sequence[int], expected: dict[str, str], group: Group, advance: Progress) -> bytes:
    return compute(request, group, levels, expected, advance)


def _check_none_refused(packed: bytes) -> None:
    for head in unpack(packed, with_tables=False).heads:
        if "refused" in head:
            raise InputError(head["refused"], hint="without --strict such a dump is left out, and the exit code tells")


def _page(space: Workspace, render: Render | None) -> None:
    if render is not None:
        directory = space.staged
        page = render(directory)
        with writing(space.target, HINT):
            (directory / REPORT_FILE).write_text(page, encoding="utf-8")
