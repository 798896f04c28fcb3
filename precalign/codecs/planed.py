"""A codec's codes in planes: fewer bits are stored, and a rule reads fewer still. What stands beside the codes (scales) is always read.

A number is an element times a scale of its row or block. The element of a float codec is a float; an integer from -127 to 127 is kept as sign and
magnitude, and that *is* a float: of one exponent bit, six trailing bits and emin = 6 (`INT8`), whose subnormals and normals have one spacing, 1. So
layouts, midpoints and rules hold for both as they stand. Two's complement would cut off toward minus infinity: -x would not be read as the
opposite of x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec
from precalign.codecs.store import CodedCache
from precalign.decode.codes import exponents
from precalign.errors import UsageError
from precalign.formats import Format, Specials
from precalign.formats.codes import value_table
from precalign.layouts import INT8
from precalign.planes import join_keys, join_values, split_keys, split_values, truncate
from precalign.traffic import Transfer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.inputs import Steps
    from precalign.layouts import Layout

LEAST_EXPONENT = -200
"""E of a scale of zero: below that of any scale in binary32."""


class PlanedRows(ABC):
    """What a codec of rows adds so that its codes can lie in planes."""

    @property
    @abstractmethod
    def element(self) -> Format:
        """The format of a code: an 8-bit or 4-bit float, or `INT8`."""

    @abstractmethod
    def take_apart(self, octets: NDArray[np.uint8], head_dim: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return codes of `element` (n_rows, head_dim), and what stands beside them, bytes (n_rows, n), of rows as they are stored."""

    @abstractmethod
    def row_scales(self, beside: NDArray[np.uint8], header: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the scales of rows, (n_rows, n_blocks), from what stands beside the codes: n_blocks divides head_dim."""


def signed_magnitudes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `INT8` codes of two's complement bytes that are not -128."""
    wide = codes.view(np.int8).astype(np.int16)
    return np.where(wide < 0, 0x80 - wide, wide).astype(np.uint8)


@lru_cache(maxsize=16)
def _element_table(fmt: Format) -> NDArray[np.float32]:
    """Return what the fields of every code say: a midpoint may end on the code of a NaN, and is the number between its neighbours."""
    by_fields = Format("", fmt.exponent_bits, fmt.trailing_significand_bits, fmt.bias, Specials.FINITE)
    return value_table(by_fields).astype(np.float32)


@dataclass(frozen=True)
class PlanedHead:
    """Keys or values of one kv head: planes as bytes, and what stands beside them.

    Attributes
    ----------
    layout : Layout
        Of the codec's element.
    side : str
        "keys" (planes by page and channel) or "values" (by token).
    planes : list of ndarray[uint8]
        As `precalign.planes` packs them.
    beside : ndarray[uint8], (seq_len, n)
    header : ndarray[uint8]
        What the codec stores once; all heads share it.
    scales : ndarray[float32], (seq_len, head_dim)
        Of each number: what `beside` and `header` say.
    """

    layout: Layout
    side: str
    planes: list[NDArray[np.uint8]]
    beside: NDArray[np.uint8]
    header: NDArray[np.uint8]
    scales: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of planes (pages and rows padded) and of what stands beside them, without what is stored once."""
        return sum(plane.nbytes for plane in self.planes) + self.beside.nbytes

    def codes(self, level: int) -> NDArray[np.uint8]:
        """Return what the planes of a level give, midpoints filled in, (seq_len, head_dim)."""
        planes = self.planes[: self.layout.level_planes[level]]
        joined = (
            join_keys(planes, self.layout, len(self.beside))
            if self.side == "keys"
            else join_values(planes, self.layout, self.scales.shape[1])
        )
        return truncate(joined, self.layout, level)

    def numbers(self, level: int) -> NDArray[np.float32]:
        """Return what a read at a level gives, (seq_len, head_dim)."""
        return _element_table(self.layout.format)[self.codes(level)] * self.scales

    @cached_property
    def exponents(self) -> NDArray[np.int16]:
        """E(code) + E(scale), (seq_len, head_dim): less the trailing bits, the absolute precision of the code's last bit."""
        _, after_point = np.frexp(self.scales)
        of_scales = np.where(self.scales == 0, LEAST_EXPONENT, after_point - 1)
        full = exponents(self.codes(len(self.layout.levels) - 1), self.layout.format)
        return (full + of_scales).astype(np.int16)

    @property
    def scales_tell(self) -> bool:
        """Whether the exponents are those of the scales alone, up to a constant: then what is known of them needs no maxima beside them."""
        return self.layout.format == INT8

    def beside_transfer(self, steps: Steps) -> Transfer:
        """Return what steps move of what stands beside the planes, and of what is stored once."""
        per_token = self.beside.shape[1]
        once = np.zeros_like(steps.first)
        return Transfer.range(steps.first * per_token, steps.visible * per_token) + Transfer.range(
            once, once + self.header.size
        )


def _planed(codec: RowCodec) -> PlanedRows:
    if not isinstance(codec, PlanedRows):
        raise UsageError(
            f"codec {codec}: its codes cannot be kept in planes",
            hint="integer codes under a scale and floats can: q8_0, int8-token, fp8, fp8-token, mxfp8, mxfp4, nvfp4",
        )
    return codec


def element_of(codec: object) -> Format:
    """Return the format of a codec's codes.

    Raises
    ------
    UsageError
        If its codes cannot be kept in planes.
    """
    if not isinstance(codec, RowCodec):
        raise UsageError(f"codec {codec}: its codes cannot be kept in planes", hint="only codecs that code row by row")
    return _planed(codec).element


def planed_heads(codec: RowCodec, tokens: NDArray[np.float32], shape: CacheShape, layout: Layout) -> list[PlanedHead]:
    """Encode tokens (seq_len, n_kv_heads, head_dim) and lay the codes into planes, a head after the other.

    Raises
    ------
    UsageError
        If the codec cannot hold such caches, keeps tokens out of the code, or has no codes for planes.
    """
    planed = _planed(codec)
    cache = CodedCache(codec, shape)
    cache.append(tokens)
    if cache.n_coded < len(tokens):
        raise UsageError(f"codec {codec}: its codes cannot be kept in planes beside a window")
    octets, header = cache.coded()
    codes, beside = planed.take_apart(octets.reshape(-1, codec.row_bytes(shape.head_dim)), shape.head_dim)
    scales = planed.row_scales(beside, header)
    scales = np.repeat(scales, shape.head_dim // scales.shape[1], axis=1)
    split = split_keys if shape.side == "keys" else split_values
    heads = []
    for head in range(shape.n_kv_heads):
        mine = slice(head, None, shape.n_kv_heads)
        planes = split(np.ascontiguousarray(codes[mine]), layout)
        heads.append(PlanedHead(layout, shape.side, planes, np.ascontiguousarray(beside[mine]), header, scales[mine]))
    return heads
