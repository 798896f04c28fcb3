"""How this package compiles its hot loops: IEEE arithmetic as written, no interpreter lock, results cached on disk.

numba forgets a cached kernel when the file that defines it changes, not when a helper that it inlines from another file does:
after editing this file, `vectors.py` or a micro-kernel, run `make clean`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import event, types
from numba.extending import intrinsic

from precalign import compiling

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

Array: TypeAlias = Any
"""An array or a number inside a kernel: numba compiles a kernel for the types it meets; its docstring states them."""


UNCOUNTED: dict[str, Any] = {"_nrt": False}
"""numba's option, missing in its type hints: no run-time, so neither allocation nor reference counts."""


class _Announcer(event.Listener):
    """Passes on that numba compiles; a kernel that comes out of the cache gives no event."""

    def on_start(self, event: Array) -> None:
        del event
        compiling.announce()

    def on_end(self, event: Array) -> None:
        del event


event.register("numba:compile", _Announcer())  # type: ignore[no-untyped-call]


def kernel(function: F) -> F:
    """Compile `function` with numba: no fast-math (so no contraction or reassociation), no interpreter lock, cached."""
    return cast("F", numba.njit(cache=True, error_model="numpy", nogil=True)(function))


def inline(function: F) -> F:
    """Compile a helper of kernels; LLVM inlines it, and no entry of its own is cached."""
    return cast("F", numba.njit(error_model="numpy", nogil=True)(function))


def borrowing_kernel(function: F) -> F:
    """Compile as `kernel`, but without reference counts: for kernels that allocate nothing and hand arrays to many helpers.

    numba counts references to every array that is sliced or passed on, a call each time; over short rows that takes longer than the rows.
    """
    return cast("F", numba.njit(cache=True, error_model="numpy", nogil=True, **UNCOUNTED)(function))


def embed(function: F) -> F:
    """Compile a helper into every place in a `borrowing_kernel` that calls it: for helpers with many arguments."""
    return cast("F", numba.njit(error_model="numpy", nogil=True, forceinline=True, **UNCOUNTED)(function))


def _emit_call(name: str, builder: Array, arguments: Array) -> Array:
    real = arguments[0].type
    suffix = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}[real]
    kind = ir.FunctionType(real, [real] * len(arguments))
    return builder.call(builder.module.declare_intrinsic(f"{name}.{suffix}", fnty=kind), arguments)


@intrinsic
def _fma(_typing_context: Array, a: Array, b: Array, c: Array) -> Array:
    def emit(_context: Array, builder: Array, _signature: Array, arguments: Array) -> Array:
        return _emit_call("llvm.fma", builder, arguments)

    return (a(a, a, a), emit) if a in {types.float32, types.float64} and a == b == c else None


@intrinsic
def _rint(_typing_context: Array, x: Array) -> Array:
    def emit(_context: Array, builder: Array, _signature: Array, arguments: Array) -> Array:
        return _emit_call("llvm.rint", builder, arguments)

    return (x(x), emit) if x in {types.float32, types.float64} else None


BITS: dict[Array, Array] = {
    types.float32: types.int32,
    types.float64: types.int64,
    types.int32: types.float32,
    types.int64: types.float64,
}


@intrinsic
def _reinterpret(_typing_context: Array, x: Array) -> Array:
    if x not in BITS:
        return None

    def emit(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return BITS[x](x), emit


fma = cast("Callable[[Array, Array, Array], Array]", _fma)
"""fma(a, b, c): a * b + c with one rounding, in binary32 or binary64 (all three of one type)."""

rint = cast("Callable[[Array], Array]", _rint)
"""rint(x): x rounded to an integer, ties to even, in its own type."""

reinterpret = cast("Callable[[Array], Array]", _reinterpret)
"""reinterpret(x): the same bits as the integer, or the real number, of the same width."""
