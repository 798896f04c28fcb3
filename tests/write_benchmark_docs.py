"""Write the table of a page from the record of a benchmark: python tests/write_benchmark_docs.py attention.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- benchmark -->\n", "<!-- end of benchmark -->"
PAGES = {
    "attention": (
        "cpu.md",
        ("gb_per_s", "of_memory_speed", "arithmetic", "saved", "speed_up", "vs_sdpa", "vs_torch"),
    ),
    "scale": ("scale.md", ("overhead", "peak_gb")),
}


def table(record, figures):
    """Return the record as Markdown: the machine, the aims, and a table."""
    machine = record["machine"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores.", "", *(f"- {aim}" for aim in record["aims"]), ""]
    lines += ["| case | contender | median ms | spread ms | " + " | ".join(f"`{name}`" for name in figures) + " |"]
    lines += ["|---|---|" + "---:|" * (2 + len(figures))]
    last = None
    for row in record["rows"]:
        cells = [f"{row['figures'][name]:.2f}" if name in row["figures"] else "" for name in figures]
        case, last = ("" if row["case"] == last else row["case"]), row["case"]
        times = f"{_short(row['median_ms'])} | {_short(row['spread_ms'])}"
        lines.append(f"| {case} | {row['contender']} | {times} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _short(ms):
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def write(record):
    """Put the record's table between the marks of its page."""
    name, figures = PAGES[record["name"]]
    page = DOCS / name
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(head + BEGIN + table(record, figures) + END + tail, encoding="utf-8")


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
