"""Draws programs: typed registers, guards, branches, loops that lanes leave at different times, memory of every kind, collectives.

A program is a tree of statements over registers that are all loaded at its start, so that any statement can be taken out and
the rest still runs: that is how a failing one is made small.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from precalign.gpu.ptx.fuzz.catalog import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

POOL = {"h": 4, "r": 6, "d": 4, "p": 4}
ROW_BYTES = 64
"""Of input per thread: 6 words of 32 bits, 4 of 16, 4 of 64."""
OUT_BYTES = 96
"""Of output per thread: the same registers, the predicates as bits, and 16 bytes of the thread's own at 80."""
SLOT_BYTES = 16
N_CELLS = 8
MOST_THREADS = 64
TOGETHER = 16
"""Programs of neighbouring seeds share their shape, so that they can be launched together."""
_COMMUTING = ("add.u32", "min.s32", "max.u32", "and.b32", "or.b32", "xor.b32")
_FULL = "0xffffffff"


@dataclass
class Statement:
    """Lines, or a branch or loop around others.

    Attributes
    ----------
    lines : list of str
        Instructions; of a branch, the label's instruction is made from `guard`.
    guard : str
        Predicate of a branch.
    bodies : list of list of Statement
        Two of a branch, one of a loop, none of plain lines.
    """

    lines: list[str]
    guard: str = ""
    bodies: list[list[Statement]] = field(default_factory=list)


@dataclass
class Program:
    """A program and how it is launched.

    Attributes
    ----------
    seed : int
    statements : list of Statement
    grid, block : tuple of 3 int
    """

    seed: int
    statements: list[Statement]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]

    @property
    def n_threads(self) -> int:
        """Threads of the launch."""
        return int(np.prod(self.grid) * np.prod(self.block))

    def inputs(self) -> NDArray[np.uint8]:
        """Draw the rows of all threads: special values, small integers, any bits."""
        rng = np.random.default_rng([self.seed, 1])
        n = self.n_threads
        words = _values(rng, 32, n * 6).reshape(n, 6)
        longs, halves = _values(rng, 64, n * 4).reshape(n, 4), _values(rng, 16, n * 4).reshape(n, 4)
        return np.concatenate([words.view(np.uint8), halves.view(np.uint8), longs.view(np.uint8)], axis=1)

    def text(self) -> str:
        """Return the PTX of the program alone."""
        return text_of([self])

    def body(self, labels: Iterator[int]) -> list[str]:
        """Return the instructions of the statements."""
        lines: list[str] = []

        def write(statement: Statement) -> None:
            if len(statement.bodies) == 2:
                other, end = f"$L{next(labels)}", f"$L{next(labels)}"
                lines.append(f"@{statement.guard} bra {other};")
                for inner in statement.bodies[0]:
                    write(inner)
                lines.extend([f"bra {end};", f"{other}:"])
                for inner in statement.bodies[1]:
                    write(inner)
                lines.append(f"{end}:")
            elif statement.bodies:
                start = f"$L{next(labels)}"
                lines.extend([*statement.lines[:2], f"{start}:"])
                for inner in statement.bodies[0]:
                    write(inner)
                lines.extend([*statement.lines[2:], f"@{statement.guard} bra {start};"])
            else:
                lines.extend(statement.lines)

        for statement in self.statements:
            write(statement)
        return lines


