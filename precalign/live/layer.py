"""All kv heads of one layer of a live cache, behind one interface: emulated, or held in planes by kernels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from precalign.live.counter import Counter
from precalign.live.head import HeadCache
from precalign.live.proven import ProvenHead, needs_proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.layouts import Layout
    from precalign.rules import Rule


@dataclass(frozen=True)
class LayerShape:
    """What a layer's cache must know of the model.

    Attributes
    ----------
    index : int
    n_q_heads, n_kv_heads, head_dim : int
    scale : float
        Factor of the scores.
    window : int or None
        Tokens that a query sees, its own among them; None for all.
    """

    index: int
    n_q_heads: int
    n_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.n_q_heads // self.n_kv_heads


@dataclass(frozen=True)
class LayerRules:
    """What every kv head of a layer follows.

    Attributes
    ----------
    layout : Layout
    split_tokens : int
    rules : tuple of Rule
        One per kv head.
    """

    layout: Layout
    split_tokens: int
    rules: tuple[Rule, ...]


class LayerCache(Protocol):
    """What an engine offers for one layer. Codes are those of the layout's format."""

    def append(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Add tokens, codes (batch_size, n_kv_heads, n_tokens, head_dim)."""

    def attend(self, queries: NDArray[Any]) -> NDArray[np.float32]:
        """Take decode steps with queries (batch_size, n_q_heads, n_steps, head_dim); the last belongs to the last token."""

    def totals(self) -> list[dict[str, int]]:
        """Return what each kv head has read, over the batch."""


class EmulatedLayer:
    """`HeadCache` for every sequence and kv head.

    Parameters
    ----------
    shape : LayerShape
    rules : LayerRules
    batch_size : int
    """

    def __init__(self, shape: LayerShape, rules: LayerRules, batch_size: int) -> None:
        self.shape = shape
        self._counters = [Counter(rules.layout, rule, shape.head_dim, shape.group) for rule in rules.rules]
        self._heads = [
            [
                (ProvenHead if needs_proof(rule, rules.layout) else HeadCache)(
                    rules.layout,
                    rule,
                    shape.head_dim,
                    scale=shape.scale,
                    split_tokens=rules.split_tokens,
                    window=shape.window,
                    name=f"layer {shape.index}, kv head {kv_head}",
                )
                for kv_head, rule in enumerate(rules.rules)
            ]
            for _ in range(batch_size)
        ]

    def append(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Add tokens, codes (batch_size, n_kv_heads, n_tokens, head_dim)."""
        for heads, k, v in zip(self._heads, keys, values, strict=True):
            for head, head_keys, head_values in zip(heads, k, v, strict=True):
                head.append(head_keys, head_values)

    def attend(self, queries: NDArray[Any]) -> NDArray[np.float32]:
        """Take decode steps with queries, codes (batch_size, n_q_heads, n_steps, head_dim)."""
        grouped = queries.reshape(len(queries), self.shape.n_kv_heads, self.shape.group, *queries.shape[2:])
        out = np.empty(grouped.shape, np.float32)

        def head(kv_head: int) -> None:
            # A counter belongs to one kv head: it is told from one thread.
            for sequence, heads in enumerate(self._heads):
                taken = heads[kv_head].attend(grouped[sequence, kv_head], self._counters[kv_head].add)
                out[sequence, kv_head] = taken

        _each(head, range(self.shape.n_kv_heads), parallel=queries.shape[2] > 1)
        return out.reshape(queries.shape)

    def totals(self) -> list[dict[str, int]]:
        """Return what each kv head has read, over the batch."""
        return [counter.totals() for counter in self._counters]

    def codes(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return keys and values, codes (batch_size, n_kv_heads, seq_len, head_dim)."""
        keys, values = (
            np.array([[getattr(head, what) for head in heads] for heads in self._heads]) for what in ("keys", "values")
        )
        return keys, values


def _each(work: Any, items: Sequence[int], *, parallel: bool) -> None:  # noqa: ANN401 - a function of an item
    """Do the work for all items, side by side where that pays: the kernels hold no interpreter lock."""
    if not parallel or len(items) == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(work, items):
            pass
