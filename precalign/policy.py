"""A policy: a rule for every kv head of a model, found by `precalign tune`, applied by kernels, caches and analyses.

As JSON (docs/policy.md):

    {"schema": "precalign.policy/1", "format": "binary16", "layout": "8|4|4", "split_tokens": 256,
     "heads": [{"layer": 0, "kv_head": 0, "rule": "static:key_bits=12,value_bits=8"}, ...],
     "report": {...}}

`report` says how the policy was found and what it was seen to do; nothing that applies a policy reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import InputError, PrecalignError, shown
from precalign.formats import get_format
from precalign.layouts import Layout, parse_layout
from precalign.planes import PAGE_TOKENS
from precalign.rules import Rule, get_rule
from precalign.rules.static import Static

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

POLICY_SCHEMA = "precalign.policy/1"
MOST = (1 << 31) - 1
"""Of any count in a policy: what tables hold."""


@dataclass(frozen=True)
class Policy:
    """Which rule each kv head of each layer follows.

    Attributes
    ----------
    layout : Layout
        Of keys and values, and with it the format of the cache.
    split_tokens : int
        Tokens of a split in the stated order.
    rules : dict of (int, int) to Rule
        (layer, kv head) -> rule.
    report : dict
        How it was found; plain data.
    """

    layout: Layout
    split_tokens: int
    rules: dict[tuple[int, int], Rule]
    report: dict[str, Any] = field(default_factory=dict)

    def rule(self, layer: int, kv_head: int) -> Rule:
        """Return the rule of a head.

        Raises
        ------
        InputError
            If the policy does not name the head.
        """
        found = self.rules.get((layer, kv_head))
        if found is None:
            layers = sorted({index for index, _ in self.rules})
            raise InputError(
                f"the policy has no rule for layer {layer}, kv head {kv_head}",
                hint=f"it names {len(self.rules)} heads of layers {layers[0]} to {layers[-1]}",
            )
        return found

    def static_bits(self, layer: int, n_kv_heads: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the key bits and value bits of a layer's heads, (n_kv_heads,), for kernels with the rule `static`.

        Raises
        ------
        InputError
            If a head follows a rule that decides at run time, or is not named.
        """
        rules = [self.rule(layer, kv_head) for kv_head in range(n_kv_heads)]
        for kv_head, rule in enumerate(rules):
            if not isinstance(rule, Static):
                raise InputError(
                    f"layer {layer}, kv head {kv_head} follows {rule}, not the rule static",
                    hint="heads of one launch share one rule; `precalign tune --rule static` makes policies of fixed bits",
                )
        fixed = [rule for rule in rules if isinstance(rule, Static)]
        return np.array([r.key_bits for r in fixed], np.int64), np.array([r.value_bits for r in fixed], np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        return {
            "schema": POLICY_SCHEMA,
            "format": self.layout.format.name,
            "layout": self.layout.name,
            "split_tokens": self.split_tokens,
            "heads": [
                {"layer": layer, "kv_head": kv_head, "rule": str(rule)}
                for (layer, kv_head), rule in sorted(self.rules.items())
            ],
            "report": self.report,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], name: str = "policy") -> Policy:
        """Read plain data.

        Parameters
        ----------
        data : mapping
            What `json.load` gives.
        name : str
            What error messages call it: the file.

        Raises
        ------
        InputError
            If it is of another schema, or anything in it does not fit; the message names the entry.
        """
        if not isinstance(data, dict) or data.get("schema") != POLICY_SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise InputError(f"{name}: expected the schema {POLICY_SCHEMA}, got {shown(repr(found))}")
        try:
            layout = parse_layout(_entry(data, "layout", str, name), get_format(_entry(data, "format", str, name)))
        except PrecalignError as error:
            raise InputError(f"{name}: {error.message}", hint=error.hint) from error
        split_tokens = _entry(data, "split_tokens", int, name)
        if not PAGE_TOKENS <= split_tokens <= MOST or split_tokens % PAGE_TOKENS:
            raise InputError(
                f"{name}: split_tokens must be a positive multiple of {PAGE_TOKENS}, got {shown(split_tokens)}"
            )
        heads = _entry(data, "heads", list, name)
        rules: dict[tuple[int, int], Rule] = {}
        for number, head in enumerate(heads):
            place, rule = _head(head, layout, f"{name}: heads[{number}]")
            if place in rules:
                raise InputError(f"{name}: heads[{number}]: layer {place[0]}, kv head {place[1]} stands there twice")
            rules[place] = rule
        if not rules:
            raise InputError(f"{name}: heads is empty")
        return cls(layout, split_tokens, rules, _entry(data, "report", dict, name) if "report" in data else {})


def _entry(data: Mapping[str, Any], key: str, kind: type, name: str) -> Any:  # noqa: ANN401 - of `kind`
    value = data.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name}: {key} must be of type {kind.__name__}, got {shown(repr(value))}")
    return value


def _head(head: Any, layout: Layout, name: str) -> tuple[tuple[int, int], Rule]:  # noqa: ANN401 - whatever the file holds
    if not isinstance(head, dict):
        raise InputError(f"{name} must be an object with layer, kv_head and rule, got {shown(repr(head))}")
    place = (_entry(head, "layer", int, name), _entry(head, "kv_head", int, name))
    if min(place) < 0 or max(place) > MOST:
        raise InputError(f"{name}: layer and kv_head must be counts below 2^31, got {shown(place)}")
    try:
        rule = get_rule(_entry(head, "rule", str, name))
        rule.check(layout)
    except PrecalignError as error:
        raise InputError(f"{name}: {error.message}", hint=error.hint) from error
    return place, rule
