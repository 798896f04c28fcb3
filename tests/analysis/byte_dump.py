"""A small 8-bit dump: the random dump cast by ml_dtypes, queries left in 16 bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import small_dump
from safetensors.torch import save_file

TORCH = {"e4m3fn": "float8_e4m3fn", "e5m2": "float8_e5m2", "e4m3fnuz": "float8_e4m3fnuz", "e5m2fnuz": "float8_e5m2fnuz"}


def tensors(fmt="e4m3fn", *, seed=1, query_dtype=np.float16):
    """Return name -> array: keys and values as ml_dtypes casts them, saturated, queries of `query_dtype`."""
    dtype = np.dtype(getattr(ml_dtypes, f"float8_{fmt}"))
    largest = float(ml_dtypes.finfo(dtype).max)
    held = small_dump.tensors(seed, dtype=np.float32)
    return {
        name: array.astype(query_dtype) if "queries" in name else np.clip(array, -largest, largest).astype(dtype)
        for name, array in held.items()
    }


def to_torch(held):
    """Return the same as torch tensors, which safetensors' own writer takes in any 8-bit format."""
    import torch

    def one(array):
        if array.dtype.itemsize > 1:
            return torch.from_numpy(array)
        return torch.from_numpy(array.view(np.uint8)).view(getattr(torch, array.dtype.name))

    return {name: one(array) for name, array in held.items()}


def write(path, held=None, **metadata):
    """Write a safetensors dump and return its path."""
    save_file(to_torch(tensors() if held is None else held), path, metadata=metadata or {"scale": "0.25"})
    return path
