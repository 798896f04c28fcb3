"""`precalign audit-fp8`: what an fp8 cache would lose with an engine's scale."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.options import dump_options, open_from
from precalign.cli.output import console, print_json
from precalign.cli.progress import progress

if TYPE_CHECKING:
    from precalign.analysis.fp8_audit import Audit


@click.command("audit-fp8")
@click.argument("dump", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["e4m3", "e5m2"]), default="e4m3", show_default=True, help="Of the cache."
)
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="code = fp8(x / scale); 1.0 is what engines take."
)
@dump_options
@click.option("--batch", type=click.IntRange(min=0), default=0, show_default=True, help="Which sequence of the dump.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(*, dump: Path, form: str, scale: float, batch: int, as_json: bool, **chosen: Any) -> None:  # noqa: ANN401 - click's values
    """Tell what an fp8 cache with this scale would saturate or flush to zero, and which scale would not.

    One row per layer, kv head and side. The scale proposed is the smallest power of two with which nothing saturates. The exit code is 1
    if anything saturates.

    \b
    Examples:
      precalign audit-fp8 dump.safetensors
      precalign audit-fp8 dump.safetensors --format e5m2 --scale 0.25 --json
    """
    from precalign.analysis.fp8_audit import audit
    from precalign.errors import UsageError
    from precalign.formats import get_format

    if not 0 < scale < float("inf"):
        raise UsageError(f"--scale {scale}: must be a positive number")
    rows: list[Audit] = []
    with open_from(dump, chosen) as opened, progress("Auditing", len(opened.layers), "layers") as advance:
        for part in audit(opened, get_format(form), scale, batch):
            rows += part
            advance(1)
    if as_json:
        print_json(
            {"schema": "precalign.audit-fp8/1", "format": form, "scale": scale, "heads": [asdict(row) for row in rows]}
        )
    else:
        _show(rows, form, scale)
    if any(row.saturated for row in rows):
        click.get_current_context().exit(1)


def _show(rows: list[Audit], form: str, scale: float) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"fp8 {form}, scale {scale:g}", title_justify="left")
    headings = (
        "layer",
        "kv head",
        "side",
        "largest",
        "saturated",
        "flushed",
        "subnormal",
        "error",
        "scale that fits",
        "error with it",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        counts = (
            f"{count / row.numbers:.3%}" if count else "0" for count in (row.saturated, row.flushed, row.subnormal)
        )
        table.add_row(
            str(row.layer),
            str(row.kv_head),
            row.side,
            f"{row.largest:.4g}",
            *counts,
            f"{row.relative_error:.2e}",
            f"{row.scale:g}",
            f"{row.relative_error_at_scale:.2e}",
        )
    out = console()
    out.print(table)
    worst = sum(row.saturated for row in rows)
    out.print(f"{worst} numbers saturate." if worst else "Nothing saturates.")
