"""What a frontier writes, as data."""

from __future__ import annotations

import pyarrow as pa

from precalign.analysis.results.schema import COUNT, ERROR, INDEX, REAL, TEXT, Column

FRONTIER_SCHEMA = "precalign.frontier/1"
FRONTIER_FILE = "frontier.parquet"
FRONTIER_PAGE = "frontier.html"

SPREADS = {"median": 0.5, "p99": 0.99, "max": 1.0}
"""Suffix -> quantile, nearest rank, over decode steps and query heads."""
FRONTS = {"median": "error_median", "p99": "error_p99", "bound": "bound_median"}
"""Error that a front is drawn against -> its column."""
UNITS = ("bytes", "sectors", "bits")

COLUMNS = [
    Column("scope", TEXT, "", '"dump", "layer" or "head": what the row sums up'),
    Column("layer", INDEX, "", "layer index as in the dump; null for the dump"),
    Column("kv_head", INDEX, "", "kv head index in its layer; null for the dump and a layer"),
    Column("layout", TEXT, "", "planes of keys and values"),
    Column("rule", TEXT, "", "the rule with its parameters"),
    Column("family", TEXT, "", "the rule without them"),
    Column(
        "reference", pa.bool_(), "", "whether this is the published rule, alignedkv, in the format's default planes"
    ),
    Column("n_steps", COUNT, "1", "decode steps, of all kv heads together"),
    *(
        Column(f"{full}{unit}", COUNT, unit.removesuffix("s"), f"{what}, summed over steps")
        for unit, kind in (
            ("bytes", "bytes"),
            ("sectors", "32-byte sectors"),
            ("bits", "ideal bits"),
        )
        for full, what in (
            ("", f"{kind} of keys{' and values' if unit == 'bits' else ', values, metadata and pre-pass'}"),
            ("full_", f"{kind} of a full read of the plain cache"),
        )
    ),
    *(Column(f"{unit}_saving", REAL, "1", f"1 - {unit} / full_{unit}") for unit in UNITS),
    Column(
        "optimal_bits",
        COUNT,
        "bit",
        "fewest bits with the same worst-case error if bits could be divided at will (reverse water-filling); a limit, no kernel reads so",
    ),
    Column("optimal_bits_saving", REAL, "1", "1 - optimal_bits / full_bits"),
    Column("key_bits_mean", REAL, "bit", "bits read per key number"),
    Column("value_bits_mean", REAL, "bit", "bits read per value number"),
    *(
        Column(
            f"error_{spread}",
            ERROR,
            "1",
            f"{spread} over steps and query heads of the output's relative error (2-norm)",
        )
        for spread in SPREADS
    ),
    *(
        Column(
            f"bound_{spread}",
            ERROR,
            "1",
            f"{spread} over steps and query heads of the bound that is proven of it; infinite where nothing is",
        )
        for spread in SPREADS
    ),
    *(
        Column(
            f"on_front_{unit}_{name}",
            pa.bool_(),
            "",
            f"whether no setting of the same scope saves as many {unit} at a smaller {column}, or more at the same",
        )
        for unit in UNITS
        for name, column in FRONTS.items()
    ),
]
"""Columns of frontier.parquet, one row per scope and setting."""


def frontier_schema() -> pa.Schema:
    """Return the schema of frontier.parquet; fields carry "unit" and "description"."""
    fields = [field for column in COLUMNS for field in column.fields([0])]
    return pa.schema(fields, metadata={"schema": FRONTIER_SCHEMA})
