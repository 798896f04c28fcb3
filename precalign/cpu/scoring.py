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
from precalign.cpu.tokens import (
    addends,
    decide,
    divide,
    largest,
    lower_running,
    strongest,
    top_addend,
    weigh,
)
from precalign.jit import embed
from precalign.planes import PAGE_TOKENS
from precalign.rules.base import NEVER

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
def largest_of(array: Array, begin: int, n: int) -> Array:
    """Return the largest of n >= 1 neighbours."""
    top = array[begin]
    for i in range(begin + 1, begin + n):
        top = max(top, array[i])
    return top


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
            place = row + head_of_group * shape.row_tokens
            for t in range(PAGE_TOKENS):  # `tokens` relies on what lies behind the last token
                score = scratch.page[head_of_group * PAGE_TOKENS + t]
                step.scores[place + t] = score if t < n else -np.inf


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
    kind, n_tiles = rules.kind[head % shape.n_kv_heads], tiles(begin, end)
    for q in range(head * shape.group, (head + 1) * shape.group):
        row = (step.scores, q * shape.row_tokens + begin)
        step.split_maxima[q * shape.max_splits + split] = largest(row, n_tiles)
        if kind >= ONLINE:
            newest = _addends(shape, store, step, scratch, head, q, begin, end)
            step.tops[q * shape.max_splits + split] = largest_of(scratch.page_tops, 0, n_tiles)
            if end == store.lengths[head // shape.n_kv_heads]:
                step.seeds[q] = newest


@embed
def tiles(begin: int, end: int) -> int:
    """Return how many pages some tokens take."""
    return -(-(end - begin) // PAGE_TOKENS)


@embed
def _addends(shape: Array, store: Array, step: Array, scratch: Array, head: int, q: int, begin: int, end: int) -> Array:
    """Write the exponents of a split's addends as `online` defines them, and the largest of each page; return that of the last."""
    top: Array = np.int32(0)
    for tile in range(tiles(begin, end)):
        low = begin + tile * PAGE_TOKENS
        maxima = (store.token_maxima, maxima_begin(shape, store, head, low))
        top = addends((step.scores, q * shape.row_tokens + low), maxima, (scratch.exponents, low - begin))
        scratch.page_tops[tile] = top
    return top


@embed
def maxima_begin(shape: Array, store: Array, head: int, token: int) -> Array:
    """Return where in `token_maxima` the page of a token begins."""
    return page_begin(shape, store, head, token // PAGE_TOKENS) // shape.head_dim


@embed
def weigh_split(shape: Array, rules: Array, store: Array, step: Array, scratch: Array, head: int, split: int) -> None:
    """Replace the scores of a split by weights, and add them up; decide value bits where the rule needs scores."""
    begin, end = span(shape, store, head, split)
    kind, n_tiles = rules.kind[head % shape.n_kv_heads], tiles(begin, end)
    if kind >= ONLINE:
        scratch.differences[:] = NEVER
    for i in range(shape.group):
        q = head * shape.group + i
        if kind >= ONLINE:
            _online_differences(shape, store, step, scratch, head, q, split, kind == ONLINE)
        at = q * shape.row_tokens + begin
        total = weigh((step.scores, at), (step.probs, at), n_tiles, scratch.maxima[i])
        step.split_sums[q * shape.max_splits + split] = total
    if kind >= ONLINE:
        decide_split(shape, rules, store, step, scratch, head, begin, end)


@embed
def decide_split(
    shape: Array, rules: Array, store: Array, step: Array, scratch: Array, head: int, begin: int, end: int
) -> None:
    """Write the planes and bits of a split's values, from differences that lack the tokens' maxima unless the rule is `online`."""
    kv_head = head % shape.n_kv_heads
    kind, guard_bits = rules.kind[kv_head], rules.guard_bits[kv_head]
    mask = -1 if ALIGNED_MAX <= kind <= ALIGNED_SKIP else 0
    skip_at = rules.skip_diff[kv_head] if kind == ALIGNED_SKIP else np.int64(NEVER)
    for tile in range(tiles(begin, end)):
        low = tile * PAGE_TOKENS
        decide(
            (scratch.differences, low),
            (store.token_maxima, maxima_begin(shape, store, head, begin + low)),
            (mask, guard_bits, shape.least_planes, skip_at),
            (scratch.planes, low),
            (step.value_bits, head * shape.row_tokens + begin + low),
        )
    behind = head * shape.row_tokens + end
    step.value_bits[behind : behind + -end % PAGE_TOKENS] = 0


@embed
def _online_differences(
    shape: Array, store: Array, step: Array, scratch: Array, head: int, q: int, split: int, running: Array
) -> None:
    """Lower the differences of a split to how far each token lies below the largest addend met so far by a query head."""
    begin, end = span(shape, store, head, split)
    _addends(shape, store, step, scratch, head, q, begin, end)
    top = step.seeds[q]
    if not running:
        n_splits = -(-store.lengths[head // shape.n_kv_heads] // shape.split_tokens)
        top = largest_of(step.tops, q * shape.max_splits, n_splits)
    for tile in range(tiles(begin, end)):
        top = max(top, scratch.page_tops[tile])
        low = tile * PAGE_TOKENS
        lower_running((scratch.exponents, low), top, (scratch.differences, low))


@embed
def asks_all_probs(kind: int) -> bool:
    """Whether a rule must know all probabilities before it decides the bits of any value."""
    return STATIC < kind < ONLINE


@embed
def divide_weights(shape: Array, step: Array, scratch: Array, head: int, begin: int, end: int) -> None:
    """Turn weights of some tokens into probabilities."""
    for i in range(shape.group):
        row = (step.probs, (head * shape.group + i) * shape.row_tokens + begin)
        divide(row, tiles(begin, end), scratch.sums[i])


@embed
def divide_split(shape: Array, rules: Array, store: Array, step: Array, scratch: Array, head: int, split: int) -> None:
    """Turn the weights of a split into probabilities and find what the value rule must know of them all, if it must."""
    begin, end = span(shape, store, head, split)
    kind = rules.kind[head % shape.n_kv_heads]
    if not asks_all_probs(kind):
        return  # nothing waits for them: they are divided where they are used, which spares the memory between the cores' caches one round
    divide_weights(shape, step, scratch, head, begin, end)
    for q in range(head * shape.group, (head + 1) * shape.group):
        at, place = q * shape.row_tokens + begin, q * shape.max_splits + split
        if ALIGNED_MAX <= kind <= ALIGNED_SKIP:
            top: Array = np.int32(-NEVER)
            for low in range(0, end - begin, PAGE_TOKENS):
                maxima = (store.token_maxima, maxima_begin(shape, store, head, begin + low))
                top = max(top, top_addend((step.probs, at + low), maxima))
            step.tops[place] = top
        if kind == ALIGNEDKV:
            found = (step.strongest_probs, step.strongest_tokens, place * CLASSES)
            strongest((step.probs, at), (begin, end), found)


@embed
def head_maxima(shape: Array, step: Array, scratch: Array, head: int, n_splits: int) -> None:
    """Write the largest score of each query head of a head."""
    for i in range(shape.group):
        at = (head * shape.group + i) * shape.max_splits
        scratch.maxima[i] = largest_of(step.split_maxima, at, n_splits)


@embed
def head_sums(shape: Array, step: Array, scratch: Array, head: int, n_splits: int) -> None:
    """Write the sum of weights of each query head of a head: splits in ascending order."""
    for i in range(shape.group):
        at = (head * shape.group + i) * shape.max_splits
        total = np.float32(0)
        for split in range(n_splits):
            total += step.split_sums[at + split]
        scratch.sums[i] = total
