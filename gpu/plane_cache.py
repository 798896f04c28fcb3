"""`PlaneCache`: a paged key/value cache in planes on a device, and decode attention that reads what a rule asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.gpu.devices.base import Array, Device
    from precalign.gpu.kernels import KernelConfig

PAGE_TOKENS = 64
_PLANES = ("first", "second", "third")


class PlaneCache:
    """A batch of sequences in planes 8|4|4 of pages of 64 tokens.

    Parameters
    ----------
    config : KernelConfig
        head_dim, group, format and rule; fixed, because the kernels are compiled for them.
    n_kv_heads, batch_size, max_tokens : int
        Shape of the cache; `max_tokens` is the capacity of each sequence.
    device : Device
        Where buffers live and kernels run.
    scale : float, optional
        Factor of the scores, rounded to binary32; 1/sqrt(head_dim) if not given.
    page_order : sequence of int, optional
        Physical page of the i-th logical page (all sequences' pages counted through); the identity if not given. The
        result does not depend on it.
    key_bits, value_bits : ndarray[int], (n_kv_heads,), optional
        Bits per head for the rule `static`.

    Notes
    -----
    `attend` launches kernels and never waits for the device, and its launches depend only on the capacity, so it can be
    captured in a CUDA graph. Everything is bit-equal to the emulator (docs/architecture.md, the stated order).
    """

    def __init__(
        self,
        config: KernelConfig,
        *,
        n_kv_heads: int,
        batch_size: int,
        max_tokens: int,
        device: Device,
        scale: float | None = None,
        page_order: Sequence[int] | None = None,
        key_bits: NDArray[Any] | None = None,
        value_bits: NDArray[Any] | None = None,
    ) -> None:
        for name, count in (("n_kv_heads", n_kv_heads), ("batch_size", batch_size), ("max_tokens", max_tokens)):
            if count < 1:
                raise UsageError(f"{name} must be at least 1, not {count}")
        self.config = config
        self.device = device
        self.n_kv_heads = n_kv_heads
        self.batch_size = batch_size
        self.max_pages = -(-max_tokens // PAGE_TOKENS)
        self.scale = np.float32(config.head_dim**-0.5 if scale is None else scale)
        self._host_lengths = np.zeros(batch_size, np.int64)
        self._buffers = self._allocate()
        self._buffers["block_table"] = device.upload(self._block_table(page_order))
        self._buffers["key_policy"] = device.upload(self._policy(key_bits, "key_bits"))
        self._buffers["value_policy"] = device.upload(self._policy(value_bits, "value_bits"))

    @property
    def n_q_heads(self) -> int:
        """Query heads: the group times the kv heads."""
        return self.n_kv_heads * self.config.group

    @property
    def n_splits(self) -> int:
        """Splits that a sequence of full length has."""
        return -(-self.max_pages * PAGE_TOKENS // self.config.split_tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, (batch_size,)."""
        return self._host_lengths.copy()

    def _allocate(self) -> dict[str, Array]:
        head_dim, tokens = self.config.head_dim, self.max_pages * PAGE_TOKENS
        n_pages = self.batch_size * self.max_pages
        heads = (self.batch_size, self.n_kv_heads)
        q_heads = (self.batch_size, self.n_q_heads)
        n_splits = self.n_splits
        buffers = {}
        for plane, width in zip(_PLANES, (8, 4, 4), strict=True):
            rows = PAGE_TOKENS * width // 8
            buffers[f"key_{plane}"] = self.device.zeros((n_pages, self.n_kv_heads, head_dim, rows), np.uint8)
            row = head_dim * width // 8
            buffers[f"value_{plane}"] = self.device.zeros((n_pages, self.n_kv_heads, PAGE_TOKENS, row), np.uint8)
        for maxima in ("key_maxima", "value_maxima"):
            buffers[maxima] = self.device.zeros((*heads, head_dim), np.uint8)
        buffers["token_maxima"] = self.device.zeros((n_pages, self.n_kv_heads, PAGE_TOKENS), np.uint8)
        buffers["lengths"] = self.device.zeros((self.batch_size,), np.int32)
        buffers["key_bits"] = self.device.zeros((*heads, head_dim), np.uint8)
        buffers["value_bits"] = self.device.zeros((*heads, tokens), np.uint8)
        if self.config.one_pass:
            buffers["split_maxima"] = self.device.zeros((*q_heads, n_splits), np.float32)
            buffers["split_sums"] = self.device.zeros((*q_heads, n_splits), np.float32)
        else:
            buffers["scores"] = self.device.zeros((*q_heads, tokens), np.float32)
            buffers["probs"] = self.device.zeros((*q_heads, tokens), np.float32)
        buffers["references"] = self.device.zeros(q_heads, np.int32)
        buffers["partials"] = self.device.zeros((*q_heads, n_splits, head_dim), np.float32)
        buffers["outputs"] = self.device.zeros((*q_heads, head_dim), np.float32)
        return buffers

    def _block_table(self, page_order: Sequence[int] | None) -> NDArray[np.int32]:
        n_pages = self.batch_size * self.max_pages
        order = np.arange(n_pages, dtype=np.int32) if page_order is None else np.asarray(page_order, np.int32)
        if not np.array_equal(np.sort(order), np.arange(n_pages)):
            raise UsageError(f"page_order must be a permutation of the {n_pages} pages")
        return order.reshape(self.batch_size, self.max_pages)

    def _policy(self, bits: NDArray[Any] | None, name: str) -> NDArray[np.int32]:
        if bits is None:
            if self.config.rule == "static":
                raise UsageError(f"the rule static needs {name}", hint="(n_kv_heads,) of 8, 12 or 16 bits")
            return np.full(self.n_kv_heads, 16, np.int32)
        allowed = list(self.config.levels)
        policy = np.asarray(bits, np.int32)
        if policy.shape != (self.n_kv_heads,) or not np.isin(policy, allowed).all():
            raise UsageError(f"{name} must be (n_kv_heads,) = ({self.n_kv_heads},) of {allowed}, not {bits!r}")
        return policy

    def append(self, keys: Any, values: Any, counts: Sequence[int]) -> None:  # noqa: ANN401 - any DLPack tensor
        """Add tokens to the sequences.

        Parameters
        ----------
        keys, values : uint16 codes or float16/bfloat16, (sum(counts), n_kv_heads, head_dim)
            The new tokens, those of sequence 0 first. Tensors of the device are used in place (DLPack).
        counts : sequence of int, (batch_size,)
            New tokens of each sequence; 0 is allowed.

        Raises
        ------
        InputError
            If a shape or dtype is not as stated, or a sequence would exceed its capacity.
        """
        added = np.asarray(counts, np.int64)
        if added.shape != (self.batch_size,) or (added < 0).any():
            raise InputError(f"counts must be ({self.batch_size},) numbers of tokens, not {counts!r}")
        shape = (int(added.sum()), self.n_kv_heads, self.config.head_dim)
        new_keys, new_values = self._codes(keys, shape, "keys"), self._codes(values, shape, "values")
        if (self._host_lengths + added > self.max_pages * PAGE_TOKENS).any():
            raise InputError(
                f"a sequence would hold {int((self._host_lengths + added).max())} tokens",
                hint=f"this cache holds {self.max_pages * PAGE_TOKENS} tokens a sequence",
            )
        if not added.any():
            return
        touched = (self._host_lengths + added - 1) // PAGE_TOKENS - self._host_lengths // PAGE_TOKENS + 1
        starts = self.device.upload(np.concatenate([[0], np.cumsum(added)]).astype(np.int32))
        b, n_kv_heads, head_dim = self._buffers, np.int32(self.n_kv_heads), self.config.head_dim
        planes = [b[f"{side}_{plane}"] for side in ("key", "value") for plane in _PLANES]
        grid = (int(touched.max()), self.n_kv_heads, self.batch_size)
        place = [starts, b["lengths"], b["block_table"], np.int32(self.max_pages), n_kv_heads]
        self._launch("store", grid, head_dim, [new_keys, new_values, *place, *planes, b["token_maxima"]])
        grid = (1, self.n_kv_heads, self.batch_size)
        maxima = [b["key_maxima"], b["value_maxima"]]
        self._launch("store_maxima", grid, head_dim, [new_keys, new_values, starts, n_kv_heads, *maxima])
        self._launch(
            "store_lengths", (-(-self.batch_size // 32), 1, 1), 32, [starts, np.int32(self.batch_size), b["lengths"]]
        )
        self._host_lengths += added

    def attend(self, queries: Any) -> Array:  # noqa: ANN401 - any DLPack tensor
        """Attend with one query per head and sequence; a sequence without tokens gives zeros.

        Parameters
        ----------
        queries : uint16 codes or float16/bfloat16, (batch_size, n_q_heads, head_dim)
            After rotation. Query head h reads kv head h // group.

        Returns
        -------
        array of the device, float32, (batch_size, n_q_heads, head_dim)
            Overwritten by the next call.
        """
        codes = self._codes(queries, (self.batch_size, self.n_q_heads, self.config.head_dim), "queries")
        (self._attend_once if self.config.one_pass else self._attend_twice)(codes)
        return self._buffers["outputs"]

    def _place(self) -> list[Any]:
        b = self._buffers
        return [b["lengths"], b["block_table"], np.int32(self.max_pages), np.int32(self.n_kv_heads)]

    def _planes(self, side: str) -> list[Array]:
        return [self._buffers[f"{side}_{plane}"] for plane in _PLANES]

    def _attend_twice(self, queries: Array) -> None:
        b, place, keys, values = self._buffers, self._place(), self._planes("key"), self._planes("value")
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
        b, keys = self._buffers, self._planes("key")
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

    def _launch(self, entry: str, grid: tuple[int, int, int], block: int, arguments: list[Any]) -> None:
        self.device.kernel(self.config, entry)(grid, block, arguments)

    def buffer(self, name: str) -> NDArray[Any]:
        """Copy a buffer to the host, for validation and statistics.

        Parameters
        ----------
        name : str
            key_first, key_second, key_third, value_first, ..., key_maxima, value_maxima, token_maxima, key_bits, value_bits, scores, probs,
            references, partials, outputs, block_table.
        """
        return self.device.download(self._buffers[name])

    def statistics(self) -> dict[str, float]:
        """Return the bits read per number in the last `attend`, keys and values apart, over all sequences."""
        key_bits = self.buffer("key_bits").mean(axis=2)
        weights = np.repeat(self._host_lengths[:, None], self.n_kv_heads, axis=1)
        seen = np.arange(self.max_pages * PAGE_TOKENS)[None, :] < self._host_lengths[:, None]
        value_bits = np.where(seen[:, None, :], self.buffer("value_bits"), 0).sum()
        total = max(1, int(weights.sum()))
        return {
            "key_bits_per_number": float((key_bits * weights).sum() / total),
            "value_bits_per_number": float(value_bits / total),
        }

    def _codes(self, tensor: Any, shape: tuple[int, ...], name: str) -> Array:  # noqa: ANN401 - any DLPack tensor
        array = self.device.adopt(tensor)
        if tuple(array.shape) != shape:
            raise InputError(f"{name}: expected shape {shape}, got {tuple(array.shape)}")
        if array.dtype.itemsize != 2:
            raise InputError(f"{name}: expected 16-bit {self.config.format.name} or its codes, got {array.dtype}")
        if not array.flags.c_contiguous:
            raise InputError(
                f"{name}: expected a contiguous array", hint="call .contiguous() or numpy.ascontiguousarray"
            )
        return array.view(np.uint16)
