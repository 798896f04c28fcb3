"""What the emulator says of one decode step of one kv head: every buffer that the CPU kernels fill."""

from __future__ import annotations

import numpy as np

from precalign.block import Block, Reads
from precalign.counts import window_max
from precalign.cpu.rules import layout_of
from precalign.inputs import HeadInputs, Steps
from precalign.planes import split_keys, split_values

PLANES = ("first", "second", "third")


def emulate(rule, fmt, split_tokens, keys, values, queries, scale):
    """Emulate with keys and values (seq_len, head_dim) and queries (group, head_dim); rows of planes and maxima included."""
    layout = layout_of(rule, fmt)
    inputs = HeadInputs(keys, values, queries[:, None, :], fmt, scale)
    steps = Steps(*(np.array([n], np.int64) for n in (0, 0, len(keys))))
    block = Block(Reads(inputs, layout), steps, split_tokens)
    key_levels = rule.key_levels(block.key_view())
    (reduced,), exact = block.scores([key_levels])
    scores = reduced.copy()
    probs = block.softmax(reduced)
    value_max = window_max(inputs.value_exponents, *block.window)
    view = block.value_view(probs, value_max, scores)
    value_levels = rule.value_levels(view, rule.prepass_tokens(view))
    (outputs,), _ = block.outputs([probs], [value_levels], exact)
    n, levels = len(keys), np.array(layout.levels, np.uint8)
    return {
        **{f"key_{name}": plane for name, plane in zip(PLANES, split_keys(keys, layout), strict=True)},
        **{f"value_{name}": plane for name, plane in zip(PLANES, split_values(values, layout), strict=True)},
        "key_maxima": biased(inputs.key_exponents.max(axis=0), fmt),
        "value_maxima": biased(value_max[0], fmt),
        "token_maxima": biased(inputs.value_exponents.max(axis=1), fmt),
        "key_bits": levels[key_levels[0]],
        "scores": scores[:, 0, :n],
        "probs": probs[:, 0, :n],
        "value_bits": levels[value_levels[0, :n]],
        "outputs": outputs[:, 0],
    }


def biased(exponents, fmt):
    return (exponents.astype(np.int64) + fmt.bias).astype(np.uint8)


def differences(cache, keys, values, queries):
    """Compare every buffer of a cache after `attend` with the emulator; return the names of those that differ.

    keys and values: a list of (seq_len, n_kv_heads, head_dim) for each sequence; queries (batch_size, n_q_heads, head_dim).
    """
    wrong, table = set(), cache.buffer("block_table")
    by_page = {"key_first", "key_second", "key_third", "value_first", "value_second", "value_third", "token_maxima"}
    names = [name for name in cache._buffer_shapes() if name != "block_table"]
    for sequence, (k, v) in enumerate(zip(keys, values, strict=True)):
        n, n_pages = len(k), -(-len(k) // 64)
        for kv_head, rule in enumerate(cache.rules if n else []):
            heads = slice(kv_head * cache.group, (kv_head + 1) * cache.group)
            parts = (np.ascontiguousarray(part[:, kv_head]) for part in (k, v))
            expected = emulate(rule, cache.format, cache.split_tokens, *parts, queries[sequence, heads], cache.scale)
            for name in names:
                held = cache.buffer(name)
                if name in by_page:
                    got = held[table[sequence, :n_pages], kv_head]
                    got = got if name.startswith("key") else got.reshape(n_pages * 64, *got.shape[2:])[:n]
                else:
                    got = held[sequence, heads] if name in {"scores", "probs", "outputs"} else held[sequence, kv_head]
                want = np.zeros_like(got)  # behind the sequence rows still hold the zeros they began with
                want[tuple(slice(size) for size in expected[name].shape)] = expected[name]
                if not np.array_equal(want.view(np.uint8), np.ascontiguousarray(got).view(np.uint8)):
                    wrong.add(name)
        if n == 0 and cache.buffer("outputs")[sequence].any():
            wrong.add("outputs")
    return wrong
