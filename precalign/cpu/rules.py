"""The rules that the CPU kernels decide by themselves, head by head, as the numbers that kernels are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.cpu.records import (
    ALIGNED_MAX,
    ALIGNED_SKIP,
    ALIGNEDKV,
    FULL,
    ONLINE,
    ONLINE_TWO_PASS,
    STATIC,
    HeadRules,
)
from precalign.errors import UnavailableError, UsageError
from precalign.layouts import Layout
from precalign.rules import Rule, get_rule
from precalign.rules.aligned_max import AlignedMax
from precalign.rules.aligned_skip import AlignedSkip
from precalign.rules.alignedkv import AlignedKV
from precalign.rules.full import Full
from precalign.rules.online import Online
from precalign.rules.static import Static

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.formats import Format

WIDTHS = (8, 4, 4)
KINDS: dict[type[Rule], int] = {
    Full: FULL,
    AlignedKV: ALIGNEDKV,
    AlignedMax: ALIGNED_MAX,
    AlignedSkip: ALIGNED_SKIP,
    Static: STATIC,
    Online: ONLINE,
}


def layout_of(rule: Rule, fmt: Format) -> Layout:
    """Return the planes of the kernels, with the level of no bits for a rule that needs it."""
    return Layout("8|4|4" + "+skip" * rule.needs_skip, fmt, WIDTHS, skip=rule.needs_skip)


def head_rules(
    given: str | Rule | Sequence[str | Rule], n_kv_heads: int, fmt: Format
) -> tuple[tuple[Rule, ...], HeadRules]:
    """Return the rule of each kv head, as records and as the numbers that kernels are given.

    Raises
    ------
    UsageError
        If there is not one rule or one for each head, or a parameter does not fit the planes.
    UnavailableError
        If the kernels do not know a rule.
    """
    listed = [given] * n_kv_heads if isinstance(given, str | Rule) else list(given)
    if len(listed) != n_kv_heads:
        raise UsageError(f"expected one rule, or one for each of {n_kv_heads} kv heads, got {len(listed)}")
    rules = tuple(get_rule(rule) if isinstance(rule, str) else rule for rule in listed)
    for rule in rules:
        if type(rule) not in KINDS:
            known = ", ".join(sorted(kind.name for kind in KINDS))
            raise UnavailableError(f"the CPU kernels do not know the rule {rule.name}", hint=f"they know {known}")
        rule.check(layout_of(rule, fmt))
    kinds = [ONLINE_TWO_PASS if isinstance(rule, Online) and rule.two_pass else KINDS[type(rule)] for rule in rules]
    columns = [
        kinds,
        [getattr(rule, "guard_bits", 0) for rule in rules],
        [getattr(rule, "threshold", 0) for rule in rules],
        [getattr(rule, "key_bits", 16) // 4 - 1 for rule in rules],
        [getattr(rule, "value_bits", 16) // 4 - 1 for rule in rules],
    ]
    return rules, HeadRules(*(np.array(column, np.int64) for column in columns))
