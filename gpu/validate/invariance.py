"""Invariance: what may not change the bits of a result, and by how much the size of a split may.

A sequence's result is a function of its own tokens, its query and `split_tokens`: the size of a split is fixed, not the number of
splits, so neither the batch, nor the slot in it, nor the pages, nor the capacity of the cache enter. Another size of split is another
order of the same sums; `split_bound` bounds the difference and `split_witness` finds the shortest sequence that shows one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.cache_inputs import PAGE_TOKENS
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.plane_cache import PlaneCache
from precalign.gpu.validate.case import Case
from precalign.gpu.validate.emulated import emulate
from precalign.gpu.validate.points import Difference, Tallies, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.gpu.devices.base import Device
    from precalign.gpu.validate.case import Codes

UNIT_ROUNDOFF = 2.0**-24
SMALLEST = 2.0**-149
SPLIT_RULES = ("full", "static")
"""Rules whose decisions do not depend on the probabilities."""


def check_invariance(case: Case, device: Callable[[], Device], tallies: Tallies) -> None:
    """Attend each sequence of a batch alone, in other slots, with other pages and capacity, and compare bit for bit."""
    codes, slots = case.codes(), list(range(case.batch_size))
    batch = _attend(case, device(), codes, slots, seed=case.seed)
    reversed_slots = slots[::-1]
    other = _attend(case, device(), codes, reversed_slots, seed=case.seed + 1, spare_pages=3)
    name = str(case)
    for slot, sequence in enumerate(reversed_slots):
        _same(tallies, name, sequence, "in another slot, with other pages and capacity", batch[sequence], other[slot])
    longest = int(np.argmax(case.lengths))
    for sequence in {longest, 0}:
        alone = _attend(case, device(), codes, [sequence], seed=case.seed + 2)
        _same(tallies, name, sequence, "alone", batch[sequence], alone[0])


def check_splits(case: Case, device: Callable[[], Device], tallies: Tallies) -> None:
    """Attend with two sizes of split and hold every difference against `split_bound`.

    Only where the bits read do not depend on the probabilities: elsewhere the last bit of one may change a decision.
    """
    if case.config.rule not in SPLIT_RULES:
        return
    other = replace(case.config, split_tokens=64 if case.config.split_tokens != 64 else 256)
    codes, slots, tally = case.codes(), list(range(case.batch_size)), tallies["splits"]
    one, two = (
        _attend(replace(case, config=config), device(), codes, slots, seed=case.seed) for config in (case.config, other)
    )
    group, static = case.config.group, case.static_bits()
    for sequence in (s for s in slots if case.lengths[s]):
        for kv_head in range(case.n_kv_heads):
            keys, values = (
                np.ascontiguousarray(side[sequence][: case.lengths[sequence], kv_head])
                for side in (codes.keys, codes.values)
            )
            heads = slice(kv_head * group, (kv_head + 1) * group)
            bits = None if static is None else (int(static[0][kv_head]), int(static[1][kv_head]))
            probs = emulate(case.config, keys, values, codes.queries[sequence, heads], case.scale, bits).probs
            # Whatever a read makes of a value, it is less than twice as large.
            bound = split_bound(
                probs, 2 * np.abs(_numbers(values, case.config)), (case.config.split_tokens, other.split_tokens)
            )
            difference = np.abs(one[sequence, heads].astype(np.float64) - two[sequence, heads])
            beyond = difference > bound
            tally.checked += beyond.size
            if beyond.any():
                tally.failed += int(beyond.sum())
                head, channel = (int(i) for i in np.argwhere(beyond)[0])
                where = {"sequence": sequence, "kv head": kv_head, "query head": head, "channel": channel}
                most, got = f"at most {bound[head, channel]:.3g}", f"{difference[head, channel]:.3g}"
                tally.first = tally.first or Difference(str(case), where, most, got)


def _same(tallies: Tallies, case: str, sequence: int, what: str, one: NDArray[Any], two: NDArray[Any]) -> None:
    place, axes = {"sequence": sequence}, ("query head", "channel")
    compare(tallies["invariance"], case, place, axes, one, two, lambda _: [f"expected: in its batch; got: {what}"])


def _attend(
    case: Case, device: Device, codes: Codes, slots: Sequence[int], *, seed: int, spare_pages: int = 0
) -> NDArray[np.float32]:
    """Store whole sequences in the given slots and attend once, (len(slots), n_q_heads, head_dim)."""
    lengths = [case.lengths[sequence] for sequence in slots]
    capacity = max(1, -(-max(lengths) // PAGE_TOKENS)) + spare_pages
    static = case.static_bits()
    cache = PlaneCache(
        case.config,
        n_kv_heads=case.n_kv_heads,
        batch_size=len(slots),
        max_tokens=capacity * PAGE_TOKENS,
        device=device,
        scale=codes.scale,
        page_order=np.random.default_rng(seed).permutation(capacity * len(slots)).tolist(),
        key_bits=None if static is None else static[0],
        value_bits=None if static is None else static[1],
    )
    keys, values = (
        np.concatenate([side[sequence][: case.lengths[sequence]] for sequence in slots])
        for side in (codes.keys, codes.values)
    )
    cache.append(keys, values, lengths)
    outputs: NDArray[np.float32] = device.download(cache.attend(np.ascontiguousarray(codes.queries[list(slots)])))
    return outputs


def rounding_factor(seq_len: int, split_tokens: int) -> float:
    """Return G with |o_c - exact| <= G sum_t p_t |v_tc| for the stated order, given the weights w_t.

    The sum of the weights is a sum of positive numbers in which each passes at most D_l additions, so l = l_exact (1 + a),
    |a| <= gamma(D_l); p = w / l adds one rounding; each product passes at most D_o roundings of the fused multiply-adds
    and of the addition of splits. gamma(k) = k u / (1 - k u) (Higham, Accuracy and Stability, 3.1). Underflow is bounded apart.
    """
    in_split = min(seq_len, split_tokens)
    n_splits = -(-seq_len // split_tokens)
    sum_depth = -(-in_split // 64) + 6 + n_splits
    output_depth = in_split + n_splits
    roundings = (2 * sum_depth + 1 + output_depth) * UNIT_ROUNDOFF  # 2: of l as a divisor, (1 + a)^-1 <= 1 + 2 |a|
    return roundings / (1 - roundings)


def split_bound(
    probs: NDArray[np.float32], values: NDArray[np.float64], split_sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Return a proven bound on |o_c - o'_c| of two split sizes, (group, head_dim).

    Parameters
    ----------
    probs : ndarray[float32], (group, seq_len)
        Of either size; those of the other are within `rounding_factor` of them.
    values : ndarray[float64], (seq_len, head_dim)
        As read.
    split_sizes : sequence of int
        The two.
    """
    seq_len = len(values)
    factor = sum(rounding_factor(seq_len, size) for size in split_sizes)
    weights = probs.astype(np.float64) * (1 + 2 * factor)
    bound: NDArray[np.float64] = factor * (weights @ np.abs(values))
    # A product or quotient that underflows loses at most half the smallest subnormal; binary64 rounds the sums above.
    underflow = 4 * seq_len * SMALLEST * (1 + np.abs(values).max(initial=0.0))
    safe: NDArray[np.float64] = bound * (1 + 2.0**-40) + underflow
    return safe


