"""Reading a difference directory back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.analysis.diff.schema import DIFF_FILE, DIFF_SCHEMA
from precalign.analysis.results.single import TableResult, open_table_result

if TYPE_CHECKING:
    from pathlib import Path


def open_difference(path: Path) -> TableResult:
    """Open a directory that was written by `precalign diff`.

    Raises
    ------
    InputError
        If it is not one, is damaged, or is of a version that this one cannot read.
    """
    return open_table_result(path, DIFF_SCHEMA, DIFF_FILE, "precalign diff A B -o DIR")
