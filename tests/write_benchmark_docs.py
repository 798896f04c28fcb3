"""Write the tables of a page from the record of a benchmark: python tests/write_benchmark_docs.py attention.json."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- benchmark -->\n", "<!-- end of benchmark -->"
ATTENTION = ("gb_per_s", "of_memory_speed", "arithmetic", "saved", "speed_up", "vs_sdpa", "vs_torch")
SCALE = ("overhead", "peak_gb")


def machine(record):
    """Return the lines that say on what was measured, and what came of the aims."""
    held = record["machine"]
    return [f"{held['cpu']}, {held['cores']} cores.", "", *(f"- {aim}" for aim in record["aims"]), ""]


def _short(ms):
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def plain(record, figures):
    """Return the record as Markdown: the machine, the aims, and a table of these figures."""
    lines = machine(record)
    lines += ["| case | contender | median ms | spread ms | " + " | ".join(f"`{name}`" for name in figures) + " |"]
    lines += ["|---|---|" + "---:|" * (2 + len(figures))]
    last = None
    for row in record["rows"]:
        cells = [f"{row['figures'][name]:.2f}" if name in row["figures"] else "" for name in figures]
        case, last = ("" if row["case"] == last else row["case"]), row["case"]
        times = f"{_short(row['median_ms'])} | {_short(row['spread_ms'])}"
        lines.append(f"| {case} | {row['contender']} | {times} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def analyze(record):
    """Return the record as Markdown: times as multiples of the bare attention, and the profile beside its floors."""
    lines = machine(record)
    lines += ["| case | contender | median ms | spread ms | ratio |", "|---|---|---:|---:|---:|"]
    last = None
    for row in (row for row in record["rows"] if row["ratio"] is not None):
        case, last = ("" if row["case"] == last else row["case"]), row["case"]
        lines.append(
            f"| {case} | {row['contender']} | {row['median_ms']:.1f} | {row['spread_ms']:.1f} | {row['ratio']:.1f} |"
        )
    phases = [row for row in record["rows"] if "share" in row["figures"]]
    lines += ["", f"| {phases[0]['case']} | ms | share | floor ms |", "|---|---:|---:|---:|"]
    for row in phases:
        floor = f"{row['figures']['floor_ms']:.1f}" if "floor_ms" in row["figures"] else ""
        lines.append(f"| {row['contender']} | {row['median_ms']:.1f} | {row['figures']['share']:.0%} | {floor} |")
    total, floor = (
        sum(values) for values in ([r["median_ms"] for r in phases], [r["figures"].get("floor_ms", 0) for r in phases])
    )
    lines.append(f"| all | {total:.1f} | | {floor:.1f} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "attention": ("cpu.md", partial(plain, figures=ATTENTION)),
    "scale": ("scale.md", partial(plain, figures=SCALE)),
    "analyze": ("commands/bench.md", analyze),
}


def write(page, text):
    """Put the tables between the page's marks."""
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(head + BEGIN + text + END + tail, encoding="utf-8")


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    name, table = PAGES[found["name"]]
    write(DOCS / name, table(found))
