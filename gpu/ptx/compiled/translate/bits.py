"""Logic, shifts, fields, counts, permutation, selection, moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import splat
from precalign.gpu.ptx.compiled.translate.table import Translation, same, translation
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from precalign.gpu.ptx.compiled.code import Code
    from precalign.gpu.ptx.operations.registry import Modifiers
    from precalign.gpu.ptx.scalars import Scalar

_U32, _PRED = SCALARS["u32"], SCALARS["pred"]
_WORDS = ("b16", "b32", "b64")


@translation("and or xor", "b pred")
def _logic(m: Modifiers) -> Translation:
    scalar, name = m.scalar(*_WORDS, "pred"), m.name
    return same(scalar, 2, lambda c, a, b: c.binary(name, f"i{scalar.bits}", a, b))


@translation("not", "b pred")
def _not(m: Modifiers) -> Translation:
    scalar = m.scalar(*_WORDS, "pred")
    word = f"i{scalar.bits}"
    return same(scalar, 1, lambda c, a: c.binary("xor", word, a, splat(word, -1)))


@translation("cnot", "b")
def _cnot(m: Modifiers) -> Translation:
    scalar = m.scalar(*_WORDS)
    word = f"i{scalar.bits}"
    return same(scalar, 1, lambda c, a: c.cast("zext", "i1", c.compare("eq", word, a, splat(word, 0)), word))


@translation("lop3", "b")
def _lop3(m: Modifiers) -> Translation:
    """Choose the table's bit by a, then b, then c: three levels of selection by masks."""
    scalar = m.scalar("b32")

    def write(c: Code, a: str, b: str, last: str, table: str) -> str:
        rows = []
        for row in range(8):
            bit = c.binary("and", "i32", c.binary("lshr", "i32", table, splat("i32", row)), splat("i32", 1))
            rows.append(c.binary("sub", "i32", splat("i32", 0), bit))
        for chooser in (last, b, a):
            rows = [_by_bit(c, chooser, rows[i + 1], rows[i]) for i in range(0, len(rows), 2)]
        return rows[0]

    return Translation((scalar,), (scalar, scalar, scalar, _U32), write)


def _by_bit(c: Code, chooser: str, ones: str, zeros: str) -> str:
    difference = c.binary("xor", "i32", ones, zeros)
    return c.binary("xor", "i32", zeros, c.binary("and", "i32", difference, chooser))


def _shift(c: Code, operation: str, scalar: Scalar, value: str, count: str) -> str:
    """Shift by any count: from the width on, all bits leave (or the sign fills the word)."""
    word, bits = f"i{scalar.bits}", scalar.bits
    safe = c.intrinsic("llvm.umin", "i32", count, splat("i32", bits - 1))
    shifted = c.binary(operation, word, value, c.cast("trunc" if bits < 32 else "zext", "i32", safe, word))
    if operation == "ashr":
        return shifted
    inside = c.compare("ult", "i32", count, splat("i32", bits))
    return c.select(inside, word, shifted, splat(word, 0))


@translation("shl", "b")
def _shl(m: Modifiers) -> Translation:
    scalar = m.scalar(*_WORDS)
    return Translation((scalar,), (scalar, _U32), lambda c, a, n: _shift(c, "shl", scalar, a, n))


@translation("shr", "b u s")
def _shr(m: Modifiers) -> Translation:
    scalar = m.scalar(*(k + b for k in "bus" for b in ("16", "32", "64")))
    operation = "ashr" if scalar.kind == "s" else "lshr"
    return Translation((scalar,), (scalar, _U32), lambda c, a, n: _shift(c, operation, scalar, a, n))


@translation("shf", "b")
def _shf(m: Modifiers) -> Translation:
    scalar, direction, mode = m.scalar("b32"), m.take("l", "r"), m.take("wrap", "clamp")
    if not direction or not mode:
        raise m.refuse("a funnel shift without direction and mode")

    def write(c: Code, low: str, high: str, count: str) -> str:
        funnel = c.intrinsic(f"llvm.fsh{direction}", "i32", high, low, count)  # takes the count modulo 32
        if mode == "wrap":
            return funnel
        all_of_it = c.compare("uge", "i32", count, splat("i32", 32))
        return c.select(all_of_it, "i32", low if direction == "l" else high, funnel)

    return Translation((scalar,), (scalar, scalar, _U32), write)


def _octet(c: Code, value: str) -> str:
    return c.binary("and", "i32", value, splat("i32", 0xFF))


def _ones(c: Code, scalar: Scalar, length: str) -> str:
    """Return that many 1s at the bottom of a word."""
    word = f"i{scalar.bits}"
    return c.binary("xor", word, _shift(c, "shl", scalar, splat(word, -1), length), splat(word, -1))


@translation("bfi", "b")
def _bfi(m: Modifiers) -> Translation:
    scalar = m.scalar("b32", "b64")
    word = f"i{scalar.bits}"

    def write(c: Code, field: str, into: str, position: str, length: str) -> str:
        at, mask = _octet(c, position), _ones(c, scalar, _octet(c, length))
        moved_mask, moved = _shift(c, "shl", scalar, mask, at), _shift(c, "shl", scalar, field, at)
        difference = c.binary("and", word, c.binary("xor", word, moved, into), moved_mask)
        return c.binary("xor", word, into, difference)

    return Translation((scalar,), (scalar, scalar, _U32, _U32), write)


