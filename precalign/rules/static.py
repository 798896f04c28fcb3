"""`static`: widths that are fixed beforehand, for engines that cannot decide at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.errors import UsageError
from precalign.rules.base import KeyView, Rule, ValueView

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.layouts import Layout


@dataclass(frozen=True)
class Static(Rule):
    """Read every key channel at `key_bits` and every token's values at `value_bits`.

    A policy (`precalign.policy`) gives each kv head its own; `precalign tune` finds them.

    Attributes
    ----------
    key_bits, value_bits : int
        Levels of the layout, in bits.
    """

    name = "static"

    key_bits: int = 16
    value_bits: int = 16

    def check(self, layout: Layout) -> None:
        """Raise UsageError unless both widths are levels of the layout."""
        for parameter in ("key_bits", "value_bits"):
            if (bits := getattr(self, parameter)) not in layout.levels:
                raise UsageError(
                    f"rule {self}: layout {layout.name} has no level of {parameter}={bits}",
                    hint="its levels: " + ", ".join(map(str, layout.levels)),
                )

    def key_levels(self, view: KeyView) -> NDArray[np.uint8]:
        """Return the level of `key_bits` everywhere."""
        return np.full(view.key_max_exponents.shape, view.layout.levels.index(self.key_bits), np.uint8)

    def value_levels(self, view: ValueView, prepass: NDArray[np.int32] | None) -> NDArray[np.uint8]:
        """Return the level of `value_bits` everywhere."""
        del prepass
        return np.full(view.probs.shape[1:], view.layout.levels.index(self.value_bits), np.uint8)
