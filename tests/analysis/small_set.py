"""A set of results of many dumps, written without precalign's own writer."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

TABLES = ("heads", "steps", "errors", "channels", "tokens", "cache")


def write_set(path, singles, *, parts=2, finished=True):
    """Write a set of single results: name of a dump -> result directory. Dumps are spread over `parts` parts."""
    (path / "tables").mkdir(parents=True)
    names = list(singles)
    dumps = pa.table({"dump": names}).replace_schema_metadata({"schema": "precalign.dumps/1"})
    pq.write_table(dumps, path / "dumps.parquet")
    for table in TABLES:
        folder = path / "tables" / table
        folder.mkdir()
        for part in range(min(parts, len(names))):
            held = [_with_dump(name, pq.read_table(singles[name] / f"{table}.parquet")) for name in names[part::parts]]
            pq.write_table(pa.concat_tables(held), folder / f"part-{part:05}.parquet")
    if finished:
        single = json.loads((singles[names[0]] / "summary.json").read_text())
        summary = {"schema": "precalign.set/1", "precalign": "0", "set": {"n_dumps": len(names)}}
        summary |= {name: single[name] for name in ("options", "layout", "rules")}
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def _with_dump(name, table):
    column = pa.array([name] * table.num_rows, pa.string())
    return table.add_column(0, "dump", column).replace_schema_metadata(table.schema.metadata)
