"""What a codec has stored: bytes that were kept elsewhere come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.fuzz.mutations.octets import change_octets
from precalign.analysis.fuzz.target import Bound, Target
from precalign.codecs import CODECS, CacheShape, CodedCache, CodedPair, PairCodec, get_codec
from precalign.codecs.packed import PackedCodec
from precalign.formats import BINARY16, get_format

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from precalign.analysis.fuzz.draw import Draw
    from precalign.analysis.fuzz.target import Case

N_KV_HEADS, HEAD_DIM = 2, 64
SPECS = (
    *(
        "kivi:group=32,window=32",
        "kivi:bits=4,group=32,window=0",
        "ott:group=32,window=8,value_group=32",
        "packkv:window=8",
    ),
    *(
        "packkv:order=none,window=0",
        "fibquant:n=64",
        "turboquant",
        "turboquant:bits=2,inner=1",
        "planes",
        "fp8:scale=0,per=head",
    ),
)
"""Settings beside each codec's own, with small groups, so that few tokens are coded."""
TOKENS = (70, 96)


def _tokens(n: int, fmt: str) -> NDArray[np.float32]:
    """Return tokens of the format, (n, N_KV_HEADS, HEAD_DIM), the same every time."""
    steps = np.arange(n * N_KV_HEADS * HEAD_DIM, dtype=np.int64)
    values = (((steps * 7919) % 257) - 128).astype(np.float32) / np.float32(64)
    held: NDArray[np.float32] = (
        values.reshape(n, N_KV_HEADS, HEAD_DIM)
        if fmt == BINARY16.name
        else np.trunc(values).reshape(n, N_KV_HEADS, HEAD_DIM)
    )
    return held


class Codecs(Target):
    """Caches under every codec. The name of a case's file says which: "spec side n_tokens format"."""

    name = "codecs"
    what = "caches stored by codecs"
    bound = Bound(per_byte=64)

    def seeds(self) -> list[Case]:
        """Return what each codec makes of some tokens."""
        found: list[Case] = []
        for spec in (*CODECS, *SPECS):
            codec = get_codec(spec)
            sides = ("both",) if isinstance(codec, PairCodec) else ("keys", "values")
            found += [
                {f"{spec} {side} {n} {fmt}": _stored(spec, side, n, fmt)}
                for side in sides
                for n in TOKENS
                for fmt in ("binary16", "bfloat16")
            ]
        return found

    def damaged(self, draw: Draw, seeds: Sequence[Case]) -> Case:
        """Change bytes, mostly without changing how many there are."""
        ((name, octets),) = draw.one(seeds).items()
        what = draw.random()
        if what < 0.1:
            spec, side, _, fmt = name.split(" ")
            return {f"{spec} {side} {draw.one((draw.count(), draw.randint(0, 200)))} {fmt}": octets}
        if what < 0.3:
            return {name: draw.randbytes(len(octets))}
        changed = change_octets(draw, octets)
        return {
            name: changed
            if what < 0.4
            else changed[: len(octets)].ljust(len(octets), draw.one((b"\0", b"\xff", b"\x7f")))
        }

    def run(self, case: Case, folder: Path) -> None:
        """Decode it, and attend to it where the codec is read in its packed form."""
        del folder
        ((name, octets),) = case.items()
        spec, side, n_tokens, fmt = name.split(" ")
        codec = get_codec(spec)
        shape = CacheShape(N_KV_HEADS, HEAD_DIM, "keys" if side == "both" else side, get_format(fmt))
        if isinstance(codec, PairCodec):
            CodedPair.from_bytes(codec, shape, int(n_tokens), octets).decode()
            return
        cache = CodedCache.from_bytes(codec, shape, int(n_tokens), octets)
        cache.decode()
        if isinstance(codec, PackedCodec) and cache.n_coded:
            stored, header = cache.coded()
            ones = np.ones((N_KV_HEADS, 1, HEAD_DIM if side == "keys" else cache.n_coded), np.float32)
            read = codec.packed_scores if side == "keys" else codec.packed_sum
            read(stored, cache.n_coded, header, shape, ones)


def _stored(spec: str, side: str, n: int, fmt: str) -> bytes:
    codec = get_codec(spec)
    shape, tokens = (
        CacheShape(N_KV_HEADS, HEAD_DIM, "keys" if side == "both" else side, get_format(fmt)),
        _tokens(n, fmt),
    )
    if isinstance(codec, PairCodec):
        pair = CodedPair(codec, codec, shape)
        pair.append(tokens, tokens[::-1].copy())
        return pair.to_bytes()
    cache = CodedCache(codec, shape)
    cache.append(tokens)
    return cache.to_bytes()
