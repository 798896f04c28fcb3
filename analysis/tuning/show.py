"""What tuning and verification found, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precalign.analysis.render.words import error, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PARTS = ("calibration", "verification")
CALIBRATED, SHOWN = ("at_quantile",), ("median", "at_quantile", "max")


def show_tuning(report: dict[str, Any], layout: str, out: Console) -> None:
    """Print the promise, a row per head, and whether the steps held back keep the promise."""
    from rich.markup import escape

    promise, split = report["promise"], report["split"]
    out.print(f"[bold]{escape(report['dump'])}[/]  layout {escape(layout)}, {len(report['candidates'])} candidates")
    out.print(escape(report["sentence"]))
    out.print(
        f"Calibrated on {split['calibration_steps']:,} steps, verified on {split['verification_steps']:,} others "
        f"(--holdout {split['holdout']})."
    )
    table = _table(promise, {"calibrated": CALIBRATED, "held back": SHOWN})
    for calibrated, verified in zip(*(report[part]["heads"] for part in PARTS), strict=True):
        figures = [*_figures(calibrated, promise["about"], CALIBRATED), *_figures(verified, promise["about"], SHOWN)]
        table.add_row(*_head(verified), *figures, *_last(verified))
    out.print(table)
    calibrated, verified = (report[part] for part in PARTS)
    out.print(f"Calibration: {_outcome(calibrated)}")
    out.print(f"Held back:   {_outcome(verified)}")
    _conclude(verified, promise, "the steps held back", out)


def show_verification(report: dict[str, Any], out: Console) -> None:
    """Print the promise, a row per head, and whether the dump keeps the promise."""
    from rich.markup import escape

    promise, figures = report["promise"], report["verification"]
    tuned_on = "" if report["tuned_on"] is None else f", tuned on {report['tuned_on']}"
    out.print(f"[bold]{escape(report['dump'])}[/]  policy {escape(report['policy'] + tuned_on)}")
    out.print(escape(report["sentence"]))
    table = _table(promise, {"here": SHOWN})
    for head in figures["heads"]:
        table.add_row(*_head(head), *_figures(head, promise["about"], SHOWN), *_last(head))
    out.print(table)
    out.print(f"All heads: {_outcome(figures)}")
    _conclude(figures, promise, "this dump", out)


def _table(promise: dict[str, Any], parts: dict[str, tuple[str, ...]]) -> Table:
    from rich import box
    from rich.table import Table

    words = {"median": "median", "at_quantile": f"{100 * promise['quantile']:g} %", "max": "max"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("layer", "head"):
        table.add_column(f"\n{name}", justify="right")
    table.add_column("\nrule", no_wrap=True)
    for part, names in parts.items():
        title = f"{promise['about']} {part}"
        for name in names:
            table.add_column(f"{title}\n{words[name]}" if name == names[0] else f"\n{words[name]}", justify="right")
        table.add_column("steps\nabove", justify="right")
    for name in ("proven\nmax", "bytes\nsaved"):
        table.add_column(name, justify="right")
    table.add_column("")
    return table


def _head(head: dict[str, Any]) -> tuple[str, ...]:
    return str(head["layer"]), str(head["kv_head"]), head["rule"]


def _figures(head: dict[str, Any], about: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return (*(error(head[about][name]) for name in names), f"{head['steps_above']}/{head['n_steps']}")


def _last(head: dict[str, Any]) -> tuple[str, ...]:
    return error(head["bound"]["max"]), percent(head["bytes_saving"]), "kept" if head["kept"] else "MISSED"


def _outcome(figures: dict[str, Any]) -> str:
    worst = figures["worst_head"]
    return (
        f"kept in {figures['heads_kept']} of {figures['n_heads']} heads; {figures['steps_above']:,} of {figures['n_steps']:,} steps "
        f"above ({percent(figures['share_above'])}), at worst {percent(worst['share_above'])} in layer {worst['layer']}, "
        f"kv head {worst['kv_head']}; {percent(figures['bytes_saving'])} of bytes saved, {percent(figures['bits_saving'])} of bits."
    )


def _conclude(figures: dict[str, Any], promise: dict[str, Any], where: str, out: Console) -> None:
    if figures["kept"]:
        out.print(f"The promise is kept in {where}.")
        return
    allowed = percent(1 - promise["quantile"])
    out.print(
        f"THE PROMISE IS NOT KEPT in {where}: more than {allowed} of the steps of a head are above the tolerance. "
        "Tune to a smaller --tolerance than you accept, or on data more like this."
    )
