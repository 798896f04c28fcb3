"""Write the tables of docs/results.md, docs/commands/frontier.md and docs/commands/diff.md from the schemas: `python tests/write_results_docs.py`."""

from __future__ import annotations

from pathlib import Path

from precalign.analysis.diff.schema import COLUMNS as DIFF_COLUMNS
from precalign.analysis.frontier.schema import COLUMNS
from precalign.analysis.results.schema import TABLES
from precalign.analysis.sets.schema import DUMPS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {
    DOCS / "results.md": {"dumps": DUMPS, **TABLES},
    DOCS / "commands/frontier.md": {"frontier": COLUMNS},
    DOCS / "commands/diff.md": {"diff": DIFF_COLUMNS},
}
MARK = "<!-- columns of {} -->"


def columns(held):
    """Return the markdown table of a table's columns."""
    rows = [
        f"| `{c.name.replace('{level}', 'N')}` | {c.type} | "
        f"{c.unit} | {c.description.replace('{level}', 'N').replace('|', '&#124;')} |"
        for c in held
    ]
    return "\n".join(["| column | type | unit | meaning |", "|---|---|---|---|", *rows]).replace(
        "list<element: int64>", "list of int64"
    )


def with_columns(text, tables):
    """Return the page with the table after each mark replaced."""
    for name, held in tables.items():
        mark = MARK.format(name)
        head, tail = text.split(mark)
        rest = tail.split("\n\n", 2)[2] if tail.startswith("\n\n|") else tail.lstrip("\n")
        text = f"{head}{mark}\n\n{columns(held)}\n\n{rest}"
    return text


if __name__ == "__main__":
    for page, tables in PAGES.items():
        page.write_text(with_columns(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
