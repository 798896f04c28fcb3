"""Work spread over processes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_processes(function: Callable[[Given], Made], work: Iterable[Given], jobs: int) -> Iterator[Made]:
    """Apply a function to each piece of work, `jobs` processes at once; results come in the order of the work.

    Processes are spawned, not forked: the threads of numba and of a CUDA driver do not survive a fork.
    """
    if jobs == 1:
        yield from map(function, work)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(function, work)
        finally:
            pool.shutdown(cancel_futures=True)
