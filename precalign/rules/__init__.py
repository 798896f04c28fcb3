"""Rules by name: ``get_rule("aligned-skip:threshold=14,guard_bits=1")``."""

from __future__ import annotations

from precalign.rules.aligned_max import AlignedMax
from precalign.rules.aligned_skip import AlignedSkip
from precalign.rules.alignedkv import AlignedKV
from precalign.rules.base import KeyView, Metadata, Rule, ValueView
from precalign.rules.full import Full
from precalign.rules.online import Online
from precalign.rules.static import Static
from precalign.specs import parse_spec

RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (AlignedKV, AlignedMax, AlignedSkip, Full, Online, Static)}


def get_rule(text: str) -> Rule:
    """Return the rule described by "name" or "name:parameter=value,parameter=value".

    Raises
    ------
    UsageError
        If the rule or a parameter is not known, or a value is not a number of the parameter's kind.
    """
    return parse_spec(text, RULES, "rule")


__all__ = ["RULES", "KeyView", "Metadata", "Rule", "ValueView", "get_rule"]
