"""The attention function that transformers calls: it hands each call to the cache that made its keys.

transformers passes an attention function no cache. But the keys that it passes are the very tensor that the cache's `update`
returned, so the cache marks them (`mark`), and the function finds its way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from precalign.errors import UnavailableError, UsageError
from precalign.live.layer import LayerShape

NAME = "precalign"
"""As transformers knows it: model.set_attn_implementation("precalign")."""
_MARK = "precalign_cache"


@dataclass(frozen=True)
class Call:
    """One call of an attention function.

    Attributes
    ----------
    layer : int
        As the cache was told.
    shape : LayerShape
    query, key, value : torch.Tensor, (batch_size, heads, tokens, head_dim)
        After rotation; the query may hold fewer tokens than keys and values.
    stock : callable
        (query, key, value) -> what transformers' own implementation answers, (batch_size, tokens, heads, head_dim).
    """

    layer: int
    shape: LayerShape
    query: Any
    key: Any
    value: Any
    stock: Any


class Listener(Protocol):
    """A cache that answers for its layers."""

    def attend(self, call: Call) -> Any:
        """Return the output, (batch_size, n_queries, n_q_heads, head_dim)."""


def mark(keys: Any, listener: Listener, layer: int) -> Any:
    """Mark keys on their way from a cache to the attention function."""
    setattr(keys, _MARK, (listener, layer))
    return keys


def register() -> None:
    """Make the implementation known to transformers; doing it again changes nothing."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    **options: Any,
) -> tuple[Any, None]:
    """Answer one attention call, as transformers' attention interface asks.

    Raises
    ------
    UsageError
        If the model runs without a cache of precalign.
    UnavailableError
        If the attention is of a kind that is not emulated: capped scores, sinks, a bias, values of another width, other masks.
    """
    marked = getattr(key, _MARK, None)
    if marked is None:
        raise UsageError(
            'the attention implementation "precalign" works with a cache of precalign',
            hint="model.generate(..., past_key_values=precalign.AlignedCache(model, rule=...))",
        )
    listener, layer = marked
    shape = _shape(module, layer, query, key, value, options)
    _check_mask(attention_mask, shape, query.shape[2], key.shape[2])

    def stock(q: Any, k: Any, v: Any) -> Any:
        return sdpa_attention_forward(module, q, k, v, attention_mask, **options)[0]

    return listener.attend(Call(layer, shape, query, key, value, stock)), None


def _shape(module: Any, layer: int, query: Any, key: Any, value: Any, options: dict[str, Any]) -> LayerShape:
    kinds = {
        "softcap": "scores that pass through a soft cap",
        "s_aux": "attention sinks beside the scores",
        "position_bias": "a bias added to the scores",
    }
    found = [text for name, text in kinds.items() if options.get(name) is not None]
    if key.shape[-1] != value.shape[-1]:
        found.append(
            f"values of another width than keys ({value.shape[-1]} vs {key.shape[-1]}), as in latent attention"
        )
    if not getattr(module, "is_causal", True) or options.get("is_causal") is False:
        found.append("attention that is not causal")
    if found:
        raise UnavailableError(
            f"layer {layer} of this model has {' and '.join(found)}: not supported",
            hint="supported: causal softmax attention, multi-head, grouped-query or multi-query, with or without a sliding window",
        )
    scaling = options.get("scaling")
    scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    return LayerShape(layer, query.shape[1], key.shape[1], key.shape[-1], scale, options.get("sliding_window"))


def _check_mask(mask: Any, shape: LayerShape, n_queries: int, n_keys: int) -> None:
    """Refuse a mask that is not causal with the window that the layer states; the last columns are the last tokens."""
    if mask is None:
        return
    import torch

    n_columns = mask.shape[-1]
    behind = torch.arange(n_keys - n_queries, n_keys)[:, None] - torch.arange(n_keys - n_columns, n_keys)[None, :]
    expected = behind >= 0
    if shape.window is not None:
        expected &= behind < shape.window
    sees = mask if mask.dtype == torch.bool else mask == 0
    if not bool((sees.cpu() == expected).all()):
        raise UnavailableError(
            f"layer {shape.index}: the attention mask is neither causal nor a sliding window",
            hint="padded batches are not supported: run sequences of equal length, or one at a time",
        )
