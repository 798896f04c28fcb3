"""Sums of weighted values over tokens: the loop over tokens, each read from as many planes as it needs, or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from numba.core import types
from numba.extending import intrinsic

from precalign.cpu.rows import Rows, flattened, is_bfloat, is_plain
from precalign.planes import PAGE_TOKENS
from precalign.vectors import Emitter, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.jit import Array

ROW_CODES = (64, 32)
"""Codes that a row of values may have; a head_dim takes rows of the most that divide it (`row_codes`)."""


def row_codes(head_dim: int) -> int:
    """Return how many channels of a token lie side by side: a page of values is (head_dim / row_codes, 64 tokens, row_codes)."""
    return next(n for n in ROW_CODES if head_dim % n == 0)


@intrinsic(prefer_literal=True)
def _add_values(
    _typing_context: Array,
    n_heads: Array,
    n_rows: Array,
    row_codes: Array,
    absolute: Array,
    bfloat: Array,
    planes: Array,
    reads: Array,
    channel: Array,
    weights: Array,
    out: Array,
) -> Array:
    del channel
    kinds = [planes, reads, types.int64, weights, out]
    literals = (n_heads, n_rows, row_codes, absolute, bfloat)

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        emit = Emitter(context, builder, *flattened(builder, signature.args[5:], arguments[5:]), types.float32)
        p1, p2, p3, at1, at2, at3, n_planes, begin, n_tokens, ahead, channel, *rest = emit.values
        tokens, probs, prob_base, prob_stride, out, out_base, out_stride = rest
        rows = Rows(builder, row_codes.literal_value, bfloat=is_bfloat(bfloat), plain=is_plain(planes[0]))
        emit.lanes, emit.vector = rows.lanes, rows.vector
        arrays = ((p1, at1), (p2, at2), (p3, at3))
        bases = [builder.add(out_base, builder.mul(out_stride, number(i))) for i in range(n_heads.literal_value)]
        prob_bases = [builder.add(prob_base, builder.mul(prob_stride, number(i))) for i in range(len(bases))]
        n_vectors = rows.n_vectors * n_rows.literal_value
        block_codes = PAGE_TOKENS * rows.n_codes
        block = builder.mul(channel, number(PAGE_TOKENS))
        half = builder.lshr(block, number(1))

        def place(token: Array, plane: int, row: int) -> Array:
            start = builder.add(emit.element(arrays[plane][1], token), half if plane else block)
            return builder.add(start, number(row * block_codes // (2 if plane else 1)))

        def pointer(token: Array, plane: int, row: int) -> Array:
            return builder.gep(arrays[plane][0], [place(token, plane, row)])

        def lines(token: Array, plane: int, row: int) -> list[Array]:
            at = place(token, plane, row)
            offset = builder.and_(at, number(block_codes - 1))
            begin, half_block = builder.sub(at, offset), number(block_codes // 2)
            return rows.lines_ahead(pointer(token, plane, row), p1, begin, offset, half_block)

        def term(at: Array, held: Sequence[Array]) -> list[Array]:
            token = builder.add(begin, at)
            later = builder.add(token, ahead)
            read = rows.read(
                n_planes,
                lambda plane, row: pointer(token, plane, row),
                lambda plane, row: lines(later, plane, row),
                n_rows.literal_value,
            )
            numbers = [n for words in read for n in rows.numbers(words, absolute=bool(absolute.literal_value))]
            own = emit.element(tokens, token)
            results: list[Array] = []
            for i, base in enumerate(prob_bases):
                p = emit.splat(emit.element(probs, builder.add(base, own)))
                mine = held[i * len(numbers) : (i + 1) * len(numbers)]
                results += [emit.call("llvm.fma", p, v, sum_) for v, sum_ in zip(numbers, mine, strict=True)]
            return results

        starts = [emit.load(out, builder.add(base, channel), v) for base in bases for v in range(n_vectors)]
        sums = emit.fold(n_tokens, starts, term)
        for i, base in enumerate(bases):
            for v in range(n_vectors):
                emit.store(sums[i * n_vectors + v], out, builder.add(base, channel), v)
        return context.get_dummy_value()

    return types.void(*literals, *kinds), generate


add_values = cast("Callable[..., None]", _add_values)
"""add_values(n_heads, n_rows, row_codes, absolute, bfloat, (first, second, third), (place1, place2, place3, n_planes, begin, n_tokens, ahead), channel, (tokens, probs, prob_base, prob_stride), (out, out_base, out_stride))

For each head i and `n_rows` rows of `row_codes` channels from `channel` on: acc = out; for t in [begin, begin + n_tokens): acc = fma(probs[prob_base + i *
prob_stride + tokens[t]], v[t], acc); out = acc, with v[t] read from `n_planes` planes at place1[t], place2[t], place3[t] (without signs if
`absolute`). The tokens `ahead` further on are prefetched. `out` holds the channels of each row in the order of `row_order`. The first
four arguments are literals, `bfloat` the marker of `is_bfloat`; codes lie whole if `first` has 16-bit elements, and then one plane is read.
Arrays are contiguous and indexed flat; nothing is checked.
"""
