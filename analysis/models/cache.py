"""`AlignedCache`: a cache for `model.generate` whose decode steps read what a rule asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from precalign.analysis.models.attention import Call, mark, register
from precalign.analysis.models.engines import check_engine, layer_cache
from precalign.analysis.models.storage import codes, round_to, storage_format
from precalign.codecs import parse_pair
from precalign.errors import UnavailableError
from precalign.layouts import default_layout, parse_layout
from precalign.live.coded import CodedLayer
from precalign.live.counter import add_counts
from precalign.live.layer import LayerRules
from precalign.profile import DEFAULT_SPLIT_TOKENS
from precalign.rules import get_rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.live.layer import LayerCache, LayerShape
    from precalign.policy import Policy


class AlignedCache(DynamicCache):  # type: ignore[misc] # transformers has no types here
    """The cache of a transformers model, read in decode steps as a rule or a policy says.

    A call with several queries (the prompt) attends in full with transformers' own implementation; a call with one query is a decode
    step: it is emulated in the stated order (docs/architecture.md), or done by kernels, and what it reads is counted.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its attention implementation is set to "precalign".
    rule : str, optional
        "name" or "name:parameter=value". None reads everything with transformers' own implementation: the full cache to
        compare with.
    policy : Policy, optional
        A rule for every kv head, in place of `rule`.
    codec : str, optional
        In place of both: "kivi:bits=4" for keys and values, "q8_0+q4_0" for keys and values apart (docs/codecs.md). All that is stored is
        read; arithmetic is binary64 over what the codec gives back.
    engine : str
        emulated, cpu or gpu.
    layout : str, optional
        Plane widths; the default of the storage format if not given.
    storage_format : Format, optional
        Of the cache, for a model that computes in binary32: keys, values and queries are rounded to it.
    every_query : bool
        Whether each query of a call is a decode step, the prompt's too: every position is judged at once.
    record : bool
        Whether queries of decode steps are kept, for `dump`.
    max_tokens : int, optional
        Capacity of a sequence, where the engine needs one beforehand; the model's own limit if not given.

    Raises
    ------
    UsageError
        If the rule or the layout is not known, or they do not fit.
    InputError
        If the model computes in binary32 and no storage format was given.
    """

    def __init__(
        self,
        model: Any,
        rule: str | None = "alignedkv",
        *,
        policy: Policy | None = None,
        codec: str | None = None,
        engine: str = "emulated",
        layout: str | None = None,
        storage_format: Format | None = None,
        split_tokens: int = DEFAULT_SPLIT_TOKENS,
        every_query: bool = False,
        record: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        check_engine(engine)
        super().__init__(config=model.config)
        attach(model)
        self.format = _format(model, policy, storage_format)
        self.engine, self.every_query = engine, every_query
        self._codecs = None if codec is None else parse_pair(codec)
        self._policy, self._rule = policy, None if rule is None or codec is not None else get_rule(rule)
        if policy is not None:
            self._layout, self._split_tokens = policy.layout, policy.split_tokens
        else:
            skip = self._rule is not None and self._rule.needs_skip
            if layout is None and engine != "emulated":
                layout = "8|4|4" + "+skip" * skip
            self._layout = (
                default_layout(self.format, skip=skip) if layout is None else parse_layout(layout, self.format)
            )
            self._split_tokens = split_tokens
            if self._rule is not None:
                self._rule.check(self._layout)
        self._max_tokens = max_tokens or int(getattr(model.config, "max_position_embeddings", 0) or 1 << 15)
        self._live: dict[int, LayerCache] = {}
        self._shapes: dict[int, LayerShape] = {}
        self._waiting: dict[int, list[tuple[Any, Any]]] = {}
        self._queries: dict[int, list[NDArray[Any]]] | None = {} if record else None

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Add tokens to a layer, as transformers' caches do."""
        key_states, value_states = (round_to(states, self.format) for states in (key_states, value_states))
        if self._reads_less:
            self._waiting.setdefault(layer_idx, []).append((key_states, value_states))
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return mark(keys, self, layer_idx), values

    @property
    def _reads_less(self) -> bool:
        return self._rule is not None or self._policy is not None or self._codecs is not None

    def attend(self, call: Call) -> Any:
        """Answer one attention call of the model."""
        query = round_to(call.query, self.format)
        if not self._reads_less or (query.shape[2] > 1 and not self.every_query):
            return call.stock(query, call.key, call.value)
        live = self._layer(call)
        query_codes = codes(query, self.format)
        if self._queries is not None:
            self._queries.setdefault(call.layer, []).append(query_codes)
        outputs = torch.from_numpy(live.attend(query_codes))
        return outputs.to(query.device, query.dtype).transpose(1, 2).contiguous()

    def _layer(self, call: Call) -> LayerCache:
        """Return the live cache of a layer, with all tokens in it."""
        live = self._live.get(call.layer)
        if live is None:
            self._shapes[call.layer] = call.shape
            live = self._new_layer(call.shape, call.query.shape[0])
            self._live[call.layer] = live
        for keys, values in self._waiting.pop(call.layer, []):
            live.append(codes(keys, self.format), codes(values, self.format))
        return live

    def _new_layer(self, shape: LayerShape, batch_size: int) -> LayerCache:
        if self._codecs is not None:
            return CodedLayer(shape, *self._codecs, self.format, batch_size)
        return layer_cache(self.engine, shape, self._rules(shape), batch_size, self._max_tokens)

    def _rules(self, shape: LayerShape) -> LayerRules:
        heads = range(shape.n_kv_heads)
        if self._policy is not None:
            chosen = tuple(self._policy.rule(shape.index, head) for head in heads)
        else:
            assert self._rule is not None  # noqa: S101 - `_reads_less`
            chosen = (self._rule,) * shape.n_kv_heads
        return LayerRules(self._layout, self._split_tokens, chosen)

    def head_totals(self) -> dict[tuple[int, int], dict[str, int]]:
        """Return what each (layer, kv head) has read in decode steps so far, under the names of result tables."""
        return {
            (layer, head): totals
            for layer, live in sorted(self._live.items())
            for head, totals in enumerate(live.totals())
        }

    def totals(self) -> dict[str, int]:
        """Return what all decode steps have read so far: steps, key_ideal_bits, key_bytes, full_key_bytes, ... (docs/results.md)."""
        total: dict[str, int] = {}
        for counts in self.head_totals().values():
            total = add_counts(total, counts)
        return total

    def recorded(self) -> dict[int, dict[str, NDArray[np.uint16]]]:
        """Return the codes of each layer: keys, values, and the queries of decode steps, (batch_size, heads, tokens, head_dim).

        Raises
        ------
        UnavailableError
            If the cache was not told to record, or its engine keeps no codes.
        """
        import numpy as np

        if self._queries is None or self.engine != "emulated":
            raise UnavailableError(
                "this cache keeps no queries", hint='AlignedCache(..., record=True), engine "emulated"'
            )
        found = {}
        for layer, queries in sorted(self._queries.items()):
            keys, values = self._live[layer].codes()  # type: ignore[attr-defined] # the emulated engine
            found[layer] = {"keys": keys, "values": values, "queries": np.concatenate(queries, axis=2)}
        return found

    def shapes(self) -> dict[int, LayerShape]:
        """Return what is known of each layer that has taken a decode step."""
        return dict(self._shapes)

    def reorder_cache(self, beam_idx: Any) -> None:  # noqa: ARG002 - transformers' signature
        """Refuse beams."""
        raise UnavailableError("beam search is not supported: beams share tokens", hint="sample, or decode greedily")

    def crop(self, *args: Any) -> None:  # noqa: ARG002 - transformers' signature
        """Refuse to forget tokens."""
        raise UnavailableError("assisted generation is not supported: tokens cannot be taken back")

    def batch_select_indices(self, indices: Any) -> None:  # noqa: ARG002 - transformers' signature
        """Refuse to split a batch: the planes would keep all of it."""
        raise UnavailableError("the sequences of a batch cannot be parted")

    def batch_repeat_interleave(self, repeats: int) -> None:  # noqa: ARG002 - transformers' signature
        """Refuse to repeat sequences: the planes would keep them once."""
        raise UnavailableError("the sequences of a batch cannot be repeated")

    def reset(self) -> None:
        """Forget all tokens, and what was counted."""
        super().reset()
        for held in (self._live, self._shapes, self._waiting, self._queries or {}):
            held.clear()


def attach(model: Any) -> None:
    """Have a model call precalign's attention.

    Raises
    ------
    UnavailableError
        If the model does not go through transformers' attention interface.
    """
    register()
    if model.config._attn_implementation == "precalign":  # noqa: SLF001 - transformers has no public way to ask
        return
    try:
        model.set_attn_implementation("precalign")
    except (ValueError, KeyError, ImportError) as error:
        raise _foreign(model) from error
    if model.config._attn_implementation != "precalign":  # noqa: SLF001
        raise _foreign(model)


def _foreign(model: Any) -> UnavailableError:
    return UnavailableError(
        f"{type(model).__name__} computes its attention by itself, not through transformers' attention interface",
        hint="docs/capture-recipes.md tells how to dump a cache by hand",
    )


def _format(model: Any, policy: Policy | None, chosen: Format | None) -> Format:
    return storage_format(model.dtype, policy.layout.format if policy is not None else chosen)
