"""Interleaved timing, and the record that every benchmark returns."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Options:
    """What the user of `precalign bench` asked for.

    Attributes
    ----------
    small : bool
        Sizes of seconds rather than minutes.
    threads : int
        Threads a contender may use where it can.
    repeats : int
        Rounds; each round runs every contender once.
    dump : Path or None
        A dump to use instead of the benchmark's own, where it uses one.
    model : Path or None
        A model directory to use instead of the one that ships, where the benchmark uses one.
    """

    small: bool = False
    threads: int = os.cpu_count() or 1
    repeats: int = 7
    dump: Path | None = None
    model: Path | None = None


@dataclass(frozen=True)
class Row:
    """One contender on one case.

    Attributes
    ----------
    case, contender : str
        What was run and by whom.
    median_ms, best_ms, spread_ms : float
        Over the rounds; spread is the interquartile range.
    ratio : float or None
        Median time of this contender over that of the case's reference; None where the case has none.
    figures : dict[str, float]
        Derived figures with their unit in the name ("gb_per_s").
    """

    case: str
    contender: str
    median_ms: float
    best_ms: float
    spread_ms: float
    ratio: float | None = None
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """Points of a plot, or a line through them.

    Attributes
    ----------
    name : str
    x, y : list of float
    labels : list of str
        What each point is; shown when it is pointed at.
    line : bool
    """

    name: str
    x: list[float]
    y: list[float]
    labels: list[str] = field(default_factory=list)
    line: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot of the page: title, names of the axes, and what is drawn."""

    title: str
    x_title: str
    y_title: str
    series: list[Series]


@dataclass(frozen=True)
class Benchmark:
    """All rows of one benchmark, what was checked before timing, the aims its issue set, and plots for the page.

    `unavailable` says what this machine lacks where the rows are an estimate instead of a measurement; the command then ends with
    that error.
    """

    name: str
    description: str
    rows: list[Row]
    checks: list[str] = field(default_factory=list)
    aims: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    unavailable: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data, with the machine it was measured on."""
        return {"schema": "precalign.benchmark/1", "machine": machine()} | asdict(self)


def machine() -> dict[str, str | int]:
    """Return what of this machine matters to a reader of timings."""
    model = platform.processor() or "unknown"
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    repeats: int,
    at_most_s: float | None = None,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Run every contender once per round, after one round of warming up.

    Parameters
    ----------
    contenders : mapping
        Name -> call.
    repeats : int
        Rounds.
    at_most_s : float, optional
        Seconds after which a contender that has run twice sits out the rest, so that a slow one does not make all wait.
    clock : callable, optional
        `time.perf_counter` if not given; `time.process_time` where everything runs in one thread: other users of the machine then disturb less.

    Returns
    -------
    dict[str, list[float]]
        Seconds of each round. Interleaving spreads a slow moment of the machine over all contenders.
    """
    clock = time.perf_counter if clock is None else clock
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            if at_most_s is not None and len(seconds[name]) >= 2 and sum(seconds[name]) > at_most_s:
                continue
            gc.collect()
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def rows(
    case: str,
    seconds: Mapping[str, list[float]],
    *,
    reference: str | None = None,
    figures: Callable[[str, float], dict[str, float]] | None = None,
) -> list[Row]:
    """Turn the seconds of `interleave` into rows.

    Parameters
    ----------
    case : str
        Name of what was run.
    seconds : mapping
        From `interleave`.
    reference : str, optional
        The contender to whose median every ratio is taken.
    figures : callable, optional
        (contender, median seconds) -> derived figures.
    """
    base = statistics.median(seconds[reference]) if reference is not None else None
    result = []
    for name, times in seconds.items():
        median = statistics.median(times)
        quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [median] * 3
        result.append(
            Row(
                case=case,
                contender=name,
                median_ms=median * 1e3,
                best_ms=min(times) * 1e3,
                spread_ms=(quartiles[2] - quartiles[0]) * 1e3,
                ratio=None if base is None else median / base,
                figures={} if figures is None else figures(name, median),
            )
        )
    return result
