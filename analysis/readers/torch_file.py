"""PyTorch's `.pt` and `.pth`, loaded without running any code that the file asks for."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from precalign.analysis.readers.base import Reader, StoredTensor, TensorFile, damaged, printable
from precalign.errors import InputError, UnavailableError
from precalign.formats import BFLOAT16, BINARY16, BINARY32, E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

CACHE_CLASSES = (
    "transformers.cache_utils.DynamicCache",
    "transformers.cache_utils.DynamicLayer",
    "transformers.cache_utils.DynamicSlidingWindowLayer",
    "transformers.cache_utils.StaticCache",
    "transformers.cache_utils.StaticLayer",
)
"""Classes that a cache file may name. They are stood in for by an empty class of ours, so transformers is not needed and
none of its code runs."""
MAX_DEPTH = 8
FORMATS = {
    "float16": BINARY16,
    "bfloat16": BFLOAT16,
    "float32": BINARY32,
    "float8_e4m3fn": E4M3FN,
    "float8_e5m2": E5M2,
    "float8_e4m3fnuz": E4M3FNUZ,
    "float8_e5m2fnuz": E5M2FNUZ,
}


class _Record:
    """Stands in for a cache class: holds the attributes that the file sets."""


class TorchReader(Reader):
    """Tensors, dictionaries, tuples of (keys, values) and transformers' cache objects, saved by torch.save."""

    name = "torch"

    def recognises(self, path: Path, start: bytes) -> bool:
        """Go by the suffix, because a .pt is a zip like any other; an old one is a bare pickle."""
        del start
        return path.suffix in {".pt", ".pth", ".bin"}

    def open(self, path: Path) -> TensorFile:
        """Load with weights_only semantics, mapped."""
        saved = _load(path)
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for name, value in _leaves(saved, ""):
            if hasattr(value, "untyped_storage"):
                tensors[name or "tensor"] = _stored(name or "tensor", value)
            elif isinstance(value, int | float | str):
                metadata[name] = str(value)
        return TensorFile(tensors, metadata)


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    try:
        import torch
    except ImportError as error:
        raise UnavailableError(
            f"{path}: reading PyTorch files needs torch", hint="pip install 'precalign[torch]'"
        ) from error
    if path.stat().st_size == 0:
        raise damaged(path, "the file is empty")
    allowed = [(_Record, name) for name in CACHE_CLASSES]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                return torch.load(
                    path, map_location="cpu", weights_only=True
                )  # an old file: a bare pickle cannot be mapped
    except Exception as error:
        raise _refusal(path, str(error)) from error


def _refusal(path: Path, reason: str) -> InputError:
    asked = re.search(r"(?:GLOBAL|global|class) ([\w.]+\.[\w.]+)", reason)
    if asked is not None:
        return InputError(
            f"{path}: refused: the pickle asks for {printable(asked[1])}, and loading it could run code",
            hint="save tensors, or a dict of tensors, instead of the object: torch.save({'layers.0.keys': ...}, path)",
        )
    first_line = reason.strip().splitlines()[0] if reason.strip() else "unknown reason"
    return damaged(path, f"not a PyTorch file that can be read safely ({printable(first_line)})")


def _leaves(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - whatever was saved
    if depth > MAX_DEPTH:
        return
    items: Iterator[tuple[Any, Any]]
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif isinstance(value, _Record):
        items = iter(vars(value).items())
    else:
        yield name, value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key), depth + 1)


def _stored(name: str, tensor: Any) -> StoredTensor:  # noqa: ANN401 - torch is not imported here
    dtype = str(tensor.dtype).removeprefix("torch.")
    fmt = FORMATS.get(dtype)

    def codes() -> NDArray[np.unsignedinteger[Any]]:
        import torch

        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
        view: NDArray[Any] = tensor.detach().view(integers).numpy()
        return view.view(f"uint{8 * view.itemsize}")

    return StoredTensor(name, tuple(tensor.shape), fmt, dtype, codes)
