"""`precalign bench memory`: the peak memory of an analysis, on dumps of several sizes that the benchmark makes itself."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from precalign.analysis.benchmarks.synthetic_dump import Shape, write_dump
from precalign.analysis.benchmarks.timing import Benchmark, Options, Row
from precalign.errors import UnavailableError

DESCRIPTION = "peak memory of analysing a dump of 8 GB (1 GB with --small)"
AIM_GB = 1.5
STEPS = "every:512"


def run(options: Options) -> Benchmark:
    """Write dumps of one layer and of many to a temporary folder, analyse each in a process of its own, and ask the system.

    Raises
    ------
    UnavailableError
        If the analysis fails.
    """
    one = Shape(n_layers=1)
    layers = [1, math.ceil((1e9 if options.small else 8e9) / one.layer_bytes)]
    with tempfile.TemporaryDirectory(prefix="precalign-bench-") as folder:
        results = [_measure(Path(folder), Shape(n_layers=n), options.threads) for n in layers]
    peak = results[-1].figures["peak_gb"]
    verdict = "met" if peak < AIM_GB else "not met"
    return Benchmark(
        "memory",
        DESCRIPTION,
        results,
        [
            f"peak_gb is the largest resident set that the system saw of `precalign analyze --steps {STEPS} --jobs {options.threads}`"
        ],
        [f"under {AIM_GB} GB for a dump of {results[-1].figures['dump_gb']:.1f} GB: {verdict}, {peak:.2f} GB"],
    )


LAUNCHER = """
import os, subprocess, sys
with subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL) as process:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
print(process.returncode, usage.ru_maxrss)
"""
"""A process's largest resident set begins with that of the process that started it, so a small one must."""


def run_measured(command: list[str]) -> tuple[int, int]:
    """Run a command; return its exit code and its largest resident set in bytes."""
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *command], stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own command
    code, peak = (int(word) for word in done.stdout.split())
    return code, peak * (1 if sys.platform == "darwin" else 1024)  # ru_maxrss counts KiB, on macOS bytes


def _measure(folder: Path, shape: Shape, jobs: int) -> Row:
    dump = folder / "dump.safetensors"
    size = write_dump(dump, shape)
    command = [sys.executable, "-m", "precalign.cli.main", "analyze", str(dump), "-o", str(folder / "out")]
    command += ["--steps", STEPS, "--jobs", str(jobs), "--overwrite", "--no-report"]
    start = time.perf_counter()
    code, peak = run_measured(command)
    seconds = time.perf_counter() - start
    if code != 0:
        raise UnavailableError(f"the analysis ended with code {code}", hint="its message is above")
    dump.unlink()
    figures = {"dump_gb": size / 1e9, "peak_gb": peak / 1e9, "gb_per_s": size / seconds / 1e9}
    return Row(f"{shape.n_layers} layers", "precalign analyze", seconds * 1e3, seconds * 1e3, 0.0, None, figures)
