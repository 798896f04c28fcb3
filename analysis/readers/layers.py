"""One layer of a dump: what its tensors are, whether they belong together, and in which order their axes stand."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from precalign.analysis.readers.base import RAW_BYTES, STORED_FORMATS, printable, shown
from precalign.decode.codes import BYTE_FORMATS
from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16, BINARY32

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.analysis.readers.address import Place
    from precalign.analysis.readers.base import StoredTensor
    from precalign.formats import Format

AXES = {3: "hsd", 4: "bhsd"}
"""b batch, h heads, s tokens, d head_dim; by number of axes where the user says nothing."""
Scales = tuple[float, ...] | None


@dataclass(frozen=True)
class LayerInfo:
    """Shapes of one layer, known without reading its data.

    Attributes
    ----------
    index : int
        Number of the layer in the model.
    names : dict[str, str]
        Role (keys, values, queries) -> tensor name.
    batch_size, n_kv_heads, seq_len, head_dim : int
    n_q_heads, n_queries : int or None
        None without queries.
    format, query_format : Format
        Of keys and values, and of queries, as stored; the same but for 8-bit caches.
    stored_bytes : int
        Keys, values and queries.
    key_scales, value_scales : tuple[float, ...] or None
        By kv head; None where the dump states none.
    """

    index: int
    names: dict[str, str]
    batch_size: int
    n_kv_heads: int
    seq_len: int
    head_dim: int
    n_q_heads: int | None
    n_queries: int | None
    format: Format
    query_format: Format
    stored_bytes: int
    key_scales: tuple[float, ...] | None = None
    value_scales: tuple[float, ...] | None = None

    @property
    def group(self) -> int | None:
        """Query heads that share a kv head."""
        return None if self.n_q_heads is None else self.n_q_heads // self.n_kv_heads


class Axes:
    """The order of the axes of a dump's tensors.

    Parameters
    ----------
    path : Path or Remote
        For messages.
    axes : str or None
        E.g. "bshd"; by their number if None.

    Raises
    ------
    UsageError
        If it is no order of b, h, s and d.
    """

    def __init__(self, path: Place, axes: str | None) -> None:
        if axes is not None and sorted(axes) not in (sorted("hsd"), sorted("bhsd")):
            raise UsageError(
                f"--axes {printable(axes)!r} is not an order of b, h, s and d",
                hint="b batch (may be left out), h heads, s tokens, d head_dim",
            )
        self._path, self._axes = path, axes

    def of(self, tensor: StoredTensor) -> str:
        """Return the order of a tensor's axes.

        Raises
        ------
        InputError
            If it has another number of them.
        """
        axes = self._axes if self._axes is not None else AXES.get(len(tensor.shape))
        if axes is None or len(axes) != len(tensor.shape):
            expected = axes or "(batch, heads, tokens, head_dim) or (heads, tokens, head_dim)"
            raise InputError(
                f"{shown(self._path)}: {printable(tensor.name)}: expected {expected}, got shape {tensor.shape}",
                hint="name the order of the axes with --axes, e.g. --axes bshd for (batch, tokens, heads, head_dim)",
            )
        return axes

    def sizes(self, tensor: StoredTensor) -> tuple[int, int, int, int]:
        """Return (batch, heads, tokens, head_dim)."""
        sizes = dict(zip(self.of(tensor), tensor.shape, strict=True))
        return sizes.get("b", 1), sizes["h"], sizes["s"], sizes["d"]

    def oriented(self, tensor: StoredTensor) -> Any:  # noqa: ANN401 - an array or a `RangedArray`
        """Return its codes with the axes (batch, heads, tokens, head_dim)."""
        codes = tensor.codes()
        order = self.of(tensor)
        if "b" not in order:
            codes, order = codes[None], "b" + order
        return codes.transpose([order.index(axis) for axis in "bhsd"])


def describe(
    path: Place, index: int, found: dict[str, StoredTensor], axes: Axes, scales: Callable[[str, int], Scales]
) -> LayerInfo:
    """Return what a layer is.

    Parameters
    ----------
    path : Path or Remote
    index : int
        Number of the layer.
    found : dict
        Role -> tensor.
    axes : Axes
    scales : callable
        (role, n_kv_heads) -> scales by kv head.

    Raises
    ------
    InputError
        If its tensors cannot be analysed or do not belong together.
    """
    for tensor in found.values():
        _check_tensor(path, tensor)
    _check_formats(path, found)
    keys, values, queries = found["keys"], found["values"], found.get("queries")
    batch, n_kv_heads, seq_len, head_dim = sizes = axes.sizes(keys)
    _check_like(path, values, keys, axes.sizes(values), sizes, ("batch_size", "n_kv_heads", "seq_len", "head_dim"))
    n_q_heads = n_queries = None
    if queries is not None:
        q_batch, n_q_heads, n_queries, q_dim = axes.sizes(queries)
        _check_like(path, queries, keys, (q_batch, q_dim), (batch, head_dim), ("batch_size", "head_dim"))
        if n_q_heads % n_kv_heads:
            raise InputError(
                f"{shown(path)}: {printable(queries.name)} has {n_q_heads} heads, not a multiple of the {n_kv_heads} of "
                f"{printable(keys.name)}",
                hint="query head h reads kv head h // (n_q_heads / n_kv_heads); is the order of the axes right (--axes)?",
            )
    return LayerInfo(
        index=index,
        names={role: tensor.name for role, tensor in found.items()},
        batch_size=batch,
        n_kv_heads=n_kv_heads,
        seq_len=seq_len,
        head_dim=head_dim,
        n_q_heads=n_q_heads,
        n_queries=n_queries,
        format=_format(keys),
        query_format=_format(keys if queries is None else queries),
        stored_bytes=sum(prod(tensor.shape) * _format(tensor).total_bits // 8 for tensor in found.values()),
        key_scales=scales("keys", n_kv_heads),
        value_scales=scales("values", n_kv_heads),
    )


def _check_tensor(path: Place, tensor: StoredTensor) -> None:
    if tensor.format not in STORED_FORMATS:
        expected = ", ".join(fmt.name for fmt in STORED_FORMATS)
        raise InputError(
            f"{shown(path)}: {printable(tensor.name)} has dtype {printable(tensor.dtype)}, expected {expected}",
            hint="bytes without a type: say what they are with --byte-format e4m3fn (or e5m2)"
            if tensor.dtype in RAW_BYTES
            else "dump the cache before it is quantised to integers",
        )
    if 0 in tensor.shape:
        raise InputError(
            f"{shown(path)}: {printable(tensor.name)} is empty: shape {tensor.shape}", hint="dump at least one token"
        )


def _check_like(
    path: Place,
    tensor: StoredTensor,
    other: StoredTensor,
    got: tuple[int, ...],
    expected: tuple[int, ...],
    names: tuple[str, ...],
) -> None:
    for name, left, right in zip(names, got, expected, strict=True):
        if left != right:
            raise InputError(
                f"{shown(path)}: {printable(tensor.name)}: {name} must match {printable(other.name)}: {left} vs {right}",
                hint="are both tensors of the same layer, in the same order of axes (--axes)?",
            )


def _check_formats(path: Place, found: dict[str, StoredTensor]) -> None:
    """Refuse a layer of several formats; only an 8-bit cache may have queries of another one."""
    keys = found["keys"]
    for role, tensor in found.items():
        longer = role == "queries" and keys.format in BYTE_FORMATS
        allowed = {keys.format, *((BINARY16, BFLOAT16, BINARY32) if longer else ())}
        if tensor.format not in allowed:
            raise InputError(
                f"{shown(path)}: {printable(tensor.name)}: dtype must match {printable(keys.name)}: {tensor.dtype} vs {keys.dtype}",
                hint="dump all of a layer in one dtype; queries of an 8-bit cache may be binary16, bfloat16 or binary32",
            )


def _format(tensor: StoredTensor) -> Format:
    assert tensor.format is not None  # noqa: S101 - checked by _check_tensor
    return tensor.format
