"""What the emulator says of one kv head of one sequence: every buffer that the kernels fill, in the kernels' layout.

Nothing here is shared with the kernels: the emulator (`precalign.block`) is NumPy and numba, proven against rationals of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.block import Block, Reads
from precalign.bounds.one_pass import one_pass_difference
from precalign.counts import window_max
from precalign.decode.codes import to_binary32
from precalign.decode.exp2 import LOG2E
from precalign.decode.one_pass import OnePass, one_pass
from precalign.inputs import HeadInputs, Steps
from precalign.layouts import Layout
from precalign.planes import PAGE_TOKENS, split_keys, split_values, truncate
from precalign.rules import get_rule
from precalign.traffic import key_transfer, prepass_transfer

if TYPE_CHECKING:
    from collections.abc import Callable

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
        32-byte sectors that the planes deliver to each kernel: `key_scores`, `softmax` (the pre-pass) and `values`, or `newest` and
        `one_pass`.
    once : Once or None
        What only a one-pass kernel computes.
    """

    planes: dict[str, NDArray[np.uint8]]
    maxima: dict[str, NDArray[np.uint8]]
    key_bits: NDArray[np.uint8]
    value_bits: NDArray[np.uint8]
    scores: NDArray[np.float32]
    probs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    sectors: dict[str, int]
    once: Once | None = None

    def buffer(self, name: str) -> NDArray[Any]:
        """Return what a buffer of `PlaneCache` must hold for this kv head, as long as the sequence is."""
        if self.once is not None and name in _ONCE_BUFFERS:
            return _ONCE_BUFFERS[name](self.once)
        held: NDArray[Any] = getattr(self, name)
        return held


@dataclass(frozen=True)
class Once:
    """What only a one-pass kernel computes.

    Attributes
    ----------
    seeds : ndarray[int32], (group,)
        Exponent of the newest page's largest addend.
    splits : OnePass
    stated : ndarray[float32], (group, head_dim)
        Outputs of the order with stored probabilities, from the same scores and reads.
    bound : ndarray[float64], (group, head_dim)
        Proven, on how far the two lie apart.
    """

    seeds: NDArray[np.int32]
    splits: OnePass
    stated: NDArray[np.float32]
    bound: NDArray[np.float64]


_ONCE_BUFFERS: dict[str, Callable[[Once], NDArray[Any]]] = {
    "references": lambda once: once.seeds,
    "split_maxima": lambda once: once.splits.maxima,
    "split_sums": lambda once: once.splits.sums,
    "partials": lambda once: once.splits.partials,
}


def rule_of(config: KernelConfig, static_bits: tuple[int, int] | None) -> Rule:
    """Return the emulator's rule."""
    if static_bits is not None:
        return get_rule(f"static:key_bits={static_bits[0]},value_bits={static_bits[1]}")
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
    fmt, rule = config.format, rule_of(config, static_bits)
    layout = Layout("8|4|4", fmt, WIDTHS, skip=rule.needs_skip)
    inputs = HeadInputs(keys, values, queries[:, None, :], fmt, scale)
    steps = Steps(*(np.array([n], np.int64) for n in (0, 0, len(keys))))
    block = Block(Reads(inputs, layout), steps, config.split_tokens)

    key_levels = rule.key_levels(block.key_view())
    (scores,), exact = block.scores([key_levels])
    raw_scores = scores.copy()
    probs = block.softmax(scores)
    value_max = window_max(inputs.value_exponents, *block.window)
    view = block.value_view(probs, value_max, raw_scores)
    prepass = rule.prepass_tokens(view)
    value_levels = rule.value_levels(view, prepass)
    (outputs,), _ = block.outputs([probs], [value_levels], exact)

    seq_len, levels = len(keys), np.array(layout.levels, np.uint8)
    key_bits, value_bits = levels[key_levels[0]], levels[value_levels[0, :seq_len]]
    planes = dict(zip(("key_first", "key_second", "key_third"), split_keys(keys, layout), strict=True))
    planes |= zip(("value_first", "value_second", "value_third"), split_values(values, layout), strict=True)
    once = _once(config, inputs, raw_scores[:, 0, :seq_len], value_levels[0, :seq_len], layout, outputs[:, 0])
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
        outputs=outputs[:, 0] if once is None else once.splits.outputs,
        sectors=_sectors(config, layout, steps, key_levels, value_bits, prepass),
        once=once,
    )


def _sectors(
    config: KernelConfig,
    layout: Layout,
    steps: Steps,
    key_levels: NDArray[np.uint8],
    value_bits: NDArray[np.uint8],
    prepass: NDArray[np.int32] | None,
) -> dict[str, int]:
    keys = int(key_transfer(key_levels, layout, steps.first, steps.visible).sectors[0])
    values = value_row_sectors(value_bits, config.head_dim)
    if config.one_pass:
        newest = (steps.visible - 1) // PAGE_TOKENS * PAGE_TOKENS
        again = int(key_transfer(key_levels, layout, newest, steps.visible).sectors[0])
        return {"newest": again if config.rule == "online" else 0, "one_pass": keys + values}
    first = 0 if prepass is None else int(prepass_transfer(prepass, layout, config.head_dim).sectors[0])
    return {"key_scores": keys, "softmax": first, "values": values}


def _once(
    config: KernelConfig,
    inputs: HeadInputs,
    scores: NDArray[np.float32],
    value_levels: NDArray[np.uint8],
    layout: Layout,
    stated: NDArray[np.float32],
) -> Once | None:
    if not config.one_pass:
        return None
    read = np.empty(inputs.values.shape, np.float32)
    for level in np.unique(value_levels).tolist():
        rows = value_levels == level
        read[rows] = to_binary32(truncate(inputs.values[rows], layout, level), config.format)
    newest = slice((len(read) - 1) // PAGE_TOKENS * PAGE_TOKENS, None)
    binades = np.floor(np.clip(scores[:, newest] * LOG2E, -(2.0**24), 2.0**24)).astype(np.int32)
    seeds = (binades + inputs.value_exponents[newest].max(axis=1).astype(np.int32)).max(axis=1)
    scores = np.ascontiguousarray(scores)
    splits = one_pass(scores, read, config.split_tokens)
    return Once(seeds, splits, stated, one_pass_difference(scores, read, config.split_tokens))


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
