"""Rules by name: ``get_rule("aligned-skip:threshold=14,guard_bits=1")``."""

from __future__ import annotations

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
from precalign.specs import parse_spec

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
    if text.partition(":")[0] == "optimal":
        raise UsageError(
            "optimal is a yardstick, not a rule: it divides bits, which no read can",
            hint="every analysed rule is compared with it: optimal_bits_share",
        )
    return parse_spec(text, RULES, "rule")


__all__ = ["RULES", "KeyView", "Metadata", "Rule", "ValueView", "get_rule"]
