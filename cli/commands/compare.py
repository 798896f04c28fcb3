"""`precalign compare`: what codecs store and rules read, and what each costs attention, on one scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.options import dump_options, open_from
from precalign.cli.output import console, print_json
from precalign.cli.progress import progress

if TYPE_CHECKING:
    from precalign.analysis.plan import Options

DEFAULT_STEPS = "every:16"


@click.command("compare")
@click.argument("dump", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory to make: table, summary, page.")
@click.option(
    "--codecs",
    multiple=True,
    metavar="NAME[:PARAM=VALUE,..]|all",
    help="Codec for keys and values; may be given several times.  [default: all]",
)
@click.option("--keys", multiple=True, metavar="CODEC|none", help="Codec for the keys alone; goes with --values.")
@click.option("--values", multiple=True, metavar="CODEC|none", help="Codec for the values alone; goes with --keys.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="NAME[:PARAM=VALUE,..]",
    help="Rule of precalign in the same axes; may be given several times.  [default: alignedkv, aligned-skip]",
)
@click.option("--exempt-layers", metavar="LIST", help="Layers that stay as they are, as 0,1.")
@click.option("--match", "match_text", metavar="bits=B|error=E|moved=S", help="Print who is best within this limit.")
@click.option("--layers", metavar="LIST", help="Layers, as 0,2,4-6.  [default: all]")
@click.option(
    "--steps", default=DEFAULT_STEPS, show_default=True, metavar="all|last|every:N|A:B", help="Which decode steps."
)
@click.option("--full", is_flag=True, help="Every query sees every token.  [default: causal]")
@dump_options
@click.option("--batch", type=click.IntRange(min=0), default=0, show_default=True, help="Which sequence of the dump.")
@click.option("--scale", type=float, help="Factor of the scores.  [default: the dump's, else 1/sqrt(head_dim)]")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=None,
    help="Layers worked on at once.  [default: all cores, at most 6]",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier result.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--no-report", is_flag=True, help="Write no compare.html.")
def command(
    *,
    dump: Path,
    output: Path | None,
    match_text: str | None,
    overwrite: bool,
    as_json: bool,
    no_report: bool,
    **chosen: Any,  # noqa: ANN401 - click's values
) -> None:
    """Compare cache codecs, and rules that read less, on your own cache.

    Every codec encodes and decodes every layer; what it stores is counted in real bytes, what attention loses is measured on decode steps,
    with the window as it is at each of them. DUMP may also be a directory that an earlier run wrote: then --match asks it.

    \b
    Examples:
      precalign compare dump.safetensors -o compared/
      precalign compare dump.safetensors -o compared/ --codecs kivi:bits=4 --codecs q4_0 --rule alignedkv
      precalign compare dump.safetensors -o compared/ --keys q8_0 --values q4_0 --exempt-layers 0,1
      precalign compare compared/ --match bits=5
    """
    if dump.is_dir() and output is None:
        _show(dump, match_text, as_json=as_json)
        return
    _compare(dump, output, chosen, overwrite=overwrite, no_report=no_report)
    assert output is not None  # noqa: S101 - _compare has asked for it
    _show(output, match_text, as_json=as_json)
    if not as_json:
        from precalign.analysis.compare.schema import COMPARE_PAGE

        written = output if no_report else output / COMPARE_PAGE
        console().print(f"Written: {written}", markup=False, soft_wrap=True)


def _compare(dump: Path, output: Path | None, chosen: dict[str, Any], *, overwrite: bool, no_report: bool) -> None:
    from precalign.analysis.compare.contenders import parse_contenders
    from precalign.analysis.compare.run import compare
    from precalign.analysis.plan import make_plan
    from precalign.analysis.results.directory import check_target
    from precalign.analysis.selection import parse_indices
    from precalign.errors import UsageError

    if output is None:
        raise UsageError("compare needs -o DIRECTORY", hint="or give a directory that an earlier run wrote")
    check_target(output, overwrite=overwrite)
    named = chosen["codecs"] or chosen["keys"] or chosen["values"]
    with open_from(dump, chosen) as opened:
        plan = make_plan(opened, _options(chosen))
        there = [layer.index for layer in opened.layers]
        exempt = frozenset(parse_indices(chosen["exempt_layers"], there, "layers") if chosen["exempt_layers"] else ())
        codecs = chosen["codecs"] if named else ("all",)
        contenders = parse_contenders(codecs, chosen["keys"], chosen["values"], exempt)
        total = len(plan.layers) * (len(contenders) + len(plan.rules))
        with progress("Comparing", total, "contenders of layers") as advance:
            render = None if no_report else _page
            compare(plan, contenders, output, overwrite=overwrite, progress=advance, render=render)


def _options(chosen: dict[str, Any]) -> Options:
    from precalign.analysis.plan import Options, default_jobs

    return Options(
        layers=chosen["layers"],
        steps=chosen["steps"],
        causal=not chosen["full"],
        rules=chosen["rules"] or ("alignedkv", "aligned-skip"),
        scale=chosen["scale"],
        batch=chosen["batch"],
        jobs=chosen["jobs"] or default_jobs(),
    )


def _page(directory: Path) -> str:
    from precalign.analysis.render import render

    return render(directory, "html")


def _show(directory: Path, match_text: str | None, *, as_json: bool) -> None:
    from precalign.analysis.compare.ranking import match
    from precalign.analysis.compare.reader import open_comparison
    from precalign.analysis.render.comparison import show, show_rows

    comparison = open_comparison(directory)
    if match_text is None:
        if as_json:
            print_json(comparison.summary)
        else:
            show(comparison, console())
        return
    order, within = match(comparison.summary["contenders"], match_text)
    if as_json:
        print_json({"schema": "precalign.match/1", "match": match_text, "ordered_by": order, "contenders": within})
        return
    out = console()
    out.print(
        f"{len(within)} of {len(comparison.summary['contenders'])} contenders within {match_text}, by {order.replace('_', ' ')}:"
    )
    show_rows(within, out)
