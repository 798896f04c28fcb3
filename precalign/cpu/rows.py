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
from llvmlite.binding import get_host_cpu_name
from numba.core import cgutils, types

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.jit import Array

    Words = Sequence[Array]
    Pointer = Callable[[int, int], Array]
    Ahead = Callable[[int, int], Sequence[Array]]

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
LINE_BYTES = 64
INTO_L3 = 1
"""Locality of a prefetch; of LLVM's four measured the best on Sapphire Rapids and on Zen 4 (as good as 2), 0 (non-temporal) the worst."""
IN_TWO_STREAMS = not get_host_cpu_name().startswith("znver")
"""Whether whole codes are prefetched in two halves of a block: measured 1.3 times as fast on Sapphire Rapids, but 0.7 times on Zen 4."""


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
        self.lanes = min(16, n_codes // 4)
        # As many words as become one vector of numbers, so that no vector must be cut up: that would cost a shuffle, for which arithmetic waits.
        self.words = ir.VectorType(I16, 2 * self.lanes if bfloat else self.lanes)
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

    def _prefetch(self, pointers: Sequence[Array]) -> None:
        """Ask for lines that a later round reads; an address outside the arrays does no harm."""
        byte = I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        read, data = ir.Constant(I32, 0), ir.Constant(I32, 1)
        for pointer in pointers:
            place = self.builder.bitcast(pointer, byte)
            self.builder.call(function, [place, read, ir.Constant(I32, INTO_L3), data])

    def lines_ahead(self, row: Array, codes: Array, block: Array, offset: Array, half_block: Array) -> list[Array]:
        """Return what to prefetch in a block of rows while the row at the same place of this block is read.

        A row of whole codes takes two lines. Where it helps they are fetched from two halves of the block, so that the processor's own
        prefetcher, which follows a stream to the end of its 4 KB and no further, sees two streams and keeps twice as many lines on their way.

        Parameters
        ----------
        row : pointer
            The row in that block.
        codes : pointer
            The array.
        block, offset, half_block : LLVM integers
            Where the block begins, the row's place in it, and half a block, in codes.
        """
        if not self.plain or 2 * self.n_codes <= LINE_BYTES:
            return [row]
        if not IN_TWO_STREAMS:
            return [row, self.builder.gep(row, [ir.Constant(I64, LINE_BYTES // 2)])]
        first = self.builder.add(block, self.builder.lshr(offset, ir.Constant(I64, 1)))
        return [self.builder.gep(codes, [place]) for place in (first, self.builder.add(first, half_block))]

    def read(self, n_planes: Array, at: Pointer, ahead: Ahead, n_rows: int = 1) -> list[Words]:
        """Emit the reading of neighbouring rows from as many planes as are asked for at run time; return the words of each.

        Parameters
        ----------
        n_planes : LLVM integer
            1 to 3; not looked at for whole codes.
        at : callable
            (plane, row) -> pointer to what is read.
        ahead : callable
            (plane, row) -> pointers to what is read a while later, into as many lines as a row has; they are prefetched.
        """
        if self.plain:
            self._prefetch([pointer for row in range(n_rows) for pointer in ahead(0, row)])
            return [self._whole(at(0, row)) for row in range(n_rows)]
        b = self.builder
        ways = [b.append_basic_block(f"planes{n}") for n in (1, 2, 3)]
        joined = b.append_basic_block("joined")
        choice = b.switch(n_planes, ways[2])
        for n in (1, 2):
            choice.add_case(ir.Constant(n_planes.type, n), ways[n - 1])
        b.position_at_end(joined)
        phis = [[b.phi(self.words) for _ in range(self.n_codes // self.words.count)] for _ in range(n_rows)]
        for n, way in enumerate(ways, 1):
            b.position_at_end(way)
            self._prefetch([p for plane in range(n) for row in range(n_rows) for p in ahead(plane, row)])
            for row, own in enumerate(phis):
                for phi, words in zip(own, self._from_planes([at(plane, row) for plane in range(n)]), strict=True):
                    phi.add_incoming(words, way)
            b.branch(joined)
        b.position_at_end(joined)
        return list(phis)

    def _part(self, pointer: Array, begin: int, kind: Array) -> Array:
        """Load a vector that begins so many elements behind a pointer."""
        return self._load(self.builder.gep(pointer, [ir.Constant(I64, begin)]), kind)

    def _whole(self, pointer: Array) -> Words:
        """Load a row of whole codes."""
        return [self._part(pointer, begin, self.words) for begin in range(0, self.n_codes, self.words.count)]

    def _from_planes(self, pointers: Sequence[Array]) -> Words:
        """Load the first planes of a row: its even codes, then its odd ones."""
        pairs = [self._pairs(pointers, begin) for begin in range(0, self.n_codes // 2, self.words.count)]
        return [even for even, _ in pairs] + [odd for _, odd in pairs]

    def _pairs(self, pointers: Sequence[Array], begin: int) -> tuple[Array, Array]:
        """Load even and odd codes from pair `begin` on, the midpoint in place of what is not read."""
        b = self.builder
        words = self._part(pointers[0], 2 * begin, self.words)
        even, odd = b.shl(words, self._splat(8)), b.and_(words, self._splat(0xFF00))
        if len(pointers) == 1:
            return b.or_(even, self._splat(0x80)), b.or_(odd, self._splat(0x80))
        pairs = ir.VectorType(I8, self.words.count)
        nibbles = b.zext(self._part(pointers[1], begin, pairs), self.words)
        even = b.or_(even, b.and_(b.shl(nibbles, self._splat(4)), self._splat(0xF0)))
        odd = b.or_(odd, b.and_(nibbles, self._splat(0xF0)))
        if len(pointers) == 2:
            return b.or_(even, self._splat(8)), b.or_(odd, self._splat(8))
        last = b.zext(self._part(pointers[2], begin, pairs), self.words)
        return b.or_(even, b.and_(last, self._splat(0xF))), b.or_(odd, b.lshr(last, self._splat(4)))

    def numbers(self, read: Words, *, absolute: bool = False) -> list[Array]:
        """Return the exact binary32 values of a row's codes, in the order of `order`; without signs if `absolute`."""
        b = self.builder
        words = [b.and_(part, self._splat(0x7FFF)) for part in read] if absolute else read
        if self.bfloat:
            pairs = ir.VectorType(I32, self.lanes)
            sixteen, high = (ir.Constant(pairs, [word] * self.lanes) for word in (16, 0xFFFF0000))
            held = [b.bitcast(part, pairs) for part in words]
            return [b.bitcast(n, self.vector) for pair in held for n in (b.shl(pair, sixteen), b.and_(pair, high))]
        halves = ir.VectorType(ir.HalfType(), self.lanes)
        return [b.fpext(b.bitcast(part, halves), self.vector) for part in words]

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
