"""Reading a comparison directory back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.analysis.compare.schema import COMPARE_FILE, COMPARE_SCHEMA
from precalign.analysis.results.single import TableResult, open_table_result

if TYPE_CHECKING:
    from pathlib import Path

Comparison = TableResult


def open_comparison(path: Path) -> Comparison:
    """Open a directory that was written by `precalign compare`.

    Raises
    ------
    InputError
        If it is not one, is damaged, or is of a version that this one cannot read.
    """
    return open_table_result(path, COMPARE_SCHEMA, COMPARE_FILE, "precalign compare DUMP -o DIR")
