"""`precalign query`: SQL over result directories."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from precalign.cli.output import console, print_json

if TYPE_CHECKING:
    from precalign.analysis.query.database import Answer
    from precalign.analysis.query.views import View

SHOWN = 100


@click.command("query")
@click.argument("arguments", nargs=-1, required=True, metavar="RESULT... SQL")
@click.option("--file", "sql_file", type=click.Path(path_type=Path), help="Take the SQL from a file; - is stdin.")
@click.option("--tables", is_flag=True, help="List the views with their columns, units and meanings; takes no SQL.")
@click.option("--csv", "as_csv", is_flag=True, help="Print rows as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print rows as a JSON array of objects.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write FILE.parquet, FILE.csv or FILE.json."
)
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@click.option("--rows", type=click.IntRange(min=1), default=SHOWN, show_default=True, help="Most rows to show.")
@click.option(
    "--memory", default="1GB", show_default=True, metavar="SIZE", help="What DuckDB may hold; the rest goes to disk."
)
def command(
    *,
    arguments: tuple[str, ...],
    sql_file: Path | None,
    tables: bool,
    as_csv: bool,
    as_json: bool,
    output: Path | None,
    overwrite: bool,
    rows: int,
    memory: str,
) -> None:
    """Ask results of analyze, frontier, compare or diff with SQL (DuckDB).

    Every table is a view under its name. Of several results a view holds the rows of all, with their directory's name in the column `result`.
    SQL is one SELECT; - takes it from stdin.

    \b
    Examples:
      precalign query out/ --tables
      precalign query out/ "SELECT layer, kv_head, key_bits_mean FROM heads ORDER BY 3 DESC LIMIT 5"
      precalign query a/ b/ "SELECT result, rule, avg(bits_saving) FROM heads GROUP BY ALL"
      precalign query out/ --file question.sql -o answer.parquet
    """
    from precalign.analysis.query.views import views
    from precalign.analysis.results.stored import named, open_stored
    from precalign.errors import UsageError

    if sum((as_csv, as_json, output is not None)) > 1:
        raise UsageError("--csv, --json and -o: give one of them")
    directories, sql = _split(arguments, sql_file, tables=tables)
    results = {name: open_stored(path) for name, path in named(directories).items()}
    held, several = views(results), len(results) > 1
    if sql is None:
        _list(held, several=several, as_json=as_json)
        return
    if output is not None:
        _check(output, overwrite=overwrite)
    from precalign.analysis.query.database import Database

    with Database(held, with_result=several, memory=memory) as database:
        _answer(database.run(sql), output, rows, as_csv=as_csv, as_json=as_json)


def _split(arguments: tuple[str, ...], sql_file: Path | None, *, tables: bool) -> tuple[list[Path], str | None]:
    """Return result directories and SQL, None if the tables are to be listed."""
    from precalign.errors import InputError, UsageError

    if tables:
        return [Path(a) for a in arguments], None
    if sql_file is None:
        *directories, sql = arguments
        if not directories or os.path.isdir(sql):  # noqa: PTH112 - pathlib raises where a query is too long for a path
            raise UsageError(
                "after the results a query is expected",
                hint='precalign query RESULT "SELECT ..."; --tables lists what there is to ask for',
            )
        return [Path(d) for d in directories], sys.stdin.read() if sql == "-" else sql
    try:
        text = sys.stdin.read() if str(sql_file) == "-" else sql_file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{sql_file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return [Path(a) for a in arguments], text


def _check(output: Path, *, overwrite: bool) -> None:
    from precalign.analysis.query.write import SUFFIXES
    from precalign.errors import OutputError, UsageError

    if output.suffix not in SUFFIXES:
        raise UsageError(f"{output}: the suffix tells the form", hint="forms: " + ", ".join(SUFFIXES))
    if os.path.lexists(output) and not overwrite:
        raise OutputError(f"{output}: exists already", hint="choose another file, or replace it with --overwrite")


def _answer(answer: Answer, output: Path | None, rows: int, *, as_csv: bool, as_json: bool) -> None:
    from precalign.analysis.query import write
    from precalign.analysis.readers import printable
    from precalign.analysis.results.directory import whole_file

    if output is not None:
        with whole_file(output) as place:
            count = write.write(answer, place, output.suffix)
        click.echo(f"Wrote {output}: {count} rows")
    elif as_json or as_csv:
        terminal = sys.stdout.isatty()  # names in a dump are somebody else's bytes: a terminal must not obey them
        for piece in (write.csv_text if as_csv else write.json_text)(answer):
            sys.stdout.write(
                "\n".join(printable(line, len(line) + 1) for line in piece.split("\n")) if terminal else piece
            )
    else:
        write.show(answer, console(), rows)


def _list(held: list[View], *, several: bool, as_json: bool) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from precalign.analysis.query.views import described
    from precalign.analysis.readers import printable

    if as_json:
        print_json({view.name: described(view, with_result=several) for view in held})
        return
    out = console()
    for view in held:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=view.name, title_justify="left", title_style="bold")
        for heading in ("column", "type", "unit", "meaning"):
            table.add_column(heading, no_wrap=heading != "meaning")
        for row in described(view, with_result=several):
            table.add_row(*(escape(printable(cell, 300)) for cell in row.values()))
        out.print(table)
