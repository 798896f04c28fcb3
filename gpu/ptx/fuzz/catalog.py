"""The opcodes from which random programs are made, with the registers that each takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

_INTEGERS = "{u16,s16,u32,s32,u64,s64}"
_MODES = "{,.rn,.rz,.rm,.rp}"
_FLOAT_TESTS = "{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}"
_CLASSES = {"8": "h", "16": "h", "32": "r", "64": "d", "pred": "p"}

# pattern, results, sources. Letters are register classes: h of 16 bits, r of 32, d of 64, p predicates; t is the class of
# the last type in the opcode, i an immediate from 0 to 255.
_PATTERNS = (
    (f"{{add,sub,min,max,div,rem,mul.lo,mul.hi}}.{_INTEGERS}", "t", "tt"),
    (f"{{mad.lo,mad.hi,sad}}.{_INTEGERS}", "t", "ttt"),
    ("mul.wide.{u16,s16}", "r", "hh"),
    ("mul.wide.{u32,s32}", "d", "rr"),
    ("mad.wide.{u16,s16}", "r", "hhr"),
    ("mad.wide.{u32,s32}", "d", "rrd"),
    ("{add.sat,sub.sat}.s32", "r", "rr"),
    ("mul24.lo.{u32,s32}", "r", "rr"),
    ("{abs,neg}.{s16,s32,s64}", "t", "t"),
    ("{and,or,xor}.{b16,b32,b64,pred}", "t", "tt"),
    ("not.{b16,b32,b64,pred}", "t", "t"),
    ("cnot.{b16,b32,b64}", "t", "t"),
    ("lop3.b32", "r", "rrri"),
    ("shl.{b16,b32,b64}", "t", "tr"),
    ("shr.{b16,b32,b64,u16,u32,u64,s16,s32,s64}", "t", "tr"),
    ("shf.{l,r}.{wrap,clamp}.b32", "r", "rrr"),
    ("bfi.{b32,b64}", "t", "ttrr"),
    ("bfe.{u32,s32,u64,s64}", "t", "trr"),
    ("{popc,clz}.{b32,b64}", "r", "t"),
    ("bfind{,.shiftamt}.{u32,s32,u64,s64}", "r", "t"),
    ("brev.{b32,b64}", "t", "t"),
    ("prmt.b32", "r", "rrr"),
    ("selp.{b16,u32,f32,s64,f64}", "t", "ttp"),
    ("slct.{u32,f32,b64}.s32", "x", "xxr"),
    ("slct{,.ftz}.{b16,s32,f64}.f32", "x", "xxr"),
    ("mov.{b16,b32,f32,b64,f64,pred}", "t", "t"),
    ("setp.{eq,ne}.{b16,b32,b64}", "pp", "tt"),
    ("setp.{lt,le,gt,ge}.{u16,s32,u64,s16,u32,s64}", "pp", "tt"),
    ("setp.{lo,ls,hi,hs}.{u32,u64}", "pp", "tt"),
    (f"setp.{_FLOAT_TESTS}{{,.ftz}}.f32", "pp", "tt"),
    (f"setp.{_FLOAT_TESTS}.{{f64,f16,bf16}}", "pp", "tt"),
    ("setp.{lt,geu,ne}.{and,or,xor}.{f32,f64}", "pp", "ttp"),
    ("set.{lt,ne,nan}.{u32,s32,f32}.{f32,f64}", "r", "tt"),
    ("set.{lt,ge,eq}.{and,or,xor}.{u32,f32}.s32", "r", "ttp"),
    (f"{{add,sub,mul}}{_MODES}{{,.ftz}}{{,.sat}}.f32", "t", "tt"),
    ("fma{.rn,.rz,.rm,.rp}{,.ftz}{,.sat}.f32", "t", "ttt"),
    ("{add,sub,mul}{,.rn}.f64", "t", "tt"),
    ("fma.rn.f64", "t", "ttt"),
    ("div.rn{,.ftz}.f32", "t", "tt"),
    ("div.rn.f64", "t", "tt"),
    ("{sqrt,rcp}.rn{,.ftz}.f32", "t", "t"),
    ("{sqrt,rcp}.rn.f64", "t", "t"),
    ("{min,max}{,.ftz}{,.NaN}.f32", "t", "tt"),
    ("{min,max}.f64", "t", "tt"),
    ("{abs,neg}{,.ftz}.f32", "t", "t"),
    ("{abs,neg}.f64", "t", "t"),
    ("copysign.{f32,f64}", "t", "tt"),
    ("{add,sub,mul}{,.rn}{,.ftz}{,.sat}.f16", "t", "tt"),
    ("{add,sub,mul}{,.rn}{,.ftz}{,.sat}.f16x2", "r", "rr"),
    ("fma.rn{,.ftz}{,.sat}.f16", "t", "ttt"),
    ("fma.rn{,.ftz}{,.sat}.f16x2", "r", "rrr"),
    ("{add,sub,mul}{,.rn}.bf16", "t", "tt"),
    ("{add,sub,mul}{,.rn}.bf16x2", "r", "rr"),
    ("fma.rn.bf16", "t", "ttt"),
    ("fma.rn.bf16x2", "r", "rrr"),
    ("{min,max}{,.ftz}{,.NaN}.f16", "t", "tt"),
    ("{min,max}{,.ftz}{,.NaN}.f16x2", "r", "rr"),
    ("{min,max}{,.NaN}.bf16", "t", "tt"),
    ("{min,max}{,.NaN}.bf16x2", "r", "rr"),
    ("{abs,neg}.{f16,bf16}", "t", "t"),
    ("{abs,neg}.{f16x2,bf16x2}", "r", "r"),
    ("div.{approx,full}{,.ftz}.f32", "r", "rr"),
    ("{ex2,lg2,rsqrt,sin,cos,rcp,sqrt}.approx{,.ftz}.f32", "r", "r"),
    ("tanh.approx.f32", "r", "r"),
    (f"cvt.{{u16,s16,u32,s32,u64,s64}}.{_INTEGERS}", "x", "t"),
    (f"cvt.sat.{{u16,s16,u32,s32,u64,s64}}.{_INTEGERS}", "x", "t"),
    ("cvt{,.sat}.{u8,s8}.{u16,s16,u32,s32,u64,s64}", "x", "t"),
    ("cvt.{u32,s32,u64,s64}.{u8,s8}", "x", "t"),
    ("cvt.{rni,rzi,rmi,rpi}{,.ftz}.{u16,s16,u32,s32,u64,s64}.f32", "x", "t"),
    ("cvt.{rni,rzi,rmi,rpi}.{u16,s16,u32,s32,u64,s64}.{f16,f64}", "x", "t"),
    (f"cvt.{{rn,rz,rm,rp}}{{,.sat}}.f32.{_INTEGERS}", "x", "t"),
    (f"cvt.{{rn,rz,rm,rp}}.f16.{_INTEGERS}", "x", "t"),
    (f"cvt.rn.f64.{_INTEGERS}", "x", "t"),
    ("cvt.{rn,rz,rm,rp}{,.ftz}{,.sat}.f32.f64", "x", "t"),
    ("cvt.{rn,rz,rm,rp}{,.sat}.f16.{f32,f64}", "x", "t"),
    ("cvt.{rn,rz}.bf16.f32", "x", "t"),
    ("cvt{,.ftz}.f32.{f16,bf16}", "x", "t"),
    ("cvt.f64.{f16,f32}", "x", "t"),
    ("cvt.{rni,rzi,rmi,rpi}{,.ftz}{,.sat}.f32.f32", "x", "t"),
    ("cvt.{rni,rzi,rmi,rpi}.f64.f64", "x", "t"),
    ("cvt.{rni,rzi,rmi,rpi}.f16.f16", "x", "t"),
    ("cvt.{rn,rz}.{f16x2,bf16x2}.f32", "r", "rr"),
)


@dataclass(frozen=True)
class Form:
    """An opcode with the classes of its registers.

    Attributes
    ----------
    opcode : str
    results, sources : str
        One letter each: h, r, d, p, or i for an immediate.
    """

    opcode: str
    results: str
    sources: str


def _expand(pattern: str) -> list[str]:
    pieces = [p[1:-1].split(",") if p.startswith("{") else [p] for p in re.findall(r"\{[^}]*\}|[^{]+", pattern)]
    return ["".join(choice) for choice in product(*pieces)]


def _class(type_name: str) -> str:
    digits = "pred" if type_name == "pred" else re.sub(r"^\D+", "", type_name)
    return _CLASSES[digits]


def _forms(pattern: str, results: str, sources: str) -> list[Form]:
    """Expand a pattern; x is the class of the type before the last."""
    forms = []
    for opcode in _expand(pattern):
        parts = opcode.split(".")
        own = {
            "t": _class(parts[-1]) if "t" in results + sources else "",
            "x": _class(parts[-2]) if "x" in results + sources else "",
        }
        forms.append(Form(opcode, *("".join(own.get(c, c) for c in s) for s in (results, sources))))
    return forms


GROUPS: tuple[tuple[Form, ...], ...] = tuple(tuple(_forms(*pattern)) for pattern in _PATTERNS)
"""Forms by pattern; a program draws a pattern first, so that patterns of many forms do not crowd out the others."""
