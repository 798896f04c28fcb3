"""policy.json, as `--policy` reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from precalign.analysis.fuzz.mutations.json_tree import change_tree, text_of, tree_of
from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.target import FileTarget
from precalign.analysis.plan import Options
from precalign.analysis.policies import policy_text, read_policies, with_policies

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case

FILE = "policy.json"
RULES = (
    "static:key_bits=12,value_bits=8",
    "alignedkv:guard_bits=1",
    "certified:tolerance=0.01",
    "budget:saving=0.2",
    "full",
)


class PolicyFile(FileTarget):
    """A policy."""

    name = "policy"
    what = "policies (JSON)"

    def seeds(self) -> list[Case]:
        """Return policies of two formats."""
        heads = [{"layer": n // 2, "kv_head": n % 2, "rule": RULES[n % len(RULES)]} for n in range(6)]
        plain: dict[str, Any] = {
            "schema": "precalign.policy/1",
            "format": "binary16",
            "layout": "8|4|4",
            "split_tokens": 256,
        }
        static = [{"layer": 0, "kv_head": n, "rule": "static:key_bits=12,value_bits=16"} for n in range(2)]
        self._held = [
            plain | {"heads": heads, "report": {"dump": {"name": "d.safetensors"}, "tolerance": 0.01}},
            plain | {"format": "bfloat16", "layout": "12|4", "split_tokens": 64, "heads": static},
        ]
        return [{FILE: json.dumps(held).encode()} for held in self._held]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change the JSON or bytes."""
        if draw.chance(0.7):
            return {FILE: text_of(change_tree(draw, tree_of(draw.one(self._held)))).encode("utf-8", "surrogatepass")}
        return {FILE: draw.octets(2048) if draw.chance(0.1) else change_octets(draw, draw.one(seeds)[FILE])}

    def read(self, path: Path) -> None:
        """Read it, ask it for every head, and write it again."""
        policies = read_policies([path])
        with_policies(Options(jobs=1), policies)
        for policy in policies.values():
            for layer, kv_head in policy.rules:
                policy.rule(layer, kv_head)
            policy_text(policy)
