"""The two engines of the PTX machine against each other, and against what a launch must count."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from precalign.errors import UsageError
from precalign.gpu.ptx import KernelFault, PtxKernel, UnsupportedPtxError
from precalign.gpu.ptx.both import EngineDisagreement, run_both
from precalign.gpu.ptx.compiled.translate import table
from precalign.gpu.ptx.fuzz import compare
from precalign.gpu.ptx.fuzz.catalog import GROUPS
from precalign.gpu.ptx.fuzz.generate import Drawer, Statement
from precalign.gpu.ptx.fuzz.minimise import minimise
from precalign.gpu.ptx.fuzz.run import fuzz
from precalign.gpu.ptx.operations import resolve

sys.path.insert(0, str(Path(__file__).parent))


def kernel(body, engine, parameters=".param .u64 k_out", declarations=""):
    text = f""".version 8.0
.target sm_80
.address_size 64
.visible .entry k({parameters})
{{
.reg .pred %p<4>;
.reg .b16 %h<4>;
.reg .b32 %r<8>;
.reg .b64 %d<8>;
{declarations}
{body}
ret;
}}"""
    return PtxKernel(text, "k", engine=engine)


OWN = "ld.param.u64 %d0, [k_out];\nmov.u32 %r0, %tid.x;\nmad.wide.u32 %d1, %r0, 4, %d0;\n"


def test_random_programs():
    opcodes = set()
    for seed, optimise in ((7_008, 0), (7_040, 2)):
        tally = fuzz(24, seed, optimise=optimise)
        assert not tally.failures
        assert tally.programs == 24
        opcodes |= tally.opcodes
    assert len(opcodes) > 150


@pytest.mark.long
def test_many_random_programs(proof):
    tally = fuzz(100_000, 50_000_000, optimise=0)
    proof("random PTX programs, both engines of the PTX machine", tally.programs, len(tally.failures))
    assert not tally.failures


def test_a_planted_defect_is_found_and_made_small(monkeypatch):
    """prmt that takes its selector's second nibble for the first."""
    right = table.translate("prmt.b32")

    def wrong(code, a, b, selector):
        return right.write(code, a, b, code.binary("lshr", "i32", selector, "splat (i32 4)"))

    monkeypatch.setattr(
        "precalign.gpu.ptx.compiled.program.translate",
        lambda opcode: dataclasses.replace(right, write=wrong) if opcode == "prmt.b32" else table.translate(opcode),
    )
    seed = next(
        s
        for s in range(10_000)
        if Drawer(s).draw().statements[-1].lines[:1] and "prmt" in Drawer(s).draw().statements[-1].lines[0][:4]
    )
    (failure,) = fuzz(1, seed, most_failures=1).failures
    body = failure.text.split("$P0:")[1]
    assert "prmt.b32" in body
    assert len(body.splitlines()) == 8  # loads, the instruction, stores


def test_minimise_keeps_what_makes_it_fail():
    program = Drawer(3).draw()
    marked = Statement(["popc.b32 %r1, %r2;"])
    nested = Statement([], "%p0", [[Statement(["mov.b32 %r3, %r4;"]), marked], []])
    whole = dataclasses.replace(program, statements=[*program.statements, nested, *program.statements])
    small = minimise(whole, lambda p: "popc.b32" in p.text())
    assert small.statements == [marked]


def test_every_form_of_the_catalogue_is_known_to_both_engines():
    forms = [form for group in GROUPS for form in group]
    assert len(forms) == len({form.opcode for form in forms})
    for form in forms:
        one, two = resolve(form.opcode), table.translate(form.opcode)
        assert (one.results, one.sources, one.wide_registers, one.model) == (
            two.results,
            two.sources,
            two.wide_registers,
            two.model,
        ), form.opcode


@pytest.mark.parametrize(
    "opcode",
    [
        "add.rn.ftz.f64",
        "fma.f32",
        "cvt.f16.f32",
        "cvt.rn.f32.f16",
        "cvt.sat.rn.bf16.f32",
        "cvt.rm.bf16.f32",
        "cvt.rn.bf16.s32",
        "cvt.rn.sat.f64.s32",
        "mad.f32",
        "add.u8",
        "div.f32",
        "prmt.b32.f4e",
        "min.rn.f16",
        "mul.f8",
        "dp4a.u32.u32",
        "add.u32.cc",
        "ex2.f32",
        "setp.lo.s32",
        "bfind.b32",
    ],
)
def test_what_is_not_modelled_is_refused_by_both(opcode):
    for refuse in (resolve, table.translate):
        with pytest.raises(UnsupportedPtxError, match="not modelled"):
            refuse(opcode)


