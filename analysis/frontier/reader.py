"""Reading a frontier directory back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.analysis.frontier.schema import FRONTIER_FILE, FRONTIER_SCHEMA
from precalign.analysis.results.single import TableResult, open_table_result

if TYPE_CHECKING:
    from pathlib import Path

Frontier = TableResult


def open_frontier(path: Path) -> Frontier:
    """Open a directory that was written by `precalign frontier`.

    Raises
    ------
    InputError
        If it is not one, is damaged, or is of a version that this one cannot read.
    """
    return open_table_result(path, FRONTIER_SCHEMA, FRONTIER_FILE, "precalign frontier DUMP -o DIR")
