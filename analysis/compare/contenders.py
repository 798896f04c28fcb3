"""Who is compared: codecs for keys and values, chosen apart, rules of this project, and codecs whose codes a rule reads in part."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from precalign.codecs import Codec, PairCodec, get_codec
from precalign.codecs.base import SIDES
from precalign.codecs.planed import element_of
from precalign.codecs.planed_attention import check_rule
from precalign.errors import UsageError
from precalign.layouts import Layout, parse_layout
from precalign.rules import Rule, get_rule

if TYPE_CHECKING:
    from collections.abc import Sequence

ALL_CODECS = (
    *("kivi", "kivi:bits=4", "ott", "packkv", "packkv:order=none"),
    *("fibquant:k=2,n=256", "fibquant", "fibquant:k=4,n=1024"),
    *("turboquant:bits=2", "turboquant:bits=3", "turboquant", "turboquant:bits=4,inner=1"),
    *(
        "fp8",
        "fp8:scale=0,per=head",
        "fp8:format=e5m2",
        "int8-token",
        "fp8-token",
        "int4-token",
        "nvfp4",
        "mxfp8",
        "mxfp4",
    ),
    *("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "quanto", "quanto:bits=2", "planes"),
)
"""Every published and shipped codec at its usual settings."""

ALL_PLANED = (
    *("q8_0/4|4/aligned-max", "q8_0/4|4+skip/aligned-skip", "q8_0/8+skip/aligned-skip"),
    *("q8_0/4|2|2+skip/aligned-skip", "q8_0/4|2|2+skip/aligned-skip:guard_bits=-1"),
    *("q8_0/4|2|2+skip/aligned-skip:guard_bits=-2", "int8-token/4|4+skip/aligned-skip"),
    *("fp8/5|3/aligned-max", "fp8-token/5|3/aligned-max", "mxfp8/5|3/aligned-max", "nvfp4/3|1/aligned-max"),
)
"""Codecs whose codes lie in planes and are read by a rule."""

ALL_CONTENDERS = ALL_CODECS + ALL_PLANED
"""What `--codecs all` compares."""


@dataclass(frozen=True)
class PlaneReading:
    """How codes of a codec are kept and read.

    Attributes
    ----------
    layout : Layout
        Of the codec's codes.
    rule : Rule
    """

    layout: Layout
    rule: Rule


@dataclass(frozen=True)
class Contender:
    """A choice of codecs.

    Attributes
    ----------
    name : str
        "kivi:bits=4", or "keys+values" where they differ.
    keys, values : Codec, PairCodec or None
        None leaves the side as it is.
    exempt_layers : frozenset of int
        Layers that stay as they are.
    reading : PlaneReading or None
        Where a rule reads the codes, which then lie in planes; else they are read whole.
    """

    name: str
    keys: Codec | PairCodec | None
    values: Codec | PairCodec | None
    exempt_layers: frozenset[int] = frozenset()
    reading: PlaneReading | None = None

    def codec(self, side: str) -> Codec | PairCodec | None:
        """Return the codec of a side."""
        return self.keys if side == "keys" else self.values


def parse_contenders(
    codecs: Sequence[str], keys: Sequence[str], values: Sequence[str], exempt_layers: frozenset[int] = frozenset()
) -> list[Contender]:
    """Return the contenders that the options name.

    Parameters
    ----------
    codecs : sequence of str
        Codecs for both sides, or "codec/planes/rule" (`parse_planed`); "all" for `ALL_CONTENDERS`.
    keys, values : sequence of str
        Codecs of one side; each of `keys` is combined with each of `values`, "none" leaves a side as it is.
    exempt_layers : frozenset of int

    Raises
    ------
    UsageError
        If a codec, a layout or a rule is not known or does not fit, or only one side is given.
    """
    names = chain.from_iterable(ALL_CONTENDERS if name == "all" else [name] for name in codecs)
    found = [parse_contender(name, exempt_layers) for name in names]
    if bool(keys) != bool(values):
        raise UsageError("--keys and --values go together", hint=f"write none for a side that stays as it is: {SIDES}")
    for key in keys:
        for value in values:
            one, other = (None if text == "none" else get_codec(text) for text in (key, value))
            if (isinstance(one, PairCodec) or isinstance(other, PairCodec)) and one != other:
                both = one if isinstance(one, PairCodec) else other
                raise UsageError(f"codec {both} codes keys and values together: give it to --codecs")
            found.append(Contender(f"{one or 'none'}+{other or 'none'}", one, other, exempt_layers))
    unique = {contender.name: contender for contender in found}
    if not unique:
        raise UsageError("no codec is named", hint="--codecs all, --codecs NAME or --keys NAME --values NAME")
    return list(unique.values())


def parse_contender(text: str, exempt_layers: frozenset[int] = frozenset()) -> Contender:
    """Return the contender of "codec", or of "codec/planes/rule": "q8_0/4|4/aligned-max:guard_bits=1".

    Raises
    ------
    UsageError
        If the codec, the layout or the rule is not known, or they do not fit each other.
    """
    name, *rest = text.split("/")
    codec = get_codec(name)
    if not rest:
        return Contender(str(codec), codec, codec, exempt_layers)
    if len(rest) != len(("planes", "rule")):
        raise UsageError(f"contender {text!r}: write CODEC/PLANES/RULE", hint="q8_0/4|4/aligned-max")
    layout, rule = parse_layout(rest[0], element_of(codec)), get_rule(rest[1])
    if layout.rebased:
        raise UsageError(f"contender {text!r}: exponents of codes are not rebased", hint="q8_0/4|4/aligned-max")
    check_rule(rule)
    rule.check(layout)
    return Contender(f"{codec}/{layout.name}/{rule}", codec, codec, exempt_layers, PlaneReading(layout, rule))
