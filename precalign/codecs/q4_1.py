"""`q4_1`: 4 bits with a minimum, blocks of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precalign.codecs.ggml import HALF, GgmlCodec, decode_uniform, encode_with_minimum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Q4_1(GgmlCodec):  # noqa: N801 - the format's name
    """d = (max - min) / 15 and the minimum kept as binary16; code = trunc((x - min) / d + 0.5) with the unrounded numbers."""

    name = "q4_1"
    block_bytes = 4 + HALF

    def encode_blocks(self, blocks: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write scale, minimum and codes."""
        encode_with_minimum(blocks, 15, False, out)  # noqa: FBT003

    def decode_blocks(self, octets: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write d * code + minimum."""
        decode_uniform(octets, True, False, 0, out)  # noqa: FBT003
