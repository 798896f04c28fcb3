"""Which cases are validated: quick (seconds), the default matrix (minutes), full (hours)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from precalign.errors import UsageError
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.kernels.config import FORMATS, HEAD_DIMS, MAX_GROUP, RULES, VARIANTS
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
_ROUNDS = 4
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

    Every rule in every order that kernels have, format and head_dim occurs; kinds of data, groups, batches, split sizes and guard bits go round, so that
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
        return _quick(cases)
    if size == "default":
        return cases
    seeds = [replace(case, seed=case.seed + 1000 * seed) for seed in range(_SEEDS_OF_FULL) for case in cases]
    return seeds + [replace(case, appends=appends, n_kv_heads=4) for appends in _LONG for case in cases]


def checks_invariance(case: Case, size: str) -> bool:
    """Whether a case of a matrix is also attended alone, in other slots and with other pages: one in three, in `full` all."""
    return size == "full" or case.seed % 3 == 0


def _quick(cases: list[Case]) -> list[Case]:
    """Return the cheapest case of each rule and order, head_dims going round."""
    cheapest = sorted(cases, key=lambda c: c.config.head_dim * (c.config.group + 4) * c.n_kv_heads * sum(c.lengths))
    variants = list(dict.fromkeys(case.config.variant for case in cases))
    picked = []
    for i, variant in enumerate(variants):
        own = [case for case in cheapest if case.config.variant == variant]
        wanted = [case for case in own if case.config.head_dim == HEAD_DIMS[i % len(HEAD_DIMS)]]
        picked.append((wanted or own)[0])
    return picked


def _cases(chosen: Selection) -> list[Case]:
    groups = [g for g in _GROUPS if chosen.groups is None or g in chosen.groups]
    kinds, cases = list(KINDS), []
    shapes = [
        (variant, fmt, head_dim)
        for variant, fmt, head_dim in product(VARIANTS, FORMATS, HEAD_DIMS)
        if (chosen.rules is None or variant[0] in chosen.rules)
        and (chosen.formats is None or fmt.name in chosen.formats)
        and (chosen.head_dims is None or head_dim in chosen.head_dims)
    ]
    for number in range(_ROUNDS):
        for i, ((rule, one_pass), fmt, head_dim) in enumerate(shapes):
            turn = i + number * (len(shapes) + 1)  # + 1: in the next round a shape meets another turn of everything
            config = KernelConfig(
                head_dim,
                groups[turn % len(groups)],
                fmt,
                rule,
                guard_bits=(turn // 3) % 3 if rule not in ("full", "static") else 0,
                skip_diff=12 + number,
                split_tokens=_SPLITS[(turn + i // len(_SPLITS)) % len(_SPLITS)],
                one_pass=one_pass,
            )
            appends, kind = _APPENDS[turn % len(_APPENDS)], kinds[(turn + number) % len(kinds)]
            cases.append(Case(config, n_kv_heads=1 + turn % 3, appends=appends, data=kind, seed=turn))
    return cases
