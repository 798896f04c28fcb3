"""`nvfp4`: e2m1 in blocks of 16 with an e4m3 scale, and one binary32 scale per tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.codecs.base import FIRST_TOKENS, CacheShape, RowCodec, require_multiple
from precalign.codecs.bits import pack_rows, unpack_rows
from precalign.codecs.planed import PlanedRows
from precalign.errors import UsageError
from precalign.formats import E2M1, E4M3FN
from precalign.formats.codes import value_table
from precalign.rounding import encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format

BLOCK = 16


@dataclass(frozen=True)
class Nvfp4(RowCodec, PlanedRows):
    """block scale = e4m3(max |x| / 6 / global); code = e2m1(x / (block scale * global)).

    Attributes
    ----------
    scale : float
        The global scale; 0 takes max |x| / (6 * 448) of the tokens coded first, so that the largest block scale is 448.
    """

    name = "nvfp4"
    source = "NVIDIA (NVFP4)"

    scale: float = 0.0

    @property
    def disclaims(self) -> dict[str, str]:
        """A scale found from the first tokens depends on how many there were, and on all heads where they share it."""
        return {} if self.scale > 0 else dict.fromkeys(("stream", "prefix", "heads"), FIRST_TOKENS)

    def check(self, shape: CacheShape) -> None:
        """Raise UsageError unless head_dim is whole blocks and the scale not negative."""
        require_multiple(self, shape, BLOCK, "the block of a scale")
        if self.scale < 0:
            raise UsageError(f"codec {self}: scale must be at least 0")

    def start(self, tokens: NDArray[np.float32], shape: CacheShape) -> NDArray[np.uint8]:
        """Return the global scale."""
        del shape
        found = self.scale or float(np.abs(tokens).max()) / (E2M1.largest * E4M3FN.largest) or 1.0
        return np.array([found], "<f4").view(np.uint8)

    def start_bytes(self, shape: CacheShape) -> int:
        """Return the bytes of the global scale."""
        del shape
        return 4

    def row_bytes(self, head_dim: int) -> int:
        """Return codes and block scales."""
        return head_dim // 2 + head_dim // BLOCK

    def encode_rows(self, rows: NDArray[np.float32], header: NDArray[np.uint8], shape: CacheShape) -> NDArray[np.uint8]:
        """Return packed codes, then block scales."""
        overall = header.view("<f4")[0]
        blocks = rows.reshape(len(rows), -1, BLOCK)
        largest = np.abs(blocks).max(axis=2)
        scales = np.asarray(encode(largest / np.float32(E2M1.largest) / overall, E4M3FN, saturate=True))
        steps = value_table(E4M3FN).astype(np.float32)[scales] * overall
        steps = np.where(steps == 0, np.float32(np.inf), steps)
        codes = np.asarray(encode(blocks / steps[..., None], E2M1, saturate=True)).reshape(rows.shape)
        out = np.empty((len(rows), self.row_bytes(shape.head_dim)), np.uint8)
        pack_rows(codes, 4, out[:, : shape.head_dim // 2])
        out[:, shape.head_dim // 2 :] = scales
        return out

    def decode_rows(
        self, octets: NDArray[np.uint8], header: NDArray[np.uint8], shape: CacheShape
    ) -> NDArray[np.float32]:
        """Return code times block scale times global scale."""
        codes = np.empty((len(octets), shape.head_dim), np.uint8)
        unpack_rows(octets, 4, codes)
        steps = value_table(E4M3FN).astype(np.float32)[octets[:, shape.head_dim // 2 :]] * header.view("<f4")[0]
        elements = value_table(E2M1).astype(np.float32)[codes].reshape(len(octets), -1, BLOCK)
        rows: NDArray[np.float32] = (elements * steps[..., None]).reshape(len(octets), shape.head_dim)
        return rows

    @property
    def element(self) -> Format:
        """e2m1."""
        return E2M1

    def take_apart(self, octets: NDArray[np.uint8], head_dim: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the codes, and the e4m3fn scales of the blocks."""
        codes = np.empty((len(octets), head_dim), np.uint8)
        unpack_rows(octets, 4, codes)
        return codes, octets[:, head_dim // 2 :]

    def row_scales(self, beside: NDArray[np.uint8], header: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the scale of each block, the global one included."""
        scales: NDArray[np.float32] = value_table(E4M3FN).astype(np.float32)[beside] * header.view("<f4")[0]
        return scales
