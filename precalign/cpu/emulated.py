"""What the emulator says of one decode step of one kv head: every buffer that the CPU kernels fill, for tests and benchmarks.

The emulator (`precalign.block`) shares with the kernels only the few helpers that define binary32 weights and addends; it is proven against
rationals of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.block import Block, Reads
from precalign.counts import window_max
from precalign.cpu.rules import layout_of
from precalign.inputs import HeadInputs, Steps
from precalign.planes import split_keys, split_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.rules import Rule

_PLANES = ("first", "second", "third")


def emulate(
    rule: Rule,
    fmt: Format,
    split_tokens: int,
    keys: NDArray[np.uint16],
    values: NDArray[np.uint16],
    queries: NDArray[np.uint16],
    scale: float,
) -> dict[str, NDArray[Any]]:
    """Emulate one decode step.

    Parameters
    ----------
    rule : Rule
    fmt : Format
    split_tokens : int
    keys, values : ndarray[uint16], (seq_len, head_dim)
    queries : ndarray[uint16], (group, head_dim)
    scale : float

    Returns
    -------
    dict
        Buffers by the names of `CpuPlaneCache.buffer`: planes (n_pages, head_dim, ...) and (seq_len, ...); maxima, key_bits (head_dim,);
        token_maxima, value_bits (seq_len,); scores, probs (group, seq_len); outputs (group, head_dim).
    """
    layout = layout_of(rule, fmt)
    inputs = HeadInputs(keys, values, queries[:, None, :], fmt, scale)
    steps = Steps(*(np.array([n], np.int64) for n in (0, 0, len(keys))))
    block = Block(Reads(inputs, layout), steps, split_tokens)
    key_levels = rule.key_levels(block.key_view())
    (reduced,), exact = block.scores([key_levels])
    scores = reduced.copy()
    probs = block.softmax(reduced)
    value_max = window_max(inputs.value_exponents, *block.window)
    view = block.value_view(probs, value_max, scores)
    value_levels = rule.value_levels(view, rule.prepass_tokens(view))
    (outputs,), _ = block.outputs([probs], [value_levels], exact)
    n, levels = len(keys), np.array(layout.levels, np.uint8)
    return {
        **{f"key_{name}": plane for name, plane in zip(_PLANES, split_keys(keys, layout), strict=True)},
        **{f"value_{name}": plane for name, plane in zip(_PLANES, split_values(values, layout), strict=True)},
        "key_maxima": _biased(inputs.key_exponents.max(axis=0), fmt),
        "value_maxima": _biased(value_max[0], fmt),
        "token_maxima": _biased(inputs.value_exponents.max(axis=1), fmt),
        "key_bits": levels[key_levels[0]],
        "scores": scores[:, 0, :n],
        "probs": probs[:, 0, :n],
        "value_bits": levels[value_levels[0, :n]],
        "outputs": outputs[:, 0],
    }


def _biased(exponents: NDArray[Any], fmt: Format) -> NDArray[np.uint8]:
    return (exponents.astype(np.int64) + fmt.bias).astype(np.uint8)