def text_of(programs: Sequence[Program]) -> str:
    """Return one kernel of several programs of one shape, each run by the blocks of its ctaid.z."""
    flat = all(p.grid[1:] == p.block[1:] == (1, 1) and p.grid[2] == 1 for p in programs)
    parts, labels = [_HEAD, *(_FLAT if flat else _DEEP), *_addresses(programs[0].n_threads)], count(1)
    for number in range(1, len(programs)):
        parts += [f"setp.eq.u32 %q0, %t3, {number};", f"@%q0 bra $P{number};"]
    for number, program in enumerate(programs):
        body = "\n".join(program.body(labels))
        parts.append(f"$P{number}:")
        parts += [line for mark, own in _WHERE_USED.items() if mark in body for line in own]
        groups = [g for g in _GROUPS if any(re.search(rf"{r}\b", body) for r in g.registers)]
        predicates = sorted(set(re.findall(r"%p\d", body)))
        parts += [f"ld.global.{g.type} {g.operand}, [%a1+{g.offset}];" for g in groups]
        if predicates:
            parts.append("ld.global.u32 %t5, [%a1+4];")
        for name in predicates:
            parts += [f"and.b32 %t6, %t5, {1 << 5 * int(name[2])};", f"setp.ne.u32 {name}, %t6, 0;"]
        parts.append(body)
        parts += [f"st.global.{g.type} [%a2+{g.offset}], {g.operand};" for g in groups]
        if predicates:
            parts.append("mov.u32 %t5, 0;")
        for name in predicates:
            parts += [f"selp.u32 %t6, {1 << int(name[2])}, 0, {name};", "or.b32 %t5, %t5, %t6;"]
        parts += ["st.global.u32 [%a2+64], %t5;"] * bool(predicates) + ["ret;"]
    return "\n".join([*parts, "}"])


_HEAD = f""".version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 k_in, .param .u64 k_out, .param .u64 k_cells)
{{
.reg .pred %p<{POOL["p"]}>;
.reg .pred %q<4>;
.reg .b16 %h<{POOL["h"]}>;
.reg .b32 %r<{POOL["r"]}>;
.reg .b32 %n<4>;
.reg .b32 %t<8>;
.reg .b64 %d<{POOL["d"]}>;
.reg .b64 %a<8>;
.shared .align 16 .b8 slots[{MOST_THREADS * SLOT_BYTES}];
.shared .align 4 .b8 cells[{4 * N_CELLS}];
.local .align 16 .b8 depot[32];"""
# The thread's number in its block (%t1) and in the grid (%t2).
_FLAT = ["mov.u32 %t1, %tid.x;", "mov.u32 %t2, %ctaid.x;", "mov.u32 %t3, %ntid.x;", "mad.lo.u32 %t2, %t2, %t3, %t1;"]
_DEEP = [
    "mov.u32 %t0, %tid.z;", "mov.u32 %t1, %ntid.y;", "mov.u32 %t2, %tid.y;", "mad.lo.u32 %t0, %t0, %t1, %t2;",
    "mov.u32 %t1, %ntid.x;", "mov.u32 %t2, %tid.x;", "mad.lo.u32 %t1, %t0, %t1, %t2;",
    "mov.u32 %t0, %ctaid.y;", "mov.u32 %t2, %nctaid.x;", "mov.u32 %t3, %ctaid.x;", "mad.lo.u32 %t0, %t0, %t2, %t3;",
    "mov.u32 %t2, %ntid.x;", "mov.u32 %t3, %ntid.y;", "mul.lo.u32 %t2, %t2, %t3;", "mov.u32 %t3, %ntid.z;",
    "mul.lo.u32 %t2, %t2, %t3;", "mad.lo.u32 %t2, %t0, %t2, %t1;",
]  # fmt: skip


def _addresses(n_threads: int) -> list[str]:
    """Find the program's number (%t3), its input (%a0), the thread's row of input (%a1) and of output (%a2)."""
    return [
        "mov.u32 %t3, %ctaid.z;", f"mad.lo.u32 %t2, %t3, {n_threads}, %t2;",
        "ld.param.u64 %a0, [k_in];", f"mad.wide.u32 %a1, %t2, {ROW_BYTES}, %a0;", f"mad.wide.u32 %a0, %t3, {ROW_BYTES * n_threads}, %a0;",
        "ld.param.u64 %a2, [k_out];", "cvta.to.global.u64 %a2, %a2;", f"mad.wide.u32 %a2, %t2, {OUT_BYTES}, %a2;",
    ]  # fmt: skip


class _Group(NamedTuple):
    """Registers that are loaded and stored together."""

    type: str
    offset: int
    registers: tuple[str, ...]

    @property
    def operand(self) -> str:
        return f"{{{', '.join(self.registers)}}}"


