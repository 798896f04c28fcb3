"""Declarations of variables and parameters."""

from __future__ import annotations

import re

import numpy as np

from precalign.errors import shown
from precalign.gpu.ptx.faults import PtxSyntaxError, UnsupportedPtxError
from precalign.gpu.ptx.operands import parse_integer
from precalign.gpu.ptx.program import Variable
from precalign.gpu.ptx.scalars import SCALARS

MOST_ALIGN = 1 << 16
MOST_BYTES = {"param": 32_764, "global": 1 << 29, "const": 1 << 29, "shared": 1 << 20, "local": 1 << 20}
"""Of one variable: what a kernel's parameters, a block and a thread may have, and what this machine lays out of global memory."""
_DECLARATION = re.compile(
    r"(?P<linkage>(?:\.(?:visible|extern|weak|common)\s+)*)\.(?P<space>\w+)\s+"
    r"(?:\.align\s+(?P<align>[0-9]{1,18})\s+)?\.(?P<type>\w+)\s+"
    r"(?:\.ptr\b(?:\s+\.(?:global|const|shared|local))?(?:\s+\.align\s+[0-9]{1,18})?\s+)?"
    r"(?P<name>[%$\w]+)\s*(?P<sizes>(?:\[\s*[0-9]{0,18}\s*\]\s*)*)(?:=\s*(?P<initial>.*))?",
    re.DOTALL,
)


def parse_variable(text: str, where: str) -> Variable:
    """Parse one declaration, without its semicolon.

    Raises
    ------
    PtxSyntaxError, UnsupportedPtxError
        Naming the line.
    """
    match = _DECLARATION.fullmatch(text.strip())
    if not match:
        raise PtxSyntaxError(f"{where}: not a declaration: {shown(text.strip())}")
    if match["space"] not in ("global", "const", "shared", "local", "param"):
        raise UnsupportedPtxError(f"{where}: state space .{match['space']} is not modelled")
    if match["type"] not in SCALARS:
        raise UnsupportedPtxError(f"{where}: type .{match['type']} is not modelled")
    scalar = SCALARS[match["type"]]
    count = 1
    for size in re.findall(r"\[\s*(\d*)\s*\]", match["sizes"]):
        count *= int(size or 0)
    align, size_bytes = int(match["align"] or scalar.bytes), count * scalar.bytes
    if align < 1 or align & (align - 1) or align > MOST_ALIGN:
        raise PtxSyntaxError(f"{where}: .align {align} is no power of two up to {MOST_ALIGN}")
    if size_bytes > MOST_BYTES[match["space"]]:
        raise UnsupportedPtxError(
            f"{where}: {shown(match['name'])} takes {size_bytes} bytes, of .{match['space']} memory {MOST_BYTES[match['space']]} are modelled"
        )
    return Variable(
        match["name"],
        match["space"],
        align,
        size_bytes,
        _initial(match["initial"], scalar.bytes, where) if match["initial"] else None,
        "extern" in match["linkage"],
    )


def _initial(text: str, width: int, where: str) -> bytes:
    values = []
    for piece in (p.strip() for p in text.strip().strip("{}").split(",")):
        literal = re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", piece)
        if literal:
            values.append(int(literal[1] or literal[2], 16))
            continue
        try:
            values.append(parse_integer(piece))
        except ValueError as error:
            raise UnsupportedPtxError(f"{where}: initial value not modelled: {shown(piece)}") from error
    return np.array([v % (1 << 8 * width) for v in values], f"u{width}").tobytes()
