"""What an fp8 cache with an engine's scale would saturate or flush, head by head, and the scale that would not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.decode.codes import to_binary32
from precalign.errors import InputError
from precalign.rounding import round_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from precalign.analysis.readers import Dump, LayerInfo
    from precalign.formats import Format


@dataclass(frozen=True)
class Audit:
    """The keys or values of one kv head in an fp8 format.

    Attributes
    ----------
    layer, kv_head : int
    side : str
        "keys" or "values".
    largest : float
        Largest magnitude.
    saturated, flushed, subnormal : int
        Numbers beyond the format's largest; nonzero numbers that become zero; that become subnormal.
    numbers : int
        Of the head, zeros included.
    relative_error : float
        ||fp8 - x|| / ||x||.
    scale : float
        The smallest power of two with which nothing saturates.
    relative_error_at_scale : float
        With that scale.
    """

    layer: int
    kv_head: int
    side: str
    largest: float
    saturated: int
    flushed: int
    subnormal: int
    numbers: int
    relative_error: float
    scale: float
    relative_error_at_scale: float


def audit(dump: Dump, fmt: Format, scale: float, batch: int = 0) -> Iterator[list[Audit]]:
    """Yield the audits of a layer's heads, keys and values.

    Parameters
    ----------
    dump : Dump
    fmt : Format
        e4m3fn or e5m2.
    scale : float
        code = fp8(x / scale), saturating.
    batch : int
        Which sequence.

    Raises
    ------
    InputError
        If a head holds infinities or NaNs.
    """
    for layer in dump.layers:
        yield [found for head in range(layer.n_kv_heads) for found in _head(dump, layer, head, fmt, scale, batch)]


def _head(dump: Dump, layer: LayerInfo, head: int, fmt: Format, scale: float, batch: int) -> Iterator[Audit]:
    codes = dump.read_head(layer, head, batch)
    for side in ("keys", "values"):
        x = to_binary32(np.ascontiguousarray(getattr(codes, side)), dump.format_of(layer)).astype(np.float64)
        if not np.isfinite(x).all():
            raise InputError(f"{dump.path}: layer {layer.index}, kv head {head}: its {side} hold infinities or NaNs")
        yield _audit(x, layer.index, head, side, fmt, scale)


def _audit(x: NDArray[np.float64], layer: int, head: int, side: str, fmt: Format, scale: float) -> Audit:
    size, largest = np.abs(x), float(np.abs(x).max())
    stored = np.abs(_stored(x, fmt, scale)) / scale
    fits = 2.0 ** np.ceil(np.log2(largest / fmt.largest)) if largest else 1.0
    least_normal = 2.0**fmt.emin
    return Audit(
        layer=layer,
        kv_head=head,
        side=side,
        largest=largest,
        saturated=int((size / scale > fmt.largest).sum()),
        flushed=int(((stored == 0) & (size > 0)).sum()),
        subnormal=int(((stored > 0) & (stored < least_normal)).sum()),
        numbers=x.size,
        relative_error=_error(x, fmt, scale),
        scale=float(fits),
        relative_error_at_scale=_error(x, fmt, float(fits)),
    )


def _stored(x: NDArray[np.float64], fmt: Format, scale: float) -> NDArray[np.float64]:
    return np.asarray(round_to(x / scale, fmt, saturate=True), np.float64) * scale


def _error(x: NDArray[np.float64], fmt: Format, scale: float) -> float:
    whole = float(np.linalg.norm(x))
    return float(np.linalg.norm(_stored(x, fmt, scale) - x)) / whole if whole else 0.0
