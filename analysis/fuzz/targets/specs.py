"""What is written on a command line: rules, codecs, formats, layouts, orders, units, selections, operands, arguments."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from precalign.accumulate.orders import get_order
from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.mutations.text import NUMBERS, change_text
from precalign.analysis.fuzz.target import Bound, Target
from precalign.analysis.readers.address import Remote, place_of
from precalign.analysis.readers.arrays import load_array
from precalign.analysis.selection import parse_indices, parse_steps
from precalign.analysis.sweeps import layout_for, settings
from precalign.codecs import CODECS, CacheShape, PairCodec, parse_pair
from precalign.explain import parse_operand
from precalign.formats import BFLOAT16, BINARY16, FORMATS, get_format
from precalign.gpu.ptx.arguments import parse_argument
from precalign.gpus import get_gpus
from precalign.layouts import default_layout, parse_layout
from precalign.matrix_units import get_unit
from precalign.rules import RULES, get_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case


MOST_ELEMENTS = 1 << 16


def _rule(text: str) -> None:
    rule = get_rule(text)
    str(rule)
    rule.check(default_layout(BINARY16, skip=rule.needs_skip))


def _codec(text: str) -> None:
    for codec, side in zip(parse_pair(text), ("keys", "values"), strict=True):
        shape = CacheShape(2, 64, side)
        str(codec)
        codec.check(shape)
        if not isinstance(codec, PairCodec):
            codec.coded_bytes(codec.coded_tokens(1000, shape), shape)
            codec.table_bytes(shape)


def _layout(text: str) -> None:
    for fmt in (BINARY16, BFLOAT16):
        str(parse_layout(text, fmt).levels)


def _format(text: str) -> None:
    fmt = get_format(text)
    str((fmt.emin, fmt.emax, fmt.total_bits))


def _settings(text: str) -> None:
    settings([text], layout_for([text], BINARY16))


def _argument(text: str) -> None:
    sizes = text.rpartition(":")[2].split("x")
    elements = prod(int(size) for size in sizes if re.fullmatch("[0-9]{1,18}", size))
    # Files that the user names, and memory that the user asks for, are not this target's.
    if not text.endswith(".npy") and (elements <= MOST_ELEMENTS or elements > 1 << 40):
        parse_argument(text, 0, np.random.default_rng(0), load_array)


def _place(text: str) -> None:
    place = place_of(text)
    str(place)
    if isinstance(place, Remote):
        str(place.beside("x"))
        str(place.name)


PARSERS: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "rule": (
        _rule,
        (
            *RULES,
            "static:key_bits=12,value_bits=8",
            "alignedkv:guard_bits=-2",
            "certified:tolerance=0.01",
            "aligned-skip:threshold=12",
        ),
    ),
    "codec": (
        _codec,
        (
            *CODECS,
            "kivi:bits=4,group=64+fp8",
            "turboquant:bits=4,inner=1",
            "fibquant:k=4,n=1024",
            "packkv:rel_keys=0.2,order=none",
        ),
    ),
    "format": (_format, (*FORMATS, "e4m3:bias=8,specials=fnuz", "p3109:k=8,p=3,unsigned,finite", "fp16")),
    "layout": (_layout, ("8|4|4", "8,4,4+skip", "rebased:8|5", "12|4", "1|" * 15 + "1")),
    "settings": (_settings, ("auto", *RULES, "online:two_pass=1,guard_bits=2")),
    "layers": (lambda text: parse_indices(text, range(32), "layers"), ("0,2,4-6", "31", "0-31")),
    "steps": (lambda text: parse_steps(text, 1000), ("all", "last", "every:16", "10:20", "-5:", ":")),
    "order": (
        get_order,
        ("sequential", "pairwise", "reverse", "tree", "numpy", "blocked:128(pairwise)/tree", "lanes:4", "warp"),
    ),
    "unit": (get_unit, ("H100", "H100:e4m3:fp32:wgmma", "B200:bf16", "v100:fp16:fp16")),
    "operand": (
        lambda text: parse_operand(text, BINARY16).to_json(),
        ("0x3C00", "0b0_01111_0000000000", "0x1.8p3", "1e-3", "inf", "nan", "-0"),
    ),
    "argument": (
        _argument,
        (
            "int32:5",
            "y=float32:0.5",
            "zeros:float32:64",
            "empty:float32:32x2",
            "random:float16:16",
            "arange:int32:25",
            "null",
        ),
    ),
    "gpus": (get_gpus, ("all", "h100", "a100,h100")),
    "place": (
        _place,
        (
            "s3://bucket/run/d.safetensors",
            "https://u:p@host/d.pt?token=x#f",
            "file:///tmp/x",
            "memory://a",
            "simplecache::s3://b/x",
            "a/b",
        ),
    ),
}
"""Kind of text -> its parser, and texts that it takes."""
WORDS = (
    "auto",
    "last",
    "all",
    "every:",
    "+",
    "|",
    ",",
    "=",
    "(",
    ")",
    "specials=ieee",
    "bias=",
    "window=",
    "group=",
    "bits=",
    "scale=",
    "tolerance=",
    "n=",
    "k=",
    "per=head",
    "zeros:",
    "float64",
    "object",
    "O",
    "V5",
    "U9",
)


class Specs(Target):
    """Texts of options. The name of a case's file says of which."""

    name = "specs"
    what = "rules, codecs, formats and other specifications"
    bound = Bound(64 << 20, 16)

    def seeds(self) -> list[Case]:
        """Return texts of every kind."""
        return [{kind: text.encode()} for kind, (_, texts) in PARSERS.items() for text in texts]

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change words, numbers and bytes."""
        kind = draw.one(tuple(PARSERS))
        texts = PARSERS[kind][1]
        what, text = draw.random(), draw.one(texts)
        if what < 0.1:
            return {kind: change_octets(draw, text.encode())}
        if what < 0.15:
            return {kind: draw.text().encode("utf-8", "surrogatepass")}
        if what < 0.3:
            name, mark, _ = text.partition(draw.one(":=,x"))
            return {kind: f"{name}{mark}{draw.one((draw.one(NUMBERS), str(draw.one((-3, 2**40, 10**30)))))}".encode()}
        return {kind: change_text(draw, text, texts, WORDS).encode("utf-8", "surrogatepass")}

    def run(self, case: Case, folder: Path) -> None:
        """Parse it; what is parsed is shown again."""
        del folder
        ((kind, octets),) = case.items()
        PARSERS[kind][0](octets.decode("utf-8", "surrogateescape"))
