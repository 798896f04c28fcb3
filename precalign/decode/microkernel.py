"""The loop that everything spends its time in, as explicit vector code: sums of scalar * row, or of (row - scalar)^2, several sums at once.

Vectors lie across tokens (scores) or channels (outputs), so each sum keeps its stated order: one fused multiply-add after the
other. Speed comes from doing many sums side by side, which changes no bit of any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

from numba.core import types
from numba.extending import intrinsic

from precalign.jit import inline
from precalign.vectors import Emitter, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.jit import Array

    Combine: TypeAlias = Callable[[Emitter, Any, Any, Any], Any]


def _product(emit: Emitter, scalar: Array, x: Array, sum_: Array) -> Array:
    return emit.call("llvm.fma", scalar, x, sum_)


def _squared_difference(emit: Emitter, scalar: Array, x: Array, sum_: Array) -> Array:
    apart = emit.builder.fsub(x, scalar)
    return emit.call("llvm.fma", apart, apart, sum_)


def _emit(emit: Emitter, n_sums: int, n_vectors: int, combine: Combine) -> None:
    builder = emit.builder
    first, out, out_bases, rows, row_base, term_base, offsets, index, n_terms, scalars, scalar_bases, scale = (
        emit.values
    )
    bases = [emit.element(scalar_bases, builder.add(first, number(i))) for i in range(n_sums)]

    def term(at: Array, held: Sequence[Array]) -> list[Array]:
        place = builder.add(term_base, at)
        row, column = builder.add(row_base, emit.element(offsets, place)), emit.element(index, place)
        vectors = [emit.load(rows, row, v) for v in range(n_vectors)]
        results = []
        for i, base in enumerate(bases):
            scalar = emit.splat(emit.element(scalars, builder.add(base, column)))
            mine = held[i * n_vectors : (i + 1) * n_vectors]
            results += [combine(emit, scalar, x, sum_) for x, sum_ in zip(vectors, mine, strict=True)]
        return results

    sums = emit.fold(n_terms, [emit.constant(0.0)] * (n_sums * n_vectors), term)
    factor = emit.splat(scale)
    for i in range(n_sums):
        base = emit.element(out_bases, builder.add(first, number(i)))
        for v in range(n_vectors):
            emit.store(builder.fmul(sums[i * n_vectors + v], factor), out, base, v)


def _row_sums(combine: Combine) -> Callable[..., None]:
    @intrinsic(prefer_literal=True)
    def sums(
        _typing_context: Array,
        n_sums: Array,
        n_vectors: Array,
        first: Array,
        out: Array,
        out_bases: Array,
        rows: Array,
        row_base: Array,
        term_base: Array,
        offsets: Array,
        index: Array,
        n_terms: Array,
        scalars: Array,
        scalar_bases: Array,
        scale: Array,
    ) -> Array:
        del first, row_base, term_base, n_terms, scale
        kinds = [
            types.int64,
            out,
            out_bases,
            rows,
            types.int64,
            types.int64,
            offsets,
            index,
            types.int64,
            scalars,
            scalar_bases,
            out.dtype,
        ]

        def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
            emit = Emitter(context, builder, signature.args[2:], arguments[2:], out.dtype)
            _emit(emit, n_sums.literal_value, n_vectors.literal_value, combine)
            return context.get_dummy_value()

        return types.void(n_sums, n_vectors, *kinds), generate

    return cast("Callable[..., None]", sums)


row_sums = _row_sums(_product)
"""row_sums(n_sums, n_vectors, first, out, out_bases, rows, row_base, term_base, offsets, index, n_terms, scalars, scalar_bases, scale)

For each sum i in [first, first + n_sums): acc = 0; for term in [term_base, term_base + n_terms): acc =
fma(scalars[scalar_bases[i] + index[term]], rows[row_base + offsets[term] :], acc), over n_vectors vectors of 64 bytes; out[out_bases[i] :] = acc * scale. The first two arguments are
literals; arrays are contiguous and indexed flat, the bases and offsets int64, nothing is checked.
"""

row_distances = _row_sums(_squared_difference)
"""As `row_sums` with acc = fma(x, x, acc), x = rows[..] - scalars[..] rounded."""


def _any_number(n_vectors: int, of: Callable[..., None] = row_sums) -> Callable[..., None]:
    @inline
    def sums(
        n_sums: int,
        out: Array,
        out_bases: Array,
        rows: Array,
        row_base: int,
        term_base: int,
        offsets: Array,
        index: Array,
        n: int,
        scalars: Array,
        bases: Array,
        scale: Array,
    ) -> None:
        i = 0
        while i < n_sums:
            # Four sums of four vectors are what 32 vector registers hold beside the rows.
            if i + 4 <= n_sums:
                of(4, n_vectors, i, out, out_bases, rows, row_base, term_base, offsets, index, n, scalars, bases, scale)
                i += 4
            elif i + 2 <= n_sums:
                of(2, n_vectors, i, out, out_bases, rows, row_base, term_base, offsets, index, n, scalars, bases, scale)
                i += 2
            else:
                of(1, n_vectors, i, out, out_bases, rows, row_base, term_base, offsets, index, n, scalars, bases, scale)
                i += 1

    return sums


sums_of_1_vector = _any_number(1)
sums_of_4_vectors = _any_number(4)
"""sums_of_n_vectors(n_sums, out, ...): `row_sums` for any number of sums."""
distances_of_4_vectors = _any_number(4, row_distances)

SUMS_AT_ONCE = 4
