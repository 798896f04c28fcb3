"""Which cases are validated: quick (seconds), the default matrix (minutes), full (hours)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from precalign.errors import UsageError
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.kernels.config import FORMATS, HEAD_DIMS, MAX_GROUP, RULES
from precalign.gpu.validate.case import Case
from precalign.gpu.validate.data import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZES = ("quick", "default", "full")
_APPENDS = (
    ((70, 0, 1, 200), (3, 1, 0, 2)),
    ((1,), (63,), (1,)),  # up to a whole page, and the first token of the next
    ((64, 128), (64, 0)),  # nothing but whole pages
    ((255, 2), (3, 62)),  # across the end of a split
    ((321,), (0,)),
    ((130, 7, 19), (1, 1, 1)),
)
"""Ragged batches: empty and one-token sequences, page and split ends, tokens that arrive one by one."""
_GROUPS = (1, 2, 4, 8, 3, 6, 5, 7)
_SPLITS = (256, 64, 128, 192)
_VARIANTS = 5
_SEEDS_OF_FULL = 20
_LONG = (((1024,), (1,)), ((4096, 1000), (1, 1)))


@dataclass(frozen=True)
class Selection:
    """Which part of a matrix is wanted; None for all.

    Attributes
    ----------
    rules, formats : tuple of str or None
    head_dims, groups : tuple of int or None

    Raises
    ------
    UsageError
        If a name or number is not one that kernels are built for.
    """

    rules: tuple[str, ...] | None = None
    formats: tuple[str, ...] | None = None
    head_dims: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _require("rule", self.rules, RULES)
        _require("format", self.formats, [f.name for f in FORMATS])
        _require("head_dim", self.head_dims, HEAD_DIMS)
        _require("group", self.groups, range(1, MAX_GROUP + 1))


def _require(what: str, given: tuple[object, ...] | None, known: Iterable[object]) -> None:
    listed = list(known)
    for one in given or ():
        if one not in listed:
            raise UsageError(f"no kernel for {what} {one}", hint="there are " + ", ".join(map(str, listed)))


def matrix(size: str, selection: Selection | None = None) -> list[Case]:
    """Return the cases of a matrix.

    Every rule, format and head_dim occurs with every kind of data; groups, batches, split sizes and guard bits go round, so that
    each meets each.

    Parameters
    ----------
    size : str
        One of `SIZES`.
    selection : Selection, optional
    """
    if size not in SIZES:
        raise UsageError(f"no matrix {size!r}", hint="there are " + ", ".join(SIZES))
    chosen = selection or Selection()
    cases = _cases(chosen)
    if size == "quick":
        # 37 has no factor in common with the numbers of rules, formats, head_dims and kinds: the dozen is a mixture.
        return [cases[37 * i % len(cases)] for i in range(min(12, len(cases)))]
    if size == "default":
        return cases
    seeds = [replace(case, seed=case.seed + 1000 * seed) for seed in range(_SEEDS_OF_FULL) for case in cases]
    return seeds + [replace(case, appends=appends, n_kv_heads=4) for appends in _LONG for case in cases]


def _cases(chosen: Selection) -> list[Case]:
    groups = [g for g in _GROUPS if chosen.groups is None or g in chosen.groups]
    kinds, cases = list(KINDS), []
    shapes = [
        (rule, fmt, head_dim)
        for rule, fmt, head_dim in product(RULES, FORMATS, HEAD_DIMS)
        if (chosen.rules is None or rule in chosen.rules)
        and (chosen.formats is None or fmt.name in chosen.formats)
        and (chosen.head_dims is None or head_dim in chosen.head_dims)
    ]
    for variant in range(_VARIANTS):
        for i, (rule, fmt, head_dim) in enumerate(shapes):
            turn = i + variant * (len(shapes) + 1)  # + 1: in the next round a shape meets another turn of everything
            guards = (turn // 3) % 3 if rule not in ("full", "static") else 0
            config = KernelConfig(
                head_dim,
                groups[turn % len(groups)],
                fmt,
                rule,
                guard_bits=guards,
                skip_diff=12 + variant,
                split_tokens=_SPLITS[turn % len(_SPLITS)],
            )
            appends, kind = _APPENDS[turn % len(_APPENDS)], kinds[(turn + variant) % len(kinds)]
            cases.append(Case(config, n_kv_heads=1 + turn % 3, appends=appends, data=kind, seed=turn))
    return cases