@pytest.mark.parametrize("engine", ["checked", "compiled"])
@pytest.mark.parametrize(
    "line",
    [
        "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1};",
        "cp.async.ca.shared.global [%r0], [%d0], 16;",
        "match.any.sync.b32 %r0, %r1, -1;",
        "shfl.up.b32 %r0, %r1, 1, 0;",
        "ld.shared.nc.u32 %r0, [%r1];",
        "atom.global.min.f32 %r0, [%d0], %r1;",
        "bar.arrive 0, 32;",
        "call foo;",
    ],
)
def test_unsupported_instructions_name_their_line(line, engine):
    with pytest.raises(UnsupportedPtxError, match=r"line 1\d"):
        kernel(line, engine)


@pytest.mark.parametrize("engine", ["checked", "compiled"])
def test_votes_and_reductions_keep_member_masks_apart(engine):
    body = (
        OWN
        + """mov.u32 %r1, %laneid;
setp.lt.u32 %p0, %r1, 8;
selp.b32 %r2, 0x000000ff, 0xffffff00, %p0;
redux.sync.add.u32 %r3, %r1, %r2;
setp.eq.u32 %p1, %r1, 3;
vote.sync.any.pred %p2, %p1, %r2;
selp.u32 %r4, 1000, 0, %p2;
add.u32 %r3, %r3, %r4;
st.global.u32 [%d1], %r3;"""
    )
    out = np.zeros(32, np.uint32)
    kernel(body, engine)(1, 32, [out])
    np.testing.assert_array_equal(out, [1028] * 8 + [sum(range(8, 32))] * 24)


@pytest.mark.parametrize("engine", ["checked", "compiled"])
def test_fused_multiply_add_of_binary64_whose_product_overflows(engine):
    body = """ld.param.u64 %d0, [k_out];
ld.global.v2.u64 {%d1, %d2}, [%d0];
ld.global.u64 %d3, [%d0+16];
fma.rn.f64 %d1, %d1, %d2, %d3;
st.global.u64 [%d0], %d1;"""
    for a, b, c, wanted in (
        (1e300, 1e300, -np.inf, -np.inf),
        (2.0**1000, 2.0**24, -(2.0**1023), 2.0**1023),
        (2.0**1000, 2.0**1000, 1.0, np.inf),
    ):
        numbers = np.array([a, b, c])
        kernel(body, engine)(1, 1, [numbers])
        assert numbers[0] == wanted


