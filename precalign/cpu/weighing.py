"""Second half of a decode step: value bits and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.cpu.records import (
    AHEAD,
    ALIGNED_MAX,
    ALIGNED_SKIP,
    ALIGNEDKV,
    CLASSES,
    FULL,
    ONLINE,
    STATIC,
)
from precalign.cpu.scoring import asks_all_probs, decide_split, divide_weights, largest_of, page_begin, span, tiles
from precalign.cpu.tokens import lower_differences
from precalign.cpu.values import ROW_CODES, add_values
from precalign.jit import embed
from precalign.planes import PAGE_TOKENS
from precalign.rules.base import NEVER, prob_exponent

if TYPE_CHECKING:
    from precalign.jit import Array


@embed
def _row_begin(shape: Array, store: Array, head: int, token: Array) -> Array:
    """Return the number of the first code of a token's first row of values."""
    return page_begin(shape, store, head, token // PAGE_TOKENS) + token % PAGE_TOKENS * shape.row_codes


@embed
def find_references(
    bfloat: Array,
    shape: Array,
    rules: Array,
    store: Array,
    plan: Array,
    step: Array,
    scratch: Array,
    head: int,
    n_splits: int,
) -> None:
    """Write for each query head the exponent from which a token's difference is taken."""
    kind = rules.kind[head % shape.n_kv_heads]
    for q in range(head * shape.group, (head + 1) * shape.group):
        if ALIGNED_MAX <= kind <= ALIGNED_SKIP:
            step.references[q] = largest_of(step.tops, q * shape.max_splits, n_splits)
        elif kind == ALIGNEDKV:
            step.references[q] = _margin(bfloat, shape, store, plan, step, scratch, head, q, n_splits)


@embed
def _margin(
    bfloat: Array,
    shape: Array,
    store: Array,
    plan: Array,
    step: Array,
    scratch: Array,
    head: int,
    q: int,
    n_splits: int,
) -> Array:
    """Return min_c (E(o_c) - max_t E(v_tc)), with o the sum of p |v| over the strongest token of each class, read at the first level."""
    begin = q * shape.max_splits * CLASSES
    best, where = step.strongest_probs[begin : begin + CLASSES], step.strongest_tokens[begin : begin + CLASSES]
    for split in range(1, n_splits):
        at = begin + split * CLASSES
        for j in range(CLASSES):
            if step.strongest_probs[at + j] > best[j]:
                best[j] = step.strongest_probs[at + j]
                where[j] = step.strongest_tokens[at + j]
    n = 0
    for j in range(CLASSES):
        if where[j] >= 0:
            place = _row_begin(shape, store, head, np.int64(where[j]))
            scratch.place1[n], scratch.place2[n] = place, place >> 1
            scratch.tokens[n] = where[j]
            n += 1
    row = scratch.row
    row[:] = 0
    planes = (store.value_first, store.value_second, store.value_third)
    reads = (scratch.place1, scratch.place2, scratch.place3, shape.least_planes, 0, n, 0)
    weights, out = (scratch.tokens, step.probs, q * shape.row_tokens, 0), (row, 0, 0)
    for channel in range(0, shape.head_dim, shape.row_codes):
        if shape.row_codes == ROW_CODES[0]:
            add_values(1, 1, ROW_CODES[0], 1, bfloat, planes, reads, channel, weights, out)
        else:
            add_values(1, 1, ROW_CODES[1], 1, bfloat, planes, reads, channel, weights, out)
    margin, maxima = np.int32(NEVER), store.value_maxima[head * shape.head_dim : (head + 1) * shape.head_dim]
    for i in range(shape.head_dim):
        largest = np.int32(maxima[plan.channels[i]]) - np.int32(shape.bias)
        margin = min(margin, np.int32(prob_exponent(row[i]) - largest))
    return margin


@embed
def _token_planes(
    shape: Array, rules: Array, store: Array, step: Array, scratch: Array, head: int, begin: int, end: int
) -> None:
    """Write how many planes of each token of a split are read, the widest need of the group; 0 leaves the token out."""
    kv_head, planes = head % shape.n_kv_heads, scratch.planes[: end - begin]
    bits = step.value_bits[head * shape.row_tokens + begin : head * shape.row_tokens + end]
    kind = rules.kind[kv_head]
    if kind <= STATIC:
        planes[:] = 3 if kind == FULL else rules.value_planes[kv_head]
        bits[:] = 4 + 4 * planes[0]
    elif kind >= ONLINE:  # decided before the scores were replaced
        for t in range(len(planes)):
            planes[t] = (bits[t] - 4) // 4
    else:
        scratch.differences[:] = NEVER
        for q in range(head * shape.group, (head + 1) * shape.group):
            row = (step.probs, q * shape.row_tokens + begin)
            lower_differences(row, tiles(begin, end), step.references[q], (scratch.differences, 0))
        decide_split(shape, rules, store, step, scratch, head, begin, end)


@embed
def _uniform(planes: Array) -> Array:
    """Return how many planes all of some tokens are read from, 0 where that differs or one is left out."""
    least = most = planes[0]
    for i in range(len(planes)):
        least, most = min(least, planes[i]), max(most, planes[i])
    return np.int64(least) if least == most else 0


@embed
def _places(shape: Array, store: Array, scratch: Array, head: int, begin: int, end: int, uniform: int) -> Array:
    """Write which tokens of a split are read, and where; return how many.

    A row of nibbles that is not read has its place among the constants behind the planes.
    """
    row, page = shape.row_codes // 2, PAGE_TOKENS * shape.head_dim // 2
    eights, zeros = len(store.value_second) - page, len(store.value_third) - page
    n: Array = 0
    for low in range(begin, end, PAGE_TOKENS):
        place = page_begin(shape, store, head, low // PAGE_TOKENS)
        count = min(PAGE_TOKENS, end - low)
        if uniform > 0:  # planes that are not read are not looked for either
            for i in range(count):
                scratch.tokens[n + i] = low + i
                scratch.place1[n + i] = place + i * shape.row_codes
                scratch.place2[n + i] = (place >> 1) + i * row
                scratch.place3[n + i] = (place >> 1) + i * row
            n += count
        else:
            for token in range(low, low + count):
                planes = scratch.planes[token - begin]
                scratch.tokens[n], scratch.place1[n], scratch.planes[n] = token, place, planes
                scratch.place2[n] = place >> 1 if planes > 1 else eights
                unread = zeros - page if planes == 2 else zeros
                scratch.place3[n] = place >> 1 if planes > 2 else unread
                # Written all the same, and written over by the next token: cheaper than a branch that cannot be foretold.
                n += np.int64(planes > 0)
                place += shape.row_codes
    return n


@embed
def _places_ahead(shape: Array, store: Array, scratch: Array, n: int, next_at: int) -> None:
    """Write behind the tokens of a split where the first page of the next one lies, to be prefetched."""
    row, page = shape.row_codes // 2, PAGE_TOKENS * shape.head_dim // 2
    eights, zeros = len(store.value_second) - page, len(store.value_third) - page
    planes = scratch.planes[max(n - 1, 0)]  # a guess: as many as the last token
    second, second_step = (next_at >> 1, row) if planes > 1 else (eights, 0)
    third, third_step = (next_at >> 1, row) if planes > 2 else (zeros, 0)
    for i in range(AHEAD):
        scratch.place1[n + i] = next_at + i * shape.row_codes
        scratch.place2[n + i] = second + i * second_step
        scratch.place3[n + i] = third + i * third_step


@embed
def _sum_tokens(
    bfloat: Array, shape: Array, planes: Array, reads: Array, step: Array, tokens: Array, q: int, split: int
) -> None:
    """Add tokens to a split's part of the outputs; sums of 16 vectors are what the registers hold beside the values."""
    stride, head_dim = shape.max_splits * shape.head_dim, shape.head_dim
    i = 0
    while i < shape.group:
        heads = 4 if i + 4 <= shape.group else min(2, shape.group - i)
        weights = (tokens, step.probs, (q + i) * shape.row_tokens, shape.row_tokens)
        out = (step.partials, ((q + i) * shape.max_splits + split) * head_dim, stride)
        wide, narrow = ROW_CODES
        channel = 0
        while channel < head_dim:
            several = channel + 2 * wide <= head_dim and shape.row_codes == wide
            if shape.row_codes == narrow:
                if heads == 4:
                    add_values(4, 1, ROW_CODES[1], 0, bfloat, planes, reads, channel, weights, out)
                elif heads == 2:
                    add_values(2, 1, ROW_CODES[1], 0, bfloat, planes, reads, channel, weights, out)
                else:
                    add_values(1, 1, ROW_CODES[1], 0, bfloat, planes, reads, channel, weights, out)
            elif heads == 4:
                add_values(4, 1, ROW_CODES[0], 0, bfloat, planes, reads, channel, weights, out)
            elif heads == 2 and several:
                add_values(2, 2, ROW_CODES[0], 0, bfloat, planes, reads, channel, weights, out)
            elif heads == 2:
                add_values(2, 1, ROW_CODES[0], 0, bfloat, planes, reads, channel, weights, out)
            elif several:
                add_values(1, 2, ROW_CODES[0], 0, bfloat, planes, reads, channel, weights, out)
            else:
                add_values(1, 1, ROW_CODES[0], 0, bfloat, planes, reads, channel, weights, out)
            channel += 2 * wide if several and heads < 4 else shape.row_codes
        i += heads


@embed
def add_split(
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
    """Decide the value bits of a split and write its part of the outputs."""
    begin, end = span(shape, store, head, split)
    if not asks_all_probs(rules.kind[head % shape.n_kv_heads]):
        divide_weights(shape, step, scratch, head, begin, end)
    _token_planes(shape, rules, store, step, scratch, head, begin, end)
    uniform = _uniform(scratch.planes[: end - begin])
    n_tokens = _places(shape, store, scratch, head, begin, end, uniform)
    _places_ahead(shape, store, scratch, n_tokens, next_at)
    planes = (store.value_first, store.value_second, store.value_third)
    q = head * shape.group
    for i in range(shape.group):
        at = ((q + i) * shape.max_splits + split) * shape.head_dim
        step.partials[at : at + shape.head_dim] = 0
    for low in range(0, n_tokens, PAGE_TOKENS):
        n = min(PAGE_TOKENS, n_tokens - low)
        # Tokens of different widths are read as if whole: rows of constants stand in for what is not read.
        n_planes = uniform if uniform > 0 else _uniform(scratch.planes[low : low + n])
        n_planes = n_planes if n_planes > 0 else 3
        reads = (scratch.place1, scratch.place2, scratch.place3, n_planes, low, n, AHEAD)
        _sum_tokens(bfloat, shape, planes, reads, step, scratch.tokens, q, split)


@embed
def combine_head(shape: Array, plan: Array, step: Array, scratch: Array, head: int, n_splits: int) -> None:
    """Add the parts of the outputs, splits in ascending order, and put the channels in order."""
    head_dim, row = shape.head_dim, scratch.row
    for q in range(head * shape.group, (head + 1) * shape.group):
        row[:] = 0
        for split in range(n_splits):
            at = (q * shape.max_splits + split) * head_dim
            part = step.partials[at : at + head_dim]
            for i in range(head_dim):
                row[i] += part[i]
        for i in range(head_dim):
            step.outputs[q * head_dim + plan.channels[i]] = row[i]
