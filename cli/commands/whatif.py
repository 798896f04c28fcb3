"""`precalign whatif`: a measured profile on another model shape and another GPU."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.output import console, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = ("head_dim", "group", "n_kv_heads", "layers", "batch")


def _size(name: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(f"--{name}", type=click.IntRange(min=1), help=f"{what}.  [default: as measured]")


@click.command("whatif")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--rule", metavar="NAME[:PARAM=VALUE,..]", help="Which of the analysed rules.  [default: the only one]")
@_size("context", "Tokens that a decode step sees")
@_size("head-dim", "Channels of a head")
@_size("group", "Query heads per kv head")
@_size("n-kv-heads", "kv heads of a layer")
@_size("layers", "Layers")
@_size("batch", "Sequences decoded together")
@click.option("--gpu", default="all", show_default=True, metavar="NAME,..|all", help="GPUs, as h100,mi300x.")
@click.option("--launch-us", type=float, default=2.0, show_default=True, help="Time of a kernel launch, microseconds.")
@click.option("--launches", type=click.IntRange(min=0), help="Kernels per layer.  [default: 4, of a one-pass rule 2]")
@click.option("--full-launches", type=click.IntRange(min=0), help="The same for the full read.  [default: 2]")
@click.option("--bandwidth-share", type=float, default=0.85, show_default=True, help="Of the peak, what kernels reach.")
@click.option("--unpack-operations", type=float, default=8.0, show_default=True, help="Instructions per number read.")
@click.option(
    "--fetch-bytes", type=click.Choice(["32", "64", "128"]), help="What memory hands out.  [default: of the GPU]"
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a page with plots to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(*, directory: Path, output: Path | None, as_json: bool, **chosen: Any) -> None:  # noqa: ANN401 - click's values
    """Ask when reduced access pays: scale a result of `precalign analyze` to another model and GPU.

    Bytes are scaled from what was measured, times come from a roofline; every number that was not measured is marked with ~, in JSON
    with "extrapolated": true. At the measured shape the measured bytes come back exactly.

    \b
    Examples:
      precalign whatif out/ --context 32768 --gpu h100
      precalign whatif out/ --head-dim 128 --group 4 --n-kv-heads 8 --layers 32 --batch 16 -o whatif.html
      precalign whatif out/ --rule online --gpu all --json
    """
    from precalign.analysis.results.reader import open_result
    from precalign.analysis.whatif import Overheads, measured_basis, study
    from precalign.gpus import get_gpus

    gpus = get_gpus(chosen["gpu"])
    if chosen["fetch_bytes"] is not None:
        gpus = [replace(gpu, fetch_bytes=int(chosen["fetch_bytes"]), fetch_basis="chosen") for gpu in gpus]
    names = ("launch_us", "bandwidth_share", "launches", "full_launches", "unpack_operations")
    overheads = Overheads(**{name: chosen[name] for name in names})
    result = open_result(directory)
    bases = measured_basis(result, chosen["rule"])
    shape = replace(bases[0].shape, **{name: chosen[name] for name in SIZES if chosen[name] is not None})
    if chosen["context"] is not None:
        shape = replace(shape, context=Fraction(chosen["context"]))
    held = study(result.summary["dump"]["name"], bases, shape, gpus, overheads).to_json()
    if output is not None:
        from precalign.analysis.whatif.page import render
        from precalign.cli.output import write_whole

        write_whole(output, render(held))
    if as_json:
        print_json(held)
        return
    _print(held)
    if output is not None:
        click.echo(f"\nWritten: {output}")


def _print(held: dict[str, Any]) -> None:
    from rich.markup import escape

    from precalign.analysis.whatif.page import amount, bytes_of

    out = console()
    bits, moved = held["bits"], held["bytes_per_step"]
    out.print(
        f"[bold]{escape(held['dump'])}[/]  rule {escape(held['rule'])}, {held['format']} in planes {held['layout']}"
    )
    out.print(f"measured: {_shape(held['measured'])}, mean of {held['measured']['n_steps']} steps")
    if held["changed"]:
        out.print(f"asked:    {_shape(held['asked'])}")
        out.print(f"Differs in {', '.join(held['changed'])}: every number that begins with ~ is extrapolated.")
    else:
        out.print("This is the measured shape: bits and bytes are measured; times, which begin with ~, are modelled.")
    out.print(
        f"Reads {amount(bits['key_bits_mean'], 2)} bits per key and {amount(bits['value_bits_mean'], 2)} per value: {bytes_of(moved['read_bytes'])} "
        f"of {bytes_of(moved['full_read_bytes'])} per decode step."
    )
    out.print(_gpus(held))
    out.print(_trend(held))
    for name, text in held["assumptions"].items():
        out.print(f"[bold]{name}[/]: {escape(text)}")
    over = held["overheads"]
    out.print(
        f"[bold]overheads[/]: {over['launches']} kernels per layer ({over['full_launches']} for the full read) of {over['launch_us']:g} µs, "
        f"{100 * over['bandwidth_share']:.0f} % of the peak bandwidth, {over['unpack_operations']:g} instructions to put a number together."
    )


def _shape(shape: dict[str, Any]) -> str:
    return (
        f"{shape['layers']} layers × {shape['n_kv_heads']} kv heads × group {shape['group']}, head_dim {shape['head_dim']}, "
        f"{shape['context']:,.0f} tokens, batch {shape['batch']}"
    )


def _gpus(held: dict[str, Any]) -> Any:  # noqa: ANN401 - rich is imported lazily
    from rich import box
    from rich.table import Table

    from precalign.analysis.whatif.page import amount, bytes_of, percent_of, times_of

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("GPU", "fetch", "moved", "saving", "µs", "full read µs", "bound by", "speed-up", "pays from"):
        table.add_column(name, justify="left" if name in {"GPU", "bound by"} else "right")
    for gpu in held["gpus"]:
        table.add_row(
            gpu["gpu"],
            f"{gpu['fetch_bytes']} B",
            bytes_of(gpu["moved_bytes"]),
            percent_of(gpu["moved_saving"]),
            amount(gpu["total_us"]),
            amount(gpu["full_total_us"]),
            gpu["bound_by"],
            times_of(gpu["speedup"]),
            amount(gpu["crossover_context"]),
        )
    return table


def _trend(held: dict[str, Any]) -> Any:  # noqa: ANN401 - rich is imported lazily
    from rich import box
    from rich.table import Table

    from precalign.analysis.render import words

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("measured tokens", "steps", "key bits", "value bits", "bytes saved"):
        table.add_column(name, justify="right")
    for row in held["measured_by_context"]:
        cells = (
            f"{row['context']:,.0f}",
            str(row["n_steps"]),
            f"{row['key_bits_mean']:.2f}",
            f"{row['value_bits_mean']:.2f}",
        )
        table.add_row(*cells, words.percent(row["bytes_saving"]))
    return table
