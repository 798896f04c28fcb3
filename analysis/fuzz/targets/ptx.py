"""PTX as its machine reads it, and what the compiler's tools print of kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.mutations.text import change_text
from precalign.analysis.fuzz.target import TEXT, Bound, TextTarget
from precalign.errors import UnavailableError
from precalign.formats import BINARY16
from precalign.gpu.kernels.config import KERNELS, KernelConfig, sources
from precalign.gpu.nvrtc import compile_ptx, parse_resources
from precalign.gpu.ptx.compiler import Compiler
from precalign.gpu.ptx.fuzz.generate import Drawer
from precalign.gpu.ptx.launch import Launch, ModuleMemory
from precalign.gpu.ptx.parser import parse
from precalign.gpu.sass import listed_opcodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case

DRAWN_PROGRAMS = 4
COMPILED = ("alignedkv", 64)
"""Rule and head_dim of the compiled kernels among the seeds."""
WORDS = (
    *(".reg", ".b32", ".f32", ".pred", ".shared", ".global", ".const", ".local", ".param", ".align", ".entry", ".func", ".extern", ".visible"),
    *("%r<99999999999>", "%r<8>", "%r1", "%p1", "%tid.x", "[%rd1+-8]", "[%rd1+99999999999999999999]", "{%r1,%r2}", "!%p1", "@%p1", "@!%p1", "_"),
    *("ld.global.v4.u32", "st.shared.f32", "bra", "call", "ret", "bar.sync", "shfl.sync.idx.b32", "atom.global.add.u32", "mov.b64", "$L__BB0_1:"),
    *(".b8 x[1099511627776];", ".global .align 8 .b8 y[99999999999];", ".align 0", ".maxntid 0, 0, 0", ".maxntid 1, 2, 3, 4", ".loc 1 2 3", "0f7F800001"),
)  # fmt: skip


class Ptx(TextTarget):
    """A module of PTX."""

    name = "ptx"
    what = "PTX: parser, checks before a launch"
    bound = Bound(64 << 20, 1024)

    def seeds(self) -> list[Case]:
        """Return drawn programs, and two of precalign's own kernels where its compiler is installed."""
        texts = [Drawer(seed).draw().text() for seed in range(DRAWN_PROGRAMS)]
        self._texts = texts + _compiled()
        return [{TEXT: text.encode()} for text in self._texts]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change words, lines, or bytes."""
        text = draw.one(self._texts[:DRAWN_PROGRAMS] if draw.chance(0.9) else self._texts)
        if draw.chance(0.1):
            return {TEXT: change_octets(draw, text.encode())}
        if draw.chance(0.3):
            lines = text.splitlines(keepends=True)
            at = draw.randrange(len(lines))
            lines[at] = change_text(draw, lines[at], (text,), WORDS)
            return {TEXT: "".join(lines).encode("utf-8", "surrogatepass")}
        return {TEXT: change_text(draw, text, (draw.one(self._texts),), WORDS).encode("utf-8", "surrogatepass")}

    def parse(self, text: str) -> None:
        """Parse it, compile each kernel for the checked machine and pack a launch; nothing is executed."""
        module = parse(text)
        memory = ModuleMemory(module)
        for entry in module.entries.values():
            Compiler(entry).compile()
            arguments = [
                None if param.size_bytes == 8 else np.zeros((), f"V{param.size_bytes}") for param in entry.params
            ]
            Launch(entry, module, memory, (1, 1, 1), (32, 1, 1), arguments, 0)


def _compiled() -> list[str]:
    config = KernelConfig(COMPILED[1], 1, BINARY16, COMPILED[0])
    texts = sources()
    headers = {name: text for name, text in texts.items() if name.endswith(".cuh")}
    files = sorted({KERNELS[entry] for entry in config.entries()}, key=lambda file: len(texts[file]))[:2]
    try:
        return [
            compile_ptx(texts[file], "sm_80", headers=headers, macros=config.macros(), file=file).ptx for file in files
        ]
    except UnavailableError:  # the compiler is not installed: drawn programs are enough
        return []


LISTING = """\
\t.section\t.text.scores,"ax",@progbits
\t.sectioninfo\t@"SHI_REGISTERS=32"
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0020*/              @P0  FFMA R0, R1, R2, R3 ;
        /*0030*/              @!UP1 FMUL.FTZ R0, R1, R2 ;
        /*0040*/                   FFMA2 R0, R1, R2, R3 ;
\t.section\t.text.values,"ax",@progbits
        /*0000*/                   FADD R1, R2, R3 ;
"""
LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scores' for 'sm_80'
ptxas info    : Function properties for scores
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 32 registers, 1024 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'values' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, 360 bytes cmem[0]
"""


class Listings(TextTarget):
    """What the disassembler and the assembler print."""

    name = "listings"
    what = "listings of the disassembler, logs of the assembler"

    def seeds(self) -> list[Case]:
        """Return one of each."""
        return [{TEXT: LISTING.encode()}, {TEXT: LOG.encode()}]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change words or bytes."""
        if draw.chance(0.3):
            return {TEXT: change_octets(draw, draw.one(seeds)[TEXT])}
        return {TEXT: change_text(draw, draw.one((LISTING, LOG)), (LISTING, LOG)).encode("utf-8", "surrogatepass")}

    def parse(self, text: str) -> None:
        """Count opcodes and read resources."""
        listed_opcodes(text)
        parse_resources(text)
