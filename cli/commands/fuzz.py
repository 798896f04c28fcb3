"""`precalign fuzz`: give damaged and hostile inputs to every reader and parser, and see what they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.output import console, print_json, write_whole
from precalign.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.fuzz.outcome import Finding
    from precalign.analysis.fuzz.run import Tally


@click.command("fuzz")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--cases", type=click.IntRange(min=1), default=1000, show_default=True, help="How many for each target.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws other cases.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so long.  [default: no limit]")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Worker processes.")
@click.option("--case", type=click.IntRange(min=0), help="Run this one case of one target, and tell what comes of it.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the files of each finding.")
@click.option("--list", "listing", is_flag=True, help="List the targets.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(*, targets: Sequence[str], listing: bool, case: int | None, as_json: bool, **chosen: Any) -> None:  # noqa: ANN401 - click's values
    """Give damaged and hostile inputs to readers and parsers: all, or those named.

    A target makes valid inputs, and a case is one of them after some changes that know its form: headers that lie, sizes at which counters end,
    names that a terminal would obey, pickles and archives that mean no good; or random bytes. Cases run in worker processes. What is not read
    must be refused with a message: any other exception, a case of over 10 s, a process that dies, memory beyond a bound, a message with control
    characters, and anything that an input makes the process open, import, start or evaluate is a finding, and the exit code is 1.

    TARGET may also be module:Class, a subclass of precalign.analysis.fuzz.target.Target that is importable from here.

    \b
    Examples:
      precalign fuzz --list
      precalign fuzz
      precalign fuzz safetensors torch --cases 100000 --jobs 2 -o findings/
      precalign fuzz safetensors --seed 0 --case 677
    """
    from precalign.analysis.fuzz.registry import TARGETS

    if listing:
        _list(as_json=as_json)
    elif case is not None:
        _replay(targets, chosen["seed"], case, chosen["output"])
    else:
        _run(targets or list(TARGETS), as_json=as_json, **chosen)


def _list(*, as_json: bool) -> None:
    from precalign.analysis.fuzz.registry import TARGETS, get_target

    rows = [(name, get_target(name)) for name in TARGETS]
    if as_json:
        print_json([{"target": name, "what": target.what, "bound": str(target.bound)} for name, target in rows])
        return
    from rich.table import Table

    table = Table("target", "what is read", "most memory")
    for name, target in rows:
        table.add_row(name, target.what, str(target.bound))
    console().print(table)


def _run(
    targets: Sequence[str],
    *,
    cases: int,
    seed: int,
    seconds: float | None,
    jobs: int,
    output: Path | None,
    as_json: bool,
) -> None:
    from precalign.analysis.fuzz.run import FUZZ_SCHEMA, fuzz

    with progress("Fuzzing", cases * len(targets), "cases") as advance:
        tallies = fuzz(targets, cases, seed, seconds=seconds, jobs=jobs, progress=advance)
    if output is not None:
        for tally in tallies:
            _save(output, tally.findings)
    if as_json:
        print_json({"schema": FUZZ_SCHEMA, "seed": seed, "targets": [tally.to_json() for tally in tallies]})
    else:
        _show(tallies)
    if any(tally.n_findings for tally in tallies):
        click.get_current_context().exit(1)


def _show(tallies: list[Tally]) -> None:
    from rich.table import Table

    table = Table("target")
    for heading in ("cases", "read", "refused", "lines that refuse", "a second", "most memory", "findings"):
        table.add_column(heading, justify="right")
    for tally in tallies:
        if tally.skipped is not None:
            table.add_row(tally.target, "not run")
            continue
        speed = f"{tally.cases / tally.seconds:,.0f}" if tally.seconds else "-"
        numbers = (tally.cases, tally.accepted, tally.refused, len(tally.sites))
        table.add_row(
            tally.target,
            *(f"{n:,}" for n in numbers),
            speed,
            f"{tally.peak_bytes / 1e6:.1f} MB",
            f"{tally.n_findings:,}",
        )
    out = console()
    out.print(table)
    for tally in tallies:
        if tally.skipped is not None:
            out.print(f"Not run: {tally.target}: {tally.skipped}", markup=False, soft_wrap=True)
        for found in tally.findings:
            _tell(found)
    total = sum(tally.cases for tally in tallies)
    out.print(f"{total:,} cases, {sum(tally.n_findings for tally in tallies):,} findings.")


def _tell(found: Finding) -> None:
    out = console()
    where = f" at {found.site}" if found.site else ""
    out.print(
        f"FOUND {found.target}, case {found.case}: {found.kind}: {found.what}{where}", markup=False, soft_wrap=True
    )
    out.print(f"  precalign fuzz {found.target} --seed {found.seed} --case {found.case}", markup=False, soft_wrap=True)


def _replay(targets: Sequence[str], seed: int, case: int, output: Path | None) -> None:
    from precalign.analysis.fuzz.run import replay
    from precalign.errors import UsageError

    if len(targets) != 1:
        raise UsageError("--case is of one target", hint="precalign fuzz TARGET --seed S --case K")
    came = replay(targets[0], seed, case)
    out = console()
    out.print(f"{targets[0]}, seed {seed}, case {case}: {'read' if came.accepted else 'not read'}", markup=False)
    if came.message:
        out.print(came.message, markup=False, soft_wrap=True)
    for found in came.findings:
        _tell(found)
        if found.detail and found.detail != came.message:
            out.print(found.detail, markup=False, soft_wrap=True)
    if output is not None:
        from precalign.analysis.fuzz.outcome import Finding

        _save(output, came.findings or [Finding(targets[0], seed, case, "none", "no finding", "", came.message)])
    if came.findings:
        click.get_current_context().exit(1)


def _save(folder: Path, findings: Sequence[Finding]) -> None:
    """Write the files of each finding to FOLDER/TARGET-SEED-CASE/, with what was found."""
    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.registry import get_target
    from precalign.analysis.results.directory import writing

    for found in findings:
        target = get_target(found.target)
        case = target.damaged(Draw(found.target, found.seed, found.case), target.seeds())
        place = folder / f"{found.target.replace(':', '.')}-{found.seed}-{found.case}"
        with writing(place):
            for name, content in case.items():
                path = place / "files" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        write_whole(place / "finding.json", json.dumps(found.to_json(), indent=2) + "\n")
