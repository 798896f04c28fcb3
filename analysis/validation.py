"""Dumps and policies as cases for the validation of kernels, and dumps as caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.readers.base import printable
from precalign.errors import InputError, UnavailableError, UsageError
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.kernels.config import HEAD_DIMS, VARIANTS
from precalign.gpu.plane_cache import PlaneCache
from precalign.gpu.validate.case import Case, Codes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from precalign.analysis.readers import Dump, LayerInfo
    from precalign.formats import Format
    from precalign.policy import Policy


def dump_cases(
    dump: Dump,
    rules: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    policy: Policy | None = None,
) -> Iterator[tuple[Case, Codes]]:
    """Return a case and its codes for each layer, rule and order of kernels: a layer is one sequence, its last query the decode step.

    All tokens but the last are appended at once, then the last one; both times the last query attends.

    Parameters
    ----------
    dump : Dump
    rules : sequence of str, optional
        All that the kernels know if not given.
    layers : sequence of int, optional
        All if not given.
    policy : Policy, optional
        Of fixed bits; then the rule is `static`, with the bits of each head.

    Raises
    ------
    UsageError
        If there is no such layer.
    InputError
        If a layer has no queries, or the policy does not fit.
    UnavailableError
        If no kernel is built for its head_dim, group or format.
    """
    known = [layer.index for layer in dump.layers]
    for index in layers or ():
        if index not in known:
            raise UsageError(f"{dump.path}: no layer {index}", hint=f"its layers: {', '.join(map(str, known))}")
    for layer in dump.layers:
        if layers is not None and layer.index not in layers:
            continue
        if layer.n_queries is None:
            raise InputError(f"{dump.path}: layer {layer.index} has no queries, so there is no decode step to validate")
        group, fmt = layer.group or 1, dump.format_of(layer)
        try:
            KernelConfig(layer.head_dim, group, fmt)
        except UnavailableError as error:
            raise UnavailableError(f"{dump.path}: layer {layer.index}: {error.message}", hint=error.hint) from None
        codes = _codes(dump, layer)
        bits = None if policy is None else _policy_bits(policy, layer.index, layer.n_kv_heads, fmt)
        for rule, one_pass in _variants(rules, policy):
            splits = 256 if policy is None else policy.split_tokens
            config = KernelConfig(layer.head_dim, group, fmt, rule, split_tokens=splits, one_pass=one_pass)
            last = min(1, layer.seq_len - 1)
            appends = ((layer.seq_len - last,), (last,)) if last else ((1,),)
            name = f"{printable(dump.path.name)}:layer{layer.index}"
            yield Case(config, layer.n_kv_heads, appends, name, layer.index, bits), codes


def policy_cases(policy: Policy, head_dims: Sequence[int] | None, groups: Sequence[int] | None) -> list[Case]:
    """Return cases on drawn data that apply a policy, for each of its layers in both orders; head_dims and groups go round."""
    cases = []
    for i, layer in enumerate(sorted({layer for layer, _ in policy.rules})):
        n_kv_heads = 1 + max(kv_head for index, kv_head in policy.rules if index == layer)
        bits = _policy_bits(policy, layer, n_kv_heads, policy.layout.format)
        head_dim, group = (turn[i % len(turn)] for turn in (head_dims or HEAD_DIMS, groups or (2, 4, 1)))
        for one_pass in (False, True):
            config = KernelConfig(
                head_dim,
                group,
                policy.layout.format,
                "static",
                split_tokens=policy.split_tokens,
                one_pass=one_pass,
            )
            cases.append(Case(config, n_kv_heads, ((130, 7), (1, 1)), "spread", i, bits))
    return cases


def _variants(rules: Sequence[str] | None, policy: Policy | None) -> list[tuple[str, bool]]:
    wanted = ["static"] if policy is not None else rules
    return [variant for variant in VARIANTS if wanted is None or variant[0] in wanted]


def _policy_bits(policy: Policy, layer: int, n_kv_heads: int, fmt: Format) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if policy.layout.format != fmt:
        raise InputError(f"the policy is for {policy.layout.format.name}, the cache holds {fmt.name}")
    keys, values = policy.static_bits(layer, n_kv_heads)
    return tuple(keys.tolist()), tuple(values.tolist())


def cache_of_layer(dump: Dump, layer: LayerInfo, config: KernelConfig, **options: Any) -> PlaneCache:  # noqa: ANN401
    """Return a cache that holds a layer of a dump as its one sequence; `PlaneCache.to_codes` gives it back.

    Parameters
    ----------
    dump : Dump
    layer : LayerInfo
    config : KernelConfig
    **options
        Of `PlaneCache.from_codes`: device, ...
    """
    codes = _codes(dump, layer)
    return PlaneCache.from_codes(config, codes.keys, codes.values, scale=codes.scale, **options)


def _codes(dump: Dump, layer: LayerInfo) -> Codes:
    heads = [dump.read_head(layer, kv_head) for kv_head in range(layer.n_kv_heads)]
    queries = np.concatenate([head.queries[:, -1] for head in heads if head.queries is not None])
    keys, values = (np.stack([getattr(head, side) for head in heads], axis=1) for side in ("keys", "values"))
    return Codes([keys], [values], queries[None], dump.scale[0])
