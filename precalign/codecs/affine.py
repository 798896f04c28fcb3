"""Uniform quantisation with a minimum and a step, which several codecs share: x is about minimum + code * step."""

from __future__ import annotations

import numpy as np

from precalign.codecs.half import round_half
from precalign.jit import Array, inline, kernel

LARGEST_BINARY16 = np.float32(65504)


@inline
def in_range(x: Array, is_bfloat16: Array) -> Array:
    """Round to the 16-bit format; a rotation may have carried a number beyond binary16: then its largest."""
    rounded = round_half(x, is_bfloat16)
    return rounded if is_bfloat16 else min(max(rounded, -LARGEST_BINARY16), LARGEST_BINARY16)


@kernel
def affine_encode(
    groups: Array, bits: int, is_bfloat16: Array, stepwise: Array, codes: Array, steps: Array, lows: Array
) -> None:
    """Quantise each group by its own minimum and maximum.

    step = (max - min) / (2^bits - 1); code = RNE(clamp((x - min) / step, 0, 2^bits - 1)). A constant group has step 0 and codes 0.

    Parameters
    ----------
    groups : ndarray[float32], (n_groups, size)
    bits : int
        1 to 8.
    is_bfloat16 : bool
        Whether steps and minima are kept as bfloat16, else binary16.
    stepwise : bool
        Every operation is rounded to that format, as 16-bit tensor code does it; else only what is kept.
    codes : ndarray[uint8], (n_groups, size)
    steps, lows : ndarray[float32], (n_groups,)
    """
    top = np.float32((1 << bits) - 1)
    for g in range(groups.shape[0]):
        row, out = groups[g], codes[g]
        least, most = row[0], row[0]
        for i in range(len(row)):
            least, most = min(least, row[i]), max(most, row[i])
        least, most = in_range(least, is_bfloat16), in_range(most, is_bfloat16)
        spread = most - least
        if stepwise:
            spread = round_half(spread, is_bfloat16)
        step = round_half(spread / top, is_bfloat16)
        steps[g], lows[g] = step, least
        if not step > 0 or step == np.inf:
            steps[g] = 0
            out[:] = 0
            continue
        if stepwise:
            for i in range(len(row)):
                scaled = round_half(round_half(row[i] - least, is_bfloat16) / step, is_bfloat16)
                out[i] = np.uint8(np.rint(min(max(scaled, np.float32(0)), top)))
        else:
            for i in range(len(row)):
                out[i] = np.uint8(np.rint(min(max((row[i] - least) / step, np.float32(0)), top)))


@kernel
def affine_decode(codes: Array, steps: Array, lows: Array, is_bfloat16: Array, stepwise: Array, out: Array) -> None:
    """Write minimum + code * step, float32 (n_groups, size); with `stepwise` both operations round to 16 bits."""
    for g in range(codes.shape[0]):
        step, low, row, to = steps[g], lows[g], codes[g], out[g]
        if stepwise:
            for i in range(len(row)):
                to[i] = round_half(round_half(np.float32(row[i]) * step, is_bfloat16) + low, is_bfloat16)
        else:
            for i in range(len(row)):
                to[i] = np.float32(row[i]) * step + low
