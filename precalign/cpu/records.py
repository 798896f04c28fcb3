"""What the kernels are given: arrays under their names. All but the block table are flat; shapes are how they are indexed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from precalign.jit import Array

FULL, STATIC, ALIGNEDKV, ALIGNED_MAX, ALIGNED_SKIP, ONLINE, ONLINE_TWO_PASS = range(7)
"""Kernels compare them: up to STATIC nothing is decided at run time, from ONLINE on value bits follow from scores."""
CLASSES = 32
"""Strided groups of the pre-pass of `alignedkv`."""
AHEAD = PAGE_TOKENS
"""Tokens of values between a prefetch and the read."""


class Shape(NamedTuple):
    """Numbers that hold for the whole cache.

    Attributes
    ----------
    head_dim, group, n_kv_heads, n_pages : int
    row_codes : int
        Channels of a token's values that lie side by side.
    row_tokens : int
        Tokens to a row of scores, probs and value_bits: the capacity, in whole pages.
    split_tokens, max_splits : int
    least_planes : int
        Planes that hold sign and exponent: 1 for binary16, 2 for bfloat16.
    exponent_shift, exponent_mask, bias : int
        Where a code's exponent lies.
    scale : float32
    """

    head_dim: int
    group: int
    n_kv_heads: int
    n_pages: int
    row_codes: int
    row_tokens: int
    split_tokens: int
    max_splits: int
    least_planes: int
    exponent_shift: int
    exponent_mask: int
    bias: int
    scale: Array


class HeadRules(NamedTuple):
    """The rule of each kv head: int64 arrays (n_kv_heads,).

    Attributes
    ----------
    kind : one of FULL ... ONLINE_TWO_PASS
    guard_bits, skip_diff : parameters; `skip_diff` counts for ALIGNED_SKIP
    key_planes, value_planes : planes that STATIC reads
    """

    kind: Array
    guard_bits: Array
    skip_diff: Array
    key_planes: Array
    value_planes: Array


class Store(NamedTuple):
    """The cache. Pages of a head follow each other, so that one that is read leads to the next.

    Attributes
    ----------
    key_first, key_second, key_third : uint8, (n_kv_heads, n_pages, head_dim, 64 or 32)
        Or all three one uint16 array of whole codes.
    value_first, value_second, value_third : uint8, (n_kv_heads, n_pages, head_dim / row_codes, 64, row_codes or half as many)
        Or one uint16 array. Behind the planes of nibbles lie pages of constants, which stand in for rows that are not read: all 8s, in the
        third plane followed by all 0s.
    key_maxima, value_maxima : uint8, (batch_size, n_kv_heads, head_dim)
    token_maxima : uint8, (n_kv_heads, n_pages, 64)
        Largest biased exponents; 1 for subnormals and zero, 0 for nothing yet.
    block_table : int32, (batch_size, max_pages)
    lengths : int64, (batch_size,)
    """

    key_first: Array
    key_second: Array
    key_third: Array
    value_first: Array
    value_second: Array
    value_third: Array
    key_maxima: Array
    value_maxima: Array
    token_maxima: Array
    block_table: Array
    lengths: Array


class Plan(NamedTuple):
    """Which tasks there are.

    Attributes
    ----------
    first_task : int64, (n_heads + 1,)
        Tasks of a phase counted through; a task is a split of a head, a head a kv head of a sequence.
    waves : int64, (n_waves + 1,)
        First head of each wave: heads whose scores stay in the caches of the cores until they are read again.
    channels : int64, (head_dim,)
        Which channel each place of a row of sums holds.
    """

    first_task: Array
    waves: Array
    channels: Array


class Step(NamedTuple):
    """What a decode step is given and works out; q is a query head of a sequence, counted through.

    Attributes
    ----------
    queries : float32, (n_heads, head_dim, group)
    query_exponents : int64, (n_heads, group, head_dim)
        Biased.
    key_bits : uint8, (n_heads, head_dim)
    value_bits : uint8, (n_heads, row_tokens)
    scores, probs : float32, (n_q, row_tokens)
        May be one array: scores are then replaced.
    split_maxima, split_sums : float32, (n_q, max_splits)
        Of scores and of weights.
    tops : int32, (n_q, max_splits)
        Largest exponent of an addend in a split.
    seeds, references : int32, (n_q,)
        Of `online`: largest exponent in the newest page; of the others: the exponent from which differences are taken.
    strongest_probs, strongest_tokens : float32 and int32, (n_q, max_splits, 32)
        Of `alignedkv`, by split; a token of -1 is none. Of one element where no head follows it.
    partials : float32, (n_q, max_splits, head_dim)
        Channels in the order of `Plan.channels`.
    outputs : float32, (n_q, head_dim)
    """

    queries: Array
    query_exponents: Array
    key_bits: Array
    value_bits: Array
    scores: Array
    probs: Array
    split_maxima: Array
    split_sums: Array
    tops: Array
    seeds: Array
    references: Array
    strongest_probs: Array
    strongest_tokens: Array
    partials: Array
    outputs: Array


class Scratch(NamedTuple):
    """What a thread needs for itself.

    Attributes
    ----------
    key_planes : uint8, (head_dim,)
    page : float32, (group, 64)
        Scores of a page that the sequence fills in part.
    maxima, sums : float32, (group,)
        Of the current head's scores and weights.
    exponents, differences : int32, (split_tokens,)
    page_tops : int32, (split_tokens / 64,)
        Largest exponent of each page.
    tokens, place1, place2, place3 : int64, (split_tokens + 64,)
        Tokens of a split that are read, and where.
    planes : uint8, (split_tokens,)
    row : float32, (head_dim,)
    """

    key_planes: Array
    page: Array
    maxima: Array
    sums: Array
    exponents: Array
    differences: Array
    page_tops: Array
    tokens: Array
    place1: Array
    place2: Array
    place3: Array
    planes: Array
    row: Array
