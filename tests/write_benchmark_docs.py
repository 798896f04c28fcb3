"""Write the table of docs/cpu.md from a record: python tests/write_benchmark_docs.py attention.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/cpu.md"
BEGIN, END = "<!-- benchmark -->\n", "<!-- end of benchmark -->"
FIGURES = ("gb_per_s", "of_memory_speed", "arithmetic", "saved", "speed_up", "vs_sdpa", "vs_torch")


def table(record):
    """Return the record as Markdown: the machine, the aims, and a table."""
    machine = record["machine"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores.", "", *(f"- {aim}" for aim in record["aims"]), ""]
    lines += ["| case | contender | median ms | spread ms | " + " | ".join(f"`{name}`" for name in FIGURES) + " |"]
    lines += ["|---|---|" + "---:|" * (2 + len(FIGURES))]
    last = None
    for row in record["rows"]:
        cells = [f"{row['figures'][name]:.2f}" if name in row["figures"] else "" for name in FIGURES]
        case, last = ("" if row["case"] == last else row["case"]), row["case"]
        times = f"{row['median_ms']:.3g} | {row['spread_ms']:.2g}"
        lines.append(f"| {case} | {row['contender']} | {times} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(page, record):
    """Put the record's table between the page's marks."""
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(head + BEGIN + table(record) + END + tail, encoding="utf-8")


if __name__ == "__main__":
    write(PAGE, json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
