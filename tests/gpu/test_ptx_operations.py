"""One PTX instruction at a time, on both engines, against plain Python."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ptx_oracle import expected

from precalign.gpu.ptx import PtxKernel
from precalign.gpu.ptx.compiled.launch import CompiledLaunch
from precalign.gpu.ptx.compiled.program import build_all
from precalign.gpu.ptx.fuzz.catalog import GROUPS
from precalign.gpu.ptx.fuzz.generate import _values
from precalign.gpu.ptx.launch import Launch, ModuleMemory
from precalign.gpu.ptx.operations import resolve
from precalign.gpu.ptx.parser import parse

FORMS = [form for group in GROUPS for form in group if not resolve(form.opcode).model]
BITS = {"h": 16, "r": 32, "d": 64}
TOGETHER = 24
N_LANES = 32


def text_of(forms, immediates):
    """Return a kernel in which block k applies form k to the four numbers of its lane."""
    lines = [
        "mov.u32 %r0, %ctaid.x;", "mov.u32 %r1, %tid.x;", f"mad.lo.u32 %r1, %r0, {N_LANES}, %r1;",
        "ld.param.u64 %d0, [k_in];", "mad.wide.u32 %d0, %r1, 32, %d0;",
        "ld.param.u64 %d1, [k_out];", "mad.wide.u32 %d1, %r1, 16, %d1;",
    ]  # fmt: skip
    for number in range(len(forms)):
        lines += [f"setp.eq.u32 %p0, %r0, {number};", f"@%p0 bra $F{number};"]
    lines.append("ret;")
    for number, form in enumerate(forms):
        lines.append(f"$F{number}:")
        sources = []
        for i, kind in enumerate(form.sources):
            if kind == "i":
                sources.append(str(immediates[number]))
            elif kind == "p":
                lines += [f"ld.global.u8 %r{2 + i}, [%d0+{8 * i}];", f"and.b32 %r{2 + i}, %r{2 + i}, 1;"]
                lines.append(f"setp.ne.u32 %p{2 + i}, %r{2 + i}, 0;")
                sources.append(f"%p{2 + i}")
            else:
                lines.append(f"ld.global.b{BITS[kind]} %{kind}{2 + i}, [%d0+{8 * i}];")
                sources.append(f"%{kind}{2 + i}")
        if form.results == "pp":
            lines.append(f"{form.opcode} %p0|%p1, {', '.join(sources)};")
        else:
            lines.append(f"{form.opcode} %{form.results}{6 if form.results != 'p' else 0}, {', '.join(sources)};")
        for i, kind in enumerate(form.results):
            if kind == "p":
                lines += [f"selp.u32 %r6, 1, 0, %p{i};", f"st.global.u32 [%d1+{8 * i}], %r6;"]
            else:
                lines.append(f"st.global.b{BITS[kind]} [%d1], %{kind}6;")
        lines.append("ret;")
    registers = [".reg .pred %p<8>;", ".reg .b16 %h<8>;", ".reg .b32 %r<8>;", ".reg .b64 %d<8>;"]
    head = [".version 8.0", ".target sm_80", ".visible .entry k(.param .u64 k_in, .param .u64 k_out)", "{"]
    return "\n".join([*head, *registers, *lines, "}"])


def check(forms, seed):
    """Return how many results were compared; fail at the first that differs."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((len(forms), N_LANES, 4), np.uint64)
    immediates = rng.integers(0, 256, len(forms))
    for k, form in enumerate(forms):
        for i, kind in enumerate(form.sources):
            codes[k, :, i] = immediates[k] if kind == "i" else _values(rng, BITS.get(kind, 16), N_LANES)
            if kind == "p":
                codes[k, :, i] &= np.uint64(1)
    text, outputs = text_of(forms, immediates), {}
    for engine in ("checked", "compiled"):
        outputs[engine] = np.zeros((len(forms), N_LANES, 2), np.uint64)
        arguments = [codes, outputs[engine]]
        if engine == "checked":
            PtxKernel(text, "k")(len(forms), N_LANES, arguments)
        else:
            module = parse(text)
            (program,) = build_all([(module, module.entries["k"])], optimise=0)
            grid, block = (len(forms), 1, 1), (N_LANES, 1, 1)
            CompiledLaunch(
                program, Launch(program.entry, module, ModuleMemory(module), grid, block, arguments, 0)
            ).run()
    compared = 0
    for k, form in enumerate(forms):
        for lane in range(N_LANES):
            given = [int(c) for c in codes[k, lane, : len(form.sources)]]
            wanted = expected(form.opcode, given)
            for i, kind in enumerate(form.results):
                value = int(wanted[i]) & ((1 << BITS.get(kind, 1)) - 1)
                for engine, output in outputs.items():
                    got = int(output[k, lane, i])
                    shown = f"{engine}: {form.opcode} of {', '.join(map(hex, given))}: {got:#x}, expected {value:#x}"
                    assert got == value, shown
                    compared += 1
    return compared


def test_a_part_of_all_forms():
    forms = FORMS[::4]
    for start in range(0, len(forms), TOGETHER):
        check(forms[start : start + TOGETHER], start)


@pytest.mark.long
def test_all_forms(proof):
    compared = 0
    for seed in range(10):
        for start in range(0, len(FORMS), TOGETHER):
            compared += check(FORMS[start : start + TOGETHER], 1000 * seed + start)
    proof("results of PTX instructions, both engines", compared, 0)