@translation("bfe", "u s")
def _bfe(m: Modifiers) -> Translation:
    """Write PTX's definition: what lies beyond the top repeats the word's sign bit, or 0 if unsigned."""
    scalar = m.scalar("u32", "u64", "s32", "s64")
    word, bits = f"i{scalar.bits}", scalar.bits

    def write(c: Code, value: str, position: str, length: str) -> str:
        at, n = _octet(c, position), _octet(c, length)
        field = _shift(c, "ashr" if scalar.kind == "s" else "lshr", scalar, value, at)
        mask = _ones(c, scalar, n)
        kept = c.binary("and", word, field, mask)
        if scalar.kind == "u":
            return kept
        # The sign: the field's highest bit inside the word, none for an empty field.
        top = c.intrinsic("llvm.umin", "i32", c.binary("add", "i32", at, n), splat("i32", bits))
        last = c.intrinsic("llvm.usub.sat", "i32", top, splat("i32", 1))
        sign = c.cast("trunc", word, _shift(c, "lshr", scalar, value, last), "i1")
        some = c.compare("ne", "i32", n, splat("i32", 0))
        negative = c.binary("and", "i1", sign, some)
        filled = c.binary("or", word, kept, c.binary("xor", word, mask, splat(word, -1)))
        return c.select(negative, word, filled, kept)

    return Translation((scalar,), (scalar, _U32, _U32), write)


def _count(c: Code, scalar: Scalar, name: str, value: str) -> str:
    counted = c.intrinsic(name, f"i{scalar.bits}", value, flag="false" if name == "llvm.ctlz" else "")
    return c.cast("trunc", f"i{scalar.bits}", counted, "i32")


@translation("popc", "b")
def _popc(m: Modifiers) -> Translation:
    scalar = m.scalar("b32", "b64")
    return Translation((_U32,), (scalar,), lambda c, a: _count(c, scalar, "llvm.ctpop", a))


@translation("clz", "b")
def _clz(m: Modifiers) -> Translation:
    scalar = m.scalar("b32", "b64")
    return Translation((_U32,), (scalar,), lambda c, a: _count(c, scalar, "llvm.ctlz", a))


@translation("bfind", "u s")
def _bfind(m: Modifiers) -> Translation:
    shift_amount = m.flag("shiftamt")
    scalar = m.scalar("u32", "u64", "s32", "s64")
    word, bits = f"i{scalar.bits}", scalar.bits

    def write(c: Code, value: str) -> str:
        if scalar.kind == "s":
            value = c.binary("xor", word, value, c.binary("ashr", word, value, splat(word, bits - 1)))
        leading = _count(c, scalar, "llvm.ctlz", value)
        none = c.compare("eq", word, value, splat(word, 0))
        found = leading if shift_amount else c.binary("sub", "i32", splat("i32", bits - 1), leading)
        return c.select(none, "i32", splat("i32", -1), found)

    return Translation((_U32,), (scalar,), write)


@translation("brev", "b")
def _brev(m: Modifiers) -> Translation:
    scalar = m.scalar("b32", "b64")
    return same(scalar, 1, lambda c, a: c.intrinsic("llvm.bitreverse", f"i{scalar.bits}", a))


@translation("prmt", "b")
def _prmt(m: Modifiers) -> Translation:
    scalar = m.scalar("b32")
    if mode := m.take("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"):
        raise m.refuse(f".{mode}")

    def write(c: Code, a: str, b: str, selector: str) -> str:
        both = c.binary(
            "or",
            "i64",
            c.binary("shl", "i64", c.cast("zext", "i32", b, "i64"), splat("i64", 32)),
            c.cast("zext", "i32", a, "i64"),
        )
        result = splat("i32", 0)
        for octet in range(4):
            nibble = c.binary("lshr", "i32", selector, splat("i32", 4 * octet))
            count = c.binary("shl", "i32", c.binary("and", "i32", nibble, splat("i32", 7)), splat("i32", 3))
            moved = c.binary("lshr", "i64", both, c.cast("zext", "i32", count, "i64"))
            chosen = c.cast("trunc", "i64", moved, "i8")
            signs = c.binary("ashr", "i8", chosen, splat("i8", 7))
            replicate = c.cast("trunc", "i32", c.binary("lshr", "i32", nibble, splat("i32", 3)), "i1")
            wide = c.cast("zext", "i8", c.select(replicate, "i8", signs, chosen), "i32")
            result = c.binary("or", "i32", result, c.binary("shl", "i32", wide, splat("i32", 8 * octet)))
        return result

    return Translation((scalar,), (scalar, scalar, _U32), write)


@translation("selp", "b u s f")
def _selp(m: Modifiers) -> Translation:
    scalar = m.scalar(*(k + b for k in "busf" for b in ("16", "32", "64")))
    return Translation((scalar,), (scalar, scalar, _PRED), lambda c, a, b, p: c.select(p, f"i{scalar.bits}", a, b))


@translation("mov", "b u s f packed pred")
def _mov(m: Modifiers) -> Translation:
    return same(m.scalar(), 1, lambda _c, a: a)
