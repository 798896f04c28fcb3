"""`precalign analyze` over many dumps: options to one call, its progress, and what is printed."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.output import console, print_json
from precalign.cli.progress import progress
from precalign.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from precalign.analysis.plan import Options

REFUSED = 1
"""Exit code where dumps were left out because they could not be used."""


def run(
    dumps: tuple[str, ...],
    output: Path,
    options: Options,
    chosen: dict[str, Any],
    *,
    overwrite: bool,
    as_json: bool,
    no_report: bool,
) -> int:
    """Analyse a set and print what came of it; return the exit code."""
    from precalign.analysis.policies import read_policies
    from precalign.analysis.render import render
    from precalign.analysis.sets.places import find_dumps
    from precalign.analysis.sets.request import Reading, Request
    from precalign.analysis.sets.run import Watch, analyze_set
    from precalign.analysis.sets.workspace import check_set_target

    if chosen["cluster"] is not None and chosen["jobs"] is not None:
        raise UsageError("--jobs is for threads here, and --cluster has its own", hint="give one of the two")
    check_set_target(output, overwrite=overwrite)
    reading = Reading(chosen["names"], chosen["axes"], chosen["storage_format"], chosen["byte_format"])
    request = Request(options, read_policies(chosen["policies"]), reading)
    places = find_dumps(dumps)
    try:
        with progress("Analysing", None, "steps") as advance:
            summary = analyze_set(
                request,
                places,
                output,
                command=_command(dumps),
                cluster=chosen["cluster"],
                overwrite=overwrite,
                strict=chosen["strict"],
                watch=Watch(advance.total, advance),
                render=None if no_report else lambda directory: render(directory, "html"),
            )
    except KeyboardInterrupt:
        _say_what_stays(output)
        raise
    if as_json:
        print_json(summary)
    else:
        _print(output, no_report=no_report)
    return REFUSED if summary["set"]["n_refused"] else 0


def _command(dumps: tuple[str, ...]) -> str:
    """Return the command as it was given, without what URLs keep secret."""
    from precalign.analysis.readers.address import is_url, shown_url

    context = click.get_current_context()
    words = ["precalign", "analyze", *(shown_url(dump) if is_url(dump) else dump for dump in dumps)]
    for parameter in context.command.params:
        name = str(parameter.name)
        if name == "dumps" or context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value, option = context.params[name], parameter.opts[0]
        for one in value if isinstance(value, tuple) else (value,):
            words += [option] if one is True else [option, str(one)]
    return shlex.join(words)


def _say_what_stays(output: Path) -> None:
    from precalign.analysis.results.unfinished import unfinished

    begun = unfinished(output)
    if begun is not None:
        click.echo(f"{output}: {begun}; go on with `{begun.command}`", err=True)


def _print(output: Path, *, no_report: bool) -> None:
    from precalign.analysis.render.registry import show

    out = console()
    show(output, out)
    written = output if no_report else output / "report.html"
    out.print(f"\nWritten: {written}", markup=False, soft_wrap=True)
