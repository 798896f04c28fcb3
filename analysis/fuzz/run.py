"""Many cases of many targets, some workers, one tally for each target."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from precalign.analysis.fuzz.outcome import Finding
from precalign.analysis.fuzz.process import Ended, WorkerProcess
from precalign.analysis.fuzz.registry import get_target
from precalign.analysis.parallel import Stopped
from precalign.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FUZZ_SCHEMA = "precalign.fuzz-readers/1"
LIMIT_SECONDS = 10.0
"""For one case."""
CHUNK_CASES = 2000
"""After which a worker goes on to the next target."""
MOST_DEATHS = 20
"""Of workers, after which a target is given up: what kills them must be mended first."""
MOST_KINDS = 50
"""Findings that differ, after which further ones of a target are only counted."""


@dataclass
class Tally:
    """What came of the cases of one target.

    Attributes
    ----------
    target : str
    cases, accepted, refused : int
        All; those that were read; those that were refused as they should be, or were findings.
    sites : set of str
        Lines of precalign that refused: how deep the cases reach.
    seconds : float
        Of all workers together, their start not counted.
    peak_bytes : int
        Most memory that a case took.
    findings : list of Finding
        The first of each signature.
    n_findings : int
    deaths : int
        Of workers.
    skipped : str or None
        Why it could not be run.
    """

    target: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    sites: set[str] = field(default_factory=set)
    seconds: float = 0.0
    peak_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    n_findings: int = 0
    deaths: int = 0
    skipped: str | None = None

    def add(self, answer: dict[str, Any], cases: int) -> None:
        """Count a batch."""
        self.cases += cases
        self.accepted += answer["accepted"]
        self.refused += answer["refused"]
        self.sites |= set(answer["sites"])
        self.seconds += answer["seconds"]
        self.peak_bytes = max(self.peak_bytes, answer["peak_bytes"])
        for found in answer["findings"]:
            self.find(Finding(**found))

    def find(self, found: Finding) -> None:
        """Count a finding, and keep it if there is none like it."""
        self.n_findings += 1
        if len(self.findings) < MOST_KINDS and all(found.signature != held.signature for held in self.findings):
            self.findings.append(found)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        bound = get_target(self.target).bound
        return {
            "target": self.target,
            "what": get_target(self.target).what,
            "skipped": self.skipped,
            "cases": self.cases,
            "accepted": self.accepted,
            "refused": self.refused,
            "refusing_lines": len(self.sites),
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "bound": {"constant_bytes": bound.constant_bytes, "per_byte": bound.per_byte},
            "n_findings": self.n_findings,
            "findings": [found.to_json() for found in self.findings],
        }


@dataclass(frozen=True)
class _Chunk:
    target: str
    begin: int
    end: int


class _Run:
    """What the threads of a run share."""

    def __init__(
        self, targets: Sequence[str], cases: int, seed: int, seconds: float | None, limit: float, *, checked: bool
    ) -> None:
        self.seed, self.limit, self.checked = seed, limit, checked
        self.tallies = {name: Tally(name) for name in targets}
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._chunks = _chunks(targets, cases)
        self._lock = Lock()
        self.stopped = False

    def next(self) -> _Chunk | None:
        """Return what is to be done next, None if nothing."""
        with self._lock:
            for chunk in self._chunks:
                if self.over():
                    return None
                if not self.given_up(chunk.target):
                    return chunk
        return None

    def over(self) -> bool:
        """Whether time is up, or the user has had enough."""
        return self.stopped or (self._deadline is not None and time.monotonic() > self._deadline)

    def given_up(self, name: str) -> bool:
        """Whether a target is not worth another worker."""
        tally = self.tallies[name]
        return tally.skipped is not None or tally.deaths >= MOST_DEATHS

    def count(self, name: str, answer: dict[str, Any], cases: int) -> None:
        """Count a batch."""
        with self._lock:
            self.tallies[name].add(answer, cases)

    def skip(self, name: str, why: str) -> None:
        """Say that a target cannot be run."""
        with self._lock:
            self.tallies[name].skipped = why

    def lose(self, name: str, begin: int, ended: Ended) -> int:
        """Count the case that ended a worker, and those before it, of which nothing is known but that they did not; return the next case."""
        case = begin if ended.case is None else ended.case
        with self._lock:
            tally = self.tallies[name]
            tally.deaths += 1
            tally.cases += case + 1 - begin
            tally.find(Finding(name, self.seed, case, ended.kind, ended.what, "", ended.detail))
        return case + 1


def _chunks(targets: Sequence[str], cases: int) -> Iterator[_Chunk]:
    """Cut the cases so that all targets go on together."""
    for begin in range(0, cases, CHUNK_CASES):
        for name in targets:
            yield _Chunk(name, begin, min(cases, begin + CHUNK_CASES))


def fuzz(
    targets: Sequence[str],
    cases: int,
    seed: int = 0,
    *,
    seconds: float | None = None,
    jobs: int = 1,
    limit_seconds: float = LIMIT_SECONDS,
    checked: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Tally]:
    """Run cases of targets.

    Parameters
    ----------
    targets : sequence of str
        As `get_target` takes them.
    cases : int
        Of each target: 0 to cases - 1.
    seed : int
        Draws other cases.
    seconds : float, optional
        After which no more are run.
    jobs : int
        Worker processes.
    limit_seconds : float
        For one case; longer is a hang.
    checked : bool
        Whether compiled kernels check the bounds of every access.
    progress : callable
        Told how many cases were done.

    Returns
    -------
    list of Tally
        In the order of the targets.

    Raises
    ------
    UsageError
        If there is no such target.
    """
    for name in targets:
        get_target(name)
    run = _Run(targets, cases, seed, seconds, limit_seconds, checked=checked)
    with ThreadPoolExecutor(jobs, thread_name_prefix="fuzz") as pool:
        try:
            for done in [pool.submit(_work, run, progress) for _ in range(jobs)]:
                done.result()
        finally:
            run.stopped = True
    return list(run.tallies.values())


def _work(run: _Run, progress: Callable[[int], None]) -> None:
    worker: WorkerProcess | None = None
    try:
        while (chunk := run.next()) is not None:
            at = chunk.begin
            while at < chunk.end and not run.over() and not run.given_up(chunk.target):
                worker = worker or WorkerProcess(run.limit, checked=run.checked, stopped=lambda: run.stopped)
                try:
                    answer = worker.order(chunk.target, run.seed, at, chunk.end)
                except Ended as ended:
                    worker.close()
                    worker, after = None, run.lose(chunk.target, at, ended)
                else:
                    if "unavailable" in answer:
                        run.skip(chunk.target, answer["unavailable"])
                        break
                    after = answer["after"]
                    run.count(chunk.target, answer, after - at)
                progress(after - at)
                at = after
    except Stopped:
        return
    finally:
        if worker is not None:
            worker.close()


@dataclass(frozen=True)
class Replay:
    """What came of one case.

    Attributes
    ----------
    accepted : bool
    message : str
        What refused it, or a traceback; empty where it was read.
    findings : list of Finding
    seconds : float
    peak_bytes : int
    """

    accepted: bool
    message: str
    findings: list[Finding]
    seconds: float
    peak_bytes: int


def replay(target: str, seed: int, case: int, *, limit_seconds: float = LIMIT_SECONDS) -> Replay:
    """Run one case again.

    Raises
    ------
    UnavailableError
        If the target cannot be run here.
    """
    with WorkerProcess(limit_seconds) as worker:
        try:
            answer = worker.order(target, seed, case, case + 1)
        except Ended as ended:
            found = Finding(target, seed, case, ended.kind, ended.what, "", ended.detail)
            return Replay(accepted=False, message=ended.what, findings=[found], seconds=0.0, peak_bytes=0)
    if "unavailable" in answer:
        raise UnavailableError(answer["unavailable"], hint=answer["hint"])
    findings = [Finding(**found) for found in answer["findings"]]
    return Replay(bool(answer["accepted"]), answer["message"], findings, answer["seconds"], answer["peak_bytes"])
