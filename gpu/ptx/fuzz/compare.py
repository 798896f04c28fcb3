"""Runs programs on both engines and says how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import PrecalignError
from precalign.gpu.ptx.compiled.launch import CompiledLaunch
from precalign.gpu.ptx.compiled.program import build_all
from precalign.gpu.ptx.compiler import Compiler
from precalign.gpu.ptx.fuzz.generate import N_CELLS, OUT_BYTES, POOL
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


def _run(program: Program, module: Module, execute: Callable[[Launch], Report]) -> Outcome:
    rows = program.inputs()
    out = np.zeros((program.n_threads, OUT_BYTES), np.uint8)
    cells = np.zeros((6, N_CELLS), np.uint32)
    try:
        launch = Launch(
            module.entries["k"], module, ModuleMemory(module), program.grid, program.block, [rows, out, cells], 0
        )
        report = execute(launch)
    except PrecalignError as error:
        return Outcome(b"", b"", {}, f"{type(error).__name__}: {error}")
    return Outcome(out.tobytes(), cells.tobytes(), report.to_json())


def differences(programs: Sequence[Program], *, optimise: int = 2) -> list[str]:
    """Return, for each program, how the engines differ on it, or "" if they agree on every byte and count.

    Parameters
    ----------
    programs : sequence of Program
        Compiled together, which is quicker.
    optimise : int
        Level of LLVM's code generator, 0 to 3.
    """
    modules = [parse(program.text()) for program in programs]
    try:
        codes = build_all([(m, m.entries["k"]) for m in modules], optimise=optimise)
    except PrecalignError as error:
        if len(programs) == 1:
            return [f"the compiled engine refuses it: {error}"]
        return [differences([p], optimise=optimise)[0] for p in programs]
    found = []
    for program, module, code in zip(programs, modules, codes, strict=True):
        first = _run(program, module, lambda l, m=module: run_checked(Compiler(m.entries["k"]).compile(), l))
        second = _run(program, module, lambda l, c=code: CompiledLaunch(c, l).run())
        found.append(_compare(first, second))
    return found


def difference(program: Program) -> str:
    """Return how the engines differ on one program, or ""."""
    return differences([program])[0]


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
    places = [(f"%r{i}", 4 * i, 4) for i in range(POOL["r"])] + [(f"%d{i}", 24 + 8 * i, 8) for i in range(POOL["d"])]
    places += [(f"%h{i}", 56 + 2 * i, 2) for i in range(POOL["h"])] + [(f"%p{i}", 64 + i, 1) for i in range(POOL["p"])]
    for name, start, size in [*places, ("own memory", 80, 16)]:
        if start <= octet < start + size:
            codes = (x[thread, start : start + size].tobytes()[::-1].hex() for x in (a, b))
            return f"thread {thread}, {name}: " + " and ".join(f"0x{c}" for c in codes)
    return f"thread {thread}, byte {octet}"
