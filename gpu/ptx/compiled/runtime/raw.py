"""Memory by its address, inside kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any
int32: Any = types.int32
int64: Any = types.int64
uint16: Any = types.uint16
uint32: Any = types.uint32
uint64: Any = types.uint64
"""Casts inside kernels, and types in signatures."""


def _loader(bits: int) -> Any:  # noqa: ANN401 - an intrinsic
    kind: Any = {8: types.uint8, 16: types.uint16, 32: types.uint32, 64: types.uint64}[bits]

    @intrinsic
    def load(_context: Array, _address: Array) -> Array:
        def emit(_inner: Array, builder: Array, _signature: Array, arguments: Array) -> Array:
            return builder.load(builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer()))

        return kind(types.int64), emit

    return load


def _storer(bits: int) -> Any:  # noqa: ANN401 - an intrinsic
    kind: Any = {8: types.uint8, 16: types.uint16, 32: types.uint32, 64: types.uint64}[bits]

    @intrinsic
    def store(_context: Array, _address: Array, _value: Array) -> Array:
        def emit(_inner: Array, builder: Array, _signature: Array, arguments: Array) -> Array:
            builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer()))
            return ir.Constant(ir.IntType(32), 0)

        return types.int32(types.int64, kind), emit

    return store


load8, load16, load32, load64 = (_loader(bits) for bits in (8, 16, 32, 64))
store8, store16, store32, store64 = (_storer(bits) for bits in (8, 16, 32, 64))


@intrinsic
def _call(_context: Array, _function: Array, _own: Array, _frame: Array) -> Array:
    def emit(_inner: Array, builder: Array, _signature: Array, arguments: Array) -> Array:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [word, word])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    return types.int32(types.int64, types.int64, types.int64), emit


call_kernel = cast("Callable[[Array, Array, Array], Array]", _call)
"""call_kernel(function, context, frame): run a warp until all its lanes wait or have exited; 0, or a fault."""
