"""Policies: what is written is read back; what does not fit is refused with the entry's name."""

import json

import numpy as np
import pytest

from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16
from precalign.layouts import parse_layout
from precalign.policy import Policy
from precalign.rules import get_rule

LAYOUT = parse_layout("8|4|4", BINARY16)
RULES = {
    (layer, head): get_rule(f"static:key_bits={8 + 4 * layer},value_bits={12 - 4 * head}")
    for layer in (0, 1)
    for head in (0, 1)
}


def good():
    return json.loads(json.dumps(Policy(LAYOUT, 256, RULES, {"tolerance": 0.01}).to_json()))


def test_what_is_written_is_read_back():
    policy = Policy.from_json(good())
    assert policy == Policy(LAYOUT, 256, RULES, {"tolerance": 0.01})
    keys, values = policy.static_bits(1, 2)
    assert np.array_equal(keys, [12, 12])
    assert np.array_equal(values, [12, 8])


def change(**entries):
    return good() | entries


def head(**entries):
    return change(heads=[{"layer": 0, "kv_head": 0, "rule": "full"} | entries])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected the schema precalign.policy/1, got 'list'"),
        (change(schema="precalign.policy/2"), "expected the schema precalign.policy/1, got 'precalign.policy/2'"),
        (change(layout=None), "layout must be of type str, got None"),
        (change(layout="8|9"), "plane widths of at least 1 must add up"),
        (change(format="float99"), "float99"),
        (change(split_tokens=100), "split_tokens must be a positive multiple of 64, got 100"),
        (change(split_tokens=True), "split_tokens must be of type int, got True"),
        (change(heads=[]), "heads is empty"),
        (change(heads=[3]), r"heads\[0\] must be an object"),
        (head(layer="0"), r"heads\[0\]: layer must be of type int"),
        (change(split_tokens=1 << 40), "split_tokens must be a positive multiple of 64, got 1099511627776"),
        (head(layer=1 << 40), r"heads\[0\]: layer and kv_head must be counts below 2\^31"),
        (head(layer=-1), r"heads\[0\]: layer and kv_head must be counts below"),
        (head(rule="fulll"), r"heads\[0\]: unknown rule 'fulll'"),
        (head(rule="static:key_bits=9"), r"heads\[0\]: rule .* layout 8\|4\|4 has no level of key_bits=9"),
        (head(rule="aligned-skip"), r"heads\[0\]: rule aligned-skip needs a layout"),
        (
            change(heads=2 * [{"layer": 3, "kv_head": 1, "rule": "full"}]),
            r"heads\[1\]: layer 3, kv head 1 stands there twice",
        ),
    ],
)
def test_what_does_not_fit_is_refused(data, message):
    with pytest.raises(InputError, match=r"^p\.json: ") as caught:
        Policy.from_json(data, "p.json")
    assert caught.match(message)


def test_heads_that_are_not_named_or_not_fixed():
    policy = Policy(LAYOUT, 256, {(0, 0): get_rule("full"), (0, 1): RULES[0, 1]})
    with pytest.raises(InputError, match="no rule for layer 2, kv head 0"):
        policy.rule(2, 0)
    with pytest.raises(InputError, match="kv head 0 follows full, not the rule static"):
        policy.static_bits(0, 2)


def test_static_needs_levels_of_the_layout():
    with pytest.raises(UsageError, match=r"layout 12\|4 has no level of value_bits=8"):
        get_rule("static:value_bits=8").check(parse_layout("12|4", BFLOAT16))
