"""`precalign diff`: two results side by side."""

from __future__ import annotations

import operator
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from precalign.cli.output import console, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.diff.run import Difference

PAGE_SUFFIX = ".html"
TESTS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@click.command("diff")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Page to write (NAME.html), or directory: table, summary, page.",
)
@click.option(
    "--rules",
    "rules",
    type=(str, str),
    multiple=True,
    metavar="RULE_A RULE_B",
    help="Rules to hold against each other; may be given several times.  [default: those of one name, or the only rule of each]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 also if the results differ.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar='"FIGURE<NUMBER"',
    help='Exit with 1 only if the change of a figure of the whole is so, as "bits_saving<-0.01" or "output_error>1.1" (a factor).',
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier page or result.")
def command(
    *,
    a: Path,
    b: Path,
    output: Path | None,
    rules: tuple[tuple[str, str], ...],
    as_json: bool,
    exit_zero: bool,
    conditions: tuple[str, ...],
    overwrite: bool,
) -> int:
    """Hold two results against each other: what is equal, what differs, and what differs beyond noise.

    Tables are compared bit by bit. Figures are compared per rule, layer and kv head, with intervals over decode steps, or over dumps if A and B
    are sets of many dumps. A may be B, to compare two of its rules. Exit code 0 if the two are identical, 1 if not.

    \b
    Examples:
      precalign diff before/ after/
      precalign diff out/ out/ --rules alignedkv aligned-max -o rules.html
      precalign diff before/ after/ --fail-if "bytes_saving<-0.01" --fail-if "output_error>1.05"
    """
    from precalign.analysis.diff.run import difference
    from precalign.analysis.results.stored import open_stored

    tests = [_condition(text) for text in conditions]
    _check(output, overwrite=overwrite)
    found = difference(open_stored(a), open_stored(b), rules)
    if output is not None:
        _write(found, output, overwrite=overwrite)
    if as_json:
        print_json(found.summary)
    else:
        from precalign.analysis.render.difference import show_of

        show_of(found.summary, found.table, console())
        if output is not None:
            console().print(f"Written: {output}", markup=False, soft_wrap=True)
    if exit_zero:
        return 0
    return _judge(found.summary, tests) if tests else int(not found.summary["identical"])


class _Condition(NamedTuple):
    text: str
    measure: str
    sign: str
    number: float


def _condition(text: str) -> _Condition:
    from precalign.analysis.diff.measures import NAMES
    from precalign.errors import UsageError

    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*", text)
    try:
        number = float(match[3]) if match else None
    except ValueError:
        number = None
    if match is None or number is None or match[1] not in NAMES:
        raise UsageError(
            f"--fail-if {text!r} is not FIGURE<NUMBER", hint='as "bits_saving<-0.01"; figures: ' + ", ".join(NAMES)
        )
    return _Condition(text, match[1], match[2], number)


def _judge(summary: dict[str, Any], tests: Sequence[_Condition]) -> int:
    """Return 1 and say why if a condition holds for any rule, or cannot be told."""
    from precalign.analysis.readers import printable

    failed = False
    for pair in summary["rules"] or [{"rule_b": "no rule", "measures": {}}]:
        for test in tests:
            change = pair["measures"].get(test.measure, {}).get("change")
            if change is None or TESTS[test.sign](change, test.number):
                failed = True
                told = "cannot be told" if change is None else f"is {change:.6g}"
                click.echo(
                    f"{printable(pair['rule_b'])}: the change of {test.measure} {told}: {test.text.strip()}", err=True
                )
    return int(failed)


def _check(output: Path | None, *, overwrite: bool) -> None:
    """Refuse a place that must not be written, before any work is done."""
    from precalign.analysis.results.directory import check_target
    from precalign.errors import OutputError

    if output is None:
        return
    if output.suffix != PAGE_SUFFIX:
        check_target(output, overwrite=overwrite)
    elif os.path.lexists(output) and not overwrite:
        raise OutputError(f"{output}: exists already", hint="choose another file, or replace it with --overwrite")


def _write(found: Difference, output: Path, *, overwrite: bool) -> None:
    from precalign.analysis.diff.schema import DIFF_FILE, DIFF_PAGE
    from precalign.analysis.render.difference import html_of
    from precalign.analysis.render.registry import render
    from precalign.analysis.results.directory import result_directory, whole_file
    from precalign.analysis.results.single import write_table_result

    if output.suffix == PAGE_SUFFIX:
        text = html_of(found.summary, found.table)
        with whole_file(output) as place:
            place.write_text(text, encoding="utf-8")
        return
    with result_directory(output, overwrite=overwrite) as directory:
        page = DIFF_PAGE, lambda made: render(made, "html")
        write_table_result(directory, output, found.summary, (DIFF_FILE, found.table), page)
