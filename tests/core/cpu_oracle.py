"""Comparing a `CpuPlaneCache` with the emulator, buffer by buffer."""

from __future__ import annotations

import numpy as np

from precalign.cpu.emulated import emulate


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
                if name == "scores":
                    want[:, n : n_pages * 64] = -np.inf  # to the end of the page
                want[tuple(slice(size) for size in expected[name].shape)] = expected[name]
                if not np.array_equal(want.view(np.uint8), np.ascontiguousarray(got).view(np.uint8)):
                    wrong.add(name)
        if n == 0 and cache.buffer("outputs")[sequence].any():
            wrong.add("outputs")
    return wrong
