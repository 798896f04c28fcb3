"""Contenders over all layers and heads: means, the worst head, the fronts, and who wins at equal bits or equal error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.frontier.front import pareto
from precalign.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MEANS = (
    *("key_bits_per_number", "value_bits_per_number", "bits_per_number"),
    *("key_relative_error", "value_relative_error", "key_cosine_mean", "value_cosine_mean"),
    *("output_error_median", "output_error_p99", "output_cosine_mean", "encode_peak"),
)
SUMS = ("stored_bytes", "moved_bytes_per_step", "full_bytes_per_step")
COSTS = {"stored": "bits_per_number", "moved": "moved_share"}
"""Cost that a front is drawn against -> its column."""
ERROR = "output_error_median"
STORED_LIMITS = (3.0, 4.0, 6.0, 9.0)
"""Bits a number that `verdict` asks about; 9 takes in codes of 8 bits with their scales."""
MOVED_LIMITS = (0.25, 0.375, 0.5)


def ranking(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per contender: means over heads, sums of bytes, the worst head by the 99th percentile, and the fronts.

    Parameters
    ----------
    rows : sequence of dict
        Rows of compare.parquet.
    """
    names = list(dict.fromkeys(row["contender"] for row in rows))
    found = [_contender([row for row in rows if row["contender"] == name]) for name in names]
    for cost, column in COSTS.items():
        # A rule stores all 16 bits: among what is stored it competes with the plain cache only.
        costs, errors = (np.array([row[name] for row in found], np.float64) for name in (column, ERROR))
        for row, on in zip(found, pareto(-costs, errors), strict=True):
            row[f"on_front_{cost}"] = bool(on)
    return found


def _contender(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    worst = max(rows, key=lambda row: row["output_error_p99"])
    mean = {name: _mean([row.get(name) for row in rows]) for name in MEANS}
    total = {name: sum(row[name] for row in rows) for name in SUMS}
    return {
        "contender": rows[0]["contender"],
        "kind": rows[0]["kind"],
        **mean,
        **total,
        "moved_share": total["moved_bytes_per_step"] / total["full_bytes_per_step"],
        "worst": {name: worst[name] for name in ("layer", "kv_head", "output_error_median", "output_error_p99")},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def match(rows: Sequence[dict[str, Any]], text: str) -> tuple[str, list[dict[str, Any]]]:
    """Return contenders within a limit, best first: "bits=4.5" by error, "error=0.05" by stored bits, "moved=0.3" by error.

    Nothing is interpolated: a contender is within the limit or it is not.

    Raises
    ------
    UsageError
        If the text is none of these.
    """
    name, _, value = text.partition("=")
    limits = {"bits": ("bits_per_number", ERROR), "error": (ERROR, "bits_per_number"), "moved": ("moved_share", ERROR)}
    try:
        column, order = limits[name]
        limit = float(value)
    except (KeyError, ValueError):
        raise UsageError(
            f"--match {text}: write bits=4.5, error=0.05 or moved=0.3",
            hint="stored bits per number, median output error, share of bytes",
        ) from None
    within = sorted((row for row in rows if row[column] <= limit), key=lambda row: (row[order], row[column]))
    return order, within


def verdict(rows: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return questions of a reader and the contender that answers each: what to store, what to read.

    A question that no contender answers is left out; errors are medians, as in `match`.
    """
    found = [(f"store at most {bits:g} bits a number", match(rows, f"bits={bits}")[1]) for bits in STORED_LIMITS]
    found += [
        (f"move at most {100 * share:g} % of the bytes", match(rows, f"moved={share}")[1]) for share in MOVED_LIMITS
    ]
    readers = [row for row in rows if row["kind"] == "rule"]
    found.append(
        ("store all 16 bits, read least of them", sorted(readers, key=lambda row: (row["moved_share"], row[ERROR])))
    )
    return [(question, within[0]) for question, within in found if within]
