"""Heads are worked on side by side and handed over in order, and never all held."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")


class Stopped(Exception):  # noqa: N818 - not an error: it unwinds a worker whose result nobody wants
    """The run was interrupted or another head failed."""


def in_order(
    tasks: Iterable[T],
    jobs: int,
    work: Callable[[T, Callable[[int], None]], R],
    progress: Callable[[int], None] | None = None,
) -> Iterator[R]:
    """Yield ``work(task, advance)`` for every task in order; at most `jobs` + 1 results are held.

    Parameters
    ----------
    tasks : iterable
    jobs : int
        Threads.
    work : callable
        Calls `advance` with the units it has done since the last call; `advance` raises where nobody wants the result any more.
    progress : callable, optional
        Told what `advance` is told, from worker threads.
    """
    stop = Event()

    def advance(units: int) -> None:
        if stop.is_set():
            raise Stopped
        if progress is not None:
            progress(units)

    running: deque[Future[R]] = deque()
    waiting = iter(tasks)
    with _pool(jobs, stop) as pool:
        while True:
            while len(running) <= jobs and (task := next(waiting, None)) is not None:
                running.append(pool.submit(work, task, advance))
            if not running:
                return
            yield running.popleft().result()


@contextmanager
def _pool(jobs: int, stop: Event) -> Iterator[ThreadPoolExecutor]:
    """Threads are enough: the kernels hold no interpreter lock. However the block ends, no worker goes on."""
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="head")
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
