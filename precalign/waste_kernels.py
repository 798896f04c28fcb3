"""The wasted-bit counters as explicit vector code over tiles of 64 tokens; `precalign.waste` drives them.

Terms are small integers (E(w) + E(x)), so vectors of 8 or 16 bits hold them. Of a product the part that belongs to the token and
the part that belongs to the channel are kept apart: for keys the scalar of a channel is E(q_d), for values it is the reference of
the channel, and the vector over tokens is the reference of the token or E(p_t).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from precalign.vectors import Emitter, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.jit import Array

TILE = 64


@intrinsic
def _largest_by_token(
    _typing_context: Array,
    exponents: Array,
    base: Array,
    scalars: Array,
    scalar_base: Array,
    n: Array,
    out: Array,
    out_base: Array,
) -> Array:
    del base, scalar_base, n, out_base
    kinds = [exponents, types.int64, scalars, types.int64, types.int64, out, types.int64]

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        emit = Emitter(context, builder, signature.args, arguments, exponents.dtype)
        rows, base, scalars, scalar_base, n, out, out_base = emit.values
        vectors = range(TILE // emit.lanes)

        def term(at: Array, held: Sequence[Array]) -> list[Array]:
            scalar = emit.splat(emit.element(scalars, builder.add(scalar_base, at)))
            row = builder.add(base, builder.mul(at, number(TILE)))
            sums = [builder.add(emit.load(rows, row, v), scalar) for v in vectors]
            return [emit.call("llvm.smax", *pair) for pair in zip(sums, held, strict=True)]

        least = emit.constant(-(1 << (8 * emit.element_bytes - 1)))
        for v, largest in enumerate(emit.fold(n, [least for _ in vectors], term)):
            emit.store(largest, out, out_base, v)
        return context.get_dummy_value()

    return types.void(*kinds), generate


@intrinsic
def _largest_by_channel(
    _typing_context: Array,
    exponents: Array,
    base: Array,
    stride: Array,
    tokens: Array,
    token_base: Array,
    n: Array,
    out: Array,
) -> Array:
    del base, stride, token_base, n
    kinds = [exponents, types.int64, types.int64, tokens, types.int64, types.int64, out]

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        emit = Emitter(context, builder, signature.args, arguments, exponents.dtype)
        rows, base, stride, tokens, token_base, n, out = emit.values
        vectors = range(TILE // emit.lanes)

        def term(at: Array, held: Sequence[Array]) -> list[Array]:
            row = builder.add(base, builder.mul(at, stride))
            token = emit.splat(emit.element(tokens, builder.add(token_base, at)))
            sums = [builder.add(emit.load(rows, row, v), token) for v in vectors]
            return [emit.call("llvm.smax", *pair) for pair in zip(sums, held, strict=True)]

        least = emit.constant(-(1 << (8 * emit.element_bytes - 1)))
        for v, largest in enumerate(emit.fold(n, [least for _ in vectors], term)):
            emit.store(largest, out, number(0), v)
        return context.get_dummy_value()

    return types.void(*kinds), generate


@intrinsic(prefer_literal=True)
def _count_waste(
    _typing_context: Array,
    precision_bits: Array,
    exponents: Array,
    base: Array,
    n: Array,
    by_token: Array,
    by_channel: Array,
    channel_base: Array,
    stride: Array,
    group: Array,
    seen: Array,
    channels: Array,
    counters: Array,
    tokens: Array,
) -> Array:
    del base, n, channel_base, stride, group
    n_bits = precision_bits.literal_value
    integers = [types.int64] * 3
    kinds = [exponents, *integers[:2], by_token, by_channel, *integers, seen, channels, counters, tokens]

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        emit = Emitter(context, builder, signature.args[1:], arguments[1:], exponents.dtype)
        _emit_count(emit, n_bits)
        return context.get_dummy_value()

    return types.void(precision_bits, *kinds), generate


def _emit_count(emit: Emitter, precision_bits: int) -> None:
    builder = emit.builder
    rows, base, n, by_token, by_channel, channel_base, stride, group, seen, channels, counters, tokens = emit.values
    vectors = range(TILE // emit.lanes)
    masks = [emit.load(seen, number(0), v) for v in vectors]
    largest = emit.constant((1 << (8 * emit.element_bytes - 1)) - 1)
    one, zero = emit.constant(1), emit.constant(0)

    def channel(at: Array, held: Sequence[Array]) -> list[Array]:
        def head(which: Array, smallest: Sequence[Array]) -> list[Array]:
            place = builder.add(builder.add(channel_base, builder.mul(which, stride)), at)
            scalar = emit.splat(emit.element(by_channel, place))
            of_head = builder.mul(which, number(TILE))
            return [
                emit.call("llvm.smin", builder.sub(emit.load(by_token, of_head, v), scalar), smallest[v])
                for v in vectors
            ]

        row = builder.mul(at, number(TILE))
        results: list[Array] = []
        for v, smallest in enumerate(emit.fold(group, [largest for _ in vectors], head)):
            wasted = builder.sub(smallest, emit.load(rows, builder.add(base, row), v))
            wasted = builder.and_(emit.call("llvm.umin", wasted, emit.constant(precision_bits)), masks[v])
            emit.store(builder.add(emit.load(channels, row, v), wasted), channels, row, v)
            for bits in range(1, precision_bits + 1):
                reached = builder.icmp_unsigned(">=", wasted, emit.constant(bits))
                held_count = held[v * precision_bits + bits - 1]
                results.append(builder.select(reached, builder.add(held_count, one), held_count))
        return results

    counts = emit.fold(n, [zero for _ in vectors for _ in range(precision_bits)], channel)
    wide = ir.VectorType(ir.IntType(16), emit.lanes)
    for v in vectors:
        total: Array = None
        for bits in range(precision_bits):
            place = number(bits * TILE)
            count = counts[v * precision_bits + bits]
            count = builder.zext(count, wide) if emit.element_bytes == 1 else count
            total = count if total is None else builder.add(total, count)
            pointer = builder.bitcast(
                builder.gep(counters, [builder.add(place, number(v * emit.lanes))]), wide.as_pointer()
            )
            before = builder.load(pointer)
            before.align = 2
            builder.store(builder.add(before, count), pointer).align = 2
        emit.store(total, tokens, number(0), v)


largest_by_token = cast("Callable[..., None]", _largest_by_token)
"""largest_by_token(exponents, base, scalars, scalar_base, n, out, out_base): out[out_base + lane] over the 64 lanes of a tile =
max over i < n of exponents[base + 64 i + lane] + scalars[scalar_base + i]. Arrays are of one integer type, indexed flat."""

largest_by_channel = cast("Callable[..., None]", _largest_by_channel)
"""largest_by_channel(exponents, base, stride, tokens, token_base, n, out): out[lane] over 64 channels side by side = max over tokens i < n of
exponents[base + stride i + lane] + tokens[token_base + i]."""

count_waste = cast("Callable[..., None]", _count_waste)
"""count_waste(precision_bits, exponents, base, n, by_token, by_channel, channel_base, stride, group, seen, channels, counters, tokens)

For channel i < n and each of 64 lanes: wasted = min over heads h < group of by_token[64 h + lane] -
by_channel[channel_base + stride h + i], less exponents[base + 64 i + lane], at most precision_bits, and 0 where `seen` has no bits.
Adds wasted to channels[64 i + lane]; to the uint16 counters[64 (b - 1) + lane] one for every wasted >= b; and writes the sum over
channels to the uint16 tokens[lane]. `precision_bits` is a literal; n must fit the element type as an unsigned number."""
