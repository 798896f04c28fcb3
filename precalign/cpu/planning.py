"""Which tasks a decode step consists of, and which heads go through it together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.cpu.records import Plan
from precalign.cpu.rows import row_order
from precalign.cpu.values import ROW_CODES

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
    """Return which channel each place of a row of sums holds, (head_dim,): rows of 64 channels, and one of 32 at the end."""
    channels = []
    for begin in range(0, head_dim, ROW_CODES):
        order = row_order(min(ROW_CODES, head_dim - begin), bfloat=bfloat, plain=plain)
        channels += [begin + code for vector in order for code in vector]
    return np.array(channels, np.int64)
