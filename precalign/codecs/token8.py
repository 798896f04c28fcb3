"""`int8-token`, `fp8-token`: 8 bits with one binary32 scale per token and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import CacheShape, RowCodec
from precalign.codecs.planed import PlanedRows, signed_magnitudes
from precalign.formats import E4M3FN
from precalign.formats.codes import value_table
from precalign.layouts import INT8
from precalign.rounding import encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format

SCALE_BYTES = 4


class _Token8(RowCodec, PlanedRows):
    """scale = max |x| / largest; rows of head_dim codes and the scale."""

    def row_bytes(self, head_dim: int) -> int:
        """Return a byte a number and the scale."""
        return head_dim + SCALE_BYTES

    def _coded(self, rows: NDArray[np.float32], largest: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return rows divided by their scales, and the rows to write with the scales in place."""
        scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(largest)
        scales[scales == 0] = 1
        out = np.empty((len(rows), self.row_bytes(rows.shape[1])), np.uint8)
        out[:, -SCALE_BYTES:] = scales.astype("<f4").view(np.uint8)
        return rows / scales, out

    def take_apart(self, octets: NDArray[np.uint8], head_dim: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return codes as they are stored, and the scales."""
        return octets[:, :head_dim], octets[:, head_dim:]

    def row_scales(self, beside: NDArray[np.uint8], header: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the scale of each row."""
        del header
        return self._scales(beside)

    @staticmethod
    def _scales(octets: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ascontiguousarray(octets[:, -SCALE_BYTES:]).view("<f4")


@dataclass(frozen=True)
class Int8Token(_Token8):
    """code = RNE(x / scale), -127 to 127."""

    name = "int8-token"
    source = "engines (int8 per token and head)"

    @property
    def element(self) -> Format:
        """Integers."""
        return INT8

    def take_apart(self, octets: NDArray[np.uint8], head_dim: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return codes as sign and magnitude, and the scales."""
        codes, beside = super().take_apart(octets, head_dim)
        return signed_magnitudes(np.ascontiguousarray(codes)), beside

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return codes and scale."""
        del header
        scaled, out = self._coded(rows, 127)
        out[:, : shape.head_dim] = np.rint(np.clip(scaled, -127, 127)).astype(np.int8).view(np.uint8)
        return out

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return code times scale."""
        del header
        codes = np.ascontiguousarray(octets[:, : shape.head_dim]).view(np.int8)
        return codes.astype(np.float32) * self._scales(octets)


@dataclass(frozen=True)
class Fp8Token(_Token8):
    """code = e4m3fn(x / scale)."""

    name = "fp8-token"
    source = "engines (fp8 per token and head)"

    @property
    def element(self) -> Format:
        """e4m3fn."""
        return E4M3FN

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return codes and scale."""
        del header
        scaled, out = self._coded(rows, E4M3FN.largest)
        out[:, : shape.head_dim] = encode(scaled, E4M3FN, saturate=True)
        return out

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return value times scale."""
        del header
        return value_table(E4M3FN).astype(np.float32)[octets[:, : shape.head_dim]] * self._scales(octets)
