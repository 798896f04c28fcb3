"""One decode step over the cache, by any number of threads: phases of tasks, wave after wave of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.cpu.scoring import (
    decide_keys,
    divide_split,
    head_maxima,
    head_sums,
    page_begin,
    score_split,
    span,
    weigh_split,
)
from precalign.cpu.sync import SPACING, advance, wait_for
from precalign.cpu.weighing import add_split, combine_head, find_references
from precalign.jit import borrowing_kernel, embed
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from precalign.jit import Array

SCORE, WEIGH, DIVIDE, REFER, ADD, COMBINE = range(6)
PHASES = 6


@embed
def _head_of(plan: Array, task: int, head: int) -> int:
    """Return the head that a task belongs to, at or behind `head`."""
    while plan.first_task[head + 1] <= task:
        head += 1
    return head


@embed
def _enter_head(
    shape: Array, rules: Array, store: Array, step: Array, scratch: Array, head: int, n_splits: int, phase: int
) -> None:
    """Work out what a thread must know of a head before its first task there."""
    if phase == SCORE:
        decide_keys(shape, rules, store, step, head, scratch.key_planes)
        for d in range(shape.head_dim):
            step.key_bits[head * shape.head_dim + d] = 4 + 4 * scratch.key_planes[d]
    elif phase == WEIGH:
        head_maxima(shape, step, scratch, head, n_splits)
    elif phase in (DIVIDE, ADD):
        head_sums(shape, step, scratch, head, n_splits)


@embed
def _splits(
    bfloat: Array,
    shape: Array,
    rules: Array,
    store: Array,
    plan: Array,
    step: Array,
    scratch: Array,
    counters: Array,
    cell: int,
    heads: Array,
    phase: int,
) -> None:
    """Take splits of the wave until none is left."""
    first, last = plan.first_task[heads[0]], plan.first_task[heads[1]]
    task = first + advance(counters, cell)
    head, entered = heads[0], -1
    while task < last:
        # The next task is taken before this one is done, so that its first page can be prefetched.
        following = first + advance(counters, cell)
        head = _head_of(plan, task, head)
        split, n_splits = task - plan.first_task[head], plan.first_task[head + 1] - plan.first_task[head]
        if head != entered:
            _enter_head(shape, rules, store, step, scratch, head, n_splits, phase)
            entered = head
        if phase in (SCORE, ADD):
            next_head = _head_of(plan, following, head) if following < last else head
            next_split = following - plan.first_task[next_head] if following < last else split
            begin, _ = span(shape, store, next_head, next_split)
            next_at = page_begin(shape, store, next_head, begin // PAGE_TOKENS)
            if phase == SCORE:
                score_split(bfloat, shape, rules, store, step, scratch, head, split, next_at)
            else:
                add_split(bfloat, shape, rules, store, step, scratch, head, split, next_at)
        elif phase == WEIGH:
            weigh_split(shape, rules, store, step, scratch, head, split)
        else:
            divide_split(shape, rules, store, step, scratch, head, split)
        advance(counters, cell + SPACING)
        task = following
    wait_for(counters, cell + SPACING, last - first)


@embed
def _heads(
    bfloat: Array,
    shape: Array,
    rules: Array,
    store: Array,
    plan: Array,
    step: Array,
    scratch: Array,
    counters: Array,
    cell: int,
    heads: Array,
    phase: int,
) -> None:
    """Take heads of the wave until none is left."""
    head = heads[0] + advance(counters, cell)
    while head < heads[1]:
        n_splits = plan.first_task[head + 1] - plan.first_task[head]
        if n_splits > 0 and phase == REFER:
            find_references(bfloat, shape, rules, store, plan, step, scratch, head, n_splits)
        elif n_splits > 0:
            combine_head(shape, plan, step, scratch, head, n_splits)
        advance(counters, cell + SPACING)
        head = heads[0] + advance(counters, cell)
    wait_for(counters, cell + SPACING, heads[1] - heads[0])


@borrowing_kernel
def attend(
    bfloat: Array,
    shape: Array,
    rules: Array,
    store: Array,
    plan: Array,
    step: Array,
    scratch: Array,
    counters: Array,
) -> None:
    """Do what is left of a decode step, together with all threads that were given the same counters.

    Parameters
    ----------
    bfloat : None or int
        A marker: its type selects binary16 or bfloat16.
    shape, rules, store, plan, step : Shape, HeadRules, Store, Plan, Step
    scratch : Scratch
        Of this thread alone.
    counters : int64, (n_waves * PHASES * 2 * SPACING,)
        Zeros before the first thread.
    """
    for wave in range(len(plan.waves) - 1):
        heads = (plan.waves[wave], plan.waves[wave + 1])
        for phase in range(PHASES):
            cell = (wave * PHASES + phase) * 2 * SPACING
            if phase in (REFER, COMBINE):
                _heads(bfloat, shape, rules, store, plan, step, scratch, counters, cell, heads, phase)
            else:
                _splits(bfloat, shape, rules, store, plan, step, scratch, counters, cell, heads, phase)
