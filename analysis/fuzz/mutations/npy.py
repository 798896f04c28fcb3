"""`.npy` arrays: a writer of what is valid, and of headers that lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from precalign.analysis.fuzz.draw import CANARY

if TYPE_CHECKING:
    from precalign.analysis.fuzz.draw import Draw

MAGIC = b"\x93NUMPY"
DESCRIPTIONS = (
    *("'<f2'", "'<f4'", "'>f2'", "'<f8'", "'|u1'", "'|V1'", "'|V2'", "'<f1'", "'|i1'", "'<i4'", "'<c16'", "'|b1'", "'?'", "'f'", "'e'"),
    *("'|O'", "'O'", "'|V0'", "'|V99999999999'", "'<U8'", "'<U1073741824'", "'|S0'", "'<M8[ns]'", "'<m8[as]'", "'<f16'", "'<f3'", "''"),
    *("[('a','<f2')]", "[('a','|O')]", "[('a','<f2',(2,2))]", "[('a',[('b','<f2')])]", "[('a','<f2'),('a','<f2')]", "('<f2',(2,))", "[]"),
    *("{'names':['a'],'formats':['<f2']}", "('|V2',{'a':('<f2',0)})", "'<f2,<f2'", "'2<f2'", "'(1099511627776,)<f2'", "b'<f2'", "None", "5"),
    *("[('a','<f2',(1099511627776,))]", "('<f2',(1099511627776,1099511627776))", "[" * 60 + "]" * 60, "'\\x1b[2J'", "'a\\nError: forged'"),
)  # fmt: skip
"""What stands behind 'descr': types that are known, that are none, and some that once ran code or asked for memory."""
SHAPES = (
    *("()", "(0,)", "(1,)", "(-1,)", "(1099511627776,)", "(1099511627776,0)", "(0,1099511627776)", "(9223372036854775807,2)", "(1.5,)"),
    *("(True,True)", "('a',)", "[2,2]", "5", "None", "(2", "((1,),)", "(" * 150, "(" * 5000, "(-" + "-" * 3000 + "1,)", "(" + "1," * 33 + ")"),
    *("(" + "1," * 3000 + ")", "(1L,)", "(9" + "9" * 4400 + ",)", "(1<<40,)", "(2**40,)", "(1j,)", "(0x10,)", "(1_0,)", "(10**9,)"),
    *("(2,1099511627776,0,1,1,1)", "(2,4294967296,4294967296,1,1)", "(3,2,1,1,2,2)"),
)  # fmt: skip
CODE = (
    f"__import__('os').system('touch {CANARY}')",
    f"open('{CANARY}','w')",
    "(lambda: exec('import os'))()",
    "[x for x in ().__class__.__base__.__subclasses__()]",
    "'a'*10**10",
    "b'a'",
    "'\\d'",
    "1 is 1",
    "f'{1}'",
    "{[]:1}",
    "\x00",
)
"""What must not be evaluated where a header is read."""


@dataclass(frozen=True)
class Array:
    """An array in the making; texts stand in the header as they are.

    Attributes
    ----------
    description, fortran, shape : str
    data : bytes
    version : tuple of int
    length : int or None
        That the file claims for its header; None for the true one.
    extra : str
        More of the header's table.
    """

    description: str
    shape: str
    data: bytes
    fortran: str = "False"
    version: tuple[int, int] = (1, 0)
    length: int | None = None
    extra: str = ""

    def octets(self) -> bytes:
        """Return the file."""
        table = f"{{'descr': {self.description}, 'fortran_order': {self.fortran}, 'shape': {self.shape}, {self.extra}}}"
        header = table.encode("utf-8", "surrogatepass")
        wide = 2 if self.version[0] < 2 else 4
        header += b" " * (-(len(header) + len(MAGIC) + 2 + wide + 1) % 64) + b"\n"
        length = len(header) if self.length is None else self.length
        start = MAGIC + bytes(part % 256 for part in self.version)
        return start + (length % (1 << 8 * wide)).to_bytes(wide, "little") + header + self.data


def change_array(draw: Draw, array: Array) -> Array:
    """Return an array after one or a few changes."""
    for _ in range(draw.times()):
        array = _changed(draw, array)
    return array


def _changed(draw: Draw, array: Array) -> Array:
    what = draw.randrange(9)
    if what == 0:
        return replace(array, description=draw.one(DESCRIPTIONS))
    if what == 1:
        return replace(array, shape=draw.one(SHAPES))
    if what == 2:
        sizes = [str(draw.one((draw.count(), draw.randint(0, 4), 1))) for _ in range(draw.randint(0, 7))]
        return replace(array, shape="(" + "".join(f"{size}," for size in sizes) + ")")
    if what == 3:
        return replace(array, fortran=draw.one(("True", "False", "1", "None", "'x'", "[]")))
    if what == 4:
        return replace(array, version=(draw.one((0, 1, 2, 3, 4, 255)), draw.one((0, 0, 1, 255))))
    if what == 5:
        return replace(array, length=draw.one((draw.count(), draw.randint(0, 300), 65_535, 65_536)))
    if what == 6:
        return replace(
            array, data=draw.one((b"", array.data[:-1], array.data + b"\0", array.data[: len(array.data) // 2]))
        )
    if what == 7:
        code = draw.one(CODE)
        return draw.one(
            (
                replace(array, description=code),
                replace(array, shape=code),
                replace(array, fortran=code),
                replace(array, extra=code),
            )
        )
    extra = draw.one(
        (
            "'descr': '|O',",
            "'shape': (1,),",
            "'x': 1,",
            f"'{draw.text()[:100]}': 0,",
            "**{}",
            "#",
            "'a': " + "-" * 2000 + "1",
        )
    )
    return replace(array, extra=extra)
