"""`PlaneCache`: a paged key/value cache in planes on a device, and decode attention that reads what a rule asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from precalign.errors import InputError, UsageError
from precalign.gpu.cache_inputs import PAGE_TOKENS, as_codes, block_table, check_extents, policy_bits, token_counts
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.launches import PLANES, WIDTHS, Launches
from precalign.layouts import Layout
from precalign.planes import join_keys, join_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.gpu.devices.base import Array, Device
    from precalign.policy import Policy


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

    Raises
    ------
    UsageError
        If an extent, the order of pages or the bits cannot be.

    Notes
    -----
    Everything is bit-equal to the emulator (docs/architecture.md). `attend` and `append_one` launch kernels, copy nothing and
    never wait for the device, and their launches depend on the capacity alone: both can be captured in a CUDA graph, once each has
    run before (the first run compiles and loads). `append` copies the counts to the device and launches by them: it cannot.
    After replays of a graph with `append_one`, `synchronize` brings `lengths` up to date.
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
        check_extents(config, n_kv_heads, batch_size, max_tokens)
        self.config = config
        self.device = device
        self.n_kv_heads = n_kv_heads
        self.batch_size = batch_size
        self.max_pages = -(-max_tokens // PAGE_TOKENS)
        self.scale = np.float32(config.head_dim**-0.5 if scale is None else scale)
        self._host_lengths = np.zeros(batch_size, np.int64)
        table = block_table(page_order, batch_size, self.max_pages)
        policies = (
            policy_bits(config, bits, n_kv_heads, name)
            for bits, name in ((key_bits, "key_bits"), (value_bits, "value_bits"))
        )
        key_policy, value_policy = policies
        self._launches = Launches(config, device, n_kv_heads, batch_size, self.max_pages, self.scale)
        self._buffers = self._launches.buffers
        given = {"block_table": table, "key_policy": key_policy, "value_policy": value_policy}
        given["one_each"] = np.arange(batch_size + 1, dtype=np.int32)
        self._buffers.update({name: device.upload(array) for name, array in given.items()})

    @classmethod
    def from_policy(
        cls,
        policy: Policy,
        layer: int,
        *,
        head_dim: int,
        group: int,
        n_kv_heads: int,
        one_pass: bool = False,
        **options: Any,  # noqa: ANN401 - of PlaneCache
    ) -> Self:
        """Make the cache of one layer of a policy of fixed bits (`precalign tune --rule static`).

        Parameters
        ----------
        policy : Policy
        layer : int
        head_dim, group, n_kv_heads : int
        one_pass : bool
            Whether keys and values are gone over once.
        **options
            batch_size, max_tokens, device, scale, page_order as of `PlaneCache`.

        Raises
        ------
        InputError
            If the policy does not name the layer's heads, or one follows another rule.
        UnavailableError
            If there are no kernels for its format, size of split, head_dim or group.
        UsageError
            If it reads widths that planes 8|4|4 do not have.
        """
        config = KernelConfig(
            head_dim, group, policy.layout.format, "static", split_tokens=policy.split_tokens, one_pass=one_pass
        )
        keys, values = policy.static_bits(layer, n_kv_heads)
        return cls(config, n_kv_heads=n_kv_heads, key_bits=keys, value_bits=values, **options)

    @classmethod
    def from_codes(
        cls,
        config: KernelConfig,
        keys: Sequence[NDArray[Any]],
        values: Sequence[NDArray[Any]],
        **options: Any,  # noqa: ANN401 - of PlaneCache
    ) -> Self:
        """Make a cache that holds these sequences.

        Parameters
        ----------
        config : KernelConfig
        keys, values : sequence of ndarray[uint16], (seq_len, n_kv_heads, head_dim)
            One for each sequence.
        **options
            device, and max_tokens (as many as the longest sequence if not given), scale, page_order, key_bits, value_bits.
        """
        if not keys or len(keys) != len(values):
            raise UsageError(f"expected keys and values of the same sequences, got {len(keys)} and {len(values)}")
        lengths = [len(k) for k in keys]
        options.setdefault("max_tokens", max(1, *lengths))
        cache = cls(config, n_kv_heads=keys[0].shape[1], batch_size=len(keys), **options)
        cache.append(np.concatenate(keys), np.concatenate(values), lengths)
        return cache

    @property
    def n_q_heads(self) -> int:
        """Query heads: the group times the kv heads."""
        return self.n_kv_heads * self.config.group

    @property
    def capacity(self) -> int:
        """Tokens that a sequence can hold."""
        return self.max_pages * PAGE_TOKENS

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, (batch_size,), as the host knows them."""
        return self._host_lengths.copy()

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
            If a shape, dtype or device is not as stated, or a sequence would exceed its capacity; nothing is then stored.
        """
        added = token_counts(counts, self._host_lengths, self.capacity)
        tensors = self._new_tokens(keys, values, int(added.sum()))
        if not added.any():
            return
        starts = self.device.upload(np.concatenate([[0], np.cumsum(added)]).astype(np.int32))
        touched = (self._host_lengths + added - 1) // PAGE_TOKENS - self._host_lengths // PAGE_TOKENS + 1
        self._launches.store(*tensors, starts, int(touched.max()))
        self._host_lengths += added

    def append_one(self, keys: Any, values: Any) -> None:  # noqa: ANN401 - any DLPack tensor
        """Add one token to every sequence; may be captured in a CUDA graph.

        Parameters
        ----------
        keys, values : uint16 codes or float16/bfloat16, (batch_size, n_kv_heads, head_dim)

        Raises
        ------
        InputError
            As of `append`. Replays of a graph do not pass here: a token without a place is then left out, and `synchronize` tells.
        """
        added = token_counts([1] * self.batch_size, self._host_lengths, self.capacity)
        self._launches.store(*self._new_tokens(keys, values, self.batch_size), self._buffers["one_each"], 1)
        self._host_lengths += added

    def synchronize(self) -> NDArray[np.int64]:
        """Wait for the device, and return the tokens of each sequence as it knows them.

        Raises
        ------
        InputError
            If replays of a graph have brought tokens for which there was no place.
        """
        self._host_lengths = self.buffer("lengths").astype(np.int64)
        lost = self.buffer("lost")
        if lost.any():
            raise InputError(
                f"{int(lost.sum())} tokens found no place, the first in sequence {int(np.flatnonzero(lost)[0])}",
                hint=f"this cache holds {self.capacity} tokens a sequence (max_tokens)",
            )
        return self.lengths

    def _new_tokens(self, keys: Any, values: Any, n_tokens: int) -> tuple[Array, Array]:  # noqa: ANN401
        shape = (n_tokens, self.n_kv_heads, self.config.head_dim)
        return self._codes(keys, shape, "keys"), self._codes(values, shape, "values")

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

        Raises
        ------
        InputError
            If shape, dtype or device is not as stated.
        """
        codes = self._codes(queries, (self.batch_size, self.n_q_heads, self.config.head_dim), "queries")
        return self._launches.attend(codes)

    def buffer(self, name: str) -> NDArray[Any]:
        """Copy a buffer to the host, for validation and statistics.

        Parameters
        ----------
        name : str
            key_first, key_second, key_third, value_first, ..., key_maxima, value_maxima, token_maxima, key_bits, value_bits, references,
            partials, outputs, block_table, lengths; scores and probs, or split_maxima and split_sums of one pass.
        """
        if name not in self._buffers:
            raise UsageError(f"no buffer {name!r}", hint="buffers: " + ", ".join(self._buffers))
        return self.device.download(self._buffers[name])

    def to_codes(self, sequence: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Join the planes of a sequence again; keys and values, (seq_len, n_kv_heads, head_dim), as they were appended."""
        if not 0 <= sequence < self.batch_size:
            raise UsageError(f"no sequence {sequence}", hint=f"this cache holds sequences 0 to {self.batch_size - 1}")
        length, layout = int(self._host_lengths[sequence]), self.layout
        pages = self.buffer("block_table")[sequence, : -(-length // PAGE_TOKENS)]
        keys, values = ([self.buffer(f"{side}_{plane}")[pages] for plane in PLANES] for side in ("key", "value"))
        heads = range(self.n_kv_heads)
        joined_keys = [join_keys([plane[:, head] for plane in keys], layout, length) for head in heads]
        rows = [[plane[:, head].reshape(-1, plane.shape[-1])[:length] for plane in values] for head in heads]
        joined_values = [join_values(planes, layout, self.config.head_dim) for planes in rows]
        return np.stack(joined_keys, axis=1), np.stack(joined_values, axis=1)

    @property
    def layout(self) -> Layout:
        """How codes are cut."""
        return Layout("8|4|4", self.config.format, WIDTHS)

    def statistics(self) -> dict[str, float]:
        """Return what the last `attend` read, over all sequences.

        Returns
        -------
        dict of str to float
            key_bits_per_number, value_bits_per_number; plane_bytes, full_plane_bytes: of the planes, and of reading them whole;
            cache_bytes: what the planes of all pages hold.
        """
        tokens = int(self._host_lengths.sum()) * self.n_kv_heads
        seen = np.arange(self.capacity)[None, :] < self._host_lengths[:, None]
        key_bits = float((self.buffer("key_bits").mean(axis=2) * self._host_lengths[:, None]).sum())
        value_bits = float(np.where(seen[:, None, :], self.buffer("value_bits"), 0).sum())
        planes = [self._buffers[f"{side}_{plane}"] for side in ("key", "value") for plane in PLANES]
        return {
            "key_bits_per_number": key_bits / max(1, tokens),
            "value_bits_per_number": value_bits / max(1, tokens),
            "plane_bytes": (key_bits + value_bits) * self.config.head_dim / 8,
            "full_plane_bytes": 4.0 * tokens * self.config.head_dim,
            "cache_bytes": float(sum(plane.nbytes for plane in planes)),
        }

    def _codes(self, tensor: Any, shape: tuple[int, ...], name: str) -> Array:  # noqa: ANN401 - any DLPack tensor
        return as_codes(self.device, tensor, shape, self.config, name)
