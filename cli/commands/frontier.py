"""`precalign frontier`: saving against error for all rules over their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.options import dump_options, open_from
from precalign.cli.output import console, print_json
from precalign.cli.progress import progress

if TYPE_CHECKING:
    from precalign.analysis.plan import Options

DEFAULT_STEPS = "every:32"


@click.command("frontier")
@click.argument("dump", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory to make: table, summary, page."
)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="NAME[:PARAM=VALUE,..]",
    help="Rule over all its parameters, or one setting of it; may be given several times.  [default: all rules]",
)
@click.option(
    "--layout",
    "layouts",
    multiple=True,
    metavar="WIDTHS",
    help="Plane widths; may be given several times.  [default: those of the format, 2-bit and 1-bit planes, all +skip]",
)
@click.option("--layers", metavar="LIST", help="Layers, as 0,2,4-6.  [default: all]")
@click.option(
    "--steps", default=DEFAULT_STEPS, show_default=True, metavar="all|last|every:N|A:B", help="Which decode steps."
)
@click.option("--full", is_flag=True, help="Every query sees every token.  [default: causal]")
@dump_options
@click.option("--batch", type=click.IntRange(min=0), default=0, show_default=True, help="Which sequence of the dump.")
@click.option("--scale", type=float, help="Factor of the scores.  [default: the dump's, else 1/sqrt(head_dim)]")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=None, help="Heads worked on at once.  [default: all cores, at most 6]"
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier result.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--no-report", is_flag=True, help="Write no frontier.html.")
def command(
    *,
    dump: Path,
    output: Path,
    overwrite: bool,
    as_json: bool,
    no_report: bool,
    **chosen: Any,  # noqa: ANN401 - click's values
) -> None:
    """Draw what every rule saves against the error it makes.

    Measures all rules over their parameters and in several plane layouts on the same decode steps: bytes, sectors and bits saved, output
    error, proven bound. Marks the settings that no other one beats, and tells what each rule saves where it errs no more than the
    published one.

    \b
    Examples:
      precalign frontier dump.safetensors -o frontier/
      precalign frontier dump.safetensors -o frontier/ --rule aligned-skip --rule static --layout 8,4,4+skip --steps every:8
    """
    from precalign.analysis.frontier.grid import make_grid
    from precalign.analysis.frontier.run import frontier
    from precalign.analysis.plan import make_plan
    from precalign.analysis.results.directory import check_target

    check_target(output, overwrite=overwrite)
    with open_from(dump, chosen) as opened:
        plan = make_plan(opened, _options(chosen))
        grid = make_grid(plan.format, chosen["rules"] or ("auto",), chosen["layouts"])
        with progress("Measuring", plan.n_steps * len(grid.layouts), "steps") as advance:
            render = None if no_report else _page
            summary = frontier(plan, grid, output, overwrite=overwrite, progress=advance, render=render)
    if as_json:
        print_json(summary)
    else:
        _print(output, no_report=no_report)


def _options(chosen: dict[str, Any]) -> Options:
    from precalign.analysis.plan import Options, default_jobs

    return Options(
        layers=chosen["layers"],
        steps=chosen["steps"],
        causal=not chosen["full"],
        rules=(),
        scale=chosen["scale"],
        batch=chosen["batch"],
        jobs=chosen["jobs"] or default_jobs(),
    )


def _page(directory: Path) -> str:
    from precalign.analysis.render import render

    return render(directory, "html")


def _print(output: Path, *, no_report: bool) -> None:
    from precalign.analysis.frontier.schema import FRONTIER_PAGE
    from precalign.analysis.render.registry import show

    out = console()
    show(output, out)
    written = output if no_report else output / FRONTIER_PAGE
    out.print(f"Written: {written}", markup=False, soft_wrap=True)
