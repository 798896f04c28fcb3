"""Every rule over its parameters: the settings among which `tune` chooses and from which `frontier` draws its curves."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from precalign.layouts import default_layout
from precalign.rules import RULES, get_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from precalign.formats import Format
    from precalign.layouts import Layout
    from precalign.rules import Rule

GUARD_BITS = range(-4, 7)
"""Below 0 a rule reads fewer bits than alignment asks for; 6 more make errors 64 times smaller."""
SKIP_DISTANCES = (8, 10, 12, 14, 16)
"""From how many binades below the last bit read of the largest term on a token is skipped: threshold - guard_bits."""

CERTIFIED_TOLERANCES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1)
"""Of the proven bound; the error itself is usually one to two decades smaller."""
BUDGET_SAVINGS = tuple(percent / 100 for percent in range(4, 64, 4))
"""Shares of the full read's bytes."""


def _guarded(name: str) -> Callable[[Layout], list[str]]:
    return lambda _layout: [f"{name}:guard_bits={bits}" for bits in GUARD_BITS]


def _skipping(layout: Layout) -> list[str]:
    if not layout.skip:
        return []
    pairs = product(GUARD_BITS, SKIP_DISTANCES)
    return [f"aligned-skip:guard_bits={bits},threshold={bits + distance}" for bits, distance in pairs]


def _certified(_layout: Layout) -> list[str]:
    return [f"certified:tolerance={tolerance:g}" for tolerance in CERTIFIED_TOLERANCES]


def _budget(layout: Layout) -> list[str]:
    most = 1 - layout.levels[0] / layout.format.total_bits
    return [f"budget:saving={saving:g}" for saving in BUDGET_SAVINGS if saving < most]


def _static(layout: Layout) -> list[str]:
    widths = layout.levels[layout.first_read :]
    return [f"static:key_bits={keys},value_bits={values}" for keys, values in product(widths, widths)]


# name -> settings of a layout; a rule that is not here has its default parameters alone.
SWEEPS: dict[str, Callable[[Layout], list[str]]] = {
    "alignedkv": _guarded("alignedkv"),
    "aligned-max": _guarded("aligned-max"),
    "aligned-skip": _skipping,
    "budget": _budget,
    "certified": _certified,
    "online": _guarded("online"),
    "static": _static,
}


def settings(texts: Iterable[str], layout: Layout) -> list[Rule]:
    """Return the settings that a list of rules stands for, each once, in order.

    Parameters
    ----------
    texts : iterable of str
        "name" for all settings of a rule, "name:parameter=value" for that one, "auto" for all settings of all rules that the layout
        has the levels for.
    layout : Layout

    Raises
    ------
    UsageError
        If a rule or parameter is not known, or a rule that is named needs a level that the layout does not have.
    """
    found: dict[str, Rule] = {}
    for text in texts:
        if text == "auto":
            names = [name for name, rule in sorted(RULES.items()) if layout.skip or not rule.needs_skip]
            rules = [rule for name in names for rule in _sweep(name, layout)]
        elif ":" in text or text not in RULES:
            rules = [get_rule(text)]
        else:
            get_rule(text).check(layout)
            rules = _sweep(text, layout)
        for rule in rules:
            rule.check(layout)
            found[str(rule)] = rule
    return list(found.values())


def _sweep(name: str, layout: Layout) -> list[Rule]:
    return [get_rule(text) for text in SWEEPS[name](layout)] if name in SWEEPS else [get_rule(name)]


def layout_for(texts: Iterable[str], fmt: Format) -> Layout:
    """Return the layout where the user names none: the format's default, with the level of 0 bits if a setting may want it."""
    rules = (RULES.get(text.partition(":")[0]) for text in texts)
    return default_layout(fmt, skip="auto" in texts or any(rule is not None and rule.needs_skip for rule in rules))
