"""The views that a query sees, and what their columns mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow.dataset as ds

    from precalign.analysis.results.stored import Stored

RESULT = "result"
RESULT_MEANING = "name of the result directory"


@dataclass(frozen=True)
class View:
    """A table of one or several results under one name.

    Attributes
    ----------
    name : str
    parts : mapping
        Name of a result -> its dataset.
    """

    name: str
    parts: Mapping[str, ds.Dataset]

    @property
    def fields(self) -> list[pa.Field]:
        """The columns, those of later results that earlier ones lack at the end."""
        fields: dict[str, pa.Field] = {}
        for part in self.parts.values():
            for field in part.schema:
                fields.setdefault(field.name, field)
        return list(fields.values())


def views(results: Mapping[str, Stored]) -> list[View]:
    """Return a view per table that any of the results has.

    Raises
    ------
    InputError
        If a file is missing, damaged or of another version.
    """
    names = dict.fromkeys(table for stored in results.values() for table in stored.files)
    return [
        View(table, {name: stored.dataset(table) for name, stored in results.items() if table in stored.files})
        for table in names
    ]


def described(view: View, *, with_result: bool) -> list[dict[str, Any]]:
    """Return name, type, unit and meaning of each column, as they stand in the files."""
    rows = [{"column": RESULT, "type": "string", "unit": "", "meaning": RESULT_MEANING}] if with_result else []
    for field in view.fields:
        held = {
            name.decode(errors="replace"): text.decode(errors="replace")
            for name, text in (field.metadata or {}).items()
        }
        kind = f"list of {field.type.value_type}" if pa.types.is_list(field.type) else str(field.type)
        rows.append(
            {
                "column": field.name,
                "type": kind,
                "unit": held.get("unit", ""),
                "meaning": held.get("description", ""),
            }
        )
    return rows
