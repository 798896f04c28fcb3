"""`precalign bounds`: look for an error above its proven bound."""

from __future__ import annotations

import click

from precalign.cli.output import console, print_json
from precalign.cli.progress import progress


@click.group("bounds")
def command() -> None:
    """Certified bounds: every analysed step carries them; here they are put to the test.

    \b
    Examples:
      precalign bounds search
      precalign bounds search --cases 3000000 --seed 7
    """


@command.command("search")
@click.option(
    "--cases", type=click.IntRange(min=1), default=100_000, show_default=True, help="How many to judge at least."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the heads that are made up.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def search_command(*, cases: int, seed: int, as_json: bool) -> None:
    """Search for a decode step whose true error exceeds its bound.

    Makes up heads that strain a bound: unread bits that all push one way, sums that cancel, one token that takes all attention,
    equal tokens, subnormals, exponents and codes at random, one token, 100,000 tokens; fp16, bf16 and 8-bit caches, planes of any widths,
    exponents rebased, all rules and levels at random. A case is a step of a query head under a rule. The exit code is 1 if a bound is exceeded.

    \b
    Examples:
      precalign bounds search --cases 1000000
      precalign bounds search --seed 3 --json
    """
    from dataclasses import asdict

    from precalign.bounds.search import Found, search

    found = Found()
    with progress("Searching", cases, "cases") as advance:
        for now in search(cases, seed):
            advance(min(now.cases, cases) - min(found.cases, cases))
            found = now
    if as_json:
        shown = {k: None if isinstance(v, float) and v == float("inf") else v for k, v in asdict(found).items()}
        print_json({"schema": "precalign.bounds-search/1", "seed": seed, **shown})
    else:
        out = console()
        out.print(f"{found.cases:,} cases, {found.violations:,} violations")
        out.print(
            f"tightest bound / true error: scores {found.tightest_score:.6f}, outputs {found.tightest_output:.6f}"
        )
        out.print(f"{found.vacuous:,} cases with an infinite bound on the output's relative error")
        if found.violations:
            out.print(f"first violation: {found.example}", markup=False)
    if found.violations:
        click.get_current_context().exit(1)
