"""All benchmarks in one record, and one record beside an older one."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from precalign.analysis.benchmarks import BENCHMARKS
from precalign.analysis.benchmarks.timing import Benchmark, Options, machine
from precalign.errors import InputError, UnavailableError, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE_SCHEMA, SCHEMA = "precalign.benchmark/1", "precalign.benchmarks/1"


@dataclass(frozen=True)
class Suite:
    """What several benchmarks gave on one machine.

    Attributes
    ----------
    benchmarks : list of Benchmark
    missing : dict of str to str
        Benchmark -> what this machine lacks for it.
    """

    benchmarks: list[Benchmark]
    missing: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data, with the machine it was measured on."""
        return {"schema": SCHEMA, "machine": machine()} | asdict(self)


def run_all(options: Options, begin: Callable[[str], None] = lambda _: None) -> Suite:
    """Run every benchmark; one that needs what this machine lacks says so, and the others go on.

    Parameters
    ----------
    options : Options
    begin : callable
        Told the name of each benchmark before it runs.
    """
    done, missing = [], {}
    for name, module in BENCHMARKS.items():
        begin(name)
        try:
            done.append(importlib.import_module(module).run(options))
        except UnavailableError as error:
            missing[name] = error.message
    return Suite(done, missing)


@dataclass(frozen=True)
class Change:
    """One contender on one case, then and now.

    Attributes
    ----------
    benchmark, case, contender : str
    old_ms, new_ms : float
        Median times.
    ratio : float
        Old over new: above 1, it has become faster.
    relative : float or None
        The same for the time as a multiple of the case's reference, which says more where the machines differ.
    """

    benchmark: str
    case: str
    contender: str
    old_ms: float
    new_ms: float
    ratio: float
    relative: float | None


def compare(path: Path, new: Suite) -> list[Change]:
    """Compare with an older record, of one benchmark or of all; what only one of them holds is left out.

    Raises
    ------
    InputError
        If the file is no record of benchmarks, or none of its rows was measured again.
    """
    changes = []
    old = read(path)
    for benchmark in new.benchmarks:
        for row in benchmark.rows:
            before = old.get((benchmark.name, row.case, row.contender))
            if before is not None:
                relative = before["ratio"] / row.ratio if before["ratio"] and row.ratio else None
                ratio = before["median_ms"] / row.median_ms
                place = (benchmark.name, row.case, row.contender)
                changes.append(Change(*place, before["median_ms"], row.median_ms, ratio, relative))
    if not changes:
        raise InputError(
            f"{path}: none of its rows was measured again", hint="compare runs of the same benchmark and size"
        )
    return changes


def read(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the rows of a record by (benchmark, case, contender).

    Raises
    ------
    InputError
        If the file cannot be read or is no such record.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}", hint="expected a record written by `precalign bench -o`") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema not in (ONE_SCHEMA, SCHEMA):  # a list or a table cannot be looked up in a set
        raise InputError(f"{path}: expected the schema {SCHEMA} or {ONE_SCHEMA}, got {shown(schema)}")
    try:
        held = [data] if schema == ONE_SCHEMA else data["benchmarks"]
        return {(b["name"], row["case"], row["contender"]): row for b in held for row in b["rows"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: a benchmark without its name or rows ({error!r})") from error
