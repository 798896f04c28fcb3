"""`precalign report`: render saved results again."""

from __future__ import annotations

from pathlib import Path

import click

from precalign.cli.output import write_whole


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md", "terminal"]),
    default="terminal",
    show_default=True,
    help="What to make of it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="File to write.  [default: for html the page in DIRECTORY, else the terminal]",
)
def command(*, directory: Path, form: str, output: Path | None) -> None:
    """Render the result directory of analyze, frontier, compare or diff again, without computing anything.

    \b
    Examples:
      precalign report out/
      precalign report out/ --format md
      precalign report out/ --format html -o report.html
    """
    from precalign.analysis.render.registry import page_name, render, show
    from precalign.cli.output import console

    if form == "terminal" and output is None:
        show(directory, console())
        return
    text = render(directory, form)
    if form == "html" and output is None:
        output = directory / page_name(directory)
    if output is None:
        click.echo(text, nl=False)
        return
    write_whole(output, text)
    click.echo(f"Wrote {output}")
