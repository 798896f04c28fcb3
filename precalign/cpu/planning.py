"""Which tasks a decode step consists of, which heads go through it together, and what a thread needs for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.cpu.records import AHEAD, Plan, Scratch
from precalign.cpu.rows import row_order
from precalign.cpu.values import row_codes
from precalign.memory import aligned_zeros
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.cpu.records import Shape

WAVE_BYTES = 1 << 20
"""Scores of a wave, for each thread: half of what a core's second-level cache commonly holds."""


def make_plan(shape: Shape, lengths: NDArray[np.int64], threads: int, channels: NDArray[np.int64]) -> Plan:
    """List the splits of all heads, and cut the heads into waves of about `WAVE_BYTES` of scores a thread, one head at least.

    Parameters
    ----------
    shape : Shape
    lengths : ndarray[int64], (batch_size,)
    threads : int
    channels : ndarray[int64], (head_dim,)
        From `channel_order`.
    """
    splits = -(-np.repeat(lengths, shape.n_kv_heads) // shape.split_tokens)
    first_task = np.concatenate([[0], np.cumsum(splits)])
    budget = max(1, threads * WAVE_BYTES // (4 * shape.group * shape.split_tokens))
    waves = [0]
    while waves[-1] < len(splits):
        last = int(np.searchsorted(first_task, first_task[waves[-1]] + budget, side="right")) - 1
        waves.append(min(max(last, waves[-1] + 1), len(splits)))
    return Plan(first_task, np.array(waves, np.int64), channels)


def channel_order(head_dim: int, *, bfloat: bool, plain: bool) -> NDArray[np.int64]:
    """Return which channel each place of a row of sums holds, (head_dim,): row after row."""
    channels, n_codes = [], row_codes(head_dim)
    for begin in range(0, head_dim, n_codes):
        order = row_order(n_codes, bfloat=bfloat, plain=plain)
        channels += [begin + code for vector in order for code in vector]
    return np.array(channels, np.int64)


def make_scratch(shape: Shape) -> Scratch:
    """Allocate what one thread needs: kernels allocate nothing."""
    tokens, ahead = shape.split_tokens, shape.split_tokens + AHEAD
    return Scratch(
        key_planes=aligned_zeros(shape.head_dim, np.uint8),
        page=aligned_zeros(shape.group * PAGE_TOKENS, np.float32),
        maxima=aligned_zeros(shape.group, np.float32),
        sums=aligned_zeros(shape.group, np.float32),
        exponents=aligned_zeros(tokens, np.int32),
        differences=aligned_zeros(tokens, np.int32),
        page_tops=aligned_zeros(tokens // PAGE_TOKENS, np.int32),
        tokens=aligned_zeros(ahead, np.int64),
        place1=aligned_zeros(ahead, np.int64),
        place2=aligned_zeros(ahead, np.int64),
        place3=aligned_zeros(ahead, np.int64),
        planes=aligned_zeros(tokens, np.uint8),
        row=aligned_zeros(shape.head_dim, np.float32),
    )
