"""The machine code of a cubin, through NVIDIA's disassembler, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from functools import lru_cache
from pathlib import Path

from precalign.errors import InputError
from precalign.gpu.nvrtc import nvidia_folders

_SECTION = re.compile(r"^\s*\.section\s+\.text\.([^,\s]+)")
_OPCODE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)")


@lru_cache(maxsize=1)
def disassembler() -> str | None:
    """Return the path of nvdisasm, from PATH or the wheel nvidia-cuda-nvdisasm, or None."""
    found = shutil.which("nvdisasm")
    if found:
        return found
    candidates = [folder / "nvdisasm" for folder in nvidia_folders("bin")]
    return next((str(path) for path in candidates if path.is_file()), None)


def opcodes(cubin: bytes) -> dict[str, Counter[str]]:
    """Return how often each opcode stands in each kernel, kernel -> opcode with modifiers -> count.

    Raises
    ------
    InputError
        If the disassembler refuses the cubin.
    """
    program = disassembler()
    if program is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        run = subprocess.run([program, "-c", str(file)], capture_output=True, text=True, check=False)  # noqa: S603 - our file
    if run.returncode:
        raise InputError(f"nvdisasm refuses the cubin: {run.stderr.strip()}", hint="it may be older than the compiler")
    return listed_opcodes(run.stdout)


def listed_opcodes(text: str) -> dict[str, Counter[str]]:
    """Return the same from what the disassembler prints."""
    found: dict[str, Counter[str]] = {}
    kernel = None
    for line in text.splitlines():
        if section := _SECTION.match(line):
            kernel = found.setdefault(section[1], Counter())
        elif kernel is not None and (instruction := _OPCODE.match(line)):
            kernel[instruction[1]] += 1
    return found


def count(opcodes_of_kernel: Counter[str], *names: str) -> int:
    """Return how many operations of some names there are; packed forms (FFMA2) count twice."""
    total = 0
    for opcode, times in opcodes_of_kernel.items():
        stem = opcode.split(".", 1)[0]
        total += times * ((stem in names) + 2 * (stem.endswith("2") and stem[:-1] in names))
    return total
