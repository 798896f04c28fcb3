"""What a `PlaneCache` accepts: every shape, dtype, device and launch limit is checked here, before anything is launched."""

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
GRID_YZ = 65_535
"""Largest grid extent in y and z."""
INT_MAX = 2**31 - 1
_CODES = ("uint16", "int16")


def check_extents(config: KernelConfig, n_kv_heads: int, batch_size: int, max_tokens: int) -> None:
    """Check that a cache of these extents can be launched and indexed.

    Raises
    ------
    UsageError
        If one is not positive, exceeds a grid, or makes an array that the kernels' 32-bit indices do not reach.
    """
    for name, count in (("n_kv_heads", n_kv_heads), ("batch_size", batch_size), ("max_tokens", max_tokens)):
        if count < 1:
            raise UsageError(f"{name} must be at least 1, not {count}")
    for name, count in (("n_kv_heads", n_kv_heads), ("batch_size", batch_size)):
        if count > GRID_YZ:
            raise UsageError(f"{name} must be at most {GRID_YZ:,}, the largest grid, not {count:,}")
    pages = -(-max_tokens // PAGE_TOKENS)
    indexed = {
        "tokens of a sequence": pages * PAGE_TOKENS,
        "pages": batch_size * pages,
        "channels of all heads": batch_size * n_kv_heads * config.head_dim,
        "query heads": batch_size * n_kv_heads * config.group,
    }
    for what, count in indexed.items():
        if count > INT_MAX:
            raise UsageError(f"{what}: {count:,} exceed the kernels' 32-bit indices", hint="split the batch")


def block_table(page_order: Sequence[int] | None, batch_size: int, max_pages: int) -> NDArray[np.int32]:
    """Return the physical page of each logical one, (batch_size, max_pages).

    Raises
    ------
    UsageError
        If `page_order` is not a permutation.
    """
    n_pages = batch_size * max_pages
    order = np.arange(n_pages, dtype=np.int32) if page_order is None else np.asarray(page_order, np.int32)
    if not np.array_equal(np.sort(order, axis=None), np.arange(n_pages)):
        raise UsageError(f"page_order must be a permutation of the {n_pages} pages")
    return order.reshape(batch_size, max_pages)


def policy_bits(config: KernelConfig, bits: NDArray[Any] | None, n_kv_heads: int, name: str) -> NDArray[np.int32]:
    """Return the bits of each kv head; for rules other than `static` they are not used.

    Raises
    ------
    UsageError
        If `static` lacks them, or they are not widths that can be read.
    """
    if bits is None:
        if config.rule == "static":
            raise UsageError(f"the rule static needs {name}", hint=f"(n_kv_heads,) of {config.levels} bits")
        return np.full(n_kv_heads, 16, np.int32)
    policy = np.asarray(bits, np.int32)
    if policy.shape != (n_kv_heads,) or not np.isin(policy, config.levels).all():
        raise UsageError(f"{name} must be (n_kv_heads,) = ({n_kv_heads},) of {config.levels}, not {bits!r}")
    return policy


def token_counts(counts: Sequence[int], lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Return how many tokens each sequence grows by.

    Raises
    ------
    InputError
        If there is not a count for each sequence, or one would exceed the capacity.
    """
    added = np.asarray(counts, np.int64)
    if added.shape != lengths.shape or (added < 0).any():
        raise InputError(f"counts must be ({len(lengths)},) numbers of tokens, not {counts!r}")
    if (lengths + added > capacity).any():
        sequence = int(np.argmax(lengths + added))
        raise InputError(
            f"sequence {sequence} would hold {int((lengths + added)[sequence])} tokens",
            hint=f"this cache holds {capacity} tokens a sequence (max_tokens)",
        )
    return added


def as_codes(device: Device, tensor: Any, shape: tuple[int, ...], config: KernelConfig, name: str) -> Array:  # noqa: ANN401
    """Return a tensor as uint16 codes on the device, without copying where it is there already.

    Parameters
    ----------
    tensor : array
        uint16 or int16 codes, or numbers of the cache's own format: NumPy, CuPy, torch, or whatever speaks DLPack.

    Raises
    ------
    InputError
        If shape, dtype, order or device is another.
    """
    given, wanted = str(getattr(tensor, "dtype", type(tensor).__name__)), config.format.name
    number = {"binary16": "float16", "bfloat16": "bfloat16"}[wanted]
    if given.removeprefix("torch.") not in (*_CODES, number):
        raise InputError(f"{name}: expected {number} or uint16 codes, got {given}")
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    try:
        array = device.adopt(tensor)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: cannot be used on this device ({device.name}): {error}",
            hint="move it to the device that the cache is on; .detach() a tensor that requires a gradient",
        ) from error
    if not array.flags.c_contiguous:
        raise InputError(f"{name}: expected a contiguous array", hint="call .contiguous() or numpy.ascontiguousarray")
    return array.view(np.uint16)