_GROUPS = (
    _Group("v4.u32", 0, ("%r0", "%r1", "%r2", "%r3")),
    _Group("v2.u32", 16, ("%r4", "%r5")),
    _Group("v4.u16", 24, ("%h0", "%h1", "%h2", "%h3")),
    _Group("v2.u64", 32, ("%d0", "%d1")),
    _Group("v2.u64", 48, ("%d2", "%d3")),
)
_WHERE_USED = {
    "%a3": ["ld.param.u64 %a3, [k_cells];", f"mad.wide.u32 %a3, %t3, {6 * 4 * N_CELLS}, %a3;"],
    "%a4": [
        "mov.u64 %a4, depot;",
        *(
            f"ld.global.v2.u64 {{%a5, %a6}}, [%a1+{32 + 16 * i}];\nst.local.v2.b64 [%a4+{16 * i}], {{%a5, %a6}};"
            for i in range(2)
        ),
    ],
    "[%a2+": ["ld.global.v2.u64 {%a5, %a6}, [%a1+32];", "st.global.v2.u64 [%a2+80], {%a5, %a6};"],
    "%t4": ["mov.u32 %t4, slots;", f"mad.lo.u32 %t4, %t1, {SLOT_BYTES}, %t4;"],
}


def _values(rng: np.random.Generator, bits: int, n: int) -> NDArray[np.generic]:
    """Draw codes: special numbers of every format of that width, small integers, any bits."""
    dtype = np.dtype(f"u{bits // 8}")
    kinds = rng.integers(0, 4, n)
    special = np.array(_SPECIAL[bits], dtype)[rng.integers(0, len(_SPECIAL[bits]), n)]
    small = rng.integers(-40, 40, n).astype(f"i{bits // 8}").view(dtype)
    anything = (
        rng.integers(0, 1 << bits, n, dtype=dtype, endpoint=False)
        if bits < 64
        else rng.integers(0, 1 << 63, n, dtype=np.uint64) * 2 + 1
    )
    scale = {16: 8, 32: 30, 64: 200}[bits]
    numbers = rng.standard_normal(n) * 2.0 ** rng.integers(-scale, scale, n)
    ordinary = numbers.astype(f"f{bits // 8}").view(dtype)
    return np.choose(kinds, [special, small, anything, ordinary]).astype(dtype)


_SPECIAL = {
    16: [0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7F80, 0xFF80, 0x7FC0, 0x80, 0x3F80, 0x7FFF],
    32: [0, 0x80000000, 1, 0x80000001, 0x7FFFFF, 0x800000, 0x3F800000, 0xBF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000,
         0x7FC00000, 0xFFC00001, 0x33800000, 0x4B000000, 0x4F000000, 0xCF000000, 0x3C003C00, 0x7C00FC00, 0x3F803F80, 0x7FFFFFFF, 31, 32, 0xFFFF],
    64: [0, 1 << 63, 1, (1 << 63) + 1, 0xFFFFFFFFFFFFF, 1 << 52, 0x3FF0000000000000, 0xBFF0000000000000, 0x7FEFFFFFFFFFFFFF,
         0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0xFFF8000000000001, 0x47EFFFFFF0000000, 0x36A0000000000000,
         0x3810000000000000, 0x40EFFFE000000000, 0x43E0000000000000, 0xC3E0000000000000, (1 << 63) - 1, (1 << 53) + 1, 0x3E70000000000001],
}  # fmt: skip


