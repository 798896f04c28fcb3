"""The data behind the plots of the HTML report, reduced to what a screen can show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.analysis.results.reader import Result

MAX_POINTS = 512
"""Points of a line; more would not be seen, and a page must stay light."""
MAX_SERIES_POINTS = 200_000
"""Points over all heads and rules of one kind of plot."""
LEAST_EXPONENT, MOST_EXPONENT, BINS_PER_DECADE = -8, 2, 8
"""Range of the error histograms, powers of ten."""
MOST_TIGHTNESS_EXPONENT = 4

HEAT_MAPS = {
    "key_bits_mean": "Bits read per key",
    "value_bits_mean": "Bits read per value",
    "bytes_saving": "Saving in bytes",
    "output_relative_error_to_exact_median": "Median relative output error",
}


def heat_maps(result: Result, rule: str) -> dict[str, Any]:
    """Return layers x kv heads of the columns of `HEAT_MAPS`; null where a head was left out."""
    heads = result.table("heads", ["rule", "layer", "kv_head", *HEAT_MAPS]).filter(pc.field("rule") == rule).to_pylist()
    layers = sorted({head["layer"] for head in heads})
    columns = sorted({head["kv_head"] for head in heads})
    maps: dict[str, list[list[float | None]]] = {name: [[None] * len(columns) for _ in layers] for name in HEAT_MAPS}
    for head in heads:
        for name in HEAT_MAPS:
            maps[name][layers.index(head["layer"])][columns.index(head["kv_head"])] = finite(head[name])
    return {"layers": layers, "kv_heads": columns, "maps": maps}


def levels(result: Result, rule: dict[str, Any]) -> dict[str, Any]:
    """Return the share of keys and values read at each width."""
    widths = result.summary["layout"]["levels_bits"]
    shares = {}
    for kind, stem in (("key", "key_channels_at_{}_bits"), ("value", "value_tokens_at_{}_bits")):
        counts = [rule["totals"][stem.format(width)] for width in widths]
        shares[kind] = [count / sum(counts) for count in counts]
    return {"widths": widths, **shares}


def savings(rule: dict[str, Any]) -> dict[str, float]:
    """Return the saving counted in ever more honest units."""
    return {
        name: rule["totals"][f"{name}_saving"] for name in ("bits", "bytes", "sectors", "atoms", "lines", "step_bytes")
    }


def tokens(result: Result, rule: str, points: int) -> list[dict[str, Any]]:
    """Return, head by head, bits per value and attention mass along the sequence, in bins of equal length."""
    names = ["rule", "layer", "kv_head", "token", "steps_visible", "attention_mass", "value_bits_mean"]
    series = []
    for layer, kv_head, rows in _heads(result, "tokens", names, rule):
        seen = rows["steps_visible"] > 0
        bin_tokens = max(1, -(-len(seen) // points))
        starts = np.arange(0, len(seen), bin_tokens)
        count = np.add.reduceat(seen.astype(float), starts)
        read = np.add.reduceat(np.where(seen, rows["value_bits_mean"], 0), starts)
        # Mass per step and query head that could see the token: a late token is seen by few.
        per_step = np.where(seen, rows["attention_mass"] / np.maximum(rows["steps_visible"], 1), 0)
        mass = np.add.reduceat(per_step, starts)
        with np.errstate(invalid="ignore"):
            series.append(
                {
                    "layer": layer,
                    "kv_head": kv_head,
                    "bin_tokens": bin_tokens,
                    "token": starts.tolist(),
                    "bits": rounded(read / count),
                    "mass": rounded(mass / count, 9),
                }
            )
    return series


def channels(result: Result, rule: str) -> list[dict[str, Any]]:
    """Return, head by head, bits read and wasted per key channel, and wasted per value channel."""
    names = ["rule", "layer", "kv_head", "kind", "channel", "bits_mean", "wasted_bits_mean"]
    series = []
    for layer, kv_head, rows in _heads(result, "channels", names, rule):
        keys, values = rows["kind"] == "key", rows["kind"] == "value"
        series.append(
            {
                "layer": layer,
                "kv_head": kv_head,
                "key_bits": rounded(rows["bits_mean"][keys]),
                "key_wasted": rounded(rows["wasted_bits_mean"][keys]),
                "value_wasted": rounded(rows["wasted_bits_mean"][values]),
            }
        )
    return series


def error_histograms(result: Result, rule: str) -> dict[str, Any]:
    """Return histograms over steps and query heads of the output's relative error, on a logarithmic axis."""
    columns = {
        "rule": "output_relative_error_to_exact",
        "full": "full_relative_error_to_exact",
        "rounding": "rounding_relative_error",
        "bound": "output_relative_bound",
    }
    edges = np.linspace(LEAST_EXPONENT, MOST_EXPONENT, (MOST_EXPONENT - LEAST_EXPONENT) * BINS_PER_DECADE + 1)
    counts = {key: np.zeros(len(edges) - 1, np.int64) for key in columns}
    with pq.ParquetFile(result.file("errors")) as file:
        for batch in file.iter_batches(columns=["rule", *columns.values()]):
            mine = batch.filter(pc.equal(batch.column("rule"), rule))
            for key, name in columns.items():
                counts[key] += _log_histogram(mine.column(name).to_numpy(zero_copy_only=False), edges)
    total = {key: max(1, int(held.sum())) for key, held in counts.items()}
    return {"log10_edges": edges.tolist(), **{key: (held / total[key]).tolist() for key, held in counts.items()}}


