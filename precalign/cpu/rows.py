"""Rows of 16-bit codes, out of planes or whole, as vectors of binary32: what the loops of this package read their numbers with.

A row is 64 or 32 codes side by side: a channel of a page for keys, channels of a token for values. Putting bytes and nibbles
back into their order would cost more than the arithmetic that follows, so a row comes apart into vectors whose lanes hold the
codes in another order, which `Rows.order` tells. Every lane is a sum of its own: the order changes no bit, and is undone at the end.

- planes 8|4|4: seen as 16-bit words, the first plane holds code 2i in its low and code 2i + 1 in its high byte, and byte i of
  a 4-bit plane holds the nibbles of the same two codes. A shift or a mask of whole words gives the even codes, another the odd ones.
- binary16 becomes binary32 by LLVM's half type (one instruction for 16 codes), bfloat16 by a shift or a mask of pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir
from numba.core import cgutils, types

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.jit import Array

    Halves = tuple[Array, Array]
    Pointer = Callable[[int, int], Array]

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
PLANE_BITS = (8, 4, 4)
LINE_BYTES = 64
INTO_L3 = 1
"""Locality of a prefetch; measured the best of LLVM's four on a processor with 2 MB of L2, 0 (non-temporal) the worst."""


class Rows:
    """Emits the reading of rows of `n_codes` codes.

    Attributes
    ----------
    bfloat : bool
        bfloat16 codes; else binary16.
    plain : bool
        Codes lie whole, 16 bits each; else in planes.
    vector : LLVM type
        Of the numbers, `lanes` wide; a row takes `n_vectors`.
    """

    def __init__(self, builder: Array, n_codes: int, *, bfloat: bool, plain: bool) -> None:
        self.builder, self.n_codes, self.bfloat, self.plain = builder, n_codes, bfloat, plain
        self.words = ir.VectorType(I16, n_codes // 2)
        self.lanes = min(16, n_codes // 4)
        self.vector = ir.VectorType(ir.FloatType(), self.lanes)
        self.n_vectors = n_codes // self.lanes

    def order(self) -> list[list[int]]:
        """Return which code each lane of each vector holds, (n_vectors, lanes)."""
        return row_order(self.n_codes, bfloat=self.bfloat, plain=self.plain)

    def _load(self, pointer: Array, kind: Array) -> Array:
        loaded = self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()))
        loaded.align = 1
        return loaded

    def _splat(self, word: int) -> Array:
        return ir.Constant(self.words, [word] * self.words.count)

    def _prefetch(self, pointer: Array, n_bytes: int) -> None:
        """Ask for lines that a later round reads; an address outside the arrays does no harm."""
        byte = I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        begin = self.builder.bitcast(pointer, byte)
        read, data = ir.Constant(I32, 0), ir.Constant(I32, 1)
        for line in range(0, n_bytes, LINE_BYTES):
            place = self.builder.gep(begin, [ir.Constant(I64, line)])
            self.builder.call(function, [place, read, ir.Constant(I32, INTO_L3), data])

    def read(self, n_planes: Array, at: Pointer, ahead: Pointer, n_rows: int = 1) -> list[Halves]:
        """Emit the reading of neighbouring rows from as many planes as are asked for at run time; return the halves of each.

        Parameters
        ----------
        n_planes : LLVM integer
            1 to 3; not looked at for whole codes.
        at, ahead : callable
            (plane, row) -> pointer to what is read, and to what is read a while later, which is prefetched.
        """
        if self.plain:
            self._prefetch(ahead(0, 0), 2 * self.n_codes * n_rows)
            return [self._whole(at(0, row)) for row in range(n_rows)]
        b = self.builder
        ways = [b.append_basic_block(f"planes{n}") for n in (1, 2, 3)]
        joined = b.append_basic_block("joined")
        choice = b.switch(n_planes, ways[2])
        for n in (1, 2):
            choice.add_case(ir.Constant(n_planes.type, n), ways[n - 1])
        b.position_at_end(joined)
        phis = [(b.phi(self.words), b.phi(self.words)) for _ in range(n_rows)]
        for n, way in enumerate(ways, 1):
            b.position_at_end(way)
            for plane in range(n):
                self._prefetch(ahead(plane, 0), self.n_codes * n_rows * PLANE_BITS[plane] // 8)
            for row, pair in enumerate(phis):
                for phi, half in zip(pair, self._from_planes([at(plane, row) for plane in range(n)]), strict=True):
                    phi.add_incoming(half, way)
            b.branch(joined)
        b.position_at_end(joined)
        return phis

    def _whole(self, pointer: Array) -> Halves:
        """Load a row of whole codes."""
        half = ir.Constant(I64, self.n_codes // 2)
        return self._load(pointer, self.words), self._load(self.builder.gep(pointer, [half]), self.words)

    def _from_planes(self, pointers: Sequence[Array]) -> Halves:
        """Load the first planes of a row as even and odd codes, the midpoint in place of what is not read."""
        b = self.builder
        words = self._load(pointers[0], self.words)
        even, odd = b.shl(words, self._splat(8)), b.and_(words, self._splat(0xFF00))
        if len(pointers) == 1:
            return b.or_(even, self._splat(0x80)), b.or_(odd, self._splat(0x80))
        pairs = ir.VectorType(I8, self.n_codes // 2)
        nibbles = b.zext(self._load(pointers[1], pairs), self.words)
        even = b.or_(even, b.and_(b.shl(nibbles, self._splat(4)), self._splat(0xF0)))
        odd = b.or_(odd, b.and_(nibbles, self._splat(0xF0)))
        if len(pointers) == 2:
            return b.or_(even, self._splat(8)), b.or_(odd, self._splat(8))
        last = b.zext(self._load(pointers[2], pairs), self.words)
        return b.or_(even, b.and_(last, self._splat(0xF))), b.or_(odd, b.lshr(last, self._splat(4)))

    def numbers(self, halves: Halves, *, absolute: bool = False) -> list[Array]:
        """Return the exact binary32 values of a row's codes, in the order of `order`; without signs if `absolute`."""
        b = self.builder
        if absolute:
            halves = (b.and_(halves[0], self._splat(0x7FFF)), b.and_(halves[1], self._splat(0x7FFF)))
        parts = []
        if self.bfloat:
            pairs = ir.VectorType(I32, self.lanes)
            sixteen, high = (ir.Constant(pairs, [word] * self.lanes) for word in (16, 0xFFFF0000))
            for half in halves:
                pair = b.bitcast(half, pairs)
                parts += [b.shl(pair, sixteen), b.and_(pair, high)]
            return [b.bitcast(part, self.vector) for part in parts]
        for half in halves:
            for begin in range(0, self.words.count, self.lanes):
                mask = ir.Constant(ir.VectorType(I32, self.lanes), list(range(begin, begin + self.lanes)))
                parts.append(b.shuffle_vector(half, half, mask))
        return [b.fpext(b.bitcast(part, ir.VectorType(ir.HalfType(), self.lanes)), self.vector) for part in parts]

    def in_order(self, vectors: list[Array]) -> list[Array]:
        """Return the vectors of a row with their lanes in the order of the codes."""
        b = self.builder
        place = {code: at for at, code in enumerate(code for part in self.order() for code in part)}
        whole = list(vectors)
        while len(whole) > 1:
            count = 2 * whole[0].type.count
            mask = ir.Constant(ir.VectorType(I32, count), list(range(count)))
            whole = [b.shuffle_vector(whole[i], whole[i + 1], mask) for i in range(0, len(whole), 2)]
        results = []
        for begin in range(0, self.n_codes, self.lanes):
            lanes = [place[code] for code in range(begin, begin + self.lanes)]
            mask = ir.Constant(ir.VectorType(I32, self.lanes), lanes)
            results.append(b.shuffle_vector(whole[0], whole[0], mask))
        return results


def flattened(builder: Array, kinds: Sequence[Array], arguments: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Return the types and values of an intrinsic's arguments with tuples taken apart."""
    flat_kinds: list[Array] = []
    flat: list[Array] = []
    for kind, argument in zip(kinds, arguments, strict=True):
        parts = isinstance(kind, types.BaseTuple)
        flat_kinds += list(kind) if parts else [kind]
        flat += cgutils.unpack_tuple(builder, argument) if parts else [argument]  # type: ignore[no-untyped-call]
    return flat_kinds, flat


def row_order(n_codes: int, *, bfloat: bool, plain: bool) -> list[list[int]]:
    """Return which code of a row each lane of each vector holds, (n_vectors, lanes); `Rows` has the reasons."""
    half, lanes = n_codes // 2, min(16, n_codes // 4)
    # Which code each 16-bit word of the two halves of a loaded row is.
    words = [[half * part + i if plain else 2 * i + part for i in range(half)] for part in range(2)]
    if bfloat:
        return [part[low::2] for part in words for low in range(2)]
    return [part[i : i + lanes] for part in words for i in range(0, half, lanes)]


def is_plain(first: Array) -> bool:
    """Whether an array type holds whole codes; planes are bytes."""
    return bool(first.dtype == types.uint16)


def is_bfloat(marker: Array) -> bool:
    """Whether the type of the marker that kernels are given selects bfloat16: None is binary16, a number bfloat16."""
    return not isinstance(marker, types.NoneType)
