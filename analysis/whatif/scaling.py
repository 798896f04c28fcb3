"""From the counts of a measured shape to those of another: every count times the ratio of what a model of it says for both shapes.

Fractions, so that at the measured shape every ratio is 1 and the measured counts come back exactly. docs/traffic.md#another-shape states what is assumed.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, gcd, lcm
from typing import TYPE_CHECKING

import numpy as np

from precalign.planes import PAGE_TOKENS
from precalign.rebase import ESCAPE_BYTES, INDEX_BYTES, REFERENCE_BYTES
from precalign.traffic import GRANULES, UNITS, metadata_transfer

if TYPE_CHECKING:
    from precalign.analysis.whatif.basis import Basis, Shape

SIZES = {"bytes": 1} | GRANULES


def scaled(basis: Basis, shape: Shape) -> dict[str, Fraction]:
    """Return the counts of an average step of one kv head of `shape`: those of the basis, scaled."""
    old, counts = basis.shape, basis.counts
    width, length = Fraction(shape.head_dim, old.head_dim), shape.context / old.context
    group = Fraction(shape.group, old.group)
    out = {name: counts[name] * width * length for name in ("key_ideal_bits", "value_ideal_bits", "full_ideal_bits")}
    least_value_bytes = Fraction(0)
    for unit in UNITS:
        for part in ("key", "full_key", "full_value"):
            out[f"{part}_{unit}"] = counts[f"{part}_{unit}"] * width * length
        # Larger granules never move less; units come in ascending size.
        least_value_bytes = max(least_value_bytes, _values(basis, shape.head_dim, unit) * SIZES[unit])
        out[f"value_{unit}"] = least_value_bytes / SIZES[unit] * length
        metadata = _ratio(_metadata(basis, shape, unit), _metadata(basis, old, unit))
        out[f"metadata_{unit}"] = counts[f"metadata_{unit}"] * metadata
        prepass = _ratio(_prepass(basis, shape, unit), _prepass(basis, old, unit))
        out[f"prepass_{unit}"] = counts[f"prepass_{unit}"] * prepass
    for name in ("scores_bytes", "probs_bytes"):
        out[name] = counts[name] * group * length
    for name in ("queries_bytes", "outputs_bytes"):
        out[name] = counts[name] * group * width
    return out


def _ratio(new: Fraction, old: Fraction) -> Fraction:
    return new / old if old else Fraction(0)


def _row_bytes(head_dim: int, width: int) -> int:
    return -(-head_dim * width // 8)


def _values(basis: Basis, head_dim: int, unit: str) -> Fraction:
    """Return the granules under the values of the measured context at another head_dim: never fewer bytes than are asked for.

    Bytes follow from the rows. What whole granules add to them, measured, is scaled by what `_value_granules` says it is for both.
    """
    counts, old, size = basis.counts, basis.shape.head_dim, SIZES[unit]
    if head_dim == old:
        return counts[f"value_{unit}"]
    asked = counts["value_bytes"] * _ratio(
        _value_granules(basis, head_dim, "bytes"), _value_granules(basis, old, "bytes")
    )
    if not asked:
        return asked
    new_excess, old_excess = (
        size * _value_granules(basis, d, unit) / _value_granules(basis, d, "bytes") - 1 for d in (head_dim, old)
    )
    measured_excess = size * counts[f"value_{unit}"] / counts["value_bytes"] - 1
    excess = measured_excess * new_excess / old_excess if old_excess else new_excess
    return asked * (1 + max(excess, Fraction(0))) / size


def _value_granules(basis: Basis, head_dim: int, unit: str) -> Fraction:
    """Return the expected granules under the values per token, if the tokens that are read in a plane lie anywhere.

    A granule that m rows reach into moves unless none of them is read: with probability 1 - (1 - share)^m.
    """
    total, tokens = Fraction(0), sum((basis.counts[name] for name in _tokens_by_level(basis)), Fraction(0))
    for plane, width in enumerate(basis.layout.widths):
        reading = [name for name, planes in _tokens_by_level(basis).items() if planes > plane]
        share = sum((basis.counts[name] for name in reading), Fraction(0)) / tokens
        row, size = _row_bytes(head_dim, width), SIZES[unit]
        reaching = _rows_reaching(row, size)
        touched = sum((share if m == 1 else Fraction(1 - (1 - float(share)) ** m) for m in reaching), Fraction(0))
        total += Fraction(row, size) * touched / len(reaching)
    return total


def _rows_reaching(row: int, size: int) -> list[int]:
    """Return how many rows reach into each granule, over as many granules as it takes to repeat."""
    return [(begin + size - 1) // row - begin // row + 1 for begin in range(0, lcm(row, size), size)]


def _tokens_by_level(basis: Basis) -> dict[str, int]:
    """Return the column of each level, and how many planes the level reads."""
    levels = zip(basis.layout.levels, basis.layout.level_planes, strict=True)
    return {f"value_tokens_at_{level}_bits": planes for level, planes in levels}


def _metadata(basis: Basis, shape: Shape, unit: str) -> Fraction:
    """Return what the rule's maxima, and references and escapes of a rebased layout, take in a step of the shape."""
    tokens = max(1, round(shape.context))
    window = np.zeros(1, np.int64), np.full(1, tokens)
    total = Fraction(int(getattr(metadata_transfer(basis.rule.metadata, shape.head_dim, *window), unit)[0]))
    if basis.layout.rebased:
        pages = ceil(tokens / PAGE_TOKENS)
        arrays = [pages * shape.head_dim * REFERENCE_BYTES, *[(pages + 1) * INDEX_BYTES] * 2]
        arrays += [] if basis.rule.metadata.value_tokens else [tokens * REFERENCE_BYTES]
        escapes = 2 * tokens * shape.head_dim * basis.escaped_share * ESCAPE_BYTES
        total += sum(Fraction(-(-array // SIZES[unit])) for array in arrays) + escapes / SIZES[unit]
    return total


def _prepass(basis: Basis, shape: Shape, unit: str) -> Fraction:
    """Return what a pre-pass takes but for a constant: rows of values for each query head, or a page of keys for all of them."""
    if basis.rule.one_pass:
        return Fraction(shape.head_dim)
    layout, size = basis.layout, SIZES[unit]
    rows = [_row_bytes(shape.head_dim, width) for width in layout.widths[: layout.level_planes[layout.first_read]]]
    return shape.group * sum((Fraction(row + size - gcd(row, size), size) for row in rows), Fraction(0))
