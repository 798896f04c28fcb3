"""A live cache reads and computes what the profile of the same codes says: to the bit, step by step or all at once."""

from __future__ import annotations

import numpy as np
import pytest

from precalign.block import Block, Reads
from precalign.counts import window_max
from precalign.errors import InputError
from precalign.formats import BFLOAT16, BINARY16
from precalign.inputs import HeadInputs, Steps
from precalign.layouts import default_layout, parse_layout
from precalign.live.counter import Counter
from precalign.live.head import HeadCache
from precalign.live.layer import EmulatedLayer, LayerRules, LayerShape
from precalign.live.planes import PlaneLayer
from precalign.live.proven import needs_proof
from precalign.profile import profile_head
from precalign.rules import get_rule

RULES = ["alignedkv", "alignedkv:guard_bits=1", "aligned-max", "aligned-skip:threshold=9", "full", "online", "static:key_bits=12,value_bits=12"]  # fmt: skip
GROUP, TOKENS, DIM = 2, 150, 24


def codes(fmt, shape, seed):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(2.5)
    return (
        values.astype(np.float16).view(np.uint16)
        if fmt == BINARY16
        else (values.view(np.uint32) >> 16).astype(np.uint16)
    )


def case(fmt):
    return codes(fmt, (TOKENS, DIM), 1), codes(fmt, (TOKENS, DIM), 2), codes(fmt, (GROUP, TOKENS, DIM), 3)


def profiled(keys, values, queries, rule, layout, window):
    inputs = HeadInputs(keys, values, queries, layout.format, 0.2)
    visible = np.arange(1, TOKENS + 1)
    first = np.zeros(TOKENS, np.int64) if window is None else np.maximum(visible - window, 0)
    steps = {"steps": np.arange(TOKENS), "visible": visible, "first": first}
    profile = profile_head(inputs, **steps, rules=[rule], layout=layout)[0]
    if needs_proof(rule, layout):
        return profile, None
    return profile, outputs(inputs, rule, layout, Steps(np.arange(TOKENS), first, visible))


@pytest.mark.parametrize("text", ["certified:tolerance=0.02", "budget:saving=0.3"])
def test_rules_that_prove_what_they_read_equal_the_profile(text):
    """Counts of all positions at once, second attempts among them, and one step at a time."""
    rule, (keys, values, queries) = get_rule(text), case(BINARY16)
    layout = default_layout(BINARY16, skip=rule.needs_skip)
    profile, _ = profiled(keys, values, queries, rule, layout, None)
    layer = EmulatedLayer(LayerShape(0, GROUP, 1, DIM, 0.2), LayerRules(layout, 256, (rule,)), 1)
    layer.append(keys[None, None], values[None, None])
    at_once = layer.attend(queries[None])
    check_counts(layer.totals()[0], profile, layout)
    last = EmulatedLayer(LayerShape(0, GROUP, 1, DIM, 0.2), LayerRules(layout, 256, (rule,)), 1)
    last.append(keys[None, None], values[None, None])
    assert np.array_equal(last.attend(queries[None, :, -1:])[:, :, 0], at_once[:, :, -1])


def outputs(inputs, rule, layout, steps):
    """Return the outputs of the reduced reads as `profile_block` takes them, which it compares but does not hand out."""
    block = Block(Reads(inputs, layout), steps, 256)
    key_levels = rule.key_levels(block.key_view())
    (scores,), exact = block.scores([key_levels])
    kept = scores.copy() if rule.reads_scores else None
    probs = block.softmax(scores)
    view = block.value_view(probs, window_max(inputs.value_exponents, *block.window), kept)
    levels = rule.value_levels(view, rule.prepass_tokens(view))
    return block.outputs([probs], [levels], exact)[0][0]


@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize("fmt", [BINARY16, BFLOAT16], ids=str)
@pytest.mark.parametrize("text", RULES)
def test_token_by_token_equals_the_profile(text, fmt, window):
    rule, (keys, values, queries) = get_rule(text), case(fmt)
    layout = default_layout(fmt, skip=rule.needs_skip)
    profile, expected = profiled(keys, values, queries, rule, layout, window)
    cache, counter = HeadCache(layout, rule, DIM, scale=0.2, window=window), Counter(layout, rule, DIM, GROUP)
    for t in range(TOKENS):
        cache.append(keys[t : t + 1], values[t : t + 1])
        out = cache.attend(queries[:, t : t + 1], counter.add)
        assert np.array_equal(out.view(np.uint32)[:, 0], expected.view(np.uint32)[:, t]), t
    check_counts(counter.totals(), profile, layout)


