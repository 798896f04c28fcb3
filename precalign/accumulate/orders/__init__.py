"""Orders of summation by name, and the specs that compose them.

A spec is `name[:number][(inner)][/outer]`: `sequential`, `pairwise`, `blocked:64/pairwise`, `lanes:32/tree`,
`blocked:256(lanes:64/tree)/sequential`. What is left out has the default of the order's class.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from precalign.accumulate.orders.base import Order
from precalign.accumulate.orders.blocked import Blocked
from precalign.accumulate.orders.lanes import Lanes
from precalign.accumulate.orders.numpy_pairwise import NumpyPairwise
from precalign.accumulate.orders.pairwise import Pairwise
from precalign.accumulate.orders.reverse import Reverse
from precalign.accumulate.orders.sequential import Sequential
from precalign.accumulate.orders.tree import Tree
from precalign.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

# name -> order; adding an order is one file and one line here.
PLAIN: dict[str, Callable[[], Order]] = {
    "sequential": Sequential,
    "reverse": Reverse,
    "pairwise": Pairwise,
    "tree": Tree,
    "numpy": NumpyPairwise,
}
COMPOSED: dict[str, Callable[..., Order]] = {"blocked": Blocked, "lanes": Lanes}
ALIASES = {
    "half2": "lanes:2/sequential",
    "warp": "lanes:32/tree",
    "decode-split": "blocked:256(lanes:64/tree)/sequential",
}

_HEAD = re.compile(r"([a-z][a-z0-9-]*)(?::([0-9]{1,18}))?")


def _unknown(spec: str) -> UsageError:
    known = [*PLAIN, *(f"{name}:N[(inner)][/outer]" for name in COMPOSED), *ALIASES]
    return UsageError(f"unknown order {spec!r}", hint="known orders: " + ", ".join(known))


def _parse(spec: str, position: int) -> tuple[Order, int]:
    head = _HEAD.match(spec, position)
    if head is None:
        raise _unknown(spec)
    name, number, position = head[1], head[2], head.end()
    if name in COMPOSED:
        if number is None or int(number) < 1:
            raise UsageError(f"order {spec!r}: {name} needs a positive number", hint=f"{name}:32, for example")
        parts: dict[str, Order] = {}
        if spec[position : position + 1] == "(":
            parts["inner"], position = _parse(spec, position + 1)
            if spec[position : position + 1] != ")":
                raise UsageError(f"order {spec!r}: a parenthesis is not closed")
            position += 1
        if spec[position : position + 1] == "/":
            parts["outer"], position = _parse(spec, position + 1)
        return COMPOSED[name](int(number), **parts), position
    if name in ALIASES and number is None:
        return get_order(ALIASES[name]), position
    if name not in PLAIN or number is not None:
        raise _unknown(spec)
    return PLAIN[name](), position


@lru_cache(maxsize=256)
def get_order(spec: str) -> Order:
    """Return the order that a spec names.

    Raises
    ------
    UsageError
        If the spec names no order; the message lists those there are.
    """
    order, end = _parse(spec.strip().lower(), 0)
    if end != len(spec.strip()):
        raise _unknown(spec)
    return order


__all__ = [
    "ALIASES",
    "COMPOSED",
    "PLAIN",
    "Blocked",
    "Lanes",
    "NumpyPairwise",
    "Order",
    "Pairwise",
    "Reverse",
    "Sequential",
    "Tree",
    "get_order",
]
