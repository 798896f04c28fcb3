"""Sets of small dumps, and a bare way to analyse them; also as a command, whose process a test may kill."""

from __future__ import annotations

import sys
from pathlib import Path

import small_dump

from precalign.analysis.plan import Options
from precalign.analysis.sets import groups
from precalign.analysis.sets.places import find_dumps
from precalign.analysis.sets.request import Request
from precalign.analysis.sets.run import analyze_set

RULES = ("alignedkv",)
TWO_RULES = ("alignedkv", "aligned-max:guard_bits=1")


def write_dumps(folder, n=3):
    """Write dumps that differ, and return the folder."""
    folder.mkdir(parents=True)
    for seed in range(n):
        small_dump.write(folder / f"d{seed}.safetensors", small_dump.tensors(seed))
    return folder


def run(target, *arguments, cluster=None, reading=None, render=None, overwrite=False, strict=False, **options):
    """Analyse a set; a group for every head, so that there is something to interrupt."""
    chosen = Options(**{"rules": RULES, "steps": "every:30", "jobs": 1} | options)
    request = Request(chosen) if reading is None else Request(chosen, reading=reading)
    return analyze_set(
        request,
        find_dumps(list(map(str, arguments))),
        target,
        command="precalign analyze again",
        cluster=cluster,
        render=render,
        overwrite=overwrite,
        strict=strict,
    )


def files(folder):
    """Return every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    groups.GROUP_COST = 1
    run(Path(sys.argv[1]), sys.argv[2])
