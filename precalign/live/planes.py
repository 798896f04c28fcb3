"""A layer held in planes by kernels, on the CPU or on a GPU: it attends by them, and counts what they say they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from precalign.errors import UnavailableError
from precalign.live.counter import Counter, Decision
from precalign.rules.base import ValueView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.live.layer import LayerRules, LayerShape
    from precalign.rules import Rule

KERNEL_WIDTHS = (8, 4, 4)


class Planes(Protocol):
    """What `precalign.cpu.CpuPlaneCache` and `precalign.gpu.plane_cache.PlaneCache` share."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""

    def append(self, keys: Any, values: Any, counts: Sequence[int]) -> None:  # noqa: ANN401 - arrays of several libraries
        """Add tokens (sum(counts), n_kv_heads, head_dim), those of sequence 0 first."""

    def attend(self, queries: Any) -> Any:  # noqa: ANN401 - an array of the device
        """Attend with one query per head and sequence, (batch_size, n_q_heads, head_dim)."""

    def buffer(self, name: str) -> NDArray[Any]:
        """Return a buffer on the host."""


def check_for_kernels(engine: str, shape: LayerShape, rules: LayerRules) -> None:
    """Refuse what no kernel does.

    Raises
    ------
    UnavailableError
        For a sliding window, or planes other than 8|4|4.
    """
    if shape.window is not None:
        raise UnavailableError(
            f"layer {shape.index}: the {engine} kernels know no sliding window", hint="engine emulated does"
        )
    if rules.layout.widths != KERNEL_WIDTHS:
        raise UnavailableError(f"the {engine} kernels read planes 8|4|4, not {rules.layout.name}")


class PlaneLayer:
    """One layer behind the interface of `precalign.live.layer.LayerCache`.

    Parameters
    ----------
    shape : LayerShape
    rules : LayerRules
    planes : Planes
        Empty; made for the same shape and rules.
    """

    def __init__(self, shape: LayerShape, rules: LayerRules, planes: Planes) -> None:
        self.shape, self._rules, self._planes = shape, rules, planes
        self._counters = [Counter(rules.layout, rule, shape.head_dim, shape.group) for rule in rules.rules]
        self._levels = np.array(rules.layout.levels)

    def append(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Add tokens, codes (batch_size, n_kv_heads, n_tokens, head_dim)."""
        batch_size, n_kv_heads, n_tokens, head_dim = keys.shape
        rows = (batch_size * n_tokens, n_kv_heads, head_dim)
        new_keys, new_values = (np.ascontiguousarray(codes.swapaxes(1, 2)).reshape(rows) for codes in (keys, values))
        self._planes.append(new_keys, new_values, [n_tokens] * batch_size)

    def attend(self, queries: NDArray[Any]) -> NDArray[np.float32]:
        """Take one decode step with queries, codes (batch_size, n_q_heads, 1, head_dim).

        Raises
        ------
        UnavailableError
            If there are several steps: kernels take one at a time.
        """
        if queries.shape[2] != 1:
            raise UnavailableError("kernels take one decode step at a time", hint="engine emulated takes many at once")
        self._planes.attend(np.ascontiguousarray(queries[:, :, 0]))
        outputs = np.array(self._planes.buffer("outputs"))[:, :, None]
        key_bits, value_bits = (self._planes.buffer(name) for name in ("key_bits", "value_bits"))
        probs = self._planes.buffer("probs")
        for sequence, seen in enumerate(self._planes.lengths):
            visible = np.array([seen])
            for head, counter in enumerate(self._counters):
                group = slice(head * self.shape.group, (head + 1) * self.shape.group)
                mine = np.array(probs[sequence, group, None, :seen])
                counter.add(
                    Decision(
                        first=np.zeros_like(visible),
                        visible=visible,
                        key_levels=self._indices(key_bits[sequence, head]),
                        value_levels=self._indices(value_bits[sequence, head, :seen]),
                        prepass=self._prepass(self._rules.rules[head], mine, visible),
                    )
                )
        return outputs

    def _indices(self, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.searchsorted(self._levels, bits)[None].astype(np.uint8)

    def _prepass(self, rule: Rule, probs: NDArray[np.float32], visible: NDArray[np.int64]) -> NDArray[np.int32] | None:
        """Return the tokens of the rule's pre-pass; it follows from probabilities alone, so nothing else is shown to the rule."""
        nothing = np.zeros((1, self.shape.head_dim), np.int16)
        return rule.prepass_tokens(
            ValueView(
                layout=self._rules.layout,
                probs=probs,
                value_max_exponents=nothing,
                token_max_exponents=nothing[0],
                values=nothing.view(np.uint16),
                first=np.zeros_like(visible),
                visible=visible,
                split_tokens=self._rules.split_tokens,
                peek=lambda tokens: np.zeros((*tokens.shape, self.shape.head_dim), np.float32),
                value_rounding=float("nan"),
            )
        )

    def totals(self) -> list[dict[str, int]]:
        """Return what each kv head has read, over the batch."""
        return [counter.totals() for counter in self._counters]
