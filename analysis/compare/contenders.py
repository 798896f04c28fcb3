"""Who is compared: codecs for keys and values, chosen apart, and rules of this project."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from precalign.codecs import Codec, PairCodec, get_codec
from precalign.codecs.base import SIDES
from precalign.errors import UsageError

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
"""What `--codecs all` compares: every published and shipped codec at its usual settings."""


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
    """

    name: str
    keys: Codec | PairCodec | None
    values: Codec | PairCodec | None
    exempt_layers: frozenset[int] = frozenset()

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
        Codecs for both sides; "all" for `ALL_CODECS`.
    keys, values : sequence of str
        Codecs of one side; each of `keys` is combined with each of `values`, "none" leaves a side as it is.
    exempt_layers : frozenset of int

    Raises
    ------
    UsageError
        If a codec is not known, or only one side is given.
    """
    names = chain.from_iterable(ALL_CODECS if name == "all" else [name] for name in codecs)
    found = [Contender(str(codec), codec, codec, exempt_layers) for codec in map(get_codec, names)]
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
