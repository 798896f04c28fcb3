"""Rules by name: ``get_rule("aligned-skip:threshold=14,guard_bits=1")``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from precalign.errors import UsageError
from precalign.rules.aligned_max import AlignedMax
from precalign.rules.aligned_skip import AlignedSkip
from precalign.rules.alignedkv import AlignedKV
from precalign.rules.base import KeyView, Metadata, Rule, ValueView
from precalign.rules.budget import Budget
from precalign.rules.certified import Certified
from precalign.rules.full import Full
from precalign.rules.online import Online
from precalign.rules.static import Static

RULES: dict[str, type[Rule]] = {
    rule.name: rule for rule in (AlignedKV, AlignedMax, AlignedSkip, Budget, Certified, Full, Online, Static)
}


def get_rule(text: str) -> Rule:
    """Return the rule described by "name" or "name:parameter=value,parameter=value".

    Raises
    ------
    UsageError
        If the rule or a parameter is not known, or a value is not a number of the parameter's kind.
    """
    name, _, parameters = text.partition(":")
    rule = RULES.get(name)
    if name == "optimal":
        raise UsageError(
            "optimal is a yardstick, not a rule: it divides bits, which no read can",
            hint="every analysed rule is compared with it: optimal_bits_share",
        )
    if rule is None:
        raise UsageError(f"unknown rule {name!r}", hint="rules: " + ", ".join(sorted(RULES)))
    kinds: dict[str, type[Any]] = {field.name: type(field.default) for field in fields(rule)}
    arguments = {}
    for part in filter(None, parameters.split(",")):
        key, _, value = part.partition("=")
        if key not in kinds:
            known = ", ".join(kinds) or "none"
            raise UsageError(f"rule {name}: unknown parameter {key!r}", hint=f"parameters of {name}: {known}")
        try:
            arguments[key] = kinds[key](value)
        except ValueError:
            raise UsageError(f"rule {name}: {key} must be of type {kinds[key].__name__}, not {value!r}") from None
    return rule(**arguments)


__all__ = ["RULES", "KeyView", "Metadata", "Rule", "ValueView", "get_rule"]
