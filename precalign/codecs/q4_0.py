"""`q4_0`: 4 bits, symmetric, blocks of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precalign.codecs.ggml import HALF, GgmlCodec, decode_uniform, encode_symmetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Q4_0(GgmlCodec):  # noqa: N801 - the format's name
    """d = (the x of largest magnitude) / -8 kept as binary16; code = min(15, trunc(x / d + 8.5)) with the unrounded d."""

    name = "q4_0"
    block_bytes = 2 + HALF

    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write scale and codes."""
        encode_symmetric(blocks, 8, False, out)  # noqa: FBT003

    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write d * (code - 8)."""
        decode_uniform(octets, False, False, 8, out)  # noqa: FBT003
