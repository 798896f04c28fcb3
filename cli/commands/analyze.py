"""`precalign analyze`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.options import dump_options, open_from
from precalign.cli.output import console, print_json
from precalign.cli.progress import progress
from precalign.errors import UsageError

if TYPE_CHECKING:
    from precalign.analysis.plan import Options


@click.command("analyze")
@click.argument("dumps", nargs=-1, required=True, metavar="DUMP...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory to make: tables, summary, report."
)
@click.option("--layers", metavar="LIST", help="Layers, as 0,2,4-6.  [default: all]")
@click.option("--heads", metavar="LIST", help="kv heads of each layer, as 0,2,4-6.  [default: all]")
@click.option("--steps", default="all", show_default=True, metavar="all|last|every:N|A:B", help="Which decode steps.")
@click.option("--full", is_flag=True, help="Every query sees every token.  [default: causal]")
@click.option("--layout", metavar="WIDTHS", help='Plane widths, as "8,4,4" or "8,4,4+skip".  [default: of the format]')
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="NAME[:PARAM=VALUE,..]",
    help="Rule to apply; may be given several times.  [default: alignedkv, or the policies alone]",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Policy of `precalign tune` to apply, shown under its file's name; may be given several times.",
)
@dump_options
@click.option("--batch", type=click.IntRange(min=0), default=0, show_default=True, help="Which sequence of the dump.")
@click.option("--scale", type=float, help="Factor of the scores.  [default: the dump's, else 1/sqrt(head_dim)]")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=None, help="Heads worked on at once.  [default: all cores, at most 6]"
)
@click.option("--skip-nonfinite", is_flag=True, help="Leave out heads with infinities or NaNs instead of refusing.")
@click.option(
    "--cluster",
    metavar="ADDRESS|local:N",
    help="Where a set is computed: a Dask scheduler, or N worker processes.  [default: threads here]",
)
@click.option("--strict", is_flag=True, help="Stop at a dump of a set that cannot be used instead of leaving it out.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--no-report", is_flag=True, help="Write no report.html.")
def command(
    *,
    dumps: tuple[str, ...],
    output: Path,
    overwrite: bool,
    as_json: bool,
    no_report: bool,
    **chosen: Any,  # noqa: ANN401 - click's values
) -> int:
    """Tell how many bits of a dumped KV cache decode attention needs.

    Takes decode steps from the dump, applies rules that read less, and writes what each layer, head, channel, token and
    step needs, saves and loses to a directory.

    Several dumps, a folder, a quoted pattern or URLs make a set: one result of all, computed where --cluster says. A run that was
    killed goes on when the same command is run again.

    \b
    Examples:
      precalign analyze dump.safetensors -o out/
      precalign analyze dump.safetensors -o out/ --layers 1-5 --steps every:16
      precalign analyze dump.safetensors -o out/ --rule alignedkv --rule aligned-max:guard_bits=1
      precalign analyze dump.safetensors -o out/ --rule alignedkv --policy policy.json
      precalign analyze prompts/ "more/**/*.safetensors" -o out/ --cluster local:4
      precalign analyze "s3://bucket/run-7/*.safetensors" -o out/ --cluster tcp://scheduler:8786
    """
    from precalign.analysis.sets.places import is_set

    if is_set(dumps):
        from precalign.cli.analyze_set import run

        return run(dumps, output, _options(chosen), chosen, overwrite=overwrite, as_json=as_json, no_report=no_report)
    _analyze_one(dumps[0], output, chosen, overwrite=overwrite, as_json=as_json, no_report=no_report)
    return 0


def _analyze_one(
    dump: str, output: Path, chosen: dict[str, Any], *, overwrite: bool, as_json: bool, no_report: bool
) -> None:
    from precalign.analysis.pipeline import analyze
    from precalign.analysis.plan import make_plan
    from precalign.analysis.policies import read_policies
    from precalign.analysis.results.directory import check_target

    if chosen["cluster"] is not None or chosen["strict"]:
        raise UsageError(
            "--cluster and --strict are for sets, and this is one dump",
            hint='give its folder, or a pattern as "*.safetensors"',
        )
    check_target(output, overwrite=overwrite)
    policies = read_policies(chosen["policies"])
    with open_from(dump, chosen) as opened:
        plan = make_plan(opened, _options(chosen), policies)
        with progress("Analysing", plan.n_steps, "steps") as advance:
            summary = analyze(plan, output, overwrite=overwrite, progress=advance, render=None if no_report else _page)
    if as_json:
        print_json(summary)
    else:
        _print(output, no_report=no_report)


def _options(chosen: dict[str, Any]) -> Options:
    from precalign.analysis.plan import DEFAULT_RULES, Options, default_jobs

    return Options(
        layers=chosen["layers"],
        kv_heads=chosen["heads"],
        steps=chosen["steps"],
        causal=not chosen["full"],
        layout=chosen["layout"],
        rules=chosen["rules"] or (() if chosen["policies"] else DEFAULT_RULES),
        scale=chosen["scale"],
        batch=chosen["batch"],
        jobs=chosen["jobs"] or default_jobs(),
        skip_nonfinite=chosen["skip_nonfinite"],
    )


def _page(directory: Path) -> str:
    from precalign.analysis.render import render

    return render(directory, "html")


def _print(output: Path, *, no_report: bool) -> None:
    from precalign.analysis.render.terminal import show
    from precalign.analysis.results.reader import open_result

    out = console()
    show(open_result(output), out)
    written = output if no_report else output / "report.html"
    out.print(f"\nWritten: {written}", markup=False, soft_wrap=True)