class Drawer:
    """Draws one program.

    Parameters
    ----------
    seed : int
    size : int
        Statements, about.
    """

    def __init__(self, seed: int, size: int = 5) -> None:
        self.rng = np.random.default_rng([seed, 0])
        self.seed, self.size = seed, size
        self.loops = 0

    def draw(self) -> Program:
        """Draw it."""
        rng, shapes = self.rng, np.random.default_rng([self.seed // TOGETHER, 2])
        block, grid = _BLOCKS[shapes.integers(len(_BLOCKS))], _GRIDS[shapes.integers(len(_GRIDS))]
        self.whole_warps = int(np.prod(block)) % 32 == 0
        self.n_threads = int(np.prod(block))
        statements = [self._top() for _ in range(int(rng.integers(self.size // 2, self.size + self.size // 2)))]
        return Program(self.seed, statements, grid, block)

    def _pick(self, options: tuple[str, ...] | list[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def register(self, kind: str) -> str:
        """Draw a register of a class."""
        return f"%{kind}{self.rng.integers(POOL[kind])}"

    def _top(self) -> Statement:
        roll = self.rng.random()
        if roll < 0.08:
            return self._exchange()
        if roll < 0.12:
            return self._shared_atomics()
        if roll < 0.22 and self.whole_warps:
            return self._collective(_FULL)
        return self._inner(0)

    def _inner(self, depth: int) -> Statement:
        roll = self.rng.random()
        if depth < 2 and roll < 0.12:
            bodies = [[self._inner(depth + 1) for _ in range(int(self.rng.integers(0, 4)))] for _ in "ab"]
            negation = "!" if self.rng.random() < 0.5 else ""
            return Statement([], negation + self.register("p"), bodies)
        if depth < 2 and roll < 0.18 and self.loops < 4:
            return self._loop(depth)
        if roll < 0.24:
            return self._gather()
        if roll < 0.29:
            return self._own_memory()
        if roll < 0.32:
            return self._global_atomic()
        if roll < 0.36:
            return self._collective("")
        return Statement([self._operation()])

    def _loop(self, depth: int) -> Statement:
        """Let each lane go round 1 to 4 times."""
        counter, test = f"%n{self.loops}", f"%q{self.loops}"
        self.loops += 1
        body = [self._inner(depth + 1) for _ in range(int(self.rng.integers(1, 4)))]
        begin = [f"and.b32 {counter}, {self.register('r')}, 3;", f"add.u32 {counter}, {counter}, 1;"]
        end = [f"sub.u32 {counter}, {counter}, 1;", f"setp.ne.u32 {test}, {counter}, 0;"]
        return Statement(begin + end, test, [body])

    def _operation(self) -> str:
        group = GROUPS[int(self.rng.integers(len(GROUPS)))]
        form = group[int(self.rng.integers(len(group)))]
        sources = [self._source(c, form.opcode) for c in form.sources]
        results = [self.register(c) for c in form.results]
        if results == ["%p0", "%p0"] or (len(results) == 2 and (results[0] == results[1] or self.rng.random() < 0.6)):
            results = results[:1]
        return f"{self._guard()}{form.opcode} {'|'.join(results)}, {', '.join(sources)};"

    def _guard(self) -> str:
        if self.rng.random() > 0.2:
            return ""
        return f"@{'!' if self.rng.random() < 0.5 else ''}{self.register('p')} "

    def _source(self, kind: str, opcode: str) -> str:
        if kind == "i":
            return str(self.rng.integers(256))
        if self.rng.random() < 0.12 and kind in "rd":
            floating = opcode.rsplit(".", 1)[1] in ("f32", "f64")
            bits = 32 if kind == "r" else 64
            value = int(_values(self.rng, bits, 1)[0])
            if floating and opcode.endswith(f"f{bits}"):
                return f"0{'f' if bits == 32 else 'd'}{value:0{bits // 4}X}"
            return str(value if value < 1 << (bits - 1) else value - (1 << bits))
        return self.register(kind)

    def _gather(self) -> Statement:
        """Load from the input of any thread of the first 8 rows, at any width."""
        kind, text = _LOADS[int(self.rng.integers(len(_LOADS)))]
        width = int(text.rsplit(".", 1)[1][1:]) // 8
        if self.rng.random() < 0.25:
            return self._vector_load()
        index, guard = self.register("r"), self._guard()
        # All threads' rows are read, none written; the number is masked to what every launch has.
        lines = [f"and.b32 %t6, {index}, {ROW_BYTES * 8 // width - 1};", f"mad.wide.u32 %a5, %t6, {width}, %a0;"]
        if self.rng.random() < 0.3:
            text = text.replace("ld.global", "ld").replace(".nc", "")
        lines.append(f"{guard}{text} {self.register(kind)}, [%a5];")
        return Statement(lines)

    def _vector_load(self) -> Statement:
        """Load neighbouring numbers of the thread's row into different registers."""
        kind, text, count, width = _VECTORS[int(self.rng.integers(len(_VECTORS)))]
        registers = [f"%{kind}{i}" for i in self.rng.permutation(POOL[kind])[:count]]
        offset = count * width * int(self.rng.integers(ROW_BYTES // (count * width)))
        return Statement([f"{self._guard()}{text} {{{', '.join(registers)}}}, [%a1+{offset}];"])

    def _own_memory(self) -> Statement:
        """Write the thread's own bytes, of global or local memory, and read them at another width."""
        d, r = self.register("d"), self.register("r")
        if self.rng.random() < 0.5:
            offset = 4 * int(self.rng.integers(4))
            guard = self._guard()
            back = self._pick(["ld.global.u32", "ld.global.f32", "ld.global.s32"])
            return Statement(
                [
                    f"{guard}st.global.u32 [%a2+{80 + offset}], {r};",
                    f"{back} {self.register('r')}, [%a2+{80 + 4 * int(self.rng.integers(4))}];",
                ]
            )
        lines = [f"and.b32 %t6, {r}, 3;", "mad.wide.u32 %a5, %t6, 8, %a4;"]
        if self.rng.random() < 0.5:
            lines.append(f"st.local.v2.b32 [%a5], {{{self.register('r')}, {self.register('r')}}};")
        else:
            lines.append(f"st.local.b64 [%a5], {d};")
        return Statement([*lines, f"ld.local.b64 {self.register('d')}, [%a4+{8 * int(self.rng.integers(4))}];"])

    def _global_atomic(self) -> Statement:
        """Change cells that all threads share, by operations of one kind per row; or an own word, and take the old value."""
        if self.rng.random() < 0.5:
            number = int(self.rng.integers(len(_COMMUTING)))
            return Statement(
                [
                    f"and.b32 %t6, {self.register('r')}, {N_CELLS - 1};",
                    f"add.u32 %t6, %t6, {N_CELLS * number};",
                    "mad.wide.u32 %a5, %t6, 4, %a3;",
                    f"{self._guard()}red.global.{_COMMUTING[number]} [%a5], {self.register('r')};",
                ]
            )
        name = self._pick(
            [
                "add.u32",
                "add.s32",
                "min.s32",
                "max.u32",
                "exch.b32",
                "inc.u32",
                "dec.u32",
                "cas.b32",
                "add.f32",
                "and.b32",
            ]
        )
        given = [self.register("r") for _ in range(2 if name.startswith("cas") else 1)]
        return Statement(
            [
                f"{self._guard()}atom.global.{name} {self.register('r')}, [%a2+{80 + 4 * int(self.rng.integers(4))}], {', '.join(given)};"
            ]
        )

    def _exchange(self) -> Statement:
        """Write the thread's slot of shared memory, meet, read another thread's, meet."""
        other = int(self.rng.integers(1, self.n_threads + 1))
        kind, text = _SHARED_LOADS[int(self.rng.integers(len(_SHARED_LOADS)))]
        width = int(text.rsplit(".", 1)[1][1:]) // 8 * (2 if ".v2" in text else 1)
        offset = width * int(self.rng.integers(SLOT_BYTES // width))
        data = [self.register("r") for _ in range(4)]
        registers = f"{{{self.register(kind)}, {self.register(kind)}}}" if ".v2" in text else self.register(kind)
        if ".v2" in text and registers[1:-1].split(", ")[0] == registers[1:-1].split(", ")[1]:
            registers = f"{{%{kind}0, %{kind}1}}"
        stride = self._pick(["1", "3", "5"])
        return Statement(
            [
                f"st.shared.v4.u32 [%t4], {{{', '.join(data)}}};",
                "bar.sync 0;",
                f"mad.lo.u32 %t6, %t1, {stride}, {other};",
                f"rem.u32 %t6, %t6, {self.n_threads};",
                "mov.u32 %t5, slots;",
                f"mad.lo.u32 %t5, %t6, {SLOT_BYTES}, %t5;",
                f"{self._guard()}{text} {registers}, [%t5+{offset}];",
                "bar.sync 0;",
            ]
        )

    def _shared_atomics(self) -> Statement:
        """Clear cells, meet, change them by one commuting operation, meet, read, meet."""
        name = self._pick(_COMMUTING)
        return Statement(
            [
                f"setp.lt.u32 %q3, %t1, {N_CELLS};",
                "mov.u32 %t5, cells;",
                "mad.lo.u32 %t6, %t1, 4, %t5;",
                "@%q3 st.shared.u32 [%t6], 7;",
                "setp.eq.u32 %q3, %t1, 0;",
                *(f"@%q3 st.shared.u32 [%t5+{4 * i}], {i};" for i in range(N_CELLS) if self.n_threads < N_CELLS),
                "bar.sync 0;",
                f"and.b32 %t6, {self.register('r')}, {N_CELLS - 1};",
                "mad.lo.u32 %t6, %t6, 4, %t5;",
                f"{self._guard()}{self._pick(['red', 'red'])}.shared.{name} [%t6], {self.register('r')};",
                "bar.sync 0;",
                f"ld.shared.u32 {self.register('r')}, [%t5+{4 * int(self.rng.integers(N_CELLS))}];",
                "bar.sync 0;",
            ]
        )

    def _collective(self, members: str) -> Statement:
        """Shuffle, vote or reduce among a whole warp, its halves, or the lanes that happen to be here."""
        lines = []
        if not members:
            members = "%t7"
            lines.append("activemask.b32 %t7;")
        elif self.rng.random() < 0.3:
            members = "%t7"
            lines += [
                "mov.u32 %t6, %laneid;",
                "setp.lt.u32 %q3, %t6, 16;",
                "selp.b32 %t7, 0x0000ffff, 0xffff0000, %q3;",
            ]
        roll = self.rng.random()
        r, d = self.register("r"), self.register("r")
        if roll < 0.3:
            lines.append(
                f"vote.sync.{self._pick(['all', 'any', 'uni'])}.pred {self.register('p')}, {self._pick(['', '!'])}{self.register('p')}, {members};"
            )
        elif roll < 0.45:
            lines.append(f"vote.sync.ballot.b32 {d}, {self.register('p')}, {members};")
        elif roll < 0.65:
            form = self._pick(
                ["add.u32", "add.s32", "min.u32", "min.s32", "max.u32", "max.s32", "and.b32", "or.b32", "xor.b32"]
            )
            lines.append(f"redux.sync.{form} {d}, {r}, {members};")
        elif roll < 0.72:
            lines.append(f"bar.warp.sync {members};")
        elif members == _FULL:
            lines.append(self._shuffle(d, r, members))
        else:  # a lane that takes part: the lowest of its members
            lines += [
                f"brev.b32 %t6, {members};",
                "clz.b32 %t6, %t6;",
                f"shfl.sync.idx.b32 {d}, {r}, %t6, 31, {members};",
            ]
        return Statement(lines)

    def _shuffle(self, destination: str, value: str, members: str) -> str:
        mode = self._pick(["up", "down", "bfly", "idx"])
        segment = self._pick(["0", "0x1800", "0x1000", "0x1c00"])
        clamp = int(segment, 0) | (0 if mode == "up" else 31)
        by = self._pick([self.register("r"), str(self.rng.integers(32))])
        pair = f"|{self.register('p')}" if self.rng.random() < 0.5 else ""
        return f"shfl.sync.{mode}.b32 {destination}{pair}, {value}, {by}, {clamp}, {members};"


_LOADS = (
    ("r", "ld.global.u32"), ("r", "ld.global.nc.f32"), ("d", "ld.global.u64"), ("h", "ld.global.b16"), ("r", "ld.global.u8"),
    ("r", "ld.global.s8"), ("r", "ld.global.s16"), ("d", "ld.global.s32"), ("h", "ld.global.s8"),
)  # fmt: skip
_VECTORS = (
    ("r", "ld.global.v4.u32", 4, 4), ("r", "ld.global.v2.f32", 2, 4), ("d", "ld.global.nc.v2.u64", 2, 8), ("h", "ld.global.v4.u16", 4, 2),
    ("r", "ld.global.v4.u8", 4, 1), ("d", "ld.v2.s32", 2, 4),
)  # fmt: skip
_SHARED_LOADS = (
    ("r", "ld.shared.u32"), ("d", "ld.shared.u64"), ("h", "ld.shared.u16"), ("r", "ld.shared.s8"), ("r", "ld.shared.v2.u32"),
    ("d", "ld.shared.s16"),
)  # fmt: skip
_BLOCKS = (*((32, 1, 1),) * 4, (64, 1, 1), (8, 2, 2), (20, 1, 1), (5, 7, 1), (33, 1, 1))
_GRIDS = (*((1, 1, 1),) * 4, (2, 1, 1), (2, 2, 1))
