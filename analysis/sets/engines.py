"""Where groups are computed: threads of this process, or the workers of a Dask scheduler. Never more is handed out than is needed to keep them busy."""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from precalign.analysis.parallel import Stopped
from precalign.errors import PrecalignError, UnavailableError, UsageError
from precalign.heap import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from precalign.analysis.sets.groups import Group

    Work = Callable[[Group, Callable[[int], None]], bytes]
    Progress = Callable[[int], None]

AHEAD = 2
"""Groups handed out per thread of a worker: the next one is there when one ends."""


class Engine(Protocol):
    """Computes groups in any order."""

    def room(self) -> bool:
        """Whether another group should be handed out."""

    def submit(self, group: Group) -> None:
        """Hand out a group."""

    def next(self) -> tuple[Group, bytes] | None:
        """Wait for one that is finished; None if none is handed out."""


@contextmanager
def engine(cluster: str | None, jobs: int, work: Work, progress: Progress) -> Iterator[Engine]:
    """Yield an engine; when the block ends, however it ends, nothing is computed any more.

    Parameters
    ----------
    cluster : str or None
        None for threads of this process, "local:N" for N worker processes, else the address of a scheduler.
    jobs : int
        Threads.
    work : callable
        Picklable where there is a cluster.
    progress : callable
        Told the steps that are done.

    Raises
    ------
    UsageError
        If `cluster` is not understood.
    UnavailableError
        If Dask is not installed, or the scheduler cannot be reached or is lost.
    """
    if cluster is None:
        with _threads(jobs, work, progress) as threads:
            yield threads
        return
    with _cluster(cluster) as client, _told(cluster):
        yield _Dask(client, work, progress)


def drive(running: Engine, groups: Iterator[Group]) -> Iterator[tuple[Group, bytes]]:
    """Yield every group with what came of it, as they finish; those that are waited for are as few as `room` allows."""
    while True:
        while running.room() and (group := next(groups, None)) is not None:
            running.submit(group)
        done = running.next()
        if done is None:
            return
        yield done


class _Threads:
    def __init__(self, pool: ThreadPoolExecutor, jobs: int, work: Work, advance: Progress) -> None:
        self._pool, self._jobs, self._work, self._advance = pool, jobs, work, advance
        self._running: dict[Future[bytes], Group] = {}

    def room(self) -> bool:
        return len(self._running) <= self._jobs

    def submit(self, group: Group) -> None:
        self._running[self._pool.submit(self._work, group, self._advance)] = group

    def next(self) -> tuple[Group, bytes] | None:
        if not self._running:
            return None
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        future = min(done, key=lambda one: self._running[one].index)
        group = self._running.pop(future)
        return group, future.result()


@contextmanager
def _threads(jobs: int, work: Work, progress: Progress) -> Iterator[_Threads]:
    stop = Event()

    def advance(steps: int) -> None:
        if stop.is_set():
            raise Stopped
        progress(steps)

    pool = ThreadPoolExecutor(jobs, thread_name_prefix="group")
    try:
        yield _Threads(pool, jobs, work, advance)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _in_worker(work: Work, group: Group) -> bytes:
    """Do the work in a process that Dask started; its client counts whole groups, so progress goes nowhere."""
    keep_freed_memory()
    return work(group, lambda _steps: None)


class _Dask:
    def __init__(self, client: Any, work: Work, progress: Progress) -> None:  # noqa: ANN401 - a distributed.Client
        from distributed import as_completed

        self._client, self._work, self._progress = client, work, progress
        self._running: dict[str, Group] = {}
        self._completed = as_completed([], with_results=False)

    def room(self) -> bool:
        threads = sum(self._client.nthreads().values()) if len(self._running) >= AHEAD else 1
        return len(self._running) < AHEAD * max(threads, 1)

    def submit(self, group: Group) -> None:
        future = self._client.submit(
            _in_worker, self._work, group, key=f"precalign-{id(self):x}-{group.index}", pure=False
        )
        self._running[future.key] = group
        self._completed.add(future)

    def next(self) -> tuple[Group, bytes] | None:
        if not self._running:
            return None
        future = next(self._completed)
        group = self._running.pop(future.key)
        packed: bytes = future.result()
        future.release()
        self._progress(group.steps)
        return group, packed


@contextmanager
def _cluster(cluster: str) -> Iterator[Any]:
    try:
        import distributed
    except ImportError as error:
        raise UnavailableError(
            "--cluster needs Dask, which is not installed", hint="pip install 'precalign[scale]'"
        ) from error
    with _quiet():
        if cluster.startswith("local:"):
            with _local(cluster) as running, distributed.Client(running) as client:
                yield client
            return
        try:
            client = distributed.Client(cluster, timeout=10)
        except (OSError, ValueError, TimeoutError) as error:
            raise UnavailableError(
                f"--cluster {cluster}: no Dask scheduler answers: {error}",
                hint="give the address that `dask scheduler` prints, as tcp://host:8786",
            ) from error
        with client:
            yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence loggers whose lines are for those who run a cluster; errors that matter here are raised."""
    heads = ("distributed", "tornado", "asyncio")
    loggers = [logging.getLogger(name) for name in [*heads, *logging.root.manager.loggerDict] if name.startswith(heads)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _local(cluster: str) -> Iterator[Any]:
    import distributed

    count = cluster.removeprefix("local:")
    if not count.isdecimal() or int(count) < 1:
        raise UsageError(f"--cluster {cluster}: {count!r} is no number of workers", hint="as local:4")
    with distributed.LocalCluster(
        n_workers=int(count),
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
        host="127.0.0.1",
    ) as running:
        yield running


@contextmanager
def _told(cluster: str) -> Iterator[None]:
    """Turn what Dask raises where workers or the scheduler are lost into one message."""
    import distributed
    from distributed.comm import CommClosedError

    hint = "what is finished stays: run the same command again"
    try:
        yield
    except PrecalignError:
        raise
    except distributed.scheduler.KilledWorker as error:
        raise UnavailableError(
            f"--cluster {cluster}: a task ended {error.allowed_failures + 1} workers that took it; are they out of memory?",
            hint=hint,
        ) from error
    except (CommClosedError, distributed.CancelledError, TimeoutError) as error:
        raise UnavailableError(f"--cluster {cluster}: the scheduler is lost: {error}", hint=hint) from error
