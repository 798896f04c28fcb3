"""Maxima and counts over the windows of tokens that decode steps see."""

from __future__ import annotations

import numpy as np

from precalign.jit import Array, kernel
from precalign.planes import PAGE_TOKENS


@kernel
def window_max(exponents: Array, first: Array, visible: Array) -> Array:
    """Return the maximum over tokens [first, visible), (n_steps, head_dim), of an array (seq_len, head_dim)."""
    n_steps, head_dim = len(first), exponents.shape[1]
    n_pages = exponents.shape[0] // PAGE_TOKENS
    pages = np.empty((n_pages, head_dim), exponents.dtype)
    for page in range(n_pages):
        pages[page] = exponents[page * PAGE_TOKENS]
        for t in range(page * PAGE_TOKENS + 1, (page + 1) * PAGE_TOKENS):
            for c in range(head_dim):
                pages[page, c] = max(pages[page, c], exponents[t, c])
    out = np.empty((n_steps, head_dim), exponents.dtype)
    for step in range(n_steps):
        t = first[step]
        out[step] = exponents[t]
        while t < visible[step]:
            whole = t % PAGE_TOKENS == 0 and t + PAGE_TOKENS <= visible[step]
            row = pages[t // PAGE_TOKENS] if whole else exponents[t]
            for c in range(head_dim):
                out[step, c] = max(out[step, c], row[c])
            t += PAGE_TOKENS if whole else 1
    return out


@kernel
def count_levels(levels: Array, first: Array, visible: Array, n_levels: int, seq_len: int) -> tuple[Array, Array]:
    """Count the visible levels of (n_steps, >= visible): by step (n_steps, n_levels) and by token (seq_len, n_levels)."""
    by_step = np.zeros((len(first), n_levels), np.int64)
    by_level = np.zeros((n_levels, seq_len), np.int32)
    for step in range(len(first)):
        seen = levels[step, first[step] : visible[step]]
        for level in range(n_levels):
            row, total = by_level[level, first[step] : visible[step]], np.int32(0)
            for t in range(len(seen)):
                same = np.int32(seen[t] == level)
                row[t] += same
                total += same
            by_step[step, level] = total
    by_token = np.empty((seq_len, n_levels), np.int64)
    for level in range(n_levels):
        by_token[:, level] = by_level[level]
    return by_step, by_token


@kernel
def token_sums(probs: Array, first: Array, visible: Array, seq_len: int) -> tuple[Array, Array]:
    """Return by token (seq_len,) the sum of probabilities over group and steps, and how many steps see it."""
    mass, seen = np.zeros(seq_len, np.float64), np.zeros(seq_len, np.int64)
    for step in range(len(first)):
        for t in range(first[step], visible[step]):
            seen[t] += 1
        for head in range(probs.shape[0]):
            for t in range(first[step], visible[step]):
                mass[t] += probs[head, step, t]
    return mass, seen
