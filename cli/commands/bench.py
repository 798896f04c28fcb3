"""`precalign bench`: time precalign against its peers."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from precalign.analysis.benchmarks import BENCHMARKS
from precalign.analysis.benchmarks.timing import Options
from precalign.cli.output import console, print_json
from precalign.errors import OutputError, UnavailableError, UsageError

if TYPE_CHECKING:
    from precalign.analysis.benchmarks.suite import Change, Suite
    from precalign.analysis.benchmarks.timing import Benchmark

ALL_OUTPUT = Path("precalign-bench.json")


@click.command("bench")
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="List the benchmarks there are.")
@click.option("--small", is_flag=True, help="Sizes of seconds instead of minutes.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=None, help="Threads a contender may use.  [default: all cores]"
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Rounds; each runs every contender once.",
)
@click.option(
    "--dump",
    type=click.Path(path_type=Path),
    default=None,
    help="Dump to use, where a benchmark uses one.  [default: its own]",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=None,
    help="Model directory to use, where a benchmark uses one.  [default: the one that ships]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the record to this JSON file, and a page beside it (.html).",
)
@click.option(
    "--compare",
    "older",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Also show how times have changed since an older record: old over new.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    *,
    name: str | None,
    listed: bool,
    small: bool,
    threads: int | None,
    repeats: int,
    dump: Path | None,
    model: Path | None,
    output: Path | None,
    older: Path | None,
    as_json: bool,
) -> None:
    """Time precalign against its peers, in one run, results checked before timing.

    Without NAME, run every benchmark small and write precalign-bench.json and precalign-bench.html; one that needs what this machine
    lacks says so, and the others go on.

    \b
    Examples:
      precalign bench --list
      precalign bench
      precalign bench attention -o attention.json
      precalign bench attention --compare attention.json
    """
    if listed:
        _list()
        return
    if name is not None and name not in BENCHMARKS:
        raise UsageError(f"unknown benchmark {name!r}", hint="there are: " + ", ".join(BENCHMARKS))
    from precalign.analysis.benchmarks import suite as suites

    if older is not None:
        suites.read(older)  # a wrong file is told before minutes of timing
    options = Options(small=small or name is None, repeats=repeats, dump=dump, model=model)
    if threads is not None:
        options = replace(options, threads=threads)
    if name is None:
        result = suites.run_all(options, lambda key: click.echo(f"{key} ...", err=True))
    else:
        result = suites.Suite([importlib.import_module(BENCHMARKS[name]).run(options)])
    record = result.to_json() if name is None else result.benchmarks[0].to_json()
    target = output if output is not None or name is not None else ALL_OUTPUT
    if target is not None:
        _write(result, record, target)
    if as_json:
        print_json(record)
    else:
        _print(result)
    if older is not None:
        _print_changes(suites.compare(older, result), to_stderr=as_json)
    if name is not None:
        _check_measured(result.benchmarks[0])


def _list() -> None:
    for key, module in BENCHMARKS.items():
        click.echo(f"{key:12} {importlib.import_module(module).DESCRIPTION}")


def _check_measured(result: Benchmark) -> None:
    if result.unavailable is not None:
        raise UnavailableError(result.unavailable, hint="what stands above is an estimate, not a measurement")


def _write(result: Suite, record: dict[str, object], target: Path) -> None:
    """Write the record and, beside it, the page."""
    from precalign.analysis.render.benchmarks import render

    page = target.with_suffix(".html")
    try:
        target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        page.write_text(render(result), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {error.filename}: {error.strerror}") from error
    click.echo(f"{target} and {page} written", err=True)


def _print(result: Suite) -> None:
    for benchmark in result.benchmarks:
        _print_benchmark(benchmark)
    for name, reason in result.missing.items():
        console().print(f"{name}: did not run: {reason}", markup=False)


def _print_benchmark(result: Benchmark) -> None:
    from rich.table import Table

    out = console()
    out.print(f"{result.name}: {result.description}")
    figures = list(dict.fromkeys(key for row in result.rows for key in row.figures))
    table = Table("case", "contender", "median ms", "best ms", "spread ms", "ratio", *figures)
    for row in result.rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        times = (f"{row.median_ms:.3f}", f"{row.best_ms:.3f}", f"{row.spread_ms:.3f}")
        table.add_row(
            row.case,
            row.contender,
            *times,
            ratio,
            *(f"{row.figures[k]:.4g}" if k in row.figures else "" for k in figures),
        )
    out.print(table)
    if result.unavailable is not None:
        out.print(f"an estimate, not a measurement: {result.unavailable}", markup=False)
    for line in result.checks:
        out.print(f"checked: {line}")
    for line in result.aims:
        out.print(f"aim: {line}")


def _print_changes(changes: list[Change], *, to_stderr: bool) -> None:
    from rich.table import Table

    table = Table("benchmark", "case", "contender", "old ms", "new ms", "old / new", "old / new ratio to reference")
    for change in changes:
        times = (f"{change.old_ms:.3f}", f"{change.new_ms:.3f}", f"{change.ratio:.2f}")
        relative = "" if change.relative is None else f"{change.relative:.2f}"
        table.add_row(change.benchmark, change.case, change.contender, *times, relative)
    out = console(stderr=to_stderr)
    out.print(table)
    out.print("above 1: faster than in the older record; compare the last column where the machines differ")
