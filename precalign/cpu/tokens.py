"""What is done to rows of tokens between keys and values: softmax, and the bits that values need, as explicit vectors.

LLVM finds the vectors in such loops by themselves, but not where they are embedded in a whole decode step. Rows are worked on in
tiles of a page, 64 tokens. Behind the last token of a sequence a row holds scores of -inf to the end of the page, and so weights
and probabilities of 0: they are the smallest in every maximum and change no sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from precalign.cpu.records import CLASSES
from precalign.cpu.rows import flattened
from precalign.decode import exp2
from precalign.planes import PAGE_TOKENS
from precalign.rules.online import FARTHEST
from precalign.vectors import Emitter, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.jit import Array

I8, I32 = ir.IntType(8), ir.IntType(32)
SIGNIFICAND_BITS, BIAS = 23, 127


class Tiles(Emitter):
    """Emits code over pages of tokens: vectors of binary32 or int32, 16 tokens each."""

    def __init__(self, context: Array, builder: Array, kinds: Sequence[Array], arguments: Sequence[Array]) -> None:
        super().__init__(context, builder, *flattened(builder, kinds, arguments), types.float32)
        self.parts = range(PAGE_TOKENS // self.lanes)
        self.integers = ir.VectorType(I32, self.lanes)

    def int32(self, value: int) -> Array:
        """Return a vector of one integer."""
        return ir.Constant(self.integers, [value] * self.lanes)

    def spread(self, scalar: Array) -> Array:
        """Return a vector whose lanes all hold an integer of any width, as int32."""
        if scalar.type.width != I32.width:
            resize = self.builder.trunc if scalar.type.width > I32.width else self.builder.sext
            scalar = resize(scalar, I32)
        lane = self.builder.bitcast(scalar, ir.FloatType())
        return self.builder.bitcast(self.splat(lane), self.integers)

    def read(self, pointer: Array, base: Array, part: int, element: Array) -> Array:
        """Load 16 neighbours of any element type."""
        place = self.builder.gep(pointer, [self.builder.add(base, number(part * self.lanes))])
        loaded = self.builder.load(self.builder.bitcast(place, ir.VectorType(element, self.lanes).as_pointer()))
        loaded.align = 1
        return loaded

    def at(self, base: Array, tile: Array) -> Array:
        """Return where the n-th tile of a row begins."""
        return self.builder.add(base, self.builder.mul(tile, number(PAGE_TOKENS)))

    def larger(self, a: Array, b: Array) -> Array:
        """Return the larger of two vectors of integers or numbers, lane by lane."""
        whole = a.type.element == I32
        bigger = self.builder.icmp_signed(">", a, b) if whole else self.builder.fcmp_ordered(">", a, b)
        return self.builder.select(bigger, a, b)

    def smaller(self, a: Array, b: Array) -> Array:
        """Return the smaller of two vectors of integers, lane by lane."""
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def across(self, vector: Array, combine: Callable[[Array, Array], Array]) -> Array:
        """Combine the lanes as a tree, lane j with lane j + 8, then 4, 2, 1; return lane 0."""
        width = self.lanes // 2
        while width:
            mask = ir.Constant(self.integers, [(j + width) % self.lanes for j in range(self.lanes)])
            vector = combine(vector, self.builder.shuffle_vector(vector, vector, mask))
            width //= 2
        return self.builder.extract_element(vector, ir.Constant(I32, 0))

    def exp2(self, x: Array) -> Array:
        """Return `precalign.decode.exp2.exp2_fma` of a vector, bit for bit."""
        b = self.builder
        seen = b.fcmp_ordered(">=", x, self.constant(float(exp2.LEAST)))
        clamped = b.select(seen, x, self.constant(float(exp2.LEAST)))
        n = self.call("llvm.rint", clamped)
        f = b.fsub(clamped, n)
        y = self.constant(float(exp2.C6))
        for coefficient in (exp2.C5, exp2.C4, exp2.C3, exp2.C2, exp2.C1, exp2.C0):
            y = self.call("llvm.fma", y, f, self.constant(float(coefficient)))
        shifted = b.shl(b.fptosi(n, self.integers), self.int32(SIGNIFICAND_BITS))
        scaled = b.bitcast(b.add(b.bitcast(y, self.integers), shifted), self.vector)
        return b.select(seen, scaled, self.constant(0.0))

    def exponents(self, probs: Array) -> Array:
        """Return `precalign.rules.base.prob_exponent` of a vector."""
        field = self.builder.lshr(self.builder.bitcast(probs, self.integers), self.int32(SIGNIFICAND_BITS))
        return self.builder.sub(self.larger(field, self.int32(1)), self.int32(BIAS))

    def bytes_of(self, pointer: Array, base: Array, part: int) -> Array:
        """Load 16 bytes as int32."""
        return self.builder.zext(self.read(pointer, base, part, I8), self.integers)

    def store_bytes(self, values: Array, pointer: Array, base: Array, part: int) -> None:
        """Store 16 integers as bytes."""
        self.store(self.builder.trunc(values, ir.VectorType(I8, self.lanes)), pointer, base, part)


def _emitted(result: Array, kinds: Sequence[Array], body: Callable[[Tiles], Array]) -> Array:
    """Return what an intrinsic returns: its signature, and what emits it."""

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        returned = body(Tiles(context, builder, signature.args, arguments))
        return context.get_dummy_value() if result == types.void else returned

    return result(*kinds), generate


@intrinsic
def _largest(_typing_context: Array, row: Array, n_tiles: Array) -> Array:
    def body(emit: Tiles) -> Array:
        scores, base, n = emit.values

        def term(tile: Array, held: Sequence[Array]) -> list[Array]:
            begin = emit.at(base, tile)
            return [emit.larger(emit.load(scores, begin, part), held[part]) for part in emit.parts]

        first, second, third, last = emit.fold(n, [emit.constant(-np.inf)] * len(emit.parts), term)
        return emit.across(emit.larger(emit.larger(first, second), emit.larger(third, last)), emit.larger)

    return _emitted(types.float32, (row, n_tiles), body)


largest = cast("Callable[..., Array]", _largest)
"""largest((scores, base), n_tiles): the largest score of n_tiles * 64 tokens."""


@intrinsic
def _weigh(_typing_context: Array, scores: Array, weights: Array, n_tiles: Array, maximum: Array) -> Array:
    def body(emit: Tiles) -> Array:
        b = emit.builder
        scores, base, weights, to, n, maximum = emit.values
        top, factor = emit.splat(maximum), emit.constant(float(exp2.LOG2E))

        def term(tile: Array, held: Sequence[Array]) -> list[Array]:
            sums = []
            for part in emit.parts:
                x = b.fmul(b.fsub(emit.load(scores, emit.at(base, tile), part), top), factor)
                weight = emit.exp2(x)
                emit.store(weight, weights, emit.at(to, tile), part)
                sums.append(b.fadd(held[part], weight))
            return sums

        lanes = emit.fold(n, [emit.constant(0.0)] * len(emit.parts), term)
        halves = [b.fadd(lanes[0], lanes[2]), b.fadd(lanes[1], lanes[3])]
        return emit.across(b.fadd(*halves), b.fadd)

    return _emitted(types.float32, (scores, weights, n_tiles, maximum), body)


weigh = cast("Callable[..., Array]", _weigh)
"""weigh((scores, base), (weights, base), n_tiles, maximum): write exp2_fma((s - maximum) * LOG2E); return the sum of the split, 64 lanes and a tree."""


@intrinsic
def _divide(_typing_context: Array, row: Array, n_tiles: Array, total: Array) -> Array:
    def body(emit: Tiles) -> None:
        weights, base, n, total = emit.values
        divisor = emit.splat(total)

        def term(tile: Array, _held: Sequence[Array]) -> list[Array]:
            begin = emit.at(base, tile)
            for part in emit.parts:
                emit.store(emit.builder.fdiv(emit.load(weights, begin, part), divisor), weights, begin, part)
            return []

        emit.fold(n, [], term)

    return _emitted(types.void, (row, n_tiles, total), body)


divide = cast("Callable[..., None]", _divide)
"""divide((weights, base), n_tiles, total): replace weights by probabilities."""


@intrinsic
def _top_addend(_typing_context: Array, probs: Array, maxima: Array) -> Array:
    def body(emit: Tiles) -> Array:
        probs, base, maxima, place = emit.values
        sums = [
            emit.builder.add(emit.exponents(emit.load(probs, base, part)), emit.bytes_of(maxima, place, part))
            for part in emit.parts
        ]
        return emit.across(emit.larger(emit.larger(sums[0], sums[1]), emit.larger(sums[2], sums[3])), emit.larger)

    return _emitted(types.int32, (probs, maxima), body)


top_addend = cast("Callable[..., Array]", _top_addend)
"""top_addend((probs, base), (token_maxima, base)): the largest E(p) + maximum of a page."""


@intrinsic
def _strongest(_typing_context: Array, probs: Array, tokens: Array, best: Array) -> Array:
    def body(emit: Tiles) -> None:
        b = emit.builder
        probs, base, begin, end, best, where, place = emit.values
        n_tiles = b.sdiv(b.add(b.sub(end, begin), number(PAGE_TOKENS - 1)), number(PAGE_TOKENS))
        last, classes = emit.spread(end), CLASSES // emit.lanes
        steps = ir.Constant(emit.integers, list(range(emit.lanes)))

        def term(tile: Array, held: Sequence[Array]) -> list[Array]:
            found = list(held)
            for part in emit.parts:
                p = emit.load(probs, emit.at(base, tile), part)
                index = b.add(emit.spread(emit.at(begin, tile)), b.add(steps, emit.int32(part * emit.lanes)))
                own = part % classes
                better = b.and_(b.fcmp_ordered(">", p, found[own]), b.icmp_signed("<", index, last))
                found[own] = b.select(better, p, found[own])
                found[classes + own] = b.select(better, index, found[classes + own])
            return found

        found = emit.fold(n_tiles, [emit.constant(-1.0)] * classes + [emit.int32(-1)] * classes, term)
        for own in range(classes):
            emit.store(found[own], best, place, own)
            emit.store(found[classes + own], where, place, own)

    return _emitted(types.void, (probs, tokens, best), body)


strongest = cast("Callable[..., None]", _strongest)
"""strongest((probs, base), (begin, end), (best, where, place)): of tokens begin .. end - 1, the largest probability of each class t mod 32 and the first
token that has it; -1 and -1 for a class without tokens."""


@intrinsic
def _lower_differences(
    _typing_context: Array, probs: Array, n_tiles: Array, reference: Array, differences: Array
) -> Array:
    def body(emit: Tiles) -> None:
        probs, base, n, reference, differences, to = emit.values
        top = emit.spread(reference)

        def term(tile: Array, _held: Sequence[Array]) -> list[Array]:
            for part in emit.parts:
                mine = emit.builder.sub(top, emit.exponents(emit.load(probs, emit.at(base, tile), part)))
                begin = emit.at(to, tile)
                held = emit.read(differences, begin, part, I32)
                emit.store(emit.smaller(mine, held), differences, begin, part)
            return []

        emit.fold(n, [], term)

    return _emitted(types.void, (probs, n_tiles, reference, differences), body)


lower_differences = cast("Callable[..., None]", _lower_differences)
"""lower_differences((probs, base), n_tiles, reference, (differences, base)): differences = min(differences, reference - E(p))."""


@intrinsic
def _addends(_typing_context: Array, scores: Array, maxima: Array, out: Array) -> Array:
    def body(emit: Tiles) -> Array:
        b = emit.builder
        scores, base, maxima, place, out, to = emit.values
        far, near = emit.constant(float(FARTHEST)), emit.constant(-float(FARTHEST))
        top = emit.int32(-(1 << 31))
        for part in emit.parts:
            binades = b.fmul(emit.load(scores, base, part), emit.constant(float(exp2.LOG2E)))
            above = b.select(b.fcmp_ordered(">", binades, near), binades, near)
            clamped = b.select(b.fcmp_ordered("<", above, far), above, far)
            floor = b.fptosi(emit.call("llvm.floor", clamped), emit.integers)
            exponents = b.add(floor, emit.bytes_of(maxima, place, part))
            emit.store(exponents, out, to, part)
            top = emit.larger(exponents, top)
        return emit.across(top, emit.larger)

    return _emitted(types.int32, (scores, maxima, out), body)


addends = cast("Callable[..., Array]", _addends)
"""addends((scores, base), (token_maxima, base), (out, base)): write the exponents of a page's addends as `online` defines them; return the largest."""


