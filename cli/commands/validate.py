"""`precalign validate`: the kernels against the emulation, bit for bit, on any machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.options import dump_options, open_from
from precalign.cli.output import console, print_json
from precalign.cli.progress import progress

if TYPE_CHECKING:
    from rich.console import Console

    from precalign.gpu.validate.mutation import Catch
    from precalign.gpu.validate.run import Validation, Work


@click.command("validate")
@click.option("--quick", "size", flag_value="quick", help="One case of each rule and order; seconds.")
@click.option("--full", "size", flag_value="full", help="Twenty times the matrix, and long contexts; hours.")
@click.option("--rule", "rules", multiple=True, metavar="NAME", help="Only this rule; may be given several times.")
@click.option("--dtype", "formats", multiple=True, metavar="FORMAT", help="Only this format: fp16 or bf16.")
@click.option("--head-dim", "head_dims", multiple=True, type=int, help="Only this head_dim: 64, 96, 128 or 256.")
@click.option("--group", "groups", multiple=True, type=int, help="Only this number of query heads per kv head, 1 to 8.")
@click.option(
    "--dump", type=click.Path(path_type=Path), help="Validate on the layers of this dump instead of drawn data."
)
@click.option(
    "--layer", "layers", multiple=True, type=int, help="Only this layer of the dump; may be given several times."
)
@dump_options
@click.option(
    "--policy", type=click.Path(path_type=Path), help="Validate the rule static with the bits of this policy.json."
)
@click.option(
    "--device", type=click.Choice(["cpu", "gpu", "auto"]), default="auto", show_default=True, help="Where kernels run."
)
@click.option(
    "--sources",
    type=click.Path(path_type=Path),
    help="Folder of edited .cu/.cuh files that stand in for the shipped ones.",
)
@click.option("--mutants", is_flag=True, help="Seed every known defect in turn; each must be caught.")
@click.option(
    "--engine",
    type=click.Choice(["checked", "compiled", "both"]),
    default="checked",
    show_default=True,
    help="That executes PTX; `both` compares every launch.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Processes.  [default: all cores, at most 6]")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(
    *,
    size: str | None,
    device: str,
    sources: Path | None,
    mutants: bool,
    as_json: bool,
    **chosen: Any,  # noqa: ANN401 - click's values
) -> None:
    """Prove that the CUDA kernels do exactly what the rule says.

    Runs the kernels of decode attention, on a GPU or by executing their compiled PTX on this CPU, and compares planes, maxima,
    decided bits, scores, probabilities and outputs with the emulator, bit for bit; the sectors read with the traffic
    model; results alone, in batches, with other pages and in other orders with each other. The exit code is 1 if
    anything differs.

    \b
    Examples:
      precalign validate --quick
      precalign validate --rule alignedkv --dtype bf16 --head-dim 128
      precalign validate --dump dump.safetensors --json
      precalign validate --policy policy.json --dump dump.safetensors
      precalign validate --sources my_kernels/ --rule aligned-max
      precalign validate --mutants
      precalign validate --device cpu --engine both
    """
    from precalign.gpu.kernels.config import sources as kernel_sources

    texts = None if sources is None else kernel_sources(sources)
    jobs = chosen["jobs"] or min(6, os.cpu_count() or 1)
    failed = (
        _mutants(jobs, as_json=as_json) if mutants else _validate(size, device, texts, jobs, chosen, as_json=as_json)
    )
    if failed:
        click.get_current_context().exit(1)


def _validate(
    size: str | None,
    device: str,
    texts: dict[str, str] | None,
    jobs: int,
    chosen: dict[str, Any],
    *,
    as_json: bool,
) -> bool:
    from precalign.gpu.kernels.config import FORMATS
    from precalign.gpu.validate.invariance import witnesses
    from precalign.gpu.validate.run import validate

    work = [replace(one, engine=chosen["engine"]) for one in _work(size or "default", device, texts, chosen)]
    with progress("Validating", len(work), "cases") as advance:
        found = validate(work, jobs=jobs, progress=advance)
    if size != "quick" and chosen["dump"] is None and chosen["policy"] is None:
        found.witnesses = [witness for fmt in FORMATS for witness in witnesses(fmt)]
    if as_json:
        print_json(found.to_json())
    else:
        _show(found, console())
    return found.failed


def _work(size: str, device: str, texts: dict[str, str] | None, chosen: dict[str, Any]) -> list[Work]:
    from precalign.analysis.policies import read_policy
    from precalign.errors import UsageError
    from precalign.formats import get_format
    from precalign.gpu.validate.matrix import Selection, checks_invariance, matrix
    from precalign.gpu.validate.run import Work

    formats = tuple(get_format(name).name for name in chosen["formats"])
    selection = Selection(
        rules=chosen["rules"] or None,
        formats=formats or None,
        head_dims=chosen["head_dims"] or None,
        groups=chosen["groups"] or None,
    )
    policy = None if chosen["policy"] is None else read_policy(chosen["policy"])
    if policy is not None and set(chosen["rules"]) - {"static"}:
        raise UsageError("--policy is the rule static", hint="leave --rule out")
    if chosen["dump"] is not None:
        for option in ("formats", "head_dims", "groups"):
            if chosen[option]:
                raise UsageError("a dump has its own dtype, head_dim and group", hint="leave these options out")
        from precalign.analysis.validation import dump_cases

        with open_from(chosen["dump"], chosen) as dump:
            pairs = list(dump_cases(dump, selection.rules, chosen["layers"] or None, policy))
        return [Work(case, device, codes, texts) for case, codes in pairs]
    if chosen["layers"]:
        raise UsageError("--layer needs --dump")
    if policy is not None:
        from precalign.analysis.validation import policy_cases

        cases = policy_cases(policy, selection.head_dims, selection.groups)
        return [Work(case, device, texts=texts) for case in cases]
    return [
        Work(case, device, texts=texts, invariance=checks_invariance(case, size)) for case in matrix(size, selection)
    ]


def _show(found: Validation, out: Console) -> None:
    from rich.table import Table

    from precalign.gpu.validate.points import POINTS

    table = Table(title=f"{found.cases} cases, kernels on the {found.device}", title_justify="left")
    for heading in ("point", "what is equal"):
        table.add_column(heading)
    for heading in ("checked", "failed"):
        table.add_column(heading, justify="right")
    for point, what in POINTS.items():
        tally = found.tallies.points.get(point)
        if tally is None:
            table.add_row(point, what, "-", "not checked")
        else:
            table.add_row(point, what, f"{tally.checked:,}", f"{tally.failed:,}")
    out.print(table)
    if found.traffic:
        out.print(_traffic_table(found))
    if found.device != "gpu":
        out.print("No GPU took part: the kernels' PTX was executed on this CPU. `--device gpu` runs them on one.")
    _show_witnesses(found, out)
    _show_failures(found, out)
    out.print("\nAll equal." if not found.failed else "\nNOT EQUAL.")


def _show_witnesses(found: Validation, out: Console) -> None:
    for witness in found.witnesses:
        one, two = (float(output).hex() for output in witness.outputs)
        out.print(
            f"{witness.format}: {witness.between} first differ at {witness.seq_len} tokens: {one} and {two}, bound {witness.bound:.2g}."
        )


def _show_failures(found: Validation, out: Console) -> None:
    for point, tally in found.tallies.points.items():
        if tally.first is not None:
            out.print(f"\nFirst failure of {point}:")
            for line in tally.first.lines():
                out.print(f"  {line}", markup=False, soft_wrap=True)


def _traffic_table(found: Validation) -> Any:  # noqa: ANN401 - a rich table
    from rich.table import Table

    table = Table(title="32-byte sectors read from planes", title_justify="left")
    for heading in ("rule", "format"):
        table.add_column(heading)
    for heading in ("head_dim", "cases", "measured", "modelled", "full read", "saving", "other reads"):
        table.add_column(heading, justify="right")
    for (rule, fmt, head_dim), row in sorted(found.traffic.items()):
        numbers = (
            str(head_dim),
            str(row.cases),
            f"{row.planes:,}",
            f"{row.modelled:,}",
            f"{row.full:,}",
            f"{row.saving:.1%}",
            f"{row.other:,}",
        )
        table.add_row(rule, fmt, *numbers)
    return table


def _mutants(jobs: int, *, as_json: bool) -> bool:
    from precalign.gpu.validate.mutants import MUTANTS
    from precalign.gpu.validate.mutation import hunt_all

    with progress("Hunting", len(MUTANTS), "defects") as advance:
        catches = list(hunt_all(MUTANTS, jobs, advance))
    survivors = [catch for catch in catches if catch.caught_by is None]
    if as_json:
        defects = [catch.to_json() for catch in catches]
        print_json({"schema": "precalign.mutants/1", "defects": defects, "survivors": [c.mutant for c in survivors]})
    else:
        _show_mutants(catches, console())
    return bool(survivors)


def _show_mutants(catches: list[Catch], out: Console) -> None:
    from rich.table import Table

    table = Table(title="Seeded defects", title_justify="left")
    for heading in ("kind", "defect", "file", "caught by"):
        table.add_column(heading)
    table.add_column("evidence", max_width=80)
    for catch in sorted(catches, key=lambda c: c.kind):
        table.add_row(catch.kind, catch.mutant, catch.file, catch.caught_by or "NOT CAUGHT", catch.evidence)
    out.print(table)
    kinds, survivors = {catch.kind for catch in catches}, [c.mutant for c in catches if c.caught_by is None]
    out.print(f"{len(catches)} defects of {len(kinds)} kinds, {len(catches) - len(survivors)} caught.")
    if survivors:
        out.print("Not caught: " + ", ".join(survivors))
