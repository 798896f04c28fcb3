"""The process in which cases run: it may hang, die or grow, and is then replaced.

`python -m precalign.analysis.fuzz.worker FOLDER` reads orders from stdin and answers on stdout, a line of JSON each. FOLDER/heartbeat holds the
number of the case that runs now and when it began, so that whoever waits can tell a hang from work.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import resource
import shutil
import struct
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from precalign.analysis.fuzz.draw import Draw
from precalign.analysis.fuzz.guard import Guard, trust_loaded
from precalign.analysis.fuzz.outcome import Finding, described, detail_of, judged, site_of
from precalign.analysis.fuzz.registry import get_target
from precalign.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.fuzz.target import Case, Target

HEARTBEAT = struct.Struct("<qd")
HEARTBEAT_FILE, CASES_FOLDER, FAULTS_FILE = "heartbeat", "cases", "faults"
IDLE, PREPARING = -1, -2
"""What stands in the heartbeat where no case runs."""
BATCH_SECONDS = 0.5
"""After which a batch ends, wherever it is."""
SPARE_ADDRESSES = 1 << 30
"""Bytes of address space beside what the process has and what the bound allows; no bound on what is touched."""
QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that a user is not shown."""


@dataclass
class Batch:
    """What came of some cases.

    Attributes
    ----------
    after : int
        The case behind the last one that ran.
    accepted, refused : int
    sites : list of str
        Lines that refused.
    peak_bytes : int
        Most memory that a case took beside what the process had.
    seconds : float
    findings : list of Finding
    """

    after: int
    accepted: int = 0
    refused: int = 0
    sites: set[str] = field(default_factory=set)
    peak_bytes: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        held = dict(vars(self))
        return held | {"sites": sorted(self.sites), "findings": [found.to_json() for found in self.findings]}


class Worker:
    """Runs cases of any target, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CASES_FOLDER
        self._folder.mkdir(exist_ok=True)
        os.chdir(self._folder)
        with (folder / HEARTBEAT_FILE).open("r+b") as file:
            self._heartbeat = mmap.mmap(file.fileno(), HEARTBEAT.size)
        self._ready: dict[str, tuple[Target, Sequence[Case]]] = {}
        self._unraisable: list[BaseException] = []
        sys.unraisablehook = lambda told: self._unraisable.append(told.exc_value or RuntimeError("unraisable"))
        warnings.simplefilter("error")
        for kind in QUIET:
            warnings.simplefilter("ignore", kind)
        self._guard = Guard(self._folder)
        self._resident, self._name = 0, ""

    def prepare(self, name: str) -> tuple[Target, Sequence[Case]]:
        """Return a target and its seeds, each of which it has read once: what is imported and compiled is so by now.

        Raises
        ------
        UnavailableError
            If something is missing here.
        PrecalignError
            If the target refuses a seed: one of the two is wrong.
        """
        if name not in self._ready:
            HEARTBEAT.pack_into(self._heartbeat, 0, PREPARING, time.monotonic())
            target = get_target(name)
            seeds = target.seeds()
            for seed in seeds:
                self._clear()
                target.place(seed, self._folder)
                target.warm(seed, self._folder)
            self._clear()
            self._ready[name] = target, seeds
            trust_loaded()
        target, seeds = self._ready[name]
        _forget_most()
        self._resident, _ = _memory()
        size = max(sum(map(len, seed.values())) for seed in seeds)
        limit = _addresses() + target.bound.of(4 * size) + SPARE_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        return target, seeds

    def batch(self, name: str, seed: int, begin: int, end: int) -> Batch:
        """Run cases until `end`, or until the batch has taken long enough."""
        target, seeds = self.prepare(name)
        self._name = name
        found = Batch(begin)
        started = now = time.monotonic()
        for number in range(begin, end):
            HEARTBEAT.pack_into(self._heartbeat, 0, number, now)
            self._one(target, target.damaged(Draw(name, seed, number), seeds), (seed, number), found)
            found.after = number + 1
            now = time.monotonic()
            if now - started > BATCH_SECONDS:
                break
        HEARTBEAT.pack_into(self._heartbeat, 0, IDLE, 0.0)
        found.seconds = now - started
        return found

    def _one(self, target: Target, case: Case, number: tuple[int, int], found: Batch) -> None:
        target.place(case, self._folder)
        before, guard, self._unraisable[:] = self._resident, self._guard, []
        found.message = ""
        told: list[tuple[str, str, str, str]] = []
        guard.arm()
        try:
            target.run(case, self._folder)
        except BaseException as error:  # noqa: BLE001 - whatever comes is what is looked for
            guard.disarm()
            site = site_of(error.__traceback__)
            verdict = judged(error, target.refusals)
            if verdict is None:
                found.sites.add(site)
            elif not guard.seen:
                told.append((*verdict, site, detail_of(error)))
            found.message = described(error) if verdict is None else detail_of(error)
            found.refused += 1
        else:
            guard.disarm()
            found.accepted += 1
        told += [("code", what, "", found.message) for what in guard.seen]
        told += [
            ("exception", f"unraisable {described(e)}", site_of(e.__traceback__), detail_of(e))
            for e in self._unraisable
        ]
        self._resident, most = _memory()
        taken = max(0, most - before)
        _forget_most()
        bound = target.bound.of(sum(map(len, case.values())))
        if taken > bound:
            told.append(("memory", f"{-(-taken >> 20)} MiB: the bound is {bound >> 20} MiB", "", found.message))
        found.peak_bytes = max(found.peak_bytes, taken)
        found.findings += [Finding(self._name, *number, *what) for what in told]
        self._clear()

    def _clear(self) -> None:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    Path(entry.path).unlink()


def _addresses() -> int:
    """Return the bytes of address space that the process has."""
    with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - as below
        return int(file.read().split()[0]) * resource.getpagesize()


def _memory() -> tuple[int, int]:
    """Return the bytes of memory that the process has now, and the most that it ever had.

    getrusage does not do: what it gives begins with the most of the process that started this one.
    """
    with open("/proc/self/status", "rb", buffering=0) as file:  # noqa: PTH123 - once a case: nothing slower
        text = file.read(4096)
    most, now = (int(text.split(name, 1)[1].split(None, 1)[0]) << 10 for name in (b"VmHWM:", b"VmRSS:"))
    return now, most


def _forget_most() -> None:
    """Let the most memory that the process ever had be what it has now; where Linux does not let us, cases after a large one seem to take more."""
    with suppress(OSError), open("/proc/self/clear_refs", "wb", buffering=0) as file:  # noqa: PTH123 - as above
        file.write(b"5")


def _answer(worker: Worker, order: dict[str, Any]) -> dict[str, Any]:
    try:
        return worker.batch(order["target"], order["seed"], order["begin"], order["end"]).to_json()
    except UnavailableError as error:
        return {"unavailable": error.message, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - a defect of the target or of the fuzzer: the master says so
        return {"broken": detail_of(error)}


def serve(folder: Path, orders: IO[str], answers: IO[str]) -> None:
    """Answer orders until there are no more."""
    worker = Worker(folder)
    for line in orders:
        answers.write(json.dumps(_answer(worker, json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """Take over stdin and stdout: what libraries print goes to stderr."""
    folder = Path(sys.argv[1])
    faults = (folder / FAULTS_FILE).open("w", encoding="utf-8")
    faulthandler.enable(faults)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(folder, sys.stdin, answers)
    shutil.rmtree(folder, ignore_errors=True)  # a master that was killed does not


if __name__ == "__main__":
    main()
