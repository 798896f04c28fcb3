"""The profile of a head against the slow implementation: bit for bit what is binary32 or counted, to a bound what is binary64."""

import gmpy2
import numpy as np
import pytest
from slow_decode import WIDE, levels_of, slow_step, strongest

from precalign.block import Block, Reads
from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16
from precalign.layouts import parse_layout
from precalign.profile import HeadInputs, Steps, profile_head
from precalign.rules import get_rule
from precalign.rules.alignedkv import strongest_tokens

# 150-bit against binary64: sums of at most 2,100 terms, u = 2^-53 each way, weights within exp of a score's error.
EXACT_BOUND = 1e-12


def random_codes(rng, shape, fmt, *, spread=3.0):
    """Normal numbers with channels of different scale, some zeros and subnormals."""
    x = rng.standard_normal(shape) * 2.0 ** rng.uniform(-spread, spread, shape[-1])
    if fmt == BINARY16:
        codes = x.astype(np.float16).view(np.uint16)
    else:
        codes = (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    odd = rng.random(shape)
    codes[odd < 0.02] = 0
    codes[(odd >= 0.02) & (odd < 0.03)] = 0x8000
    codes[(odd >= 0.03) & (odd < 0.05)] &= 0x803F
    return codes


def make_head(rng, seq_len, head_dim, group, fmt=BINARY16, **kwargs):
    keys, values = (random_codes(rng, (seq_len, head_dim), fmt, **kwargs) for _ in range(2))
    return HeadInputs(keys, values, random_codes(rng, (group, seq_len, head_dim), fmt, **kwargs), fmt, head_dim**-0.5)


def compare(inputs, queries, first, visible, rule_text, layout_text, *, split=256):
    """Check every figure of a few steps."""
    layout = parse_layout(layout_text, inputs.format)
    rule = get_rule(rule_text)
    steps = [np.asarray(part, np.int64) for part in (queries, first, visible)]
    (profile,) = profile_head(
        inputs, steps=steps[0], first=steps[1], visible=steps[2], rules=[rule], layout=layout, split_tokens=split
    )
    name, _, parameters = rule_text.partition(":")
    slow = [
        slow_step(
            inputs.keys,
            inputs.values,
            inputs.queries[:, query],
            fmt=inputs.format.name,
            scale=inputs.scale,
            rule=name,
            parameters={key: int(value) for key, value in (p.split("=") for p in parameters.split(",") if p)},
            widths=layout.widths,
            skip=layout.skip,
            first=int(low),
            visible=int(high),
            split=split,
            query_fmt=inputs.outside_format.name,
            rebased=layout.rebased,
        )
        for query, low, high in zip(*steps, strict=True)
    ]
    check_arithmetic(Block(Reads(inputs, layout), Steps(*steps), split), slow, layout)
    check_reads(profile, slow, steps, layout, inputs)
    check_waste(profile, slow, steps, inputs)
    check_errors(profile, slow, steps, inputs)
    return profile


def bits(array):
    return np.asarray(array, np.float32).view(np.uint32)


def check_arithmetic(block, slow, layout):
    """Scores and outputs of the emulator itself, to the last bit, given the slow implementation's choices."""
    index = {level: i for i, level in enumerate(layout.levels)}
    key_levels = np.array([[index[level] for level in step["key_levels"]] for step in slow], np.uint8)
    (full, reduced), _ = block.scores([block.full_key_levels, key_levels])
    value_levels = np.zeros((len(slow), block.seq_len), np.uint8)
    probs = [np.zeros_like(full), np.zeros_like(full)]
    for i, step in enumerate(slow):
        window = slice(block.steps.first[i], block.steps.visible[i])
        value_levels[i, window] = [index[level] for level in step["value_levels"]]
        for name, mine, p in (("full", full, probs[0]), ("reduced", reduced, probs[1])):
            np.testing.assert_array_equal(bits(mine[:, i, window]), bits(step[f"{name}_scores"]))
            p[:, i, window] = step[f"{name}_probs"]
    probs_again = [block.softmax(full), block.softmax(reduced)]
    levels = [block.full_value_levels, value_levels]
    (full_out, reduced_out), _ = block.outputs(probs, levels, np.zeros(full.shape))
    for i, step in enumerate(slow):
        window = slice(block.steps.first[i], block.steps.visible[i])
        for mine, expected in zip(probs_again, probs, strict=True):
            np.testing.assert_array_equal(bits(mine[:, i, window]), bits(expected[:, i, window]))
        np.testing.assert_array_equal(bits(full_out[:, i]), bits(step["full_outputs"]))
        np.testing.assert_array_equal(bits(reduced_out[:, i]), bits(step["reduced_outputs"]))


def check_reads(profile, slow, steps, layout, inputs):
    levels = levels_of(layout.widths, layout.skip, inputs.format.name)
    assert profile.levels == tuple(levels)
    seq_len, head_dim = inputs.keys.shape
    by_token = np.zeros((seq_len, len(levels)), np.int64)
    by_channel = np.zeros((head_dim, len(levels)), np.int64)
    traffic = profile.traffic.columns()
    for i, (step, low, high) in enumerate(zip(slow, *steps[1:], strict=True)):
        keys, values = (np.searchsorted(levels, step[what]) for what in ("key_levels", "value_levels"))
        np.testing.assert_array_equal(profile.key_level_channels[i], np.bincount(keys, minlength=len(levels)))
        np.testing.assert_array_equal(profile.value_level_tokens[i], np.bincount(values, minlength=len(levels)))
        np.add.at(by_token, (np.arange(low, high), values), 1)
        np.add.at(by_channel, (np.arange(head_dim), keys), 1)
        assert traffic["key_ideal_bits"][i] == sum(step["key_levels"]) * (high - low)
        assert traffic["value_ideal_bits"][i] == sum(step["value_levels"]) * head_dim
        names = {"key": "keys", "value": "values", "full_key": "full", "full_value": "full"}
        for what in ("key", "value", "full_key", "full_value", "prepass", "metadata"):
            found = tuple(traffic[f"{what}_{unit}"][i] for unit in ("bytes", "sectors", "atoms", "lines"))
            assert found == step[names.get(what, what)], what
    np.testing.assert_array_equal(profile.value_token_level_steps, by_token)
    np.testing.assert_array_equal(profile.key_channel_level_steps, by_channel)


def check_waste(profile, slow, steps, inputs):
    seq_len, head_dim = inputs.keys.shape
    for what in ("key", "value"):
        tokens, channels = np.zeros(seq_len, np.int64), np.zeros(head_dim, np.int64)
        histogram = np.zeros(inputs.format.precision_bits + 1, np.int64)
        for i, (step, low, high) in enumerate(zip(slow, *steps[1:], strict=True)):
            wasted = np.array(step[f"{what}_waste"])
            assert getattr(profile, f"{what}_wasted_bits")[i] == wasted.sum()
            tokens[low:high] += wasted.sum(axis=1)
            channels += wasted.sum(axis=0)
            histogram += np.bincount(wasted.ravel(), minlength=len(histogram))
        np.testing.assert_array_equal(getattr(profile, f"{what}_token_wasted_bits"), tokens)
        np.testing.assert_array_equal(getattr(profile, f"{what}_channel_wasted_bits"), channels)
        np.testing.assert_array_equal(getattr(profile, f"{what}_wasted_histogram"), histogram)


def norm(values):
    with gmpy2.context(WIDE):
        return gmpy2.sqrt(sum(gmpy2.mpfr(v) ** 2 for v in values))


def relative(a, b):
    with gmpy2.context(WIDE):
        difference = norm(
            [gmpy2.mpfr(float(x)) - (y if isinstance(y, gmpy2.mpfr) else float(y)) for x, y in zip(a, b, strict=False)]
        )
        return (
            float(difference / norm([y if isinstance(y, gmpy2.mpfr) else float(y) for y in b])) if difference else 0.0
        )


def rounded(x, fmt):
    """The nearest value of a format, ties to even, by MPFR."""
    with gmpy2.context(
        precision=fmt.precision_bits, emax=fmt.bias + 1, emin=fmt.emin - fmt.precision_bits + 2, subnormalize=True
    ):
        return float(gmpy2.mpfr(x))


def check_errors(profile, slow, steps, inputs):
    mass = np.zeros(len(inputs.keys))
    for i, (step, low, high) in enumerate(zip(slow, *steps[1:], strict=True)):
        for h, (scores, probs, outputs) in enumerate(step["exact"]):
            full, reduced = (step[f"{kind}_scores"][h] for kind in ("full", "reduced"))
            full_p, reduced_p = (np.array(step[f"{kind}_probs"][h], np.float64) for kind in ("full", "reduced"))
            exact_scores, exact_probs = np.array(scores, np.float64), np.array(probs, np.float64)
            mass[low:high] += exact_probs
            size = max(1.0, float(np.abs(exact_scores).max()))
            assert profile.score_error_max_vs_full[i, h] == max(
                abs(float(a) - float(b)) for a, b in zip(reduced, full, strict=False)
            )
            found = profile.score_error_max_vs_exact[i, h]
            assert found == pytest.approx(np.abs(np.float64(reduced) - exact_scores).max(), abs=size * EXACT_BOUND)
            tv = np.abs(reduced_p - full_p).sum() / 2
            assert profile.prob_tv_vs_full[i, h] == pytest.approx(tv, abs=EXACT_BOUND)
            tv = np.abs(reduced_p - exact_probs).sum() / 2
            assert profile.prob_tv_vs_exact[i, h] == pytest.approx(tv, abs=size * EXACT_BOUND)
            full_o, reduced_o = (step[f"{kind}_outputs"][h] for kind in ("full", "reduced"))
            near = {"rel": 1e-6, "abs": size * 1e-11}
            assert profile.output_error_vs_full[i, h] == pytest.approx(relative(reduced_o, full_o), **near)
            assert profile.output_error_vs_exact[i, h] == pytest.approx(relative(reduced_o, outputs), **near)
            assert profile.full_read_error_vs_exact[i, h] == pytest.approx(relative(full_o, outputs), **near)
            nearest = [rounded(x, inputs.outside_format) for x in outputs]
            assert profile.rounding_error[i, h] == pytest.approx(relative(nearest, outputs), **near)
            largest = max(abs(float(a) - float(b)) for a, b in zip(reduced_o, outputs, strict=False))
            assert profile.output_max_error_vs_exact[i, h] == pytest.approx(largest, **near)
    np.testing.assert_allclose(profile.token_attention_mass, mass, rtol=0, atol=1e-10)


RULES = (
    "alignedkv",
    "aligned-max",
    "aligned-skip",
    "full",
    "alignedkv:guard_bits=2",
    "aligned-skip:threshold=6,guard_bits=1",
    "online",
    "static:key_bits=12,value_bits=8",
    "online:two_pass=1,guard_bits=1",
)


@pytest.mark.parametrize("rule", RULES)
def test_rules_on_random_heads(rule):
    inputs = make_head(np.random.default_rng(2), 150, 32, 2)
    compare(
        inputs, [0, 10, 149, 100], [0, 0, 0, 37], [1, 65, 150, 128], rule, "8|4|4+skip" if "skip" in rule else "8|4|4"
    )


@pytest.mark.parametrize(
    ("fmt", "layout", "seq_len", "head_dim", "group", "split"),
    [
        (BINARY16, "6|2|2|2|4", 70, 24, 1, 64),
        (BINARY16, "5|3|4|3|1+skip", 67, 10, 4, 64),
        (BINARY16, "1" + "|1" * 15, 66, 8, 2, 256),
        (BINARY16, "8|8", 140, 96, 3, 128),
        (BFLOAT16, "12|4", 90, 64, 2, 64),
        (BFLOAT16, "9|2|2|3", 131, 17, 5, 128),
        (BINARY16, "8|4|4", 300, 8, 8, 256),
    ],
)
def test_layouts_groups_and_odd_sizes(fmt, layout, seq_len, head_dim, group, split):
    inputs = make_head(np.random.default_rng(seq_len), seq_len, head_dim, group, fmt)
    rule = "aligned-skip" if "skip" in layout else "alignedkv"
    compare(inputs, [0, seq_len - 1, 5], [0, 0, seq_len // 3], [1, seq_len, seq_len - 1], rule, layout, split=split)


def test_zero_channels_subnormals_and_one_hot_attention():
    rng = np.random.default_rng(4)
    inputs = make_head(rng, 80, 16, 2, spread=8.0)
    inputs.keys[:, 3] = 0
    inputs.values[:, 5] = 0
    inputs.values[:, 6] &= 0x83FF
    inputs.keys[:, 7] |= 0x8000
    inputs.queries[0] = 0  # every token alike
    inputs.keys[40, :] = np.float16(90).view(np.uint16)
    inputs.queries[1] = np.float16(30).view(np.uint16)  # all weights but one underflow
    for rule in ("alignedkv", "aligned-skip"):
        compare(inputs, [79, 12], [0, 0], [80, 41], rule, "8|4|4+skip")


def load(shared, name, layer, kv_head):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(shared / "data" / "kv" / name, "np") as dump:
        scale = float(dump.metadata()["scale"])
        kinds = ("keys", "values", "queries")
        keys, values, queries = (dump.get_tensor(f"layers.{layer}.{kind}")[0] for kind in kinds)
    group = len(queries) // len(keys)
    queries = queries[kv_head * group : (kv_head + 1) * group]
    codes = [np.ascontiguousarray(x).view(np.uint16) for x in (keys[kv_head], values[kv_head], queries)]
    return HeadInputs(*codes, BINARY16 if keys.dtype == np.float16 else BFLOAT16, scale)


@pytest.mark.parametrize(
    ("name", "layer", "kv_head", "rule"),
    [
        ("novel-1024.safetensors", 0, 0, "alignedkv"),
        ("novel-1024.safetensors", 3, 1, "aligned-max"),
        ("stories260k-512.safetensors", 2, 3, "alignedkv"),
    ],
)
def test_real_heads(shared, name, layer, kv_head, rule):
    inputs = load(shared, name, layer, kv_head)
    queries = np.array([3, 97, 311])
    compare(inputs, queries, queries * 0, queries + 1, rule, "8|4|4")


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", range(6))
def test_real_heads_to_the_end(shared, layer, rule):
    inputs = load(shared, "novel-1024.safetensors", layer, layer % 2)
    queries = np.array([0, 63, 64, 500, 1023])
    compare(inputs, queries, queries * 0, queries + 1, rule, "8|4|4+skip" if "skip" in rule else "8|4|4")


def test_blocks_merge_to_the_same_profile():
    """A memory limit of one step at a time changes no bit; nor does the company of other rules."""
    inputs = make_head(np.random.default_rng(5), 200, 64, 2)
    steps, layout = np.arange(0, 200, 7), parse_layout("8|4|4+skip", BINARY16)
    rules = [get_rule(name) for name in ("alignedkv", "aligned-skip")]
    kwargs = {"steps": steps, "visible": steps + 1, "layout": layout}
    together = profile_head(inputs, rules=rules, **kwargs)
    for rule, whole in zip(rules, together, strict=True):
        (alone,) = profile_head(inputs, rules=[rule], memory_limit_bytes=1, **kwargs)
        for name, array in whole.traffic.columns().items():
            np.testing.assert_array_equal(array, alone.traffic.columns()[name])
        for name, expected in vars(whole).items():
            if name == "token_attention_mass":  # the only sum of rounded numbers over steps
                np.testing.assert_allclose(getattr(alone, name), expected, rtol=1e-13)
            elif name != "traffic":
                np.testing.assert_array_equal(getattr(alone, name), expected, err_msg=name)


def test_long_sequence_crosses_chunks():
    """More tokens than a chunk of the workspace: a full read of the last step against NumPy in binary64."""
    inputs = make_head(np.random.default_rng(6), 9000, 8, 1, spread=0.5)
    (profile,) = profile_head(
        inputs,
        steps=np.array([8999]),
        visible=np.array([9000]),
        first=np.array([100]),
        rules=[get_rule("full")],
        layout=parse_layout("8|4|4", BINARY16),
        memory_limit_bytes=1,
    )
    q, k, _ = (x.view(np.float16).astype(np.float64) for x in (inputs.queries[0, -1], inputs.keys, inputs.values))
    p = np.exp(k[100:] @ q * inputs.scale)
    mass = np.concatenate((np.zeros(100), p / p.sum()))
    np.testing.assert_allclose(profile.token_attention_mass, mass, rtol=1e-12)
    assert profile.full_read_error_vs_exact.max() < 1e-4


BAD = {
    "scale": ({"steps": [0], "visible": [0]}, UsageError, "at least one token"),
    "beyond": ({"steps": [0], "visible": [9]}, UsageError, "visible <= 8"),
    "query": ({"steps": [8], "visible": [8]}, UsageError, r"\[0, 8\)"),
    "lengths": ({"steps": [0, 1], "visible": [8]}, UsageError, "equally long"),
    "split": ({"steps": [0], "visible": [8], "split_tokens": 100}, UsageError, "multiple of 64"),
    "skip": ({"steps": [0], "visible": [8], "rules": [get_rule("aligned-skip")]}, UsageError, r"8\|4\|4\+skip"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_profiled(case):
    changed, error, says = BAD[case]
    inputs = make_head(np.random.default_rng(7), 8, 4, 1)
    kwargs = {"rules": [get_rule("full")], "layout": parse_layout("8|4|4", BINARY16)} | changed
    for name in ("steps", "visible"):
        kwargs[name] = np.array(kwargs[name])
    with pytest.raises(error, match=says):
        profile_head(inputs, **kwargs)


def test_heads_that_cannot_be():
    good = make_head(np.random.default_rng(8), 8, 4, 1)
    keys = good.keys.copy()
    keys[3, 1] = 0x7C00
    for arrays, says in (
        ((keys, good.values, good.queries), "infinities"),
        ((good.keys[:, :3], good.values, good.queries), "4 vs 3"),
        ((good.keys, good.values[:5], good.queries), "5 vs 8"),
        ((good.keys.astype(np.int64), good.values, good.queries), "uint16"),
    ):
        with pytest.raises(InputError, match=says):
            HeadInputs(*arrays, BINARY16, 0.5, name="layers.0")


@pytest.mark.parametrize(
    ("text", "says"),
    [("nearest", "unknown rule"), ("alignedkv:bits=3", "unknown parameter"), ("alignedkv:guard_bits=x", "of type int")],
)
def test_rules_that_cannot_be(text, says):
    with pytest.raises(UsageError, match=says):
        get_rule(text)


def test_rule_names_carry_their_parameters():
    assert str(get_rule("aligned-skip:threshold=9")) == "aligned-skip:threshold=9"
    assert str(get_rule("aligned-skip:threshold=12,guard_bits=0")) == "aligned-skip"
    assert get_rule(str(get_rule("aligned-skip:threshold=9"))) == get_rule("aligned-skip:threshold=9")


def test_online_over_several_splits_and_windows():
    inputs = make_head(np.random.default_rng(11), 330, 16, 2)
    compare(inputs, [329, 100, 200, 7], [0, 0, 70, 5], [330, 321, 200, 129], "online", "8|4|4", split=128)


def test_online_clamps_scores_that_no_int32_holds():
    inputs = make_head(np.random.default_rng(12), 70, 4, 1)
    inputs.keys[3], inputs.queries[0, 60] = np.float16(6e4).view(np.uint16), np.float16(-6e4).view(np.uint16)
    compare(inputs, [60], [0], [70], "online", "8|4|4")


def test_windows_that_end_together_and_begin_apart():
    """Steps that share loads must see the same part of a split."""
    inputs = make_head(np.random.default_rng(9), 130, 16, 2)
    compare(inputs, [129, 5, 7, 8, 9], [0, 10, 20, 70, 70], [128, 128, 128, 128, 130], "aligned-max", "8|4|4", split=64)


def test_strongest_tokens_take_the_earliest_of_equals():
    rng = np.random.default_rng(10)
    probs = rng.choice(np.array([0, 0.25, 0.5], np.float32), (2, 3, 192))
    first, visible = np.array([0, 5, 70]), np.array([192, 150, 75])
    found = strongest_tokens(probs, first, visible)
    for head in range(2):
        for step, (low, high) in enumerate(zip(first, visible, strict=True)):
            expected = [low + i for i in strongest(probs[head, step, low:high].tolist(), int(low))]
            assert found[head, step][found[head, step] >= 0].tolist() == expected
