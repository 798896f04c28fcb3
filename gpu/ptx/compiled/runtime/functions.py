"""All functions that generated code may call, compiled when first wanted."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cfunc

from precalign.gpu.ptx.compiled.runtime import access, collectives, scalars

FUNCTIONS: dict[str, tuple[Any, Any]] = scalars.FUNCTIONS | access.FUNCTIONS | collectives.FUNCTIONS
"""name -> (numba signature, function)."""


@cache
def _compiled(name: str) -> Any:  # noqa: ANN401 - numba's CFunc, which must live as long as its address is used
    signature, function = FUNCTIONS[name]
    return cfunc(signature, cache=True)(function)


def address(name: str) -> int:
    """Compile a function, or find it compiled, and return where it is."""
    return int(_compiled(name).address)