@pytest.mark.parametrize("engine", ["checked", "compiled"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_a_signalling_nan_gives_the_other_operand(engine, name):
    body = (
        OWN
        + f"mov.u32 %r1, 0x7f800001;\nmov.u32 %r2, 0x40000000;\n{name}.f32 %r3, %r1, %r2;\nst.global.u32 [%d1], %r3;"
    )
    out = np.zeros(1, np.uint32)
    kernel(body, engine)(1, 1, [out])
    assert out[0] == 0x40000000


@pytest.mark.parametrize("engine", ["checked", "compiled"])
def test_lanes_that_leave_a_loop_at_different_times_are_counted_apart(engine):
    body = (
        OWN
        + """mov.u32 %r1, %r0;
$LOOP:
ld.global.u32 %r2, [%d1];
setp.eq.u32 %p0, %r1, 0;
sub.u32 %r1, %r1, 1;
@!%p0 bra $LOOP;
st.global.u32 [%d1], %r2;"""
    )
    report = kernel(body, engine)(1, 32, [np.zeros(32, np.uint32)])
    load, store = sorted(report.memory.values(), key=lambda line: line.opcode)
    # Lane i goes round i + 1 times; round k is one request of the lanes from k on, at 8 lanes a sector.
    assert (load.requests, load.lanes, load.sectors) == (32, 528, sum(-(-(32 - k // 8 * 8) // 8) for k in range(32)))
    assert (store.requests, store.lanes, store.sectors) == (1, 32, 4)


@pytest.mark.parametrize("engine", ["checked", "compiled"])
def test_faults_name_line_and_thread(engine):
    body = OWN + "setp.eq.u32 %p0, %r0, 37;\n@%p0 add.u64 %d1, %d1, 4096;\nst.global.u32 [%d1], %r0;"
    with pytest.raises(
        KernelFault, match=r"PTX:\d+: out-of-bounds: 4 bytes at byte 4244 of k, argument 0.*thread \(37, 0, 0\)"
    ):
        kernel(body, engine)(1, 64, [np.zeros(64, np.uint32)])
    body = OWN + "setp.eq.u32 %p0, %r0, 5;\n@%p0 trap;"
    with pytest.raises(KernelFault, match=r"trap: reached.*thread \(5, 0, 0\)"):
        kernel(body, engine)(1, 64, [np.zeros(64, np.uint32)])


def test_an_endless_loop_is_found(monkeypatch):
    monkeypatch.setattr("precalign.gpu.ptx.machine.MAX_TURNS", 1000)
    monkeypatch.setattr("precalign.gpu.ptx.compiled.launch.MAX_TURNS", 1000)
    for engine in ("checked", "compiled"):
        with pytest.raises(KernelFault, match="hang"):
            kernel("$L:\nbra $L;", engine)(1, 32, [np.zeros(1, np.uint32)])


def test_engines_that_differ_are_told():
    right = kernel(OWN + "st.global.u32 [%d1], %r0;", "checked")
    wrong = kernel(OWN + "add.u32 %r0, %r0, 1;\nst.global.u32 [%d1], %r0;", "compiled")
    with pytest.raises(EngineDisagreement, match="argument 0: the engines differ from byte 0 on"):
        run_both(right, wrong, 1, 32, [np.zeros(32, np.uint32)])
    same_values = kernel(OWN + "mov.u32 %r1, %r0;\nst.global.u32 [%d1], %r0;", "compiled")
    with pytest.raises(EngineDisagreement, match=r"count differently: .*lane_instructions"):
        run_both(right, same_values, 1, 32, [np.zeros(32, np.uint32)])


def test_an_unknown_engine_is_refused():
    with pytest.raises(UsageError, match="no engine 'fast'"):
        kernel("", "fast")


def test_textbook_kernels_are_counted_alike():
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's wheels are not installed")
    import test_textbook_kernels as textbook

    from precalign.gpu.ptx import Kernel

    rng = np.random.default_rng(5)
    numbers = rng.standard_normal(1024).astype(np.float32)
    launches = {
        "reduction": (4, 256, [np.rint(numbers), np.int32(1000), np.zeros(1, np.float32)], 0),
        "scan": (1, 200, [np.arange(200, dtype=np.int32), np.empty(200, np.int32)], 1600),
        "transpose": ((2, 3), (32, 8), [numbers[:700], np.empty(700, np.float32), np.int32(20), np.int32(35)], 0),
        "softmax": (9, 32, [numbers[:693], np.empty(693, np.float32), np.int32(77)], 0),
        "histogram": (3, 128, [numbers.view(np.uint8), np.int32(4096), np.zeros(256, np.uint32)], 0),
        "matmul": ((2, 2), (16, 16), [numbers, numbers[::-1].copy(), np.empty(1024, np.float32), np.int32(32)], 0),
        "argmax": (13, 32, [numbers[:585], np.int32(45), np.empty(13, np.int32)], 0),
        "copy": (2, 32, [numbers[:131].copy(), np.empty(131, np.float32), np.int32(131)], 0),
        "bitonic": (1, 256, [numbers[:256].view(np.int32).copy()], 0),
    }
    macros = {"transpose": {"PAD": "0"}}
    for name, (grid, block, arguments, shared_bytes) in launches.items():
        pair = [
            Kernel(textbook.source(name), name, macros=macros.get(name), engine=engine)
            for engine in ("checked", "compiled")
        ]
        for seed in (None, 4):
            report = run_both(
                *pair, grid, block, [np.array(a) for a in arguments], shared_bytes=shared_bytes, seed=seed
            )
            assert report.lane_instructions > 0


def test_outcomes_that_only_one_engine_refuses_are_differences():
    ran, refused = compare.Outcome(b"", b"", {}), compare.Outcome(b"", b"", {}, "UnsupportedPtxError: x")
    assert "compiled: UnsupportedPtxError" in compare._compare(ran, refused)
    assert not compare._compare(ran, ran)


def test_the_documented_table_of_opcodes_is_that_of_the_registries():
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import write_ptx_docs

    text = write_ptx_docs.PAGE.read_text(encoding="utf-8")
    assert text == write_ptx_docs.page(text), "python tests/write_ptx_docs.py"
