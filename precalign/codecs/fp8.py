"""`fp8`: an 8-bit float with one scale per tensor or per head, as engines store it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import FIRST_TOKENS, CacheShape, RowCodec
from precalign.codecs.planed import PlanedRows
from precalign.errors import UsageError
from precalign.formats import E4M3FN, E5M2
from precalign.formats.codes import value_table
from precalign.rounding import encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format

FORMATS = {f.name: f for f in (E4M3FN, E5M2)}


@dataclass(frozen=True)
class Fp8(RowCodec, PlanedRows):
    """code = fp8(x / scale), saturating; binary32 scales.

    Attributes
    ----------
    format : str
        e4m3fn or e5m2.
    scale : float
        1.0 is what engines use where no calibration is given; 0 takes the largest magnitude of the tokens coded first over the largest
        number of the format.
    per : str
        "tensor" or "head".
    """

    name = "fp8"
    source = "engines (fp8 KV cache; default scale 1.0)"

    format: str = "e4m3fn"
    scale: float = 1.0
    per: str = "tensor"

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError for parameters that there are not."""
        del shape
        if self.format not in FORMATS or self.per not in ("tensor", "head") or self.scale < 0:
            raise UsageError(
                f"codec {self}: no such parameters", hint="format=e4m3fn|e5m2, per=tensor|head, scale at least 0"
            )

    @property
    def element(self) -> Format:
        """The 8-bit format."""
        return FORMATS[self.format]

    @property
    def disclaims(self) -> dict[str, str]:
        """A scale found from the first tokens depends on how many there were, and on all heads where they share it."""
        return (
            {}
            if self.scale > 0
            else dict.fromkeys(("stream", "prefix", *(["heads"] if self.per == "tensor" else [])), FIRST_TOKENS)
        )

    def start(self, tokens: NDArray[np.float32], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the scales."""
        n = shape.n_kv_heads if self.per == "head" else 1
        scales = np.full(n, self.scale, np.float32)
        if self.scale == 0:
            largest = np.abs(tokens).max(axis=(0, 2)) if self.per == "head" else np.abs(tokens).max(keepdims=True)
            scales = (largest.reshape(-1) / np.float32(self.element.largest)).astype(np.float32)
            scales[scales == 0] = 1
        return scales.astype("<f4").view(np.uint8)

    def start_bytes(self, shape: CacheShape) -> int:
        """Return 4 bytes a scale."""
        return 4 * (shape.n_kv_heads if self.per == "head" else 1)

    def row_bytes(self, head_dim: int) -> int:
        """Return a byte a number."""
        return head_dim

    def _scales(self, header: NDArray[np.uint8], n_rows: int) -> NDArray[np.float32]:
        scales = header.view("<f4")
        return np.resize(scales, n_rows)[:, None]

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the codes."""
        del shape
        return np.asarray(encode(rows / self._scales(header, len(rows)), self.element, saturate=True))

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return the values."""
        del shape
        return value_table(self.element).astype(np.float32)[octets] * self._scales(header, len(octets))

    def take_apart(self, octets: NDArray[np.uint8], head_dim: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the codes; all scales are stored once."""
        return octets, octets[:, head_dim:]

    def row_scales(self, beside: NDArray[np.uint8], header: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the scale of each row, that of its head or of all."""
        return self._scales(header, len(beside))
