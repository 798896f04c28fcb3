"""First half of a decode step: key bits, scores, softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.cpu.keys import page_scores
from precalign.cpu.records import (
    ALIGNED_MAX,
    ALIGNED_SKIP,
    ALIGNEDKV,
    CLASSES,
    FULL,
    ONLINE,
    STATIC,
)
from precalign.decode.exp2 import LOG2E, exp2_fma
from precalign.decode.softmax import LANES, tree_sum
from precalign.jit import embed
from precalign.planes import PAGE_TOKENS
from precalign.rules.base import NEVER, prob_exponent
from precalign.rules.online import addend_exponents

if TYPE_CHECKING:
    from precalign.jit import Array


@embed
def page_begin(shape: Array, store: Array, head: int, page: int) -> Array:
    """Return the number of the first code of a page of a head."""
    sequence, kv_head = head // shape.n_kv_heads, head % shape.n_kv_heads
    physical = np.int64(store.block_table[sequence, page])
    return (kv_head * shape.n_pages + physical) * (PAGE_TOKENS * shape.head_dim)


@embed
def span(shape: Array, store: Array, head: int, split: int) -> tuple[int, int]:
    """Return the first token of a split and the one behind its last."""
    begin = split * shape.split_tokens
    return begin, min(begin + shape.split_tokens, store.lengths[head // shape.n_kv_heads])


@embed
def planes_for(difference: int, guard_bits: int, least_planes: int) -> int:
    """Return the planes to read of an addend that lies so many binades below the reference."""
    spare = difference - guard_bits
    if least_planes == 1 and spare >= 8:
        return 1
    return 2 if spare >= 4 else 3


@embed
def decide_keys(shape: Array, rules: Array, store: Array, step: Array, head: int, planes: Array) -> None:
    """Write how many planes of each key channel are read: the widest need of the group."""
    kv_head, head_dim = head % shape.n_kv_heads, shape.head_dim
    kind, guard_bits = rules.kind[kv_head], rules.guard_bits[kv_head]
    if kind <= STATIC:
        planes[:] = 3 if kind == FULL else rules.key_planes[kv_head]
        return
    maxima = store.key_maxima[head * head_dim : (head + 1) * head_dim]
    planes[:] = shape.least_planes
    for i in range(shape.group):
        base = (head * shape.group + i) * head_dim
        exponents = step.query_exponents[base : base + head_dim]
        top = 0
        for d in range(head_dim):
            top = max(top, exponents[d] + maxima[d])
        for d in range(head_dim):
            wanted = planes_for(top - (exponents[d] + maxima[d]), guard_bits, shape.least_planes)
            planes[d] = max(planes[d], wanted)


@embed
def _largest(row: Array, lanes: Array) -> Array:
    """Return the maximum of a row, at least one number."""
    lanes[:] = row[0]
    n_whole = len(row) // LANES * LANES
    tiles = row[:n_whole].reshape(-1, LANES)
    for i in range(tiles.shape[0]):
        for j in range(LANES):
            lanes[j] = max(lanes[j], tiles[i, j])
    for i in range(n_whole, len(row)):
        lanes[0] = max(lanes[0], row[i])
    largest = lanes[0]
    for j in range(1, LANES):
        largest = max(largest, lanes[j])
    return largest


@embed
def _score_page(
    bfloat: Array, shape: Array, store: Array, step: Array, scratch: Array, head: int, page: int, next_at: int, n: int
) -> None:
    """Write the scores of the first `n` tokens of a page for all query heads."""
    group = shape.group
    at = page_begin(shape, store, head, page)
    row, query = head * group * shape.row_tokens + page * PAGE_TOKENS, head * shape.head_dim * group
    whole = n == PAGE_TOKENS
    out = step.scores if whole else scratch.page
    base, stride = (row, shape.row_tokens) if whole else (0, PAGE_TOKENS)
    planes = (store.key_first, store.key_second, store.key_third)
    i = 0
    while i < group:
        reads = (scratch.key_planes, shape.head_dim, step.queries, query + i, group, shape.scale)
        target = (out, base + i * stride, stride)
        # Sums of four heads are what the vector registers hold beside the keys.
        if i + 4 <= group:
            page_scores(4, bfloat, planes, (at, next_at), reads, target)
            i += 4
        elif i + 2 <= group:
            page_scores(2, bfloat, planes, (at, next_at), reads, target)
            i += 2
        else:
            page_scores(1, bfloat, planes, (at, next_at), reads, target)
            i += 1
    if not whole:
        for head_of_group in range(group):
            for t in range(n):
                step.scores[row + head_of_group * shape.row_tokens + t] = scratch.page[head_of_group * PAGE_TOKENS + t]


@embed
def score_split(
    bfloat: Array,
    shape: Array,
    rules: Array,
    store: Array,
    step: Array,
    scratch: Array,
    head: int,
    split: int,
    next_at: int,
) -> None:
    """Write the scores of a split, their maxima, and what `online` must know before scores are replaced."""
    begin, end = span(shape, store, head, split)
    for page in range(begin // PAGE_TOKENS, -(-end // PAGE_TOKENS)):
        following = page_begin(shape, store, head, page + 1) if (page + 1) * PAGE_TOKENS < end else next_at
        n = min(PAGE_TOKENS, end - page * PAGE_TOKENS)
        _score_page(bfloat, shape, store, step, scratch, head, page, following, n)
    kind = rules.kind[head % shape.n_kv_heads]
    for q in range(head * shape.group, (head + 1) * shape.group):
        row = step.scores[q * shape.row_tokens + begin : q * shape.row_tokens + end]
        step.split_maxima[q * shape.max_splits + split] = _largest(row, scratch.lanes)
        if kind >= ONLINE:
            exponents = scratch.exponents[: end - begin]
            _addends(shape, store, row, head, begin, exponents)
            step.tops[q * shape.max_splits + split] = exponents.max()
            if end == store.lengths[head // shape.n_kv_heads]:
                step.seeds[q] = exponents[(end - 1) // PAGE_TOKENS * PAGE_TOKENS - begin :].max()


@embed
def _addends(shape: Array, store: Array, scores: Array, head: int, begin: int, out: Array) -> None:
    """Write the exponents of addends of tokens from `begin` on, as `online` defines them."""
    for at in range(0, len(scores), PAGE_TOKENS):
        last = min(at + PAGE_TOKENS, len(scores))
        maxima = token_maxima(shape, store, head, (begin + at) // PAGE_TOKENS)
        addend_exponents(scores[at:last], maxima, out[at:last])


@embed
def token_maxima(shape: Array, store: Array, head: int, page: int) -> Array:
    """Return max_c E(v_tc) of the tokens of a page, biased."""
    at = page_begin(shape, store, head, page) // shape.head_dim
    return store.token_maxima[at : at + PAGE_TOKENS]


@embed
def weigh_split(shape: Array, rules: Array, store: Array, step: Array, scratch: Array, head: int, split: int) -> None:
    """Replace the scores of a split by weights, and add them up; decide value bits where the rule needs scores."""
    begin, end = span(shape, store, head, split)
    kind = rules.kind[head % shape.n_kv_heads]
    for i in range(shape.group):
        q = head * shape.group + i
        at = q * shape.row_tokens + begin
        scores, weights = step.scores[at : at + end - begin], step.probs[at : at + end - begin]
        if kind >= ONLINE:
            _online_differences(shape, store, step, scratch, head, i, split, kind == ONLINE)
        maximum, lanes = scratch.maxima[i], scratch.lanes
        for t in range(len(weights)):
            weights[t] = exp2_fma((scores[t] - maximum) * LOG2E)
        lanes[:] = 0
        n_whole = len(weights) // LANES * LANES
        tiles = weights[:n_whole].reshape(-1, LANES)
        for tile in range(tiles.shape[0]):
            for j in range(LANES):
                lanes[j] += tiles[tile, j]
        for t in range(n_whole, len(weights)):
            lanes[t - n_whole] += weights[t]
        step.split_sums[q * shape.max_splits + split] = tree_sum(lanes)
    if kind >= ONLINE:
        guard_bits = rules.guard_bits[head % shape.n_kv_heads]
        row = step.value_bits[head * shape.row_tokens + begin : head * shape.row_tokens + end]
        for t in range(len(row)):
            row[t] = 4 + 4 * planes_for(scratch.differences[t], guard_bits, shape.least_planes)


@embed
def _online_differences(
    shape: Array, store: Array, step: Array, scratch: Array, head: int, i: int, split: int, running: Array
) -> None:
    """Write how far each token of a split lies below the largest addend met so far: the smallest over the heads up to `i`."""
    begin, end = span(shape, store, head, split)
    q = head * shape.group + i
    at = q * shape.row_tokens + begin
    exponents = scratch.exponents[: end - begin]
    _addends(shape, store, step.scores[at : at + end - begin], head, begin, exponents)
    largest = step.seeds[q]
    if not running:
        n_splits = -(-store.lengths[head // shape.n_kv_heads] // shape.split_tokens)
        largest = step.tops[q * shape.max_splits : q * shape.max_splits + n_splits].max()
    for low in range(0, len(exponents), PAGE_TOKENS):
        high = min(low + PAGE_TOKENS, len(exponents))
        largest = max(largest, exponents[low:high].max())
        for t in range(low, high):
            difference = np.int32(largest - exponents[t])
            scratch.differences[t] = difference if i == 0 else min(scratch.differences[t], difference)


@embed
def divide_split(shape: Array, rules: Array, store: Array, step: Array, scratch: Array, head: int, split: int) -> None:
    """Turn the weights of a split into probabilities, and find what the value rule must know of them all."""
    begin, end = span(shape, store, head, split)
    kind = rules.kind[head % shape.n_kv_heads]
    for i in range(shape.group):
        q = head * shape.group + i
        probs = step.probs[q * shape.row_tokens + begin : q * shape.row_tokens + end]
        total = scratch.sums[i]
        for t in range(len(probs)):
            probs[t] /= total
        if ALIGNED_MAX <= kind <= ALIGNED_SKIP:
            top = np.int32(-NEVER)
            for low in range(0, len(probs), PAGE_TOKENS):
                maxima = token_maxima(shape, store, head, (begin + low) // PAGE_TOKENS)
                for t in range(min(PAGE_TOKENS, len(probs) - low)):
                    top = max(top, np.int32(prob_exponent(probs[low + t]) + np.int32(maxima[t])))
            step.tops[q * shape.max_splits + split] = top
        if kind == ALIGNEDKV:
            _strongest(step, (q * shape.max_splits + split) * CLASSES, probs, begin)


@embed
def _strongest(step: Array, place: int, probs: Array, begin: int) -> None:
    """Write the token with the largest probability of each class t mod 32; the earliest wins a tie."""
    best = step.strongest_probs[place : place + CLASSES]
    where = step.strongest_tokens[place : place + CLASSES]
    best[:] = -1
    where[:] = -1
    for low in range(0, len(probs) // CLASSES * CLASSES, CLASSES):
        row = probs[low : low + CLASSES]
        for j in range(CLASSES):
            better = row[j] > best[j]
            best[j] = row[j] if better else best[j]
            where[j] = np.int32(begin + low + j) if better else where[j]
    for t in range(len(probs) // CLASSES * CLASSES, len(probs)):
        if probs[t] > best[t % CLASSES]:
            best[t % CLASSES] = probs[t]
            where[t % CLASSES] = begin + t


@embed
def head_maxima(shape: Array, step: Array, scratch: Array, head: int, n_splits: int) -> None:
    """Write the largest score of each query head of a head."""
    for i in range(shape.group):
        at = (head * shape.group + i) * shape.max_splits
        scratch.maxima[i] = _largest(step.split_maxima[at : at + n_splits], scratch.lanes)


@embed
def head_sums(shape: Array, step: Array, scratch: Array, head: int, n_splits: int) -> None:
    """Write the sum of weights of each query head of a head: splits in ascending order."""
    for i in range(shape.group):
        at = (head * shape.group + i) * shape.max_splits
        total = np.float32(0)
        for split in range(n_splits):
            total += step.split_sums[at + split]
        scratch.sums[i] = total
