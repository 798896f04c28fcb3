"""The one-pass rule never reads less than its two-pass form, and at most a tenth more on real dumps."""

import numpy as np
import pytest
from test_profile import load

from precalign.block import Block, Reads
from precalign.layouts import parse_layout
from precalign.profile import Steps, profile_head
from precalign.rules import get_rule
from precalign.rules.online import running_differences

ONE_PASS, TWO_PASS = get_rule("online"), get_rule("online:two_pass=1")


def test_running_maximum_never_exceeds_the_final_one():
    rng = np.random.default_rng(0)
    scores = (rng.standard_normal((3, 40, 320)) * 2.0 ** rng.uniform(-3, 6, (3, 40, 1))).astype(np.float32)
    offsets = rng.integers(-14, 3, 320).astype(np.int32)
    first = rng.integers(0, 100, 40)
    visible = first + rng.integers(1, 220, 40)
    found = []
    for running in (True, False):
        out = np.zeros((40, 320), np.int32)
        running_differences(scores, offsets, first, visible, 128, running, out)
        found.append(out)
    assert (found[0] >= 0).all()
    assert (found[0] <= found[1]).all()
    assert (found[0] < found[1]).any()


@pytest.mark.parametrize("name", ["novel-1024", "novel-2048-gen", "stories260k-512"])
def test_reads_on_real_dumps(shared, name):
    read = {ONE_PASS: 0, TWO_PASS: 0}
    for layer in (0, 2, 4):
        inputs = load(shared, f"{name}.safetensors", layer, 1)
        steps = np.arange(len(inputs.keys) - 1, 0, -61)[::-1].copy()
        layout = parse_layout("8|4|4", inputs.format)
        profiles = profile_head(inputs, steps=steps, visible=steps + 1, rules=list(read), layout=layout)
        for rule, profile in zip(read, profiles, strict=True):
            moved = profile.traffic.columns()
            read[rule] += sum(moved[f"{part}_bytes"].sum() for part in ("key", "value", "metadata", "prepass"))
    assert read[TWO_PASS] <= read[ONE_PASS] <= 1.1 * read[TWO_PASS]


def test_one_pass_stores_no_scores(shared):
    inputs = load(shared, "stories260k-512.safetensors", 1, 0)
    (profile,) = profile_head(
        inputs,
        steps=np.array([400]),
        visible=np.array([401]),
        rules=[ONE_PASS],
        layout=parse_layout("8|4|4", inputs.format),
    )
    assert profile.traffic.scores_bytes.sum() == profile.traffic.probs_bytes.sum() == 0


def test_every_token_gets_at_least_the_bits_of_the_two_pass_form(shared):
    inputs = load(shared, "novel-2048-gen.safetensors", 3, 0)
    steps = np.arange(200, 2048, 307)
    block = Block(Reads(inputs, parse_layout("8|4|4", inputs.format)), Steps(steps, steps * 0, steps + 1), 256)
    (scores,), _ = block.scores([ONE_PASS.key_levels(block.key_view())])
    view = block.value_view(block.softmax(scores.copy()), np.zeros((len(steps), 64), np.int8), scores)
    one, two = (rule.value_levels(view, None) for rule in (ONE_PASS, TWO_PASS))
    for i, n in enumerate(steps + 1):
        assert (one[i, :n] >= two[i, :n]).all()