def check_counts(totals, profile, layout):
    for name, counts in profile.traffic.columns().items():
        assert totals[name] == counts.sum(), name
    assert totals["steps"] == TOKENS
    for i, bits in enumerate(layout.levels):
        assert totals[f"key_channels_at_{bits}_bits"] == profile.key_level_channels[:, i].sum()
        assert totals[f"value_tokens_at_{bits}_bits"] == profile.value_level_tokens[:, i].sum()


@pytest.mark.parametrize("text", RULES)
def test_all_positions_at_once_equal_the_profile(text):
    rule, (keys, values, queries) = get_rule(text), case(BINARY16)
    layout = default_layout(BINARY16, skip=rule.needs_skip)
    profile, expected = profiled(keys, values, queries, rule, layout, None)
    layer = EmulatedLayer(LayerShape(0, 2 * GROUP, 2, DIM, 0.2), LayerRules(layout, 256, (rule, rule)), 2)
    twice = [np.broadcast_to(c, (2, 2, *c.shape)) for c in (keys, values)]
    layer.append(*twice)
    both = np.broadcast_to(np.concatenate([queries, queries]), (2, 2 * GROUP, TOKENS, DIM))
    out = layer.attend(both)
    for sequence in range(2):
        assert np.array_equal(out[sequence], np.concatenate([expected, expected]))
    for totals in layer.totals():
        check_counts({name: count // 2 for name, count in totals.items()}, profile, layout)
    assert np.array_equal(layer.codes()[0], twice[0])


def test_the_cpu_kernels_are_the_emulation():
    """The same outputs to the bit and the same counts, a prompt and then token by token."""
    CpuPlaneCache = pytest.importorskip("precalign.cpu", reason="needs the CPU kernels").CpuPlaneCache
    rule, layout = get_rule("alignedkv"), parse_layout("8|4|4", BINARY16)
    shape, rules = LayerShape(0, 4, 2, 32, 0.2), LayerRules(layout, 256, (rule, rule))
    planes = CpuPlaneCache(
        rules.rules, head_dim=32, n_kv_heads=2, group=2, batch_size=2, max_tokens=128, scale=0.2, threads=1
    )
    layers = EmulatedLayer(shape, rules, 2), PlaneLayer(shape, rules, planes)
    keys, values = (codes(BINARY16, (2, 2, 100, 32), seed) for seed in (11, 12))
    queries = codes(BINARY16, (2, 4, 100, 32), 13)
    for begin, end in [(0, 90), *((t, t + 1) for t in range(90, 100))]:
        outs = []
        for layer in layers:
            layer.append(keys[:, :, begin:end], values[:, :, begin:end])
            outs.append(layer.attend(queries[:, :, end - 1 : end]))
        assert np.array_equal(outs[0].view(np.uint32), outs[1].view(np.uint32)), end
    assert layers[0].totals() == layers[1].totals()


def test_a_cache_grows_past_its_first_capacity():
    layout, rule = default_layout(BINARY16), get_rule("alignedkv")
    keys, values, query = codes(BINARY16, (1100, 16), 5), codes(BINARY16, (1100, 16), 6), codes(BINARY16, (1, 1, 16), 7)
    grown, whole = (HeadCache(layout, rule, 16, scale=0.25) for _ in range(2))
    for begin in range(0, 1100, 100):
        grown.append(keys[begin : begin + 100], values[begin : begin + 100])
    whole.append(keys, values)
    outs = [cache.attend(query, lambda decision: None) for cache in (grown, whole)]
    assert np.array_equal(*outs)
    assert np.array_equal(grown.keys, keys)


def test_infinities_are_refused():
    cache = HeadCache(default_layout(BINARY16), get_rule("full"), 16, scale=1.0, name="layer 3, kv head 1")
    bad = np.full((1, 16), 0x7C00, np.uint16)
    with pytest.raises(InputError, match="layer 3, kv head 1"):
        cache.append(bad, bad)
