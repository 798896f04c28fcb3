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
from precalign.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from precalign.analysis.benchmarks.timing import Benchmark


@click.command("bench")
@click.argument("name", required=False)
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
    "-o", "--output", type=click.Path(path_type=Path), default=None, help="Also write the record to this JSON file."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    *,
    name: str | None,
    small: bool,
    threads: int | None,
    repeats: int,
    dump: Path | None,
    model: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Time precalign against its peers, in one run, results checked before timing.

    Without NAME, list the benchmarks there are.

    \b
    Examples:
      precalign bench
      precalign bench analyze --small
      precalign bench numerics -o numerics.json
    """
    if name is None:
        for key, module in BENCHMARKS.items():
            click.echo(f"{key:12} {importlib.import_module(module).DESCRIPTION}")
        return
    if name not in BENCHMARKS:
        raise UsageError(f"unknown benchmark {name!r}", hint="there are: " + ", ".join(BENCHMARKS))
    options = Options(small=small, repeats=repeats, dump=dump, model=model)
    if threads is not None:
        options = replace(options, threads=threads)
    result: Benchmark = importlib.import_module(BENCHMARKS[name]).run(options)
    if output is not None:
        output.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)
    if result.unavailable is not None:
        raise UnavailableError(result.unavailable, hint="what stands above is an estimate, not a measurement")


def _print(result: Benchmark) -> None:
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
    for line in result.checks:
        out.print(f"checked: {line}")
    for line in result.aims:
        out.print(f"aim: {line}")
