"""Codecs by name: ``get_codec("kivi:bits=2,group=32")``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.codecs.base import CacheShape, Codec, RowCodec
from precalign.codecs.fibquant import FibQuant
from precalign.codecs.fp8 import Fp8
from precalign.codecs.int4_token import Int4Token
from precalign.codecs.iq4_nl import Iq4Nl
from precalign.codecs.kivi import Kivi
from precalign.codecs.mx import Mxfp4, Mxfp8
from precalign.codecs.nvfp4 import Nvfp4
from precalign.codecs.ott import Ott
from precalign.codecs.packkv import PackKV
from precalign.codecs.pair import CodedPair, PairCodec
from precalign.codecs.planes import Planes
from precalign.codecs.q4_0 import Q4_0
from precalign.codecs.q4_1 import Q4_1
from precalign.codecs.q5_0 import Q5_0
from precalign.codecs.q5_1 import Q5_1
from precalign.codecs.q8_0 import Q8_0
from precalign.codecs.quanto import Quanto
from precalign.codecs.store import CodedCache, predicted_bytes
from precalign.codecs.token8 import Fp8Token, Int8Token
from precalign.codecs.turboquant import TurboQuant
from precalign.errors import UsageError
from precalign.specs import parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

CODECS: Mapping[str, type[Codec | PairCodec]] = {
    codec.name: codec
    for codec in (
        *(Kivi, Ott, PackKV, FibQuant, TurboQuant, Planes),
        *(Fp8, Int8Token, Fp8Token, Int4Token, Nvfp4, Mxfp8, Mxfp4),
        *(Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Iq4Nl, Quanto),
    )
}


def get_codec(text: str) -> Codec | PairCodec:
    """Return the codec described by "name" or "name:parameter=value,parameter=value".

    Raises
    ------
    UsageError
        If the codec or a parameter is not known, or a value is not of the parameter's kind.
    """
    return parse_spec(text, CODECS, "codec")


def parse_pair(text: str) -> tuple[Codec | PairCodec, Codec | PairCodec]:
    """Return the codecs of keys and of values described by "codec" or "codec+codec".

    Raises
    ------
    UsageError
        If a codec is not known, or a codec of both sides meets another.
    """
    one, plus, other = text.partition("+")
    keys, values = get_codec(one), get_codec(other if plus else one)
    for codec in (keys, values):
        if isinstance(codec, PairCodec) and keys != values:
            raise UsageError(f"codec {codec} codes keys and values together: give it alone")
    return keys, values


__all__ = [
    "CODECS",
    "CacheShape",
    "Codec",
    "CodedCache",
    "CodedPair",
    "PairCodec",
    "RowCodec",
    "get_codec",
    "parse_pair",
    "predicted_bytes",
]
