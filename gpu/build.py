"""What the compiler makes of the kernels: registers, spills, shared memory, occupancy, loads, arithmetic; for every architecture."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from precalign.errors import UsageError
from precalign.gpu import nvrtc, sass
from precalign.gpu.architectures import ARCHITECTURES
from precalign.gpu.kernels.config import KERNELS, sources
from precalign.gpu.ptx.parser import parse

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping, Sequence

    from precalign.gpu.kernels import KernelConfig
    from precalign.gpu.ptx.program import Entry

_WIDTH = re.compile(r"\.(?:v([248])\.)?[bsuf](8|16|32|64|128)\b")
_CONTRACTIBLE = re.compile(r"(?:add|sub|mul)(?:\.ftz)?(?:\.sat)?\.(?:f32|f64|f16x?2?|bf16x?2?)$")
"""Additions and multiplications without a rounding modifier: the only ones that the assembler may fuse (PTX ISA, add, mul)."""


@dataclass(frozen=True)
class Built:
    """One kernel, compiled for one architecture.

    Attributes
    ----------
    kernel, arch, label : str
        `label` tells the configuration or the file.
    threads : int
        Of a block.
    registers, spill_bytes, stack_bytes, shared_bytes : int
        Per thread; `shared_bytes` per block.
    occupancy : float
        Share of a multiprocessor's warps that can be resident.
    widest_load_bytes : int
        The widest access to global memory by one thread.
    ptx_fma, ptx_mul, ptx_add : int
        Instructions in the PTX.
    sass_loads, sass_fma, sass_mul, sass_add : int or None
        Operations in the machine code; None where no disassembler is at hand.
    problems : tuple of str
        Why the build fails; empty where it does not.
    """

    kernel: str
    arch: str
    label: str
    threads: int
    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    occupancy: float
    widest_load_bytes: int
    ptx_fma: int
    ptx_mul: int
    ptx_add: int
    sass_loads: int | None
    sass_fma: int | None
    sass_mul: int | None
    sass_add: int | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def check_architectures(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, all known ones if there are none.

    Raises
    ------
    UsageError
        If one is not known.
    """
    for name in names:
        if name not in ARCHITECTURES:
            raise UsageError(f"unknown architecture {name!r}", hint="architectures: " + ", ".join(ARCHITECTURES))
    return tuple(names) or tuple(ARCHITECTURES)


def build_kernels(configs: Sequence[KernelConfig], architectures: Sequence[str]) -> Iterator[Built]:
    """Compile the attention kernels.

    Raises
    ------
    UnavailableError
        If the compiler is not installed.
    """
    texts = sources()
    headers = {name: text for name, text in texts.items() if name.endswith(".cuh")}
    for config in configs:
        label = f"{config.variant} {config.format.name} head_dim={config.head_dim} group={config.group}"
        for file in dict.fromkeys(KERNELS[entry] for entry in config.entries()):
            for arch in architectures:
                built = _build(texts[file], file, arch, label, headers, config.macros())
                yield from (row for row in built if row.kernel in config.entries())


def build_file(
    source: str,
    file: str,
    architectures: Sequence[str],
    macros: Mapping[str, str],
    headers: Mapping[str, str],
    threads: int | None,
) -> Iterator[Built]:
    """Compile a CUDA source of the user's; `threads` is the block size where the source does not bound it."""
    for arch in architectures:
        yield from _build(source, file, arch, file, headers, macros, threads)


def _build(
    source: str,
    file: str,
    arch: str,
    label: str,
    headers: Mapping[str, str],
    macros: Mapping[str, str],
    threads: int | None = None,
) -> Iterator[Built]:
    compiled = nvrtc.compile_ptx(source, arch, headers=headers, macros=macros, file=file)
    machine_code = sass.opcodes(compiled.cubin)
    for name, entry in parse(compiled.ptx).entries.items():
        used = compiled.resources[name]
        block = threads or entry.max_threads or 32
        loads = [i.opcode for i in entry.instructions if i.opcode.startswith("ld.global")]
        found = machine_code.get(name)
        spills = used.spill_store_bytes + used.spill_load_bytes
        built = Built(
            kernel=name,
            arch=arch,
            label=label,
            threads=block,
            registers=used.registers,
            spill_bytes=spills,
            stack_bytes=used.stack_bytes,
            shared_bytes=used.shared_bytes,
            occupancy=ARCHITECTURES[arch].occupancy(block, used.registers, used.shared_bytes),
            widest_load_bytes=max(map(_load_bytes, loads), default=0),
            ptx_fma=_floating(entry, "fma"),
            ptx_mul=_floating(entry, "mul"),
            ptx_add=_floating(entry, "add", "sub"),
            sass_loads=_sass(found, "LDG"),
            sass_fma=_sass(found, "FFMA"),
            sass_mul=_sass(found, "FMUL"),
            sass_add=_sass(found, "FADD"),
            problems=(),
        )
        yield _judged(built, entry, found)


def _floating(entry: Entry, *names: str) -> int:
    return sum(i.name in names and i.opcode.endswith(".f32") for i in entry.instructions)


def _sass(found: Counter[str] | None, name: str) -> int | None:
    return None if found is None else sass.count(found, name)


def _load_bytes(opcode: str) -> int:
    found = _WIDTH.search(opcode)
    return 0 if found is None else int(found[1] or 1) * int(found[2]) // 8


def _judged(built: Built, entry: Entry, machine_code: Counter[str] | None) -> Built:
    """Return the same with its problems."""
    problems = []
    if built.spill_bytes:
        problems.append(f"{built.spill_bytes} bytes of register spills")
    local = [i for i in entry.instructions if i.opcode.startswith(("ld.local", "st.local"))]
    if built.stack_bytes or local:
        where = f" ({local[0].location})" if local else ""
        problems.append(f"local memory: {built.stack_bytes} bytes of frame{where}")
    problems += [
        f"{i.location}: {i.opcode} may be contracted" for i in entry.instructions if _CONTRACTIBLE.match(i.opcode)
    ]
    if machine_code is not None:
        if sass.count(machine_code, "LDL", "STL"):
            problems.append("the machine code loads or stores local memory")
        # Contraction turns a multiplication and an addition into one FFMA. Fewer FMUL alone are no evidence (2 x becomes x + x),
        # nor are more FFMA (x + y may become an FFMA by 1, and loops are unrolled); both together are.
        fused, multiplied = built.sass_fma or 0, built.sass_mul or 0
        if multiplied < built.ptx_mul and fused > built.ptx_fma:
            problems.append(
                f"contracted: the PTX has {built.ptx_mul} mul and {built.ptx_fma} fma, the machine code {multiplied} and {fused}"
            )
    return Built(**{**asdict(built), "problems": tuple(problems)})
