"""`precalign kernels`: compile CUDA kernels without a device, run them without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from precalign.cli.output import console, print_json
from precalign.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from rich.console import Console

    from precalign.gpu.build import Built
    from precalign.gpu.ptx import Kernel, Report
    from precalign.gpu.ptx.arguments import Argument


@click.group("kernels")
def command() -> None:
    """Compile CUDA kernels without a device and run them without a GPU.

    \b
    Examples:
      precalign kernels build
      precalign kernels build my_kernel.cu --arch sm_90 -D TILE=32
      precalign kernels run my_kernel.cu --kernel scale --grid 4 --block 256 --args x=random:float32:1024 --args float32:2
      precalign kernels source -o my_kernels/
      precalign kernels fuzz --programs 1000
    """


_MACROS = click.option("-D", "macros", multiple=True, metavar="NAME[=VALUE]", help="Define a macro.")
_INCLUDE = click.option(
    "-I",
    "include",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of headers.  [default: the source's]",
)


@command.command("build")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--arch", "architectures", multiple=True, metavar="sm_NN", help="Only this architecture; several times for more."
)
@click.option("--rule", "rules", multiple=True, metavar="NAME", help="Only this rule.  [default: all]")
@click.option("--dtype", "formats", multiple=True, metavar="FORMAT", help="Format of the cache.  [default: fp16]")
@click.option("--head-dim", "head_dims", multiple=True, type=int, help="[default: 128]")
@click.option("--group", "groups", multiple=True, type=int, help="Query heads per kv head.  [default: 4]")
@click.option(
    "--all", "everything", is_flag=True, help="Every rule and order, format and head_dim, groups of 1, 4 and 8."
)
@click.option(
    "--block", type=click.IntRange(1, 1024), help="Threads of a block of FILE, where its source does not bound them."
)
@_MACROS
@_INCLUDE
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def build(*, file: Path | None, as_json: bool, **chosen: Any) -> None:  # noqa: ANN401 - click's values
    """Compile to PTX and machine code and tell what came of it.

    Without FILE the kernels of precalign are compiled. The table tells registers, spills, shared memory, occupancy, the widest
    load and the floating-point instructions, in the PTX and, where nvdisasm is at hand, in the machine code. Register spills,
    local memory, and arithmetic that the assembler might contract fail the build (exit code 1). Results are cached by
    the hash of the source.

    \b
    Examples:
      precalign kernels build
      precalign kernels build --head-dim 64 --dtype bf16 --rule alignedkv --json
      precalign kernels build my_kernel.cu --arch sm_90 --block 256
    """
    from precalign.gpu.build import build_file, build_kernels, check_architectures

    architectures = check_architectures(chosen["architectures"])
    if file is None:
        configs = _configs(chosen)
        built = build_kernels(configs, architectures)
        total = len(architectures) * sum(len(config.entries()) for config in configs)
    else:
        source, headers = _read(file, chosen["include"])
        macros = _macro_table(chosen["macros"])
        built = build_file(source, file.name, architectures, macros, headers, chosen["block"])
        total = len(architectures)
    rows = []
    with progress("Compiling", total, "kernels") as advance:
        for row in built:
            rows.append(row)
            advance(1)
    if as_json:
        print_json({"schema": "precalign.build/1", "kernels": [row.to_json() for row in rows]})
    else:
        _show_built(rows, console())
    if any(row.problems for row in rows):
        click.get_current_context().exit(1)


def _configs(chosen: dict[str, Any]) -> list[Any]:
    from itertools import product

    from precalign.formats import get_format
    from precalign.gpu.kernels import KernelConfig
    from precalign.gpu.kernels.config import FORMATS, HEAD_DIMS, VARIANTS
    from precalign.gpu.validate.matrix import Selection

    Selection(rules=chosen["rules"] or None)
    everything = chosen["everything"]
    variants = [v for v in VARIANTS if not chosen["rules"] or v[0] in chosen["rules"]]
    formats = [get_format(name) for name in chosen["formats"]] or (FORMATS if everything else FORMATS[:1])
    head_dims = chosen["head_dims"] or (HEAD_DIMS if everything else (128,))
    groups = chosen["groups"] or ((1, 4, 8) if everything else (4,))
    return [
        KernelConfig(d, g, f, rule, one_pass=one_pass)
        for (rule, one_pass), f, d, g in product(variants, formats, head_dims, groups)
    ]


def _macro_table(macros: Sequence[str]) -> dict[str, str]:
    pairs = (text.partition("=") for text in macros)
    return {name: value if equals else "1" for name, equals, value in pairs}


def _read(file: Path, include: Path | None) -> tuple[str, dict[str, str]]:
    from precalign.errors import InputError

    try:
        source = file.read_text(encoding="utf-8")
        folder = include or file.parent
        headers = {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir() if p.suffix in (".cuh", ".h")}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a CUDA source: {error}") from None
    return source, headers


def _show_built(rows: list[Built], out: Console) -> None:
    from rich.table import Table

    from precalign.gpu.sass import disassembler

    table = Table()
    for heading in ("kernel", "for", "arch"):
        table.add_column(heading, no_wrap=True)
    columns = (
        "threads",
        "registers",
        "spills",
        "shared",
        "occupancy",
        "widest load",
        "fma",
        "mul",
        "add",
        "in SASS: loads, fma, mul, add",
    )
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in rows:
        counted = (row.sass_loads, row.sass_fma, row.sass_mul, row.sass_add)
        table.add_row(
            row.kernel,
            row.label,
            row.arch,
            *(str(n) for n in (row.threads, row.registers, row.spill_bytes, row.shared_bytes)),
            f"{row.occupancy:.0%}",
            f"{row.widest_load_bytes} B",
            *(str(n) for n in (row.ptx_fma, row.ptx_mul, row.ptx_add)),
            "-" if None in counted else ", ".join(map(str, counted)),
        )
    out.print(table)
    if disassembler() is None:
        out.print(
            "No disassembler (nvdisasm) at hand: machine code was not looked at. pip install nvidia-cuda-nvdisasm"
        )
    for row in rows:
        for problem in row.problems:
            out.print(f"FAILED {row.kernel}, {row.label}, {row.arch}: {problem}", markup=False, soft_wrap=True)
    if not any(row.problems for row in rows):
        out.print("No spills, no local memory, nothing that could be contracted.")


@command.command("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kernel", "name", required=True, help='Its name, declared extern "C".')
@click.option("--grid", required=True, metavar="X[,Y,Z]", help="Blocks.")
@click.option("--block", required=True, metavar="X[,Y,Z]", help="Threads of a block.")
@click.option("--args", "arguments", multiple=True, metavar="[NAME=]FORM", help="An argument; once for each, in order.")
@click.option("--shared-bytes", type=click.IntRange(min=0), default=0, show_default=True, help="Dynamic shared memory.")
@click.option(
    "--orders",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Run in so many orders of blocks and warps and compare.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws random arguments and orders.")
@click.option(
    "--engine",
    type=click.Choice(["checked", "compiled", "both"]),
    default="checked",
    show_default=True,
    help="`compiled` is many times as fast but sees neither races nor uninitialised reads; `both` compares them.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for the arrays after the run, as NAME.npy."
)
@_MACROS
@_INCLUDE
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def run(*, file: Path, name: str, output: Path | None, as_json: bool, **chosen: Any) -> None:  # noqa: ANN401 - click's values
    """Execute a kernel's PTX on this CPU, checked, and tell what it read and wrote.

    Arguments, in the order of the kernel's parameters: int32:5 or float32:0.5 for a scalar; x.npy, zeros:float32:1024,
    empty:float32:32x64, random:float32:1024 or arange:int32:256 for an array; null. Memory of `empty` must be written
    before it is read. What is found (out of bounds, misaligned, uninitialised, races, barriers) ends the run with
    exit code 1 and names the source line.

    \b
    Examples:
      precalign kernels run axpy.cu --kernel axpy --grid 4 --block 256 --args float32:2 --args x=random:float32:1024 --args y=zeros:float32:1024
      precalign kernels run scan.cu --kernel scan --grid 1 --block 512 --args in.npy --args out=empty:int32:512 --orders 5 -o results/
    """
    from precalign.gpu.ptx import Kernel
    from precalign.gpu.ptx.kernel import Engine

    source, headers = _read(file, chosen["include"])
    kernels = [
        Kernel(source, name, headers, _macro_table(chosen["macros"]), file=file.name, engine=engine)
        for engine in get_args(Engine)
        if chosen["engine"] in (engine, "both")
    ]
    grid, block = _extent(chosen["grid"], "--grid"), _extent(chosen["block"], "--block")
    runs = [_run_once(kernels, grid, block, chosen, order) for order in range(chosen["orders"])]
    arguments, report = runs[0]
    differing = _differing(runs)
    if output is not None:
        _save(output, arguments)
    if as_json:
        results = {a.name: _facts(a.array) for a in arguments if a.array is not None}
        print_json(
            {"schema": "precalign.run/1", "report": report.to_json(), "arrays": results, "order_dependent": differing}
        )
    else:
        _show_run(arguments, report, console())
        console().print(_VERDICTS[chosen["engine"]])
        if chosen["orders"] > 1:
            told = f"DIFFERENT results in {', '.join(differing)}" if differing else "the same bits"
            console().print(f"{chosen['orders']} orders of blocks and warps: {told}.")
    if differing:
        click.get_current_context().exit(1)


_VERDICTS = {
    "checked": "No finding: in bounds, aligned, initialised, free of races, every barrier reached.",
    "compiled": "No finding: in bounds, aligned, every barrier reached. Races and uninitialised reads: not checked by this engine.",
    "both": "No finding: in bounds, aligned, initialised, free of races, every barrier reached; both engines agree on every byte and count.",
}


def _extent(text: str, option: str) -> tuple[int, ...]:
    from precalign.errors import UsageError

    try:
        extent = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: give one to three numbers", hint=f"as in {option} 4,2") from None
    return extent


def _run_once(
    kernels: list[Kernel], grid: tuple[int, ...], block: tuple[int, ...], chosen: dict[str, Any], order: int
) -> tuple[list[Argument], Report]:
    import numpy as np

    from precalign.analysis.readers.arrays import load_array
    from precalign.gpu.ptx.arguments import parse_argument
    from precalign.gpu.ptx.both import run_both

    rng = np.random.default_rng(chosen["seed"])
    arguments = [parse_argument(text, i, rng, load_array) for i, text in enumerate(chosen["arguments"])]
    seed = None if order == 0 else chosen["seed"] + order
    values, shared_bytes = [a.value for a in arguments], chosen["shared_bytes"]
    if len(kernels) == 2:
        report = run_both(kernels[0], kernels[1], grid, block, values, shared_bytes=shared_bytes, seed=seed)
    else:
        report = kernels[0](grid, block, values, shared_bytes=shared_bytes, seed=seed)
    return arguments, report


def _differing(runs: list[tuple[list[Argument], Report]]) -> list[str]:
    first = runs[0][0]
    return sorted(
        {
            one.name
            for arguments, _ in runs[1:]
            for one, two in zip(first, arguments, strict=True)
            if one.array is not None and two.array is not None and one.array.tobytes() != two.array.tobytes()
        }
    )


def _save(folder: Path, arguments: list[Argument]) -> None:
    import numpy as np

    from precalign.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for argument in arguments:
            if argument.array is not None:
                part = folder / f".{argument.name}.partial.npy"
                np.save(part, argument.array)
                part.replace(folder / f"{argument.name}.npy")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error}") from None


def _facts(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    finite = [float(x) if abs(float(x)) < float("inf") else str(x) for x in array.reshape(-1)[:8]]
    return {"shape": list(array.shape), "dtype": str(array.dtype), "first": finite}


def _show_run(arguments: list[Argument], report: Report, out: Console) -> None:
    from rich.table import Table

    for argument in arguments:
        if argument.array is not None:
            flat = argument.array.reshape(-1)
            shown = " ".join(f"{x:.6g}" for x in flat[:6].tolist()) + (" …" if flat.size > 6 else "")
            out.print(
                f"{argument.name}: {argument.array.dtype} {argument.array.shape}  {shown}", markup=False, soft_wrap=True
            )
    table = Table(title="Memory", title_justify="left")
    for heading in ("line", "instruction"):
        table.add_column(heading)
    for heading in ("requests", "bytes", "sectors", "bytes/sector", "bank conflicts"):
        table.add_column(heading, justify="right")
    for _, line in sorted(report.memory.items()):
        used = f"{line.bytes / line.sectors:.1f}" if line.sectors else "-"
        conflicts = f"{line.conflicts:,}" if line.space == "shared" else "-"
        sectors = f"{line.sectors:,}" if line.sectors else "-"
        table.add_row(
            str(line.location), line.opcode, f"{line.requests:,}", f"{line.bytes:,}", sectors, used, conflicts
        )
    out.print(table)
    out.print(
        f"{report.kernel}: {report.blocks:,} blocks, {report.threads:,} threads, {report.warp_instructions:,} warp instructions, "
        f"{report.lane_instructions:,} thread instructions, {report.shared_bytes:,} bytes of shared memory."
    )
    for opcode, model in sorted(report.models.items()):
        out.print(f"{opcode}: PTX does not fix its bits; computed as {model}.", markup=False)


@command.command("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write; must not exist.")
def source(*, output: Path) -> None:
    """Write the CUDA sources of the attention kernels to a folder, to read or to change.

    \b
    Example:
      precalign kernels source -o my_kernels/
      precalign validate --quick --sources my_kernels/
    """
    from precalign.errors import OutputError
    from precalign.gpu.kernels.config import sources

    try:
        output.mkdir(parents=True)
        for name, text in sources().items():
            (output / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error}", hint="name a folder that does not exist") from None
    click.echo(f"Written: {output}")


@command.command("fuzz")
@click.option("--programs", type=click.IntRange(min=1), default=1000, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first program.")
@click.option(
    "--optimise",
    type=click.IntRange(0, 3),
    default=2,
    show_default=True,
    help="Level of LLVM's code generator; 0 compiles faster.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def fuzz(*, programs: int, seed: int, optimise: int, as_json: bool) -> None:
    """Compare the two engines of the PTX machine on random programs.

    Every program draws operations of all opcodes covered, guards, branches, loops that lanes leave at different times, memory of
    every kind, atomics, barriers, shuffles, votes and reductions, on special and random values. All memory and all
    counts are compared. A program on which the engines differ is made small and printed, and the exit code is 1.

    \b
    Examples:
      precalign kernels fuzz
      precalign kernels fuzz --programs 100000 --optimise 0
      precalign kernels fuzz --programs 1 --seed 12345
    """
    from dataclasses import asdict

    from precalign.gpu.ptx.fuzz.run import fuzz as compare

    with progress("Comparing", programs, "programs") as advance:
        tally = compare(programs, seed, optimise=optimise, progress=advance)
    if as_json:
        failures = [asdict(failure) for failure in tally.failures]
        counted = {"programs": tally.programs, "instructions": tally.instructions, "opcodes": sorted(tally.opcodes)}
        print_json({"schema": "precalign.fuzz/1", **counted, "failures": failures})
    else:
        out = console()
        for failure in tally.failures:
            out.print(f"Seed {failure.seed}: {failure.difference}", markup=False, soft_wrap=True)
            out.print(f"grid {failure.grid}, block {failure.block}\n{failure.text}\n", markup=False, soft_wrap=True)
        out.print(
            f"{tally.programs:,} programs, {len(tally.opcodes)} opcodes with their modifiers, "
            f"{tally.instructions:,} thread instructions: {len(tally.failures)} differences."
        )
    if tally.failures:
        click.get_current_context().exit(1)
