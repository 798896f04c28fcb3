"""Writes the table of docs/trust.md from what `precalign fuzz --json` printed: python tests/write_fuzz_docs.py RUN.json ...

Several runs, of other targets or seeds, are added up; a run of the same target and seed stands for an earlier one.
"""

import json
import re
import sys
from pathlib import Path

from precalign.analysis.fuzz.registry import TARGETS

PAGE = Path(__file__).parents[1] / "docs" / "trust.md"
BEGIN, END = "<!-- fuzzing: written by tests/write_fuzz_docs.py -->", "<!-- end of fuzzing -->"
COLUMNS = "| target | what is read | cases | read | refused | lines that refuse | most memory | bound | findings |"


def added(runs):
    """Return target -> figures over all runs."""
    latest = {(told["target"], run["seed"]): told for run in runs for told in run["targets"]}
    found = {}
    for (target, _), told in latest.items():
        held = found.setdefault(
            target, dict.fromkeys(("cases", "accepted", "refused", "n_findings"), 0) | {"what": told["what"]}
        )
        for name in ("cases", "accepted", "refused", "n_findings"):
            held[name] += told[name]
        for name in ("refusing_lines", "peak_bytes"):
            held[name] = max(held.get(name, 0), told[name])
        held["bound"] = told["bound"]
    return {name: found[name] for name in TARGETS if name in found}


def table(runs):
    """Return the table, and a sentence with the sums."""
    lines = [COLUMNS, "|---|---|---:|---:|---:|---:|---:|---|---:|"]
    total = findings = 0
    for name, held in added(runs).items():
        bound = f"{held['bound']['constant_bytes'] >> 20} MiB + {held['bound']['per_byte']} × size"
        numbers = " | ".join(f"{held[key]:,}" for key in ("cases", "accepted", "refused", "refusing_lines"))
        lines.append(
            f"| `{name}` | {held['what']} | {numbers} | {held['peak_bytes'] / 1e6:.1f} MB | {bound} | {held['n_findings']:,} |"
        )
        total, findings = total + held["cases"], findings + held["n_findings"]
    told = f"{total:,} cases: {findings:,} findings: tracebacks, hangs, deaths, code, memory and harmful messages together."
    return "\n".join([*lines, "", told])


def main():
    runs = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    text = PAGE.read_text(encoding="utf-8")
    text = re.sub(f"({BEGIN}\n).*?({END})", lambda m: f"{m[1]}\n{table(runs)}\n\n{m[2]}", text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
