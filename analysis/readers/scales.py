"""Scales of an 8-bit cache: key = scale * stored key, and the same for values, as engines that quantise a cache keep them.

Found in the file's metadata or as small tensors under the names of `NAMES`, one for a tensor or one per kv head. A scale of keys multiplies
the factor of the scores. One of values multiplies the output, and so changes no bit that a rule asks for and no relative error.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.readers.base import printable, shown
from precalign.errors import InputError
from precalign.formats import BFLOAT16, BINARY16, BINARY32, get_format
from precalign.formats.codes import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precalign.analysis.readers.address import Place
    from precalign.analysis.readers.base import StoredTensor

NAMES = {"keys": ("key_scale", "k_scale"), "values": ("value_scale", "v_scale")}
"""Role -> last part of a name; before it may stand the layer, "layers.{layer}." or what else a model calls it."""
READABLE = (BINARY16, BFLOAT16, BINARY32)


def find_scales(
    path: Place,
    metadata: Mapping[str, str],
    tensors: Mapping[str, StoredTensor],
    role: str,
    layer: int,
    n_kv_heads: int,
) -> tuple[float, ...] | None:
    """Return the scale of each kv head of a layer, (n_kv_heads,), or None where the dump states none.

    A name with the layer's number goes before one without a number.

    Raises
    ------
    InputError
        If a scale is no positive number, or there are neither one nor n_kv_heads of them (scales by token or channel are not supported).
    """
    for numbered in (True, False):
        for source in (metadata, tensors):
            for name in source:
                if _names(name, role, layer, numbered=numbered):
                    stated = _read(path, name, source[name])
                    return _checked(path, name, stated, n_kv_heads)
    return None


def _names(name: str, role: str, layer: int, *, numbered: bool) -> bool:
    prefix, _, last = name.rpartition(".")
    if last not in NAMES[role]:
        return False
    numbers = re.findall(r"(?<!\d)\d+(?!\d)", prefix)
    return numbers == [str(layer)] if numbered else not numbers


def _read(path: Place, name: str, stated: str | StoredTensor) -> list[float]:
    where = f"{shown(path)}: {printable(name)}"
    if isinstance(stated, str):
        try:
            return [float(part) for part in stated.strip("[] ").split(",")]
        except ValueError:
            raise InputError(
                f"{where}: {printable(stated)!r} is no number",
                hint="one number, or one per kv head with commas between",
            ) from None
    if stated.format is None or get_format(stated.format.name) not in READABLE:
        raise InputError(f"{where} has dtype {printable(stated.dtype)}, expected binary32, binary16 or bfloat16")
    if np.prod(stated.shape, dtype=object) > (1 << 20):
        raise InputError(f"{where} has shape {stated.shape}, expected one scale, or one per kv head")
    values: list[float] = decode(np.asarray(stated.codes()).reshape(-1), stated.format).tolist()
    return values


def _checked(path: Place, name: str, stated: list[float], n_kv_heads: int) -> tuple[float, ...]:
    where = f"{shown(path)}: {printable(name)}"
    if len(stated) not in {1, n_kv_heads}:
        raise InputError(
            f"{where} holds {len(stated)} scales, expected 1 or one for each of the {n_kv_heads} kv heads",
            hint="scales by token or by channel are not supported: dump the cache before it is quantised so",
        )
    if not all(isfinite(scale) and scale > 0 for scale in stated):
        raise InputError(f"{where}: a scale must be a positive number, got {stated[:4]}")
    return tuple(stated) if len(stated) == n_kv_heads else tuple(stated) * n_kv_heads