@intrinsic
def _lower_running(_typing_context: Array, exponents: Array, top: Array, differences: Array) -> Array:
    def body(emit: Tiles) -> None:
        exponents, base, top, differences, to = emit.values
        largest = emit.spread(top)
        for part in emit.parts:
            mine = emit.builder.sub(largest, emit.read(exponents, base, part, I32))
            emit.store(emit.smaller(mine, emit.read(differences, to, part, I32)), differences, to, part)

    return _emitted(types.void, (exponents, top, differences), body)


lower_running = cast("Callable[..., None]", _lower_running)
"""lower_running((exponents, base), top, (differences, base)): differences = min(differences, top - exponents) for a page."""


@intrinsic
def _decide(
    _typing_context: Array, differences: Array, maxima: Array, rule: Array, planes: Array, bits: Array
) -> Array:
    def body(emit: Tiles) -> None:
        b = emit.builder
        differences, base, maxima, place, mask, guard, least, skip_at, planes, to, bits, bits_to = emit.values
        nothing, four, eight = (emit.int32(n) for n in (0, 4, 8))
        one_is_enough = b.icmp_signed("==", emit.spread(least), emit.int32(1))
        for part in emit.parts:
            own = b.and_(emit.bytes_of(maxima, place, part), emit.spread(mask))
            difference = b.sub(emit.read(differences, base, part, I32), own)
            spare = b.sub(difference, emit.spread(guard))
            fewer = b.zext(b.icmp_signed(">=", spare, four), emit.integers)
            least_of_all = b.and_(b.icmp_signed(">=", spare, eight), one_is_enough)
            wanted = b.sub(b.sub(emit.int32(3), fewer), b.zext(least_of_all, emit.integers))
            skipped = b.icmp_signed(">=", difference, emit.spread(skip_at))
            emit.store_bytes(b.select(skipped, nothing, wanted), planes, to, part)
            read = b.add(b.shl(wanted, emit.int32(2)), four)
            emit.store_bytes(b.select(skipped, nothing, read), bits, bits_to, part)

    return _emitted(types.void, (differences, maxima, rule, planes, bits), body)


decide = cast("Callable[..., None]", _decide)
"""decide((differences, base), (token_maxima, base), (mask, guard_bits, least_planes, skip_at), (planes, base), (bits, base)): for a page, write from how many
planes each token's values are read, and how many bits: `scoring.planes_for` of difference - (maximum & mask), nothing from `skip_at` on."""
