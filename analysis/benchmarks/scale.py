"""`precalign bench scale`: sets of dumps on worker processes, what scheduling costs, and memory against the number of dumps."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precalign.analysis.benchmarks.memory import run_measured
from precalign.analysis.benchmarks.synthetic_dump import Shape, write_dump
from precalign.analysis.benchmarks.timing import Benchmark, Options, Row
from precalign.analysis.plan import Options as Wanted
from precalign.analysis.sets.engines import drive, engine
from precalign.analysis.sets.groups import Group, compute, make_groups
from precalign.analysis.sets.places import find_dumps, names_of
from precalign.analysis.sets.planning import plan_dumps
from precalign.analysis.sets.request import Request, versions
from precalign.analysis.sets.run import analyze_set
from precalign.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DESCRIPTION = "sets of dumps: 2 worker processes against 1, scheduling at 1,000 tasks, memory at 10,000 dumps"
SPEED_AIM, OVERHEAD_AIM, GROWTH_AIM = 1.7, 0.05, 1.1
LONG = Shape(n_layers=2, n_kv_heads=4, group=2, seq_len=1024, head_dim=64)
SHORT = Shape(n_layers=2, n_kv_heads=5, group=1, seq_len=96, head_dim=32)
TINY = Shape(n_layers=1, n_kv_heads=1, group=1, seq_len=48, head_dim=16)
SECONDS_BYTES = 8


def run(options: Options) -> Benchmark:
    """Make dumps in a temporary folder and analyse them as sets.

    Raises
    ------
    UnavailableError
        If Dask is not installed, or an analysis fails.
    """
    with tempfile.TemporaryDirectory(prefix="precalign-bench-") as folder:
        place = Path(folder)
        workers, said = _workers(place, options)
        overhead = _overhead(place, options)
        memory = [_memory(place, n) for n in ((100, 1000) if options.small else (1000, 10000))]
    speed = workers[0].median_ms / workers[1].median_ms
    lost, growth = overhead.figures["overhead"], memory[1].figures["peak_gb"] / memory[0].figures["peak_gb"]
    return Benchmark(
        "scale",
        DESCRIPTION,
        [*workers, overhead, *memory],
        [said, "overhead is the share of the time in which the only worker does not compute; the cluster runs already"],
        [
            f"2 worker processes at least {SPEED_AIM}x one: {_met(speed >= SPEED_AIM)}, {speed:.2f}x",
            f"scheduling under {OVERHEAD_AIM:.0%} at {overhead.figures['tasks']:.0f} tasks: {_met(lost < OVERHEAD_AIM)}, {lost:.1%}",
            f"peak memory of {memory[1].case} at most {GROWTH_AIM}x that of {memory[0].case}: {_met(growth <= GROWTH_AIM)}, {growth:.2f}x",
        ],
    )


def _met(holds: bool) -> str:  # noqa: FBT001 - a word for a truth
    return "met" if holds else "not met"


def _dumps(folder: Path, shape: Shape, n: int) -> Path:
    """Write a dump and links to it: as many files for a reader, one for the disk."""
    folder.mkdir()
    first = folder / "d00000.safetensors"
    write_dump(first, shape)
    for number in range(1, n):
        os.link(first, folder / f"d{number:05d}.safetensors")
    return folder


def _cluster(n_workers: int) -> Any:  # noqa: ANN401 - a LocalCluster
    try:
        from distributed import LocalCluster
    except ImportError as error:
        raise UnavailableError(
            "the benchmark needs Dask, which is not installed", hint="pip install 'precalign[scale]'"
        ) from error
    return LocalCluster(
        n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50
    )


def _workers(folder: Path, options: Options) -> tuple[list[Row], str]:
    """Time a set on one and on two worker processes that run already, in turn; results are compared byte by byte."""
    dumps = _dumps(folder / "long", LONG, 4 if options.small else 16)
    request = Request(Wanted(steps="every:2", jobs=1))
    places = find_dumps([str(dumps)])
    times: dict[int, list[float]] = {1: [], 2: []}
    held: dict[int, dict[str, bytes]] = {}
    with ExitStack() as stack:
        clusters = {n: stack.enter_context(_cluster(n)) for n in times}
        for round_ in range(1 + min(options.repeats, 2 if options.small else 3)):
            for n, cluster in clusters.items():
                target = folder / f"out-{round_}-{n}"
                start = time.perf_counter()
                analyze_set(request, places, target, command="", cluster=cluster.scheduler_address)
                if round_:  # the first one loads compiled kernels
                    times[n].append((time.perf_counter() - start) * 1e3)
                held[n] = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    if held[1] != held[2]:
        raise UnavailableError("results of one and of two workers differ")
    first = statistics.median(times[1])
    rows = [
        _row(f"{len(places)} dumps of {LONG.seq_len} tokens", f"{n} worker processes", times[n], first) for n in times
    ]
    return rows, f"results of 1 and 2 workers are equal to the byte ({len(held[1])} files)"


def _row(case: str, contender: str, ms: list[float], reference: float) -> Row:
    return Row(case, contender, statistics.median(ms), min(ms), max(ms) - min(ms), statistics.median(ms) / reference)


def _timed(
    request: Request, levels: tuple[int, ...], expected: dict[str, str], group: Group, advance: Callable[[int], None]
) -> bytes:
    """Compute a group; the seconds it took stand before its bytes."""
    start = time.perf_counter()
    packed = compute(request, group, levels, expected, advance)
    return round((time.perf_counter() - start) * 1e9).to_bytes(SECONDS_BYTES, "little") + packed


def _overhead(folder: Path, options: Options) -> Row:
    """Run 1,000 short tasks (dump, layer, kv head) on one worker and see how long it had nothing to do."""
    heads = SHORT.n_layers * SHORT.n_kv_heads
    places = find_dumps([str(_dumps(folder / "short", SHORT, (200 if options.small else 1000) // heads))])
    request = Request(Wanted(jobs=1))
    plans = list(plan_dumps(request, places, names_of(places), strict=True))
    assert plans[0].form is not None  # noqa: S101 - it was planned
    work = partial(_timed, request, tuple(plans[0].form["levels_bits"]), versions())

    def groups() -> Iterator[Group]:
        return make_groups(iter(plans), places)

    walls, shares = [], []
    with _cluster(1) as cluster, engine(cluster.scheduler_address, 1, work, lambda _: None) as running:
        for round_ in range(1 + min(options.repeats, 3)):
            start, busy = time.perf_counter(), 0.0
            # A scheduler knows a task by its number: every round has its own.
            numbered = (replace(group, index=group.index + round_ * 10**6) for group in groups())
            for _, packed in drive(running, numbered):
                busy += int.from_bytes(packed[:SECONDS_BYTES], "little") / 1e9
            wall = time.perf_counter() - start
            if round_:
                walls.append(wall * 1e3)
                shares.append(1 - busy / wall)
    tasks = len(places) * heads
    row = _row(
        f"{tasks} tasks in {sum(1 for _ in groups())} groups", "1 worker process", walls, statistics.median(walls)
    )
    return replace(row, figures={"overhead": statistics.median(shares), "tasks": float(tasks)})


def _memory(folder: Path, n: int) -> Row:
    """Analyse so many tiny dumps in a process of its own, with threads, and ask the system for its peak."""
    dumps = _dumps(folder / f"tiny-{n}", TINY, n)
    command = [sys.executable, "-m", "precalign.cli.main", "analyze", str(dumps), "-o", str(folder / f"tiny-out-{n}")]
    start = time.perf_counter()
    code, peak = run_measured([*command, "--jobs", "2", "--no-report", "--steps", "every:16"])
    ms = (time.perf_counter() - start) * 1e3
    if code != 0:
        raise UnavailableError(f"the analysis ended with code {code}", hint="its message is above")
    return Row(f"{n} dumps", "precalign analyze", ms, ms, 0.0, None, {"peak_gb": peak / 1e9})
