"""`FullReadCache`: the same attention over whole 16-bit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.cpu.plane_cache import CpuPlaneCache
from precalign.memory import aligned_zeros
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FullReadCache(CpuPlaneCache):
    """The twin that every saving is measured against: whole 16-bit codes, all of them read, everything else the same.

    The order of operations, the tasks and the threads are those of `CpuPlaneCache`, and so is every bit of the result of the rule `full`. Keys
    lie as [kv head][page][channel][64 tokens], values as [kv head][page][64 tokens][channel]. Parameters are those of
    `CpuPlaneCache` without the rule.
    """

    _plain = True

    def __init__(self, **sizes: Any) -> None:  # noqa: ANN401 - the parameters of the base class
        super().__init__("full", **sizes)

    def _code_arrays(self) -> list[NDArray[Any]]:
        codes = self.batch_size * self.max_pages * self.n_kv_heads * PAGE_TOKENS * self.head_dim
        keys, values = (aligned_zeros(codes, np.uint16) for _ in range(2))
        return [keys] * 3 + [values] * 3

    def _buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: shape for name, shape in super()._buffer_shapes().items() if not name.endswith(("second", "third"))
        }
