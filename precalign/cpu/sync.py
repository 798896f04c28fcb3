"""How the threads of one `attend` share its work: counters that are advanced atomically, and waiting for a phase to end.

A phase is a list of tasks. Whoever has time takes the next one, and goes on to the following phase when all tasks are *done*, by
whichever threads. So nothing depends on how many threads take part, or on when they come: a thread that never starts is not missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from precalign.jit import inline

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.jit import Array

SPACING = 8
"""Counters lie a cache line apart."""
_SPINS = 4000
_yield_thread = types.ExternalFunction("sched_yield", types.int32())


def _pointer(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@intrinsic
def _advance(_typing_context: Array, counters: Array, index: Array) -> Array:
    del index

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", _pointer(context, builder, signature, arguments), one, "seq_cst")

    return types.int64(counters, types.int64), generate


@intrinsic
def _value(_typing_context: Array, counters: Array, index: Array) -> Array:
    del index

    def generate(context: Array, builder: Array, signature: Array, arguments: Array) -> Array:
        return builder.load_atomic(_pointer(context, builder, signature, arguments), "seq_cst", 8)

    return types.int64(counters, types.int64), generate


advance = cast("Callable[[Array, int], int]", _advance)
"""advance(counters, index): add 1 to an int64 counter atomically; return what it was."""

value = cast("Callable[[Array, int], int]", _value)
"""value(counters, index): read an int64 counter that others advance."""


@inline
def wait_for(counters: Array, index: int, target: int) -> None:
    """Wait until a counter has reached the target; let other threads run when it takes long."""
    spins = 0
    while value(counters, index) < target:
        spins += 1
        if spins > _SPINS:
            _yield_thread()
