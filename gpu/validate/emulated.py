"""What the emulator says of one kv head of one sequence: every buffer that the kernels fill, in the kernels' layout.

Nothing here is shared with the kernels: the emulator (`precalign.block`) is NumPy and numba, proven against rationals of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.block import Block, Reads
from precalign.counts import window_max
from precalign.inputs import HeadInputs, Steps
from precalign.layouts import Layout
from precalign.planes import PAGE_TOKENS, split_keys, split_values
from precalign.rules import get_rule
from precalign.traffic import key_transfer, prepass_transfer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.gpu.kernels import KernelConfig
    from precalign.rules import Rule

WIDTHS = (8, 4, 4)
SECTOR_BYTES = 32


@dataclass(frozen=True)
class Emulated:
    """One kv head of one sequence.

    Attributes
    ----------
    planes : dict of str to ndarray[uint8]
        key_first, ... (n_pages, head_dim, bytes of 64 tokens); value_first, ... (seq_len, bytes of a row).
    maxima : dict of str to ndarray[uint8]
        key_maxima, value_maxima (head_dim,), token_maxima (seq_len,): biased exponents, 1 for subnormals and zero.
    key_bits, value_bits : ndarray[uint8], (head_dim,), (seq_len,)
    scores, probs : ndarray[float32], (group, seq_len)
    outputs : ndarray[float32], (group, head_dim)
    sectors : dict of str to int
        32-byte sectors that the planes deliver to `key_scores`, `softmax` (the pre-pass) and `values`.
    """

    planes: dict[str, NDArray[np.uint8]]
    maxima: dict[str, NDArray[np.uint8]]
    key_bits: NDArray[np.uint8]
    value_bits: NDArray[np.uint8]
    scores: NDArray[np.float32]
    probs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    sectors: dict[str, int]


def rule_of(config: KernelConfig) -> Rule | None:
    """Return the emulator's rule, None for `static`, whose bits are given."""
    if config.rule == "static":
        return None
    parameters = [] if config.rule == "full" else [f"guard_bits={config.guard_bits}"]
    if config.rule == "aligned-skip":
        parameters.append(f"threshold={config.skip_diff}")
    return get_rule(f"{config.rule}:{','.join(parameters)}")


def emulate(
    config: KernelConfig,
    keys: NDArray[Any],
    values: NDArray[Any],
    queries: NDArray[Any],
    scale: float,
    static_bits: tuple[int, int] | None,
) -> Emulated:
    """Emulate one decode step of one kv head.

    Parameters
    ----------
    config : KernelConfig
    keys, values : ndarray[uint16], (seq_len, head_dim)
    queries : ndarray[uint16], (group, head_dim)
    scale : float
        Of the scores.
    static_bits : (int, int) or None
        Bits of keys and of values for the rule `static`.
    """
    fmt, rule = config.format, rule_of(config)
    layout = Layout("8|4|4", fmt, WIDTHS, skip=rule is not None and rule.needs_skip)
    inputs = HeadInputs(keys, values, queries[:, None, :], fmt, scale)
    steps = Steps(*(np.array([n], np.int64) for n in (0, 0, len(keys))))
    block = Block(Reads(inputs, layout), steps, config.split_tokens)

    key_levels = (
        _fixed(layout, static_bits, 0, (1, block.head_dim)) if rule is None else rule.key_levels(block.key_view())
    )
    (scores,), exact = block.scores([key_levels])
    raw_scores = scores.copy()
    probs = block.softmax(scores)
    value_max = window_max(inputs.value_exponents, *block.window)
    view = block.value_view(probs, value_max)
    prepass = None if rule is None else rule.prepass_tokens(view)
    value_levels = _fixed(layout, static_bits, 1, probs.shape[1:]) if rule is None else rule.value_levels(view, prepass)
    (outputs,), _ = block.outputs([probs], [value_levels], exact)

    seq_len, levels = len(keys), np.array(layout.levels, np.uint8)
    key_bits, value_bits = levels[key_levels[0]], levels[value_levels[0, :seq_len]]
    planes = dict(zip(("key_first", "key_second", "key_third"), split_keys(keys, layout), strict=True))
    planes |= zip(("value_first", "value_second", "value_third"), split_values(values, layout), strict=True)
    return Emulated(
        planes=planes,
        maxima={
            "key_maxima": _biased(inputs.key_exponents.max(axis=0), fmt.bias),
            "value_maxima": _biased(value_max[0], fmt.bias),
            "token_maxima": _biased(inputs.value_exponents.max(axis=1), fmt.bias),
        },
        key_bits=key_bits,
        value_bits=value_bits,
        scores=raw_scores[:, 0, :seq_len],
        probs=probs[:, 0, :seq_len],
        outputs=outputs[:, 0],
        sectors={
            "key_scores": int(key_transfer(key_levels, layout, steps.first, steps.visible).sectors[0]),
            "softmax": 0 if prepass is None else int(prepass_transfer(prepass, layout, block.head_dim).sectors[0]),
            "values": value_row_sectors(value_bits, block.head_dim),
        },
    )


def _fixed(layout: Layout, static_bits: tuple[int, int] | None, side: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    assert static_bits is not None  # noqa: S101 - the rule `static` comes with its bits
    return np.full(shape, layout.levels.index(static_bits[side]), np.uint8)


def _biased(exponents: NDArray[Any], bias: int) -> NDArray[np.uint8]:
    return (exponents.astype(np.int64) + bias).astype(np.uint8)


def value_row_sectors(bits: NDArray[np.uint8], head_dim: int) -> int:
    """Return the sectors of value rows read one by one, from (seq_len,) bits of each token.

    A row of a plane is one access, so a sector that two rows share (head_dim 96, whose 4-bit rows are 48 bytes) counts twice. Where
    rows fill whole sectors it is what `precalign.traffic.value_transfer` counts, which takes every sector once.
    """
    total, end = 0, 0
    rows = np.arange(len(bits)) % PAGE_TOKENS
    for width in WIDTHS:
        end += width
        begin = rows * (head_dim * width // 8)
        last = begin + head_dim * width // 8 - 1
        total += int((last // SECTOR_BYTES - begin // SECTOR_BYTES + 1)[bits >= end].sum())
    return total
