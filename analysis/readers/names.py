"""Names under which tensors of a cache are stored, as data; `{layer}` stands for the layer's number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from precalign.errors import UsageError

ROLES = ("keys", "values", "queries")


@dataclass(frozen=True)
class Naming:
    """One convention: a template per role. A template without `{layer}` names a tensor whose first axis is the layer."""

    keys: str
    values: str
    queries: str | None = None


NAMINGS = (
    Naming("layers.{layer}.keys", "layers.{layer}.values", "layers.{layer}.queries"),
    Naming("layers.{layer}.key", "layers.{layer}.value", "layers.{layer}.query"),
    Naming("layers.{layer}.k", "layers.{layer}.v", "layers.{layer}.q"),
    Naming("layers.{layer}.key_cache", "layers.{layer}.value_cache", "layers.{layer}.query_states"),
    Naming("layer_{layer}_k", "layer_{layer}_v", "layer_{layer}_q"),
    Naming("layer_{layer}_keys", "layer_{layer}_values", "layer_{layer}_queries"),
    Naming("layer_{layer}.k", "layer_{layer}.v", "layer_{layer}.q"),
    Naming("layer{layer}.k", "layer{layer}.v", "layer{layer}.q"),
    Naming("past_key_values.{layer}.key", "past_key_values.{layer}.value", "queries.{layer}"),
    Naming("past_key_values.{layer}.0", "past_key_values.{layer}.1", "queries.{layer}"),
    Naming("past_key_values.layers.{layer}.keys", "past_key_values.layers.{layer}.values", "queries.{layer}"),
    Naming("past_key_values.key_cache.{layer}", "past_key_values.value_cache.{layer}", "queries.{layer}"),
    Naming("present.{layer}.key", "present.{layer}.value", "queries.{layer}"),
    Naming(
        "model.layers.{layer}.self_attn.k_cache",
        "model.layers.{layer}.self_attn.v_cache",
        "model.layers.{layer}.self_attn.q",
    ),
    Naming(
        "model.layers.{layer}.self_attn.keys",
        "model.layers.{layer}.self_attn.values",
        "model.layers.{layer}.self_attn.queries",
    ),
    Naming("key_cache.{layer}", "value_cache.{layer}", "query_cache.{layer}"),
    Naming("cache_k_l{layer}", "cache_v_l{layer}", "cache_q_l{layer}"),
    Naming("keys.{layer}", "values.{layer}", "queries.{layer}"),
    Naming("keys_{layer}", "values_{layer}", "queries_{layer}"),
    Naming("key_{layer}", "value_{layer}", "query_{layer}"),
    Naming("k.{layer}", "v.{layer}", "q.{layer}"),
    Naming("k_{layer}", "v_{layer}", "q_{layer}"),
    Naming("{layer}.keys", "{layer}.values", "{layer}.queries"),
    Naming("{layer}.key", "{layer}.value", "{layer}.query"),
    Naming("{layer}.k", "{layer}.v", "{layer}.q"),
    Naming("{layer}.0", "{layer}.1", "{layer}.2"),  # a tuple of (keys, values) tuples: the legacy cache
    Naming("keys", "values", "queries"),
    Naming("key_cache", "value_cache", "query_cache"),
    Naming("k", "v", "q"),
)
"""Tried in this order; the first whose keys and values are both there is taken."""


def compile_template(template: str) -> re.Pattern[str]:
    """Turn a template into an expression that a whole tensor name must match."""
    return re.compile(r"(?P<layer>\d{1,9})".join(map(re.escape, template.split("{layer}", 1))))


def parse_mapping(items: tuple[str, ...] | list[str]) -> Naming | None:
    """Read `role=template` items, as `--map` takes them.

    Raises
    ------
    UsageError
        If an item has another form, or keys and values are not both given.
    """
    if not items:
        return None
    given: dict[str, str] = {}
    for item in items:
        role, equals, template = item.partition("=")
        if not equals or role not in ROLES or not template:
            raise UsageError(
                f"--map {item!r} is not ROLE=TEMPLATE",
                hint="e.g. --map 'keys=blocks.{layer}.k' --map 'values=blocks.{layer}.v'",
            )
        given[role] = template
    if not {"keys", "values"} <= given.keys():
        raise UsageError(
            "--map must name both keys and values", hint="queries may be left out; the report then says what is missing"
        )
    return Naming(given["keys"], given["values"], given.get("queries"))
