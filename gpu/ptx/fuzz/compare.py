"""Runs programs on both engines and says how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import PrecalignError
from precalign.gpu.ptx.compiled.launch import CompiledLaunch
from precalign.gpu.ptx.compiled.program import build_all
from precalign.gpu.ptx.compiler import Compiler
from precalign.gpu.ptx.fuzz.generate import N_CELLS, OUT_BYTES, POOL, text_of
from precalign.gpu.ptx.launch import Launch, ModuleMemory
from precalign.gpu.ptx.machine import run_checked
from precalign.gpu.ptx.parser import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.gpu.ptx.fuzz.generate import Program
    from precalign.gpu.ptx.program import Module
    from precalign.gpu.ptx.report import Report


@dataclass(frozen=True)
class Outcome:
    """What one engine made of a program: memory and counts, or what it refused or found."""

    out: bytes
    cells: bytes
    report: dict[str, Any]
    error: str = ""


def _run(programs: Sequence[Program], module: Module, execute: Callable[[Launch], Report]) -> Outcome:
    first = programs[0]
    rows = np.concatenate([program.inputs() for program in programs])
    out = np.zeros((rows.shape[0], OUT_BYTES), np.uint8)
    cells = np.zeros((len(programs), 6, N_CELLS), np.uint32)
    grid = (*first.grid[:2], len(programs))
    try:
        launch = Launch(module.entries["k"], module, ModuleMemory(module), grid, first.block, [rows, out, cells], 0)
        report = execute(launch)
    except PrecalignError as error:
        return Outcome(b"", b"", {}, f"{type(error).__name__}: {error}")
    return Outcome(out.tobytes(), cells.tobytes(), report.to_json())


def difference(programs: Sequence[Program], *, optimise: int = 2) -> tuple[str, int, set[str]]:
    """Run programs together on both engines.

    Parameters
    ----------
    programs : sequence of Program
        At least one; all of one shape.
    optimise : int
        Level of LLVM's code generator, 0 to 3.

    Returns
    -------
    str
        How the engines differ, "" if they agree on every byte and every count.
    int
        Thread instructions executed.
    set of str
        Opcodes executed.
    """
    module = parse(text_of(programs))
    entry = module.entries["k"]

    def checked(launch: Launch) -> Report:
        return run_checked(Compiler(entry).compile(), launch)

    def compiled(launch: Launch) -> Report:
        return CompiledLaunch(build_all([(module, entry)], optimise=optimise)[0], launch).run()

    first, second = (_run(programs, module, engine) for engine in (checked, compiled))
    return _compare(first, second), first.report.get("lane_instructions", 0), set(first.report.get("instructions", ()))


def _compare(first: Outcome, second: Outcome) -> str:
    if first.error or second.error:
        # Programs are well-formed: neither engine may refuse one or find a fault.
        return f"checked: {first.error or 'ran'}; compiled: {second.error or 'ran'}"
    if first.out != second.out:
        return _where(first.out, second.out)
    if first.cells != second.cells:
        return "cells that threads share differ"
    for name, value in first.report.items():
        if value != second.report[name]:
            return f"report, {name}: {value} and {second.report[name]}"
    return ""


def _where(one: bytes, two: bytes) -> str:
    a, b = (np.frombuffer(octets, np.uint8).reshape(-1, OUT_BYTES) for octets in (one, two))
    thread, octet = (int(i[0]) for i in np.nonzero(a != b))
    places = [(f"%r{i}", 4 * i, 4) for i in range(POOL["r"])] + [(f"%d{i}", 32 + 8 * i, 8) for i in range(POOL["d"])]
    places += [(f"%h{i}", 24 + 2 * i, 2) for i in range(POOL["h"])]
    for name, start, size in [*places, ("predicates", 64, 4), ("own memory", 80, 16)]:
        if start <= octet < start + size:
            codes = (x[thread, start : start + size].tobytes()[::-1].hex() for x in (a, b))
            return f"thread {thread}, {name}: " + " and ".join(f"0x{c}" for c in codes)
    return f"thread {thread}, byte {octet}"
