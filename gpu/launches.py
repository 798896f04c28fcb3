"""The launches of a cache: which kernel gets which buffers, on which grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.cache_inputs import PAGE_TOKENS

if TYPE_CHECKING:
    from precalign.gpu.devices.base import Array, Device
    from precalign.gpu.kernels import KernelConfig

PLANES = ("first", "second", "third")
WIDTHS = (8, 4, 4)


class Launches:
    """The buffers of a cache, and the kernels launched on them; nothing here waits for the device.

    Parameters
    ----------
    config : KernelConfig
    device : Device
    n_kv_heads, batch_size, max_pages : int
        `max_pages` of each sequence.
    scale : float32
    """

    def __init__(
        self,
        config: KernelConfig,
        device: Device,
        n_kv_heads: int,
        batch_size: int,
        max_pages: int,
        scale: np.float32,
    ) -> None:
        self.config, self.device, self.scale = config, device, scale
        self.n_kv_heads, self.n_q_heads, self.batch_size = n_kv_heads, n_kv_heads * config.group, batch_size
        self.max_pages, self.capacity = max_pages, max_pages * PAGE_TOKENS
        self.n_splits = -(-self.capacity // config.split_tokens)
        self.buffers = self._allocate()

    def _allocate(self) -> dict[str, Array]:
        head_dim, zeros, n_pages = self.config.head_dim, self.device.zeros, self.batch_size * self.max_pages
        heads = (self.batch_size, self.n_kv_heads)
        q_heads = (self.batch_size, self.n_q_heads)
        buffers = {}
        for plane, width in zip(PLANES, WIDTHS, strict=True):
            rows, row = PAGE_TOKENS * width // 8, head_dim * width // 8
            buffers[f"key_{plane}"] = zeros((n_pages, self.n_kv_heads, head_dim, rows), np.uint8)
            buffers[f"value_{plane}"] = zeros((n_pages, self.n_kv_heads, PAGE_TOKENS, row), np.uint8)
        for maxima in ("key_maxima", "value_maxima", "key_bits"):
            buffers[maxima] = zeros((*heads, head_dim), np.uint8)
        buffers["token_maxima"] = zeros((n_pages, self.n_kv_heads, PAGE_TOKENS), np.uint8)
        buffers["lengths"], buffers["lost"] = (zeros((self.batch_size,), np.int32) for _ in range(2))
        buffers["value_bits"] = zeros((*heads, self.capacity), np.uint8)
        for name in ("split_maxima", "split_sums") if self.config.one_pass else ("scores", "probs"):
            extent = self.n_splits if self.config.one_pass else self.capacity
            buffers[name] = zeros((*q_heads, extent), np.float32)
        buffers["references"] = zeros(q_heads, np.int32)
        buffers["partials"] = zeros((*q_heads, self.n_splits, head_dim), np.float32)
        buffers["outputs"] = zeros((*q_heads, head_dim), np.float32)
        return buffers

    def store(self, keys: Array, values: Array, starts: Array, pages: int) -> None:
        """Store new tokens: `starts` (batch_size + 1,) says where each sequence's begin, `pages` how many pages one can touch."""
        b, n_kv_heads, head_dim = self.buffers, np.int32(self.n_kv_heads), self.config.head_dim
        place = [starts, b["lengths"], b["block_table"], np.int32(self.max_pages), n_kv_heads]
        planes = [*self._planes("key"), *self._planes("value"), b["token_maxima"]]
        self._launch("store", (pages, self.n_kv_heads, self.batch_size), head_dim, [keys, values, *place, *planes])
        maxima = [b["key_maxima"], b["value_maxima"]]
        grid = (1, self.n_kv_heads, self.batch_size)
        self._launch("store_maxima", grid, head_dim, [keys, values, starts, n_kv_heads, *maxima])
        grown = [np.int32(self.batch_size), np.int32(self.capacity), b["lengths"], b["lost"]]
        self._launch("store_lengths", (-(-self.batch_size // 32), 1, 1), 32, [starts, *grown])

    def attend(self, queries: Array) -> Array:
        """Attend with codes (batch_size, n_q_heads, head_dim); return the outputs."""
        (self._attend_once if self.config.one_pass else self._attend_twice)(queries)
        return self.buffers["outputs"]

    def _attend_twice(self, queries: Array) -> None:
        b, place, keys, values = self.buffers, self._place(), self._planes("key"), self._planes("value")
        grid = (-(-self.max_pages // 8), self.n_kv_heads, self.batch_size)
        decided = [b["key_maxima"], b["key_policy"], b["key_bits"], b["scores"]]
        self._launch("key_scores", grid, 128, [queries, *place, self.scale, *keys, *decided])
        heads = (self.n_q_heads, self.batch_size, 1)
        made = [b["value_maxima"], b["token_maxima"], b["probs"], b["references"]]
        self._launch("softmax", heads, 512, [b["scores"], *place, *values, *made])
        grid = (-(-self.n_splits // 4), self.n_kv_heads, self.batch_size)
        given = [b["probs"], b["references"], *place, *values, b["token_maxima"], b["value_policy"]]
        self._launch("values", grid, 128, [*given, b["value_bits"], b["partials"]])
        arguments = [b["partials"], b["lengths"], np.int32(self.max_pages), b["outputs"]]
        self._launch("combine", heads, self.config.head_dim, arguments)

    def _attend_once(self, queries: Array) -> None:
        b, keys = self.buffers, self._planes("key")
        place = [queries, *self._place(), self.scale]
        if self.config.rule == "online":
            given = [*keys, b["key_maxima"], b["token_maxima"], b["key_policy"], b["references"]]
            self._launch("newest", (self.n_kv_heads, self.batch_size, 1), 64, [*place, *given])
        planes = [*keys, *self._planes("value"), b["key_maxima"], b["token_maxima"], b["references"]]
        made = [b[name] for name in ("key_bits", "value_bits", "split_maxima", "split_sums", "partials")]
        grid = (self.n_splits, self.n_kv_heads, self.batch_size)
        self._launch("one_pass", grid, 64, [*place, *planes, b["key_policy"], b["value_policy"], *made])
        parts = [b["split_maxima"], b["split_sums"], b["partials"], b["lengths"], np.int32(self.max_pages)]
        heads = (self.n_q_heads, self.batch_size, 1)
        self._launch("one_pass_combine", heads, self.config.head_dim, [*parts, b["outputs"]])

    def _place(self) -> list[Any]:
        b = self.buffers
        return [b["lengths"], b["block_table"], np.int32(self.max_pages), np.int32(self.n_kv_heads)]

    def _planes(self, side: str) -> list[Array]:
        return [self.buffers[f"{side}_{plane}"] for plane in PLANES]

    def _launch(self, entry: str, grid: tuple[int, int, int], block: int, arguments: list[Any]) -> None:
        self.device.kernel(self.config, entry)(grid, block, arguments)
