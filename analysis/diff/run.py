"""Two results side by side: from their directories to what summary.json and diff.parquet hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from precalign import __version__
from precalign.analysis.diff.estimates import compare, pairs_of
from precalign.analysis.diff.facts import different_facts
from precalign.analysis.diff.identity import differences, first_difference
from precalign.analysis.diff.inference import DUMPS_METHOD, FALSE_DISCOVERIES, HEADS_METHOD, STEPS_METHOD, adjusted
from precalign.analysis.diff.measures import MEASURES
from precalign.analysis.diff.schema import DIFF_SCHEMA, diff_schema
from precalign.analysis.diff.series import by_head
from precalign.analysis.readers import printable
from precalign.analysis.results.reader import as_written
from precalign.analysis.results.schema import SUMMARY_SCHEMA
from precalign.analysis.results.stored import DUMPS
from precalign.analysis.sets.schema import SET_SCHEMA
from precalign.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from precalign.analysis.diff.estimates import Compared
    from precalign.analysis.diff.series import Sums, Where
    from precalign.analysis.results.stored import Stored

WITH_FIGURES = (SUMMARY_SCHEMA, SET_SCHEMA)
"""Results whose steps and errors can be compared; of others it is told whether they are equal."""


class Difference(NamedTuple):
    """What `summary.json` and `diff.parquet` hold."""

    summary: dict[str, Any]
    table: pa.Table


def difference(a: Stored, b: Stored, rules: Sequence[tuple[str, str]] = ()) -> Difference:
    """Compare two results.

    Parameters
    ----------
    a, b : Stored
        Of one kind.
    rules : sequence of (str, str)
        Rules to hold against each other, of a and of b; without any those of one name, or the only rule of each.

    Raises
    ------
    UsageError
        If the results are of two kinds, or there is no such rule.
    InputError
        If tables are damaged.
    """
    if a.kind != b.kind:
        raise UsageError(
            f"{printable(a.path)} is a {a.kind} and {printable(b.path)} a {b.kind}",
            hint="compare two results of one kind",
        )
    with as_written(a.path), as_written(b.path):
        return _difference(a, b, rules)


def _difference(a: Stored, b: Stored, rules: Sequence[tuple[str, str]]) -> Difference:
    cells = differences(a, b)
    first = next((cell for cell in cells.values() if cell is not None), None)
    summary: dict[str, Any] = {
        "schema": DIFF_SCHEMA,
        "precalign": __version__,
        "a": _about(a),
        "b": _about(b),
        "identical": first is None,
        "first_difference": None if first is None else asdict(first),
        "tables": {name: cell is None for name, cell in cells.items()},
        "facts": different_facts(a.summary, b.summary),
        "notes": [],
        "method": [],
        "rules": [],
    }
    rows: list[dict[str, Any]] = []
    if a.summary["schema"] in WITH_FIGURES:
        pairs = _pairs(a, b, rules)
        summary["identical"] &= all(one == other for one, other in pairs)
        summary |= {"unit": "dump" if a.is_set else "step", "same_cache": _same_cache(a, b)}
        for pair in pairs:
            told, of_pair = _compare_rules(a, b, pair)
            summary["rules"].append(told)
            rows += of_pair
        summary["notes"], summary["method"] = _notes(a, b, summary), _method(a, b)
    return Difference(summary, pa.Table.from_pylist(rows, schema=diff_schema()))


def _about(stored: Stored) -> dict[str, Any]:
    held = stored.summary
    name = held["dump"]["name"] if "dump" in held else None
    return {"name": stored.path.resolve().name, "kind": stored.kind, "precalign": held.get("precalign"), "dump": name}


def _same_cache(a: Stored, b: Stored) -> bool:
    """Whether both analysed the same heads of the same cache, as far as exponents, zeros and the like tell."""
    if "cache" not in a.files or "cache" not in b.files:
        return False
    escaped = "escaped"  # depends on the layout
    return first_difference("cache", a.dataset("cache"), b.dataset("cache"), leave_out=escaped) is None


def _rule_names(stored: Stored) -> list[str]:
    return [rule["rule"] for rule in stored.summary["rules"] or ()]


def _pairs(a: Stored, b: Stored, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    of_a, of_b = _rule_names(a), _rule_names(b)
    for pair in wanted:
        for stored, held, name in zip((a, b), (of_a, of_b), pair, strict=True):
            if name not in held:
                raise UsageError(
                    f"{printable(stored.path)} has no rule {printable(name)!r}",
                    hint="its rules: " + ", ".join(map(printable, held)),
                )
    if wanted:
        return list(wanted)
    if len(of_a) == len(of_b) == 1:
        return [(of_a[0], of_b[0])]
    common = [(name, name) for name in of_a if name in of_b]
    if of_a and of_b and not common:
        raise UsageError(
            "the two results have no rule in common",
            hint=f"--rules A B names two; they have {', '.join(map(printable, of_a))} and {', '.join(map(printable, of_b))}",
        )
    return common


def _matched(a: Stored, b: Stored, pair: tuple[str, str]) -> Iterator[tuple[Where, Sums | None, Sums | None]]:
    """Go through the heads of both, layer by layer; what one of them lacks is None there."""
    streams = [by_head(a, pair[0]), by_head(b, pair[1])]
    held = [next(stream, None) for stream in streams]
    while held[0] is not None or held[1] is not None:
        where = min(head[0] for head in held if head is not None)
        here = [head[1] if head is not None and head[0] == where else None for head in held]
        yield where, here[0], here[1]
        held = [
            next(stream, None) if mine is not None else head
            for stream, head, mine in zip(streams, held, here, strict=True)
        ]


def _compare_rules(a: Stored, b: Stored, pair: tuple[str, str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    totals: dict[int | None, list[Sums | None]] = {}
    heads: dict[Where, list[Compared]] = {}
    only: dict[str, list[list[int]]] = {"a": [], "b": []}
    for where, one, other in _matched(a, b, pair):
        for layer in (None, where.layer):
            held = totals.setdefault(layer, [None, None])
            totals[layer] = [_plus(total, part) for total, part in zip(held, (one, other), strict=True)]
        if one is not None and other is not None:
            heads[where] = compare(one, other, dumps=a.is_set)
        else:
            only["b" if one is None else "a"].append([*where])
    scopes = {
        layer: compare(one, other, dumps=a.is_set)
        for layer, (one, other) in totals.items()
        if one is not None and other is not None
    }
    whole = scopes.pop(None, [])
    names = {"rule_a": pair[0], "rule_b": pair[1]}
    rows = _rows(names, [_place("all")], [whole]) if whole else []
    rows += _rows(names, [_place("layer", layer) for layer in scopes], list(scopes.values()))
    rows += _rows(names, [_place("head", *where) for where in heads], list(heads.values()))
    return names | _told(whole, heads, rows, only), rows


def _plus(total: Sums | None, part: Sums | None) -> Sums | None:
    if total is None or part is None:
        return part if total is None else total
    return total + part


def _place(scope: str, layer: int | None = None, kv_head: int | None = None) -> dict[str, Any]:
    return {"scope": scope, "layer": layer, "kv_head": kv_head}


def _rows(names: dict[str, str], places: list[dict[str, Any]], found: list[list[Compared]]) -> list[dict[str, Any]]:
    """Return the rows of all places of one kind, their tests adjusted together, measure by measure."""
    by_measure = []
    for i in range(len(MEASURES)):
        changes = [of[i].change for of in found]
        by_measure.append(adjusted([None if change is None else change.p for change in changes]))
    return [
        names | place | _row(of[i], by_measure[i][at])
        for at, (place, of) in enumerate(zip(places, found, strict=True))
        for i in range(len(MEASURES))
    ]


def _row(compared: Compared, p_adjusted: float | None) -> dict[str, Any]:
    change = compared.change
    return {
        "measure": compared.measure.name,
        "units_a": compared.units_a,
        "units_b": compared.units_b,
        "value_a": compared.value_a,
        "value_b": compared.value_b,
        "change": None if change is None else change.value,
        "low": None if change is None else change.low,
        "high": None if change is None else change.high,
        "p": None if change is None else change.p,
        "p_adjusted": p_adjusted,
        "same": compared.same,
        "beyond_noise": None if p_adjusted is None else p_adjusted <= FALSE_DISCOVERIES,
    }


def _told(
    whole: list[Compared],
    heads: dict[Where, list[Compared]],
    rows: list[dict[str, Any]],
    only: dict[str, list[list[int]]],
) -> dict[str, Any]:
    """Return what summary.json says of a pair of rules."""
    measures: dict[str, Any] = {}
    first = {row["measure"]: row for row in rows if row["scope"] == "all"}
    for i, compared in enumerate(whole):
        name = compared.measure.name
        mine = [row for row in rows if row["scope"] == "head" and row["measure"] == name]
        beyond = [row for row in mine if row["beyond_noise"]]
        better = [
            row for row in beyond if _is_better(compared.measure.better, compared.measure.relative, row["change"])
        ]
        measures[name] = {
            **{
                key: first[name][key]
                for key in ("value_a", "value_b", "change", "low", "high", "p", "same", "beyond_noise")
            },
            "relative": compared.measure.relative,
            "heads_same": sum(of[i].same for of in heads.values()),
            "heads_better": len(better),
            "heads_worse": len(beyond) - len(better),
            "left_out_a": compared.left_out_a,
            "left_out_b": compared.left_out_b,
        }
    units = [whole[0].units_a, whole[0].units_b] if whole else [0, 0]
    return {
        "n_heads": len(heads),
        "only_a": only["a"],
        "only_b": only["b"],
        "units_a": units[0],
        "units_b": units[1],
        "measures": measures,
    }


def _is_better(better: int, relative: bool, change: float) -> bool:  # noqa: FBT001 - its own record
    return better * (change - (1 if relative else 0)) > 0


def _method(a: Stored, b: Stored) -> list[str]:
    if not a.is_set:
        return [STEPS_METHOD, HEADS_METHOD]
    return [DUMPS_METHOD[len(_common_dumps(a, b)) > 0], HEADS_METHOD]


def _common_dumps(a: Stored, b: Stored) -> list[str]:
    names = [
        np.unique(stored.dataset(DUMPS).to_table(columns=["dump"]).column(0).to_numpy().astype(str))
        for stored in (a, b)
    ]
    return [str(name) for name in pairs_of(*names)]


def _notes(a: Stored, b: Stored, summary: dict[str, Any]) -> list[str]:
    notes = []
    if a.is_set:
        common = len(_common_dumps(a, b))
        if common:
            sizes = [stored.dataset(DUMPS).count_rows() for stored in (a, b)]
            alone = [size - common for size in sizes]
            if any(alone):
                notes.append(
                    f"{common} dumps are in both sets and compared pair by pair; {alone[0]} are only in the first and {alone[1]} only in the second: these do not count."
                )
    elif summary["same_cache"]:
        notes.append(
            "Both read the same keys and values: a difference is exact for this dump; its interval tells how far other steps like these would move it."
        )
    else:
        notes.append(
            "Keys and values differ: this compares one dump with one other, and intervals over steps say nothing of other prompts; sets of dumps do."
        )
    for pair in summary["rules"]:
        lacking = {side: len(pair[f"only_{side}"]) for side in ("a", "b")}
        notes += [
            f"{n} heads are only in {side}; they count in the whole and in layers." for side, n in lacking.items() if n
        ]
    return list(dict.fromkeys(notes))
