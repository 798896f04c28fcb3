"""Defects that kernels of decode attention really have, each small enough for a customary tolerance to let it pass.

A defect is a side's emulation with one thing wrong. One function and one line of the registry each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from precalign.accumulate import dot
from precalign.accumulate.orders import Sequential
from precalign.decode.codes import round_to_format
from precalign.formats import BFLOAT16, BINARY16, E4M3FN, Format
from precalign.rounding import round_to
from precalign.tolerance.compare import attention
from precalign.tolerance.emulate import Emulation, Results, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.tolerance.side import Side

CUSTOMARY = 1e-2
"""rtol and atol that people write by hand."""
BLOCK = 64
SPLIT = 256


class Case(NamedTuple):
    """One query: query (head_dim,), keys and values (n_tokens, head_dim), all binary64 carriers of `storage`."""

    query: NDArray[np.float64]
    keys: NDArray[np.float64]
    values: NDArray[np.float64]
    scale: float
    storage: Format


def correct(case: Case, side: Side) -> NDArray[np.float64]:
    """Do nothing wrong."""
    return _run(case, side).outputs


def _run(case: Case, side: Side) -> Results:
    return Emulation(side, np.zeros(len(case.keys))).run(case.query, case.keys, case.values, case.scale)


def one_channel_in_fp8(case: Case, side: Side) -> NDArray[np.float64]:
    """Store the middle channel of the keys with the 3 trailing bits of e4m3."""
    keys, channel = case.keys.copy(), case.keys.shape[1] // 2
    keys[:, channel] = round_to(keys[:, channel], E4M3FN, saturate=True)
    return correct(case._replace(keys=keys), side)


def token_before_a_split_skipped(case: Case, side: Side) -> NDArray[np.float64]:
    """End a loop one early: the last token of the first split of 256 takes no part."""
    gone = min(SPLIT, len(case.keys)) - 1
    keys, values = (np.delete(x, gone, axis=0) if len(x) > 1 else x for x in (case.keys, case.values))
    return correct(case._replace(keys=keys, values=values), side)


def nibble_of_a_page_lost(case: Case, side: Side) -> NDArray[np.float64]:
    """Read the low 4 bits of the first page of 64 tokens of keys as 0."""
    keys = case.keys.copy()
    fewer = replace(
        case.storage, trailing_significand_bits=case.storage.trailing_significand_bits - 4, name="fewer bits"
    )
    keys[:BLOCK] = round_to(keys[:BLOCK], fewer, "RTZ")
    return correct(case._replace(keys=keys), side)


def narrow_accumulator_in_a_split(case: Case, side: Side) -> NDArray[np.float64]:
    """Accumulate outputs of the first split of 256 tokens in binary16."""
    probs = _run(case, side).probs
    parts = []
    for begin, accumulator in ((0, "binary16"), (SPLIT, "binary32")):
        span = slice(begin, SPLIT if begin == 0 else None)
        b = case.values[span].T
        parts.append(dot(np.broadcast_to(probs[span], b.shape), b, accumulator=accumulator) if b.shape[1] else 0.0)
    return np.asarray(parts[0] + parts[1])


def scale_in_binary16(case: Case, side: Side) -> NDArray[np.float64]:
    """Pass the factor scale * log2(e) through binary16."""
    log2_e = 1.4426950408889634
    factor = float(round_to_format(np.array(case.scale * log2_e), BINARY16)) / log2_e
    return correct(case._replace(scale=factor), side)


def rescale_skipped(case: Case, side: Side) -> NDArray[np.float64]:
    """Skip one rescaling of an online softmax over blocks of 64: where its maximum changes least."""
    found = _run(case, side)
    tops = np.maximum.accumulate([found.scores[b : b + BLOCK].max() for b in range(0, len(found.scores), BLOCK)])
    gaps = np.diff(tops)
    if not (gaps > 0).any():
        return found.outputs
    block = int(np.flatnonzero(gaps == gaps[gaps > 0].min())[0]) + 1
    weights = np.exp(found.scores - tops[-1])
    weights[: block * BLOCK] *= np.exp(gaps[block - 1])
    return np.asarray(weights @ case.values / weights.sum())


def probs_in_bfloat16(case: Case, side: Side) -> NDArray[np.float64]:
    """Pass probabilities through bfloat16 on their way to the values."""
    return correct(case, replace(side, prob_format=BFLOAT16, output_order=Sequential()))


def polynomial_cut_short(case: Case, side: Side) -> NDArray[np.float64]:
    """Compute 2^f by a polynomial of degree 3."""
    found = _run(case, side)
    x = (found.scores - found.scores.max()) * 1.4426950408889634
    n = np.rint(x)
    f = (x - n) * 0.6931471805599453
    weights = (1 + f * (1 + f / 2 * (1 + f / 3))) * np.exp2(n)
    return np.asarray(weights @ case.values / weights.sum())


DEFECTS: dict[str, Callable[[Case, Side], NDArray[np.float64]]] = {
    "one channel in fp8": one_channel_in_fp8,
    "token before a split skipped": token_before_a_split_skipped,
    "nibble of a page lost": nibble_of_a_page_lost,
    "narrow accumulator in a split": narrow_accumulator_in_a_split,
    "scale in binary16": scale_in_binary16,
    "rescale skipped": rescale_skipped,
    "probabilities in bfloat16": probs_in_bfloat16,
    "polynomial cut short": polynomial_cut_short,
}


@dataclass
class Verdict:
    """What tests say of one kernel over many queries.

    Attributes
    ----------
    queries : int
    passes_customary : int
        Queries on which rtol = atol = 1e-2 passes.
    caught : int
        Queries on which some output is beyond its own tolerance.
    only_here : int
        Queries on which 1e-2 passes and this catches.
    largest : float
        Largest difference from the reference.
    ratio : float
        Largest difference / tolerance of an element.
    """

    queries: int = 0
    passes_customary: int = 0
    caught: int = 0
    only_here: int = 0
    largest: float = 0.0
    ratio: float = 0.0


def judge(case: Case, side: Side, verdicts: dict[str, Verdict]) -> None:
    """Run the side as it should be and with each defect, against the exact result; add to `verdicts`."""
    tolerance = attention(
        case.query, case.keys, case.values, kernel=side, scale=case.scale, storage=case.storage
    ).outputs
    settled = settle(side, np.random.default_rng(0))
    for name, run in {"correct": correct, **DEFECTS}.items():
        got, verdict = run(case, settled)[None], verdicts.setdefault(name, Verdict())
        apart = np.abs(got - tolerance.centre)
        verdict.queries += 1
        passes = bool((apart <= CUSTOMARY + CUSTOMARY * np.abs(tolerance.centre)).all())
        caught = bool(tolerance.exceeded(got, tolerance.centre).any())
        verdict.passes_customary += passes
        verdict.caught += caught
        verdict.only_here += passes and caught
        verdict.largest = max(verdict.largest, float(apart.max()))
        verdict.ratio = max(verdict.ratio, float((apart / tolerance.absolute).max()))