def tightness_histograms(result: Result, rule: str) -> dict[str, Any]:
    """Return histograms over steps and query heads of bound / true error, on a logarithmic axis."""
    columns = {"score": "score_bound_tightness", "output": "output_bound_tightness"}
    edges = np.linspace(0, MOST_TIGHTNESS_EXPONENT, MOST_TIGHTNESS_EXPONENT * BINS_PER_DECADE + 1)
    rows = result.table("errors", ["rule", *columns.values()]).filter(pc.field("rule") == rule)
    shares = {
        key: _log_histogram(rows.column(name).to_numpy(), edges) / max(1, len(rows)) for key, name in columns.items()
    }
    return {"log10_edges": edges.tolist(), **{key: held.tolist() for key, held in shares.items()}}


def _log_histogram(values: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    with np.errstate(divide="ignore"):
        logs = np.log10(values.astype(np.float64))
    # Zero and infinite errors stand in the outermost bins: none is left out.
    return np.histogram(np.clip(logs, edges[0], edges[-1]), edges)[0]


def _heads(result: Result, table: str, names: list[str], rule: str) -> list[tuple[int, int, dict[str, NDArray[Any]]]]:
    rows = result.table(table, names)
    rows = rows.filter(pc.field("rule") == rule)
    columns = {name: rows.column(name).to_numpy() for name in names if name != "rule"}
    if not len(rows):
        return []
    place = np.stack([columns["layer"], columns["kv_head"]])
    starts = np.flatnonzero(np.any(place[:, 1:] != place[:, :-1], axis=0)) + 1
    parts = {name: np.split(column, starts) for name, column in columns.items()}
    heads = range(len(starts) + 1)
    return [
        (int(parts["layer"][i][0]), int(parts["kv_head"][i][0]), {name: held[i] for name, held in parts.items()})
        for i in heads
    ]


def points_per_head(result: Result) -> int:
    """Return how many points a line of one head may have, so that all heads and rules fit the page."""
    heads = sum(1 for _ in result.table("heads", ["kv_head"]).column(0))
    return max(32, min(MAX_POINTS, MAX_SERIES_POINTS // max(1, heads)))


def rounded(values: NDArray[np.floating[Any]], digits: int = 4) -> list[float | None]:
    """Return values for JSON: no more digits than a plot shows, null for what is not finite."""
    return [finite(v) for v in np.round(values.astype(np.float64), digits).tolist()]


def finite(value: float | None) -> float | None:
    """Return null for infinities and NaNs, which JSON does not have."""
    return value if value is not None and np.isfinite(value) else None
