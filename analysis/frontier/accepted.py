"""What an error that somebody accepts buys: the setting that saves most within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

LIMITS = (*(float(f"{digit}e-{power}") for power in (5, 4, 3, 2) for digit in (1, 2, 5)), 0.1)
"""Accepted relative output errors, 1e-5 to 1e-1."""


def accepted(table: pa.Table) -> list[dict[str, Any]]:
    """Return, for each of `LIMITS`, the setting of the dump that saves most bytes with a 99th percentile of the error within it.

    Nothing is interpolated. Where no setting saves anything within a limit, its row has nulls.
    """
    names = ("layout", "rule", "bytes_saving", "sectors_saving", "bits_saving", "error_median", "error_p99")
    dump = [row for row in table.to_pylist() if row["scope"] == "dump"]
    rows = []
    for limit in LIMITS:
        within = [row for row in dump if row["error_p99"] <= limit and row["bytes_saving"] > 0]
        best: dict[str, Any] = max(within, key=lambda row: row["bytes_saving"], default={})
        rows.append({"limit": limit, **{name: best.get(name) for name in names}})
    return rows
