"""Which settings a frontier is drawn of: layouts, and in each every rule over its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precalign.analysis.sweeps import settings
from precalign.layouts import Layout, default_layout, parse_layout
from precalign.rules import get_rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.formats import Format
    from precalign.rules import Rule

REFERENCE = "alignedkv"
"""The published rule, in the format's default planes: what all others are compared with."""


@dataclass(frozen=True)
class Grid:
    """Settings, layout by layout.

    Attributes
    ----------
    layouts : tuple of Layout
    rules : tuple of tuple of Rule
        For each layout.
    """

    layouts: tuple[Layout, ...]
    rules: tuple[tuple[Rule, ...], ...]

    @property
    def settings(self) -> list[tuple[Layout, Rule]]:
        """All of them, in the order of all results."""
        return [(layout, rule) for layout, rules in zip(self.layouts, self.rules, strict=True) for rule in rules]

    @property
    def reference(self) -> int:
        """Index of the published rule among the settings."""
        return next(i for i, (layout, rule) in enumerate(self.settings) if is_reference(layout, rule))


def is_reference(layout: Layout, rule: Rule) -> bool:
    """Whether this is the published rule in the format's default planes; a level of 0 bits is nothing to it."""
    return str(rule) == REFERENCE and layout.widths == default_layout(layout.format).widths


def make_grid(fmt: Format, rules: Sequence[str] = ("auto",), layouts: Sequence[str] = ()) -> Grid:
    """Return the settings that the user asked for, and the published rule among them.

    Parameters
    ----------
    fmt : Format
    rules : sequence of str
        As `precalign.analysis.sweeps.settings` reads them.
    layouts : sequence of str
        Plane widths; none for `default_layouts`.

    Raises
    ------
    UsageError
        If a rule, parameter or layout is not known, or a rule that is named needs a level that a layout does not have.
    """
    default = default_layout(fmt, skip=True)
    chosen = {layout.name: layout for layout in (parse_layout(text, fmt) for text in layouts)}
    held = {layout.name: (layout, settings(rules, layout)) for layout in (chosen or default_layouts(fmt)).values()}
    if not any(is_reference(layout, rule) for layout, found in held.values() for rule in found):
        layout, found = held.get(default.name, (default, []))
        held[default.name] = (layout, [get_rule(REFERENCE), *found])
    return Grid(tuple(layout for layout, _ in held.values()), tuple(tuple(found) for _, found in held.values()))


def default_layouts(fmt: Format) -> dict[str, Layout]:
    """Return, by name, the format's default planes, planes of 2 bits and of 1 bit, all with the level of 0 bits."""
    least = fmt.total_bits - fmt.trailing_significand_bits
    pairs, odd = divmod(fmt.trailing_significand_bits, 2)
    texts = [
        "|".join(map(str, widths)) + "+skip"
        for widths in ((least, *(2,) * pairs, *(1,) * odd), (least, *(1,) * fmt.trailing_significand_bits))
    ]
    layouts = [default_layout(fmt, skip=True), *(parse_layout(text, fmt) for text in texts)]
    return {layout.name: layout for layout in layouts}
