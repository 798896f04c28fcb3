"""Progress bars: on a terminal only, on stderr, gone when the work is done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from precalign.cli.output import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID


class Advance:
    """Called with how many units are done; `total` is told how many there are, where that is not known at once."""

    def __init__(self, shown: Progress, task: TaskID) -> None:
        self._shown, self._task = shown, task

    def __call__(self, count: int) -> None:
        """Go on by some units."""
        self._shown.update(self._task, advance=count)

    def total(self, count: int) -> None:
        """Say how many units there are."""
        self._shown.update(self._task, total=count)


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show progress with the time left; the caller is given a function to advance it by so many units."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit},"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=out, disable=not out.is_terminal, transient=True) as shown:
        yield Advance(shown, shown.add_task(title, total=total))
