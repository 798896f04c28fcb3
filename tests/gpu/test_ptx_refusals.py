"""PTX that is none, or claims more than a machine has, is refused by a message that names the line."""

import pytest

from precalign.errors import PrecalignError
from precalign.gpu.nvrtc import parse_resources
from precalign.gpu.ptx import PtxKernel
from precalign.gpu.ptx.parser import parse

BODY = """
.version 8.0
.target sm_80
.address_size 64
{before}
.visible .entry k(.param .u64 p)
{limits}
{{
  .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .pred %p<4>;
  {line}
  ret;
}}
"""


def build(line="", before="", limits=""):
    return PtxKernel(BODY.format(line=line, before=before, limits=limits), "k")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"line": "bra;"}, "1 operand expected, got 0"),
        ({"line": "ld.global.b32 %r1;"}, "2 operands expected, got 1"),
        ({"line": "add.u32 %r1, %r2;"}, "3 operands expected, got 2"),
        ({"line": "add.u32;"}, "3 operands expected, got 0"),
        ({"line": "activemask.b32;"}, "1 operand expected"),
        ({"line": "shfl.sync.idx.b32 %r1, %r2, %r3;"}, "5 operands expected"),
        ({"line": "vote.sync.ballot.b32 %r1, %p1;"}, "3 operands expected"),
        ({"line": "redux.sync.add.u32 %r1;"}, "3 operands expected"),
        ({"line": "bar.warp.sync;"}, "1 operand expected"),
        ({"line": "atom.global.cas.b32 %r1, [%d1], %r2;"}, "4 operands expected"),
        ({"line": "red.global.add.u32 [%d1];"}, "2 operands expected"),
        ({"line": "cvta.to.global.u64 %d1;"}, "2 operands expected"),
        ({"line": "mov.b64 {%r1,%r2};"}, "2 operands expected"),
        ({"line": "mov.b64 %d1, " + "{" * 5000 + ";"}, "a vector in a vector"),
        ({"line": "mov.u32 %r1, %r2|%r3|%r4;"}, "unknown operand: %r3|%r4"),
        ({"line": "mov.u32 %r1, " + "9" * 5000 + ";"}, "unknown operand: 999"),
        ({"line": "ld.global.b32 %r1, [%d1+8abc];"}, "unknown address"),
        ({"line": "mov.u32 %r1, x\x1b[2J;"}, r"unknown operand: x\\x1b"),
        ({"line": "frob x\nError: forged;"}, r"PTX line"),
        ({"line": ".reg .b32 %q<99999999999>;"}, "more than 131072 registers"),
        ({"line": ".shared .b8 s[1099511627776];"}, "of .shared memory 1048576 are modelled"),
        ({"before": ".global .b8 x[1099511627776];"}, "takes 1099511627776 bytes"),
        ({"before": ".global .b8 x[" + "9" * 5000 + "];"}, "not a declaration"),
        (
            {"before": "".join(f".global .b8 x{n}[536870912];" for n in range(4))},
            "the module's variables take 2147483648 bytes",
        ),
        ({"before": ".global .align 0 .b8 x[4];"}, ".align 0 is no power of two"),
        ({"before": ".global .align 1099511627776 .b8 x[4];"}, ".align 1099511627776 is no power of two"),
        ({"limits": ".maxntid 1,,2"}, "'{' of the kernel's body expected"),
        ({"limits": ".maxntid " + "9" * 5000}, "'{' of the kernel's body expected"),
    ],
)
def test_refused_in_words(arguments, words):
    with pytest.raises(PrecalignError, match=words) as caught:
        build(**arguments)
    assert all(c.isprintable() or c == "\n" for c in str(caught.value))
    assert len(str(caught.value)) < 1500


def test_what_is_meant_is_still_read():
    assert build(line="mov.b64 {%r1,%r2}, %d1;", limits=".maxntid 32, 1, 1\n.minnctapersm 2").entry.max_threads == 32
    assert parse(BODY.format(line="", before=".global .align 16 .b8 x[64];", limits="")).variables[0].size_bytes == 64


def test_a_log_with_endless_digits_is_read_at_once():
    text = "Compiling entry function 'k'\n" + "9" * 60_000 + " bytes smem, Used " + "9" * 60_000 + " registers"
    assert parse_resources(text) == {}