@dataclass(frozen=True)
class Witness:
    """The shortest sequence found whose result depends on the order of its sums.

    Attributes
    ----------
    between : str
        The two orders.
    format : str
    seq_len, channel : int
    outputs : (float, float)
    bound : float
    tried : int
        Sequences of each length up to this one that were tried.
    """

    between: str
    format: str
    seq_len: int
    channel: int
    outputs: tuple[float, float]
    bound: float
    tried: int


def witnesses(fmt: Format) -> list[Witness]:
    """Return what shows that results depend on the size of a split, and on the number of passes."""
    config = KernelConfig(64, 1, fmt, "full")
    return [w for w in (split_witness(config), pass_witness(config)) if w is not None]


def split_witness(config: KernelConfig, sizes: tuple[int, int] = (64, 128), tries: int = 8) -> Witness | None:
    """Search sequences of growing length for the shortest whose output differs between two sizes of split.

    Up to the smaller size both orders are the same; the search begins there and ends at twice the larger one.
    """
    one, two = (replace(config, rule="full", group=1, split_tokens=size) for size in sizes)

    def bound(probs: NDArray[np.float32], values: NDArray[np.float64]) -> NDArray[np.float64]:
        return split_bound(probs, values, sizes)

    between = f"splits of {sizes[0]} and {sizes[1]} tokens"
    return _witness(between, one, two, range(min(sizes), 2 * max(sizes) + 1), tries, bound)


def pass_witness(config: KernelConfig, tries: int = 8) -> Witness | None:
    """Search for the shortest sequence whose output differs between one pass and two."""
    one, two = (replace(config, rule="full", group=1, one_pass=once) for once in (False, True))
    return _witness("two passes and one", one, two, range(1, 2 * config.split_tokens), tries, None)


def _witness(
    between: str,
    first: KernelConfig,
    second: KernelConfig,
    lengths: Sequence[int],
    tries: int,
    bound: Callable[[NDArray[np.float32], NDArray[np.float64]], NDArray[np.float64]] | None,
) -> Witness | None:
    for seq_len in lengths:
        for seed in range(tries):
            codes = Case(first, n_kv_heads=1, appends=((seq_len,),), seed=seed).codes()
            keys, values, queries = codes.keys[0][:, 0], codes.values[0][:, 0], codes.queries[0]
            emulated = [emulate(c, keys, values, queries, c.head_dim**-0.5, None) for c in (first, second)]
            one, two = (e.outputs[0] for e in emulated)
            unequal = np.flatnonzero(one.view(np.uint32) != two.view(np.uint32))
            if unequal.size:
                channel, once = int(unequal[0]), emulated[1].once
                if once is not None:
                    most = once.bound
                else:
                    assert bound is not None  # noqa: S101 - only the orders of one pass bring a bound of their own
                    most = bound(emulated[0].probs, _numbers(values, first))
                outputs = float(one[channel]), float(two[channel])
                name = first.format.name
                return Witness(between, name, seq_len, channel, outputs, float(most[0, channel]), seed + 1)
    return None


def _numbers(codes: NDArray[Any], config: KernelConfig) -> NDArray[np.float64]:
    from precalign.decode.codes import to_binary32

    return to_binary32(codes, config.format).astype(np.float64)
