"""`precalign tune`: the cheapest setting of every kv head that keeps a promise, and the promise checked on other steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.options import dump_options, open_from
from precalign.cli.output import check_file, console, print_json, write_whole
from precalign.cli.progress import progress

if TYPE_CHECKING:
    from precalign.analysis.plan import Options
    from precalign.analysis.tuning.promise import Promise
    from precalign.policy import Policy


@click.command("tune")
@click.argument("dump", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Policy to write, as policy.json.")
@click.option("--tolerance", type=float, help="Error that you accept, relative to the attention output's 2-norm.")
@click.option(
    "--about",
    type=click.Choice(["error", "bound"]),
    help="What stays within the tolerance: the error against exact arithmetic, or the bound that is proven of it.  [default: error]",
)
@click.option(
    "--quantile", type=float, help="In which share of decode steps of every head; 1: in all.  [default: 0.99]"
)
@click.option(
    "--confidence",
    type=float,
    help="How sure calibration must be of that share, steps taken as independent; 0: takes them at face value.  [default: 0.95]",
)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="static|NAME|auto",
    help="Settings to choose from: all of a rule, or NAME:PARAM=VALUE,.. alone; may be given several times.  [default: auto]",
)
@click.option("--holdout", metavar="blocks:N|tail:P", help="Which steps are held back to verify.  [default: blocks:64]")
@click.option("--verify", type=click.Path(path_type=Path), help="Check this policy on all steps of DUMP; tune nothing.")
@click.option("--layers", metavar="LIST", help="Layers, as 0,2,4-6.  [default: all]")
@click.option("--steps", default="all", show_default=True, metavar="all|last|every:N|A:B", help="Which decode steps.")
@click.option("--full", is_flag=True, help="Every query sees every token.  [default: causal]")
@click.option("--layout", metavar="WIDTHS", help='Plane widths, as "8,4,4" or "8,4,4+skip".  [default: of the format]')
@dump_options
@click.option("--batch", type=click.IntRange(min=0), default=0, show_default=True, help="Which sequence of the dump.")
@click.option("--scale", type=float, help="Factor of the scores.  [default: the dump's, else 1/sqrt(head_dim)]")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=None, help="Heads worked on at once.  [default: all cores, at most 6]"
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier policy.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    *,
    dump: Path,
    output: Path | None,
    verify: Path | None,
    as_json: bool,
    overwrite: bool,
    **chosen: Any,  # noqa: ANN401 - click's values
) -> None:
    """Find a rule for every kv head that reads the fewest bytes within a tolerance.

    Calibrates on some decode steps of the dump and verifies on the others, which took no part in the choice. The exit code is 1 if
    these do not keep what calibration promised; the policy is written all the same, and its report says so. With --verify
    nothing is tuned: a policy is checked on data of your choice.

    \b
    Examples:
      precalign tune dump.safetensors --tolerance 1e-2 -o policy.json
      precalign tune dump.safetensors --tolerance 1e-3 --rule static --holdout tail:25 -o policy.json
      precalign tune other.safetensors --verify policy.json
    """
    if verify is not None:
        _misplaced("--verify tunes nothing", {"--output": output, **_given(chosen, "rules", "holdout", "layout")})
        kept = _verify(dump, verify, chosen, as_json=as_json)
    else:
        if chosen["tolerance"] is None:
            raise click.UsageError("Missing option '--tolerance': the error that you accept, as 1e-2.")
        if output is None:
            raise click.UsageError("Missing option '--output': where the policy is written, as policy.json.")
        kept = _tune(dump, output, chosen, as_json=as_json, overwrite=overwrite)
    if not kept:
        click.get_current_context().exit(1)


def _given(chosen: dict[str, Any], *names: str) -> dict[str, Any]:
    options = {"rules": "--rule"}
    return {options.get(name, f"--{name}"): chosen[name] for name in names}


def _misplaced(why: str, given: dict[str, Any]) -> None:
    if wrong := [name for name, value in given.items() if value]:
        raise click.UsageError(f"{why}: leave {', '.join(wrong)} out.")


def _promise(chosen: dict[str, Any], made: Promise | None = None) -> Promise:
    """Return what the options promise; where they are silent, what was promised before."""
    from dataclasses import replace

    from precalign.analysis.tuning.promise import Promise

    names = ("tolerance", "quantile", "about", "confidence")
    stated = {name: chosen[name] for name in names if chosen[name] is not None}
    return Promise(**stated) if made is None else replace(made, **stated)


def _options(chosen: dict[str, Any]) -> Options:
    from precalign.analysis.plan import Options, default_jobs

    return Options(
        layers=chosen["layers"],
        steps=chosen["steps"],
        causal=not chosen["full"],
        layout=chosen["layout"],
        rules=(),
        scale=chosen["scale"],
        batch=chosen["batch"],
        jobs=chosen["jobs"] or default_jobs(),
    )


def _tune(dump: Path, output: Path, chosen: dict[str, Any], *, as_json: bool, overwrite: bool) -> bool:
    from dataclasses import replace

    from precalign.analysis.plan import make_plan
    from precalign.analysis.policies import policy_text
    from precalign.analysis.sweeps import layout_for, settings
    from precalign.analysis.tuning.holdout import parse_holdout
    from precalign.analysis.tuning.tune import Tuning, tune
    from precalign.policy import POLICY_SCHEMA

    check_file(output, POLICY_SCHEMA, overwrite=overwrite)
    rules = chosen["rules"] or ("auto",)
    promise, holdout = _promise(chosen), parse_holdout(chosen["holdout"] or "blocks:64")
    with open_from(dump, chosen) as opened:
        plan = make_plan(opened, _options(chosen))
        if chosen["layout"] is None:
            plan = replace(plan, layout=layout_for(rules, plan.format))
        tuning = Tuning(promise, holdout, tuple(settings(rules, plan.layout)))
        with progress("Tuning", plan.n_steps, "steps") as advance:
            policy = tune(plan, tuning, advance)
    check_file(output, POLICY_SCHEMA, overwrite=overwrite)  # another run may have been quicker
    write_whole(output, policy_text(policy))
    if as_json:
        print_json({"schema": "precalign.tune/1", **policy.report})
    else:
        _show(policy, output)
    return bool(policy.report["verification"]["kept"])


def _show(policy: Policy, output: Path) -> None:
    from precalign.analysis.tuning.show import show_tuning

    out = console()
    show_tuning(policy.report, policy.layout.name, out)
    out.print(f"\nWritten: {output}", markup=False, soft_wrap=True)


def _verify(dump: Path, path: Path, chosen: dict[str, Any], *, as_json: bool) -> bool:
    from precalign.analysis.plan import make_plan
    from precalign.analysis.policies import read_policies, read_policy
    from precalign.analysis.tuning.promise import Promise
    from precalign.analysis.tuning.show import show_verification
    from precalign.analysis.tuning.tune import verify

    policy = read_policy(path)
    held = policy.report.get("promise")
    made = None if held is None and chosen["tolerance"] is not None else Promise.from_json(held, str(path))
    promise = _promise(chosen, made)
    with open_from(dump, chosen) as opened:
        plan = make_plan(opened, _options(chosen), read_policies([path]))
        with progress("Verifying", plan.n_steps, "steps") as advance:
            figures = verify(plan, policy, promise, advance)
        report = {
            "schema": "precalign.verify/1",
            "policy": path.name,
            "tuned_on": policy.report.get("dump"),
            "dump": plan.name,
            "steps": plan.options.steps,
            "promise": promise.to_json(),
            "sentence": promise.sentence,
            "verification": figures,
        }
    if as_json:
        print_json(report)
    else:
        show_verification(report, console())
    return bool(figures["kept"])
