"""One kv head of a live cache for rules that prove what they read, and for rebased layouts: each block of steps as an analysis takes it.

Nothing is kept but codes, so a decode step costs as much as analysing it, far more than what `HeadCache` takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.block import Block, Reads
from precalign.inputs import HeadInputs, Steps
from precalign.live.counter import Tally
from precalign.profile import DEFAULT_SPLIT_TOKENS
from precalign.reading import read_block, settle
from precalign.rules.budget import Budget
from precalign.rules.certified import Certified

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.layouts import Layout
    from precalign.rules import Rule

PROVING = (Budget, Certified)
MOST_STEPS = 64


def needs_proof(rule: Rule, layout: Layout) -> bool:
    """Whether a rule or a layout asks for more than `HeadCache` knows."""
    return isinstance(rule, PROVING) or layout.rebased


class ProvenHead:
    """`HeadCache` by way of `precalign.reading`; parameters and methods are the same."""

    def __init__(
        self,
        layout: Layout,
        rule: Rule,
        head_dim: int,
        *,
        scale: float,
        split_tokens: int = DEFAULT_SPLIT_TOKENS,
        window: int | None = None,
        name: str = "head",
    ) -> None:
        rule.check(layout)
        self.layout, self.rule, self.window, self.name = layout, rule, window, name
        self._scale, self._split_tokens = scale, split_tokens
        self.keys: NDArray[Any] = np.zeros((0, head_dim), layout.format.code_dtype)
        self.values: NDArray[Any] = self.keys

    def append(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Add tokens, codes (n_tokens, head_dim)."""
        self.keys, self.values = np.concatenate([self.keys, keys]), np.concatenate([self.values, values])

    def attend(self, queries: NDArray[Any], record: Callable[[Tally], None]) -> NDArray[np.float32]:
        """Take a decode step with each query, codes (group, n_steps, head_dim); the last belongs to the last token."""
        n_steps, seq_len = queries.shape[1], len(self.keys)
        inputs = HeadInputs(self.keys, self.values, queries, self.layout.format, self._scale, self.name)
        visible = np.arange(seq_len - n_steps + 1, seq_len + 1)
        first = np.zeros_like(visible) if self.window is None else np.maximum(visible - self.window, 0)
        reads, out = Reads(inputs, self.layout), np.empty(queries.shape, np.float32)
        for begin in range(0, n_steps, MOST_STEPS):
            chosen = slice(begin, min(begin + MOST_STEPS, n_steps))
            steps = Steps(np.arange(chosen.start, chosen.stop), first[chosen], visible[chosen])
            block = Block(reads, steps, self._split_tokens)
            (reading,) = read_block(block, [self.rule]).readings
            settle(block, self.rule, reading)
            out[:, chosen] = reading.outputs
            counts = reading.counts(block)
            record(Tally(steps.first, steps.visible, reading.traffic, counts.channels, counts.tokens))
        return out
