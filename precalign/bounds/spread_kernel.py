"""The innermost loop of the bounds on outputs as explicit vector code: `precalign.bounds.outputs.add_spreads` drives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from precalign.jit import inline
from precalign.vectors import Emitter, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.jit import Array

I32 = ir.IntType(32)
EXPONENT_FIELD, NO_SIGN = 0x7F800000, 0x7FFFFFFF


def _emit(emit: Emitter, n_vectors: int) -> None:
    b = emit.builder
    rows, zeros, channel, n, offsets, floors, widths, coefficients, base, weights, centres, z_base, a, a_base, c = (
        emit.values
    )
    integers = ir.VectorType(I32, emit.lanes)

    def bits(value: int) -> Array:
        return ir.Constant(integers, [value] * emit.lanes)

    def masked(x: Array, mask: int) -> Array:
        return b.and_(b.bitcast(x, integers), bits(mask))

    vectors = range(n_vectors)
    z = [emit.load(centres, b.add(z_base, channel), v) for v in vectors]

    def term(i: Array, held: Sequence[Array]) -> list[Array]:
        offset = emit.element(offsets, i)
        unread = b.icmp_signed("<", offset, number(0))
        row, place = b.select(unread, zeros, rows), b.add(b.select(unread, number(0), offset), channel)
        floor = b.bitcast(emit.splat(emit.element(floors, i)), integers)
        h, p = emit.splat(emit.element(widths, i)), emit.splat(emit.element(weights, i))
        much = emit.splat(emit.element(coefficients, b.add(base, i)))
        moved, direct = [], []
        for v in vectors:
            x = emit.load(row, place, v)
            field = masked(x, EXPONENT_FIELD)
            size = b.bitcast(b.select(b.icmp_signed(">", field, floor), field, floor), emit.vector)
            apart = b.bitcast(masked(b.fsub(x, z[v]), NO_SIGN), emit.vector)
            # h and size are powers of two: their products are exact, fused or not.
            moved.append(b.fadd(held[v], b.fmul(much, emit.call("llvm.fma", h, size, apart))))
            direct.append(emit.call("llvm.fma", p, size, held[n_vectors + v]))
        return moved + direct

    sums = emit.fold(n, [emit.constant(0.0)] * (2 * n_vectors), term)
    for v in vectors:
        emit.store(sums[v], a, b.add(a_base, channel), v)
        emit.store(sums[n_vectors + v], c, b.add(a_base, channel), v)


@intrinsic(prefer_literal=True)
def _spreads(
    _typing_context: Array,
    n_vectors: Array,
    rows: Array,
    zeros: Array,
    channel: Array,
    n: Array,
    offsets: Array,
    floors: Array,
    widths: Array,
    coefficients: Array,
    base: Array,
    weights: Array,
    centres: Array,
    z_base: Array,
    moved: Array,
    out_base: Array,
    direct: Array,
) -> Array:
    del channel, n, base, z_base, out_base
    whole = types.int64
    kinds = [rows, zeros, whole, whole, offsets, floors, widths, coefficients, whole, weights, centres, whole]
    kinds += [moved, whole, direct]

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        _emit(Emitter(context, builder, signature.args[1:], arguments[1:], types.float32), n_vectors.literal_value)
        return context.get_dummy_value()

    return types.void(n_vectors, *kinds), generate


_of_vectors = cast("Callable[..., None]", _spreads)


@inline
def spreads(
    padded_dim: int,
    rows: Array,
    zeros: Array,
    n: int,
    offsets: Array,
    floors: Array,
    widths: Array,
    coefficients: Array,
    base: int,
    weights: Array,
    centres: Array,
    z_base: int,
    moved: Array,
    direct: Array,
) -> None:
    """Write for each channel the sums over n tokens of a_i (|x_ic - z_c| + h_i s_ic) and of p_i s_ic, in binary32 and one after the other.

    s_ic is 2^E(x_ic), at least floors[i]; x_i is the row at offsets[i], zeros where that is negative. Arrays are of binary32, contiguous and
    indexed flat; nothing is checked.

    Parameters
    ----------
    padded_dim : int
        A multiple of 16.
    rows : ndarray[float32]
    zeros : ndarray[float32], (padded_dim,)
    n : int
    offsets : ndarray[int64], (>= n,)
    floors, widths, weights : ndarray[float32], (>= n,)
        Powers of two, h_i and p_i.
    coefficients : ndarray[float32]
        a_i from `base` on.
    centres : ndarray[float32]
        z from `z_base` on.
    moved, direct : ndarray[float32], (padded_dim,)
    """
    a, z, to = coefficients, centres, z_base
    channel = 0
    while channel < padded_dim:
        # Centres and sums of four vectors are 12 registers.
        if channel + 64 <= padded_dim:
            _of_vectors(4, rows, zeros, channel, n, offsets, floors, widths, a, base, weights, z, to, moved, 0, direct)
            channel += 64
        else:
            _of_vectors(1, rows, zeros, channel, n, offsets, floors, widths, a, base, weights, z, to, moved, 0, direct)
            channel += 16
