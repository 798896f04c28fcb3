"""`precalign tolerance`: the tightest sound tolerance for a test that compares a kernel with a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.options import dump_options, open_from
from precalign.cli.output import console, print_json
from precalign.cli.progress import progress
from precalign.errors import UsageError

if TYPE_CHECKING:
    from precalign.analysis.plan import Plan
    from precalign.analysis.readers import Dump
    from precalign.tolerance import Allowance, Side
    from precalign.tolerance.defects import Verdict

SIDE_HELP = "A preset, key=value,..., or both."


@click.command("tolerance")
@click.argument("dump", type=click.Path(path_type=Path), required=False)
@click.option("--spec", metavar="RANGES", help="Ranges in place of a dump: head_dim=128,seq_len=4096,q=8,k=16,v=4.")
@click.option("--kernel", default="float32", show_default=True, metavar="SIDE", help=f"What is tested. {SIDE_HELP}")
@click.option(
    "--reference", default="float64", show_default=True, metavar="SIDE", help=f"What it is compared with. {SIDE_HELP}"
)
@click.option("--layers", metavar="LIST", help="Layers, as 0,2,4-6.  [default: all]")
@click.option("--heads", metavar="LIST", help="Kv heads, as 0,2,4-6.  [default: all]")
@click.option("--steps", default="last", show_default=True, help="Decode steps: all, last, every:N or A:B.")
@click.option("--scale", type=float, help="Factor of the scores.  [default: the dump's, or 1/sqrt(head_dim)]")
@click.option("--full", is_flag=True, help="Every query sees every token (not causal).")
@dump_options
@click.option(
    "--defects",
    is_flag=True,
    help="Instead: seed defects into the kernel, and tell which 1e-2 passes and which this catches.",
)
@click.option(
    "--search",
    type=click.IntRange(min=1),
    metavar="N",
    help="Instead: compare N made-up numbers, look for one beyond its tolerance.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of --search.")
@click.option(
    "--sides", "list_sides", is_flag=True, help="List presets, keys, orders and exponentials, with their sources."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(
    *,
    dump: Path | None,
    spec: str | None,
    kernel: str,
    reference: str,
    defects: bool,
    search: int | None,
    seed: int,
    list_sides: bool,
    as_json: bool,
    **chosen: Any,  # noqa: ANN401 - click's values
) -> None:
    """Tell how far a kernel's attention may lie from a reference's, and no further: scores, probabilities, outputs.

    With a dump: for its very numbers, element by element. With --spec: for all data within ranges. A side is how one of both computes: a
    preset (exact, float64, float32, stated, torch-math, torch-flash-cpu, flash-fp16), then key=value settings; what is left open
    (order=any) is counted at its worst.

    \b
    Examples:
      precalign tolerance dump.safetensors --kernel float32,output=fp16
      precalign tolerance dump.safetensors --kernel flash-fp16 --reference exact --steps every:64
      precalign tolerance --spec head_dim=128,seq_len=4096,q=8,k=8,v=4 --kernel stated
      precalign tolerance dump.safetensors --kernel order=lanes:32/tree,product=fma,exp=ex2.approx,output=fp16
      precalign tolerance dump.safetensors --kernel stated --defects
      precalign tolerance --search 100000
    """
    from precalign.tolerance import parse_side

    if sum((dump is not None, spec is not None, search is not None, list_sides)) != 1:
        raise UsageError(
            "give one of: a dump, --spec, --search, --sides",
            hint="e.g. precalign tolerance dump.safetensors --kernel stated",
        )
    if list_sides:
        _list_sides(as_json=as_json)
        return
    if search is not None:
        _search(search, seed, as_json=as_json)
        return
    sides = parse_side(kernel), parse_side(reference)
    if defects:
        _defects(dump, sides[0], kernel, chosen, as_json=as_json)
        return
    rows, of = _of_ranges(spec, *sides) if spec is not None else _of_dump(dump, *sides, chosen)
    if as_json:
        named = {"kernel": str(sides[0]), "reference": str(sides[1])}
        print_json({"schema": "precalign.tolerance/1", "of": of, **named, "tolerances": rows})
    else:
        _show(rows, of, (kernel, reference))


Rows = list[dict[str, Any]]


def _row(name: str, fmt: str, largest: float, ulps: float, median: float | None, pair: Allowance) -> dict[str, Any]:
    numbers = {"largest": largest, "largest_ulps": ulps, "median_ulps": median, "rtol": pair.rtol, "atol": pair.atol}
    finite = {k: None if v is None or v == float("inf") else v for k, v in numbers.items()}
    return {"quantity": name, "format": fmt, **finite, "assert_allclose": str(pair)}


def _of_ranges(spec: str, kernel: Side, reference: Side) -> tuple[Rows, str]:
    from precalign.tolerance.compare import formats_of
    from precalign.tolerance.ranges import parse_ranges, within

    ranges = parse_ranges(spec)
    found = within(ranges, kernel, reference)
    formats = dict(zip(found, formats_of(kernel), strict=True))
    rows = [_row(name, formats[name].name, t.absolute, t.ulps, None, t.allowance) for name, t in found.items()]
    return rows, f"all data within {ranges}"


def _of_dump(dump: Path | None, kernel: Side, reference: Side, chosen: dict[str, Any]) -> tuple[Rows, str]:
    from precalign.analysis.tolerance import dump_tolerance, n_queries
    from precalign.tolerance.compare import formats_of

    assert dump is not None  # noqa: S101 - the command saw to it
    with open_from(dump, chosen) as opened:
        plan = _plan(opened, chosen)
        found = None
        with progress("Bounding", n_queries(plan), "queries") as advance:
            for found in dump_tolerance(plan, kernel, reference):  # noqa: B007 - the last one counts
                advance(1)
    assert found is not None  # noqa: S101 - a plan has a step
    rows = []
    for (name, held), fmt in zip(found.summaries.items(), formats_of(kernel), strict=True):
        rows.append(
            _row(name, fmt.name, held.largest, held.largest_ulps, held.median_ulps, held.fit.allowance())
            | {
                "elements": held.fit.count + held.fit.endless,
                "without_bound": held.fit.endless,
                "slack": held.fit.slack,
            }
        )
    return rows, f"{plan.name}, {found.steps:,} queries (--steps {chosen['steps']})"


def _plan(opened: Dump, chosen: dict[str, Any]) -> Plan:
    from precalign.analysis.plan import Options, make_plan

    options = Options(
        layers=chosen["layers"],
        kv_heads=chosen["heads"],
        steps=chosen["steps"],
        causal=not chosen["full"],
        scale=chosen["scale"],
    )
    return make_plan(opened, options)


def _defects(dump: Path | None, kernel: Side, given: str, chosen: dict[str, Any], *, as_json: bool) -> None:
    from dataclasses import asdict

    from precalign.analysis.tolerance import dump_defects, n_queries

    if dump is None:
        raise UsageError("--defects needs a dump: whether a defect shows depends on the data")
    if kernel.exact:
        raise UsageError("--defects: the kernel is exact, and has none")
    with open_from(dump, chosen) as opened:
        plan = _plan(opened, chosen)
        verdicts: dict[str, Verdict] = {}
        with progress("Seeding defects", n_queries(plan), "queries") as advance:
            for verdicts in dump_defects(plan, kernel):  # noqa: B007 - the last one counts
                advance(1)
    if as_json:
        held = {name: asdict(v) for name, v in verdicts.items()}
        print_json({"schema": "precalign.tolerance-defects/1", "kernel": str(kernel), "verdicts": held})
        return
    out = console()
    queries = verdicts["correct"].queries
    out.print(f"{queries:,} queries, kernel {given}, reference exact", markup=False, soft_wrap=True)
    out.print(f"{'':<31}{'largest difference':>18}{'/ tolerance':>13}{'1e-2 passes':>13}{'caught':>9}{'only here':>11}")
    for name, v in verdicts.items():
        out.print(
            f"{name:<31}{v.largest:>18.2e}{v.ratio:>13.3g}{v.passes_customary:>13,}{v.caught:>9,}{v.only_here:>11,}",
            markup=False,
        )


def _show(rows: Rows, of: str, sides: tuple[str, str]) -> None:
    out = console()
    out.print(f"tolerance of {of}", markup=False, soft_wrap=True)
    for name, side in zip(("kernel", "reference"), sides, strict=True):
        out.print(f"  {name + ':':<11}{side}", markup=False, soft_wrap=True)
    out.print()
    out.print(
        f"{'':<9}{'format':<10}{'largest':>10}{'ulp, largest':>14}{'ulp, median':>13}  numpy.testing.assert_allclose(got, reference, ...)"
    )
    for row in rows:
        cells = [_number(row[key]) for key in ("largest", "largest_ulps", "median_ulps")]
        if row["median_ulps"] is None and "elements" not in row:
            cells[2] = "-"
        out.print(
            f"{row['quantity']:<9}{row['format']:<10}{cells[0]:>10}{cells[1]:>14}{cells[2]:>13}  {row['assert_allclose']}",
            markup=False,
            soft_wrap=True,
        )
    out.print()
    endless = [row["quantity"] for row in rows if row["atol"] is None]
    if endless:
        out.print(f"No finite tolerance for {', '.join(endless)}: a sum may overflow, or its bound exceeds all use.")
    outputs = rows[-1]["assert_allclose"]
    if rows[-1]["atol"] is not None:
        line = f"np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(reference, np.float64), {outputs})"
        out.print(line, markup=False, soft_wrap=True)


def _number(x: float | None) -> str:
    if x is None:
        return "none"
    return f"{x:.2e}" if x < 0.01 or x >= 1e5 else f"{x:.3g}"


def _search(cases: int, seed: int, *, as_json: bool) -> None:
    from dataclasses import asdict

    from precalign.tolerance.search import Found, search

    found = Found()
    with progress("Searching", cases, "numbers") as advance:
        for now in search(cases, seed):
            advance(min(now.cases, cases) - min(found.cases, cases))
            found = now
    if as_json:
        shown = {k: None if isinstance(v, float) and v == float("inf") else v for k, v in asdict(found).items()}
        print_json({"schema": "precalign.tolerance-search/1", "seed": seed, **shown})
    else:
        out = console()
        out.print(f"{found.cases:,} numbers compared, {found.violations:,} beyond their tolerance")
        tightest = (found.tightest_score, found.tightest_prob, found.tightest_output)
        out.print("tightest tolerance / difference: scores {:.6f}, probs {:.6f}, outputs {:.6f}".format(*tightest))
        out.print(f"{found.endless:,} more without a finite tolerance")
        if found.violations:
            out.print(f"first violation: {found.example}", markup=False, soft_wrap=True)
    if found.violations:
        click.get_current_context().exit(1)


def _list_sides(*, as_json: bool) -> None:
    from precalign.tolerance.exponentials import EXPONENTIALS, FORMS
    from precalign.tolerance.side import KEYS, PRESETS

    if as_json:
        exps = {name: e._asdict() for name, e in EXPONENTIALS.items()}
        print_json(
            {
                "schema": "precalign.tolerance-sides/1",
                "presets": {n: str(s) for n, s in PRESETS.items()},
                "keys": KEYS,
                "exponentials": exps,
            }
        )
        return
    out = console()
    out.print("presets:")
    for name, side in PRESETS.items():
        out.print(f"  {name:<16} {side}", markup=False, soft_wrap=True)
    out.print("exp=")
    for name, e in EXPONENTIALS.items():
        out.print(f"  {name:<18} {e.ulps:>5g} ulp  {FORMS[e.form]:<48} {e.source}", markup=False, soft_wrap=True)
    out.print("  or its error in ulp: 1.5, base-2:2, folded:2")
    out.print("keys: " + ", ".join(KEYS), soft_wrap=True)
