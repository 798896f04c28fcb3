"""Scores of one page of keys: the loop over channels, each read from as many planes as it needs."""

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


@intrinsic(prefer_literal=True)
def _page_scores(
    _typing_context: Array,
    n_heads: Array,
    bfloat: Array,
    planes: Array,
    place: Array,
    reads: Array,
    out: Array,
) -> Array:
    kinds = [planes, place, reads, out]

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        emit = Emitter(context, builder, *flattened(builder, signature.args[2:], arguments[2:]), types.float32)
        p1, p2, p3, at, next_at, n_planes, head_dim, queries, q_base, q_stride, scale, out, out_base, out_stride = (
            emit.values
        )
        rows = Rows(builder, PAGE_TOKENS, bfloat=is_bfloat(bfloat), plain=is_plain(planes[0]))
        heads = range(n_heads.literal_value)
        half_page = builder.mul(head_dim, number(PAGE_TOKENS // 2))

        def term(channel: Array, held: Sequence[Array]) -> list[Array]:
            row = builder.mul(channel, number(PAGE_TOKENS))

            def pointer(begin: Array, plane: int) -> Array:
                place = builder.add(begin, row)
                return builder.gep((p1, p2, p3)[plane], [builder.lshr(place, number(1)) if plane else place])

            def ahead(plane: int, _: int) -> list[Array]:
                return rows.lines_ahead(pointer(next_at, plane), p1, next_at, row, half_page)

            (words,) = rows.read(emit.element(n_planes, channel), lambda plane, _: pointer(at, plane), ahead)
            numbers = rows.numbers(words)
            place = builder.add(q_base, builder.mul(channel, q_stride))
            results: list[Array] = []
            for head in heads:
                q = emit.splat(emit.element(queries, builder.add(place, number(head))))
                mine = held[head * rows.n_vectors : (head + 1) * rows.n_vectors]
                results += [emit.call("llvm.fma", q, k, sum_) for k, sum_ in zip(numbers, mine, strict=True)]
            return results

        sums = emit.fold(head_dim, [emit.constant(0.0)] * (len(heads) * rows.n_vectors), term)
        factor = emit.splat(scale)
        for head in heads:
            base = builder.add(out_base, builder.mul(out_stride, number(head)))
            ordered = rows.in_order(sums[head * rows.n_vectors : (head + 1) * rows.n_vectors])
            for v, vector in enumerate(ordered):
                emit.store(builder.fmul(vector, factor), out, base, v)
        return context.get_dummy_value()

    return types.void(n_heads, bfloat, *kinds), generate


page_scores = cast("Callable[..., None]", _page_scores)
"""page_scores(n_heads, bfloat, (first, second, third), (at, next_at), (n_planes, head_dim, queries, query_base, query_stride, scale), (out, out_base, out_stride))

For each head i and the 64 tokens of the page whose first code is number `at` of the first plane: acc = 0; for each channel d: acc =
fma(queries[query_base + d * query_stride + i], k[d], acc) with k[d] read from n_planes[d] planes; out[out_base + i * out_stride :] = acc *
scale. The page at `next_at` is prefetched. `n_heads` is a literal, `bfloat` the marker of `is_bfloat`; codes lie whole if `first` has 16-bit
elements. Arrays are contiguous and indexed flat; nothing is checked.
"""
