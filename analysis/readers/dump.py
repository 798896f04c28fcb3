"""A dump: the layers found in a file, and one kv head of them at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.readers.base import RAW_BYTES, STORED_FORMATS, StoredTensor, TensorFile, printable
from precalign.analysis.readers.conversion import Conversion, to_storage
from precalign.analysis.readers.identity import Identity, check_unchanged
from precalign.analysis.readers.names import NAMINGS, Naming, compile_template
from precalign.analysis.readers.scales import find_scales
from precalign.decode.codes import BYTE_FORMATS
from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16, BINARY32

if TYPE_CHECKING:
    from typing import Any, Self

    from numpy.typing import NDArray

    from precalign.analysis.readers.address import Place
    from precalign.formats import Format

AXES = {3: "hsd", 4: "bhsd"}
"""b batch, h heads, s tokens, d head_dim; by number of axes where the user says nothing."""


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


@dataclass(frozen=True)
class HeadTensors:
    """One kv head.

    Attributes
    ----------
    keys, values : ndarray[uint8 or uint16], (seq_len, head_dim)
        Codes of `format`; contiguous copies.
    queries : ndarray[uint8 or uint16], (group, n_queries, head_dim), or None
        Codes of `query_format`.
    format, query_format : Format
    conversions : dict[str, Conversion]
        By role, what rounding to the storage format did; empty where nothing was rounded.
    """

    keys: NDArray[Any]
    values: NDArray[Any]
    queries: NDArray[Any] | None
    format: Format
    query_format: Format
    conversions: dict[str, Conversion]


class Dump:
    """The layers of an opened file.

    Parameters
    ----------
    path : Path or Remote
    reader : str
        Name of the file format.
    file : TensorFile
    mapping : Naming, optional
        Where the tensors' names follow no known convention.
    axes : str, optional
        Order of the axes, e.g. "bshd"; by their number if not given.
    storage_format : Format, optional
        Format to which binary32 tensors are rounded; without it they are refused.
    byte_format : Format, optional
        Format of keys and values that are stored as bytes without a type; without it they are refused.
    identity : Identity, optional
        Stamps of its files from before it was opened.

    Raises
    ------
    InputError
        If no layer is found, or tensors of a layer do not belong together.
    """

    def __init__(
        self,
        path: Place,
        reader: str,
        file: TensorFile,
        *,
        mapping: Naming | None = None,
        axes: str | None = None,
        storage_format: Format | None = None,
        byte_format: Format | None = None,
        identity: Identity = (),
    ) -> None:
        self.identity = identity
        self.path, self.reader, self.metadata = path, reader, file.metadata
        self.storage_format = storage_format
        self._file = file
        self._axes = _check_axes(axes)
        self._tensors = _find(path, file.tensors, mapping)
        if byte_format is not None:
            self._tensors = _typed(self._tensors, byte_format)
        self.layers = [self._layer(index) for index in sorted(self._tensors)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def check_unchanged(self) -> None:
        """Refuse a dump whose files have changed since it was opened.

        Raises
        ------
        InputError
            If they have: what was read may be of two dumps.
        """
        check_unchanged(self.path, self.identity)

    @property
    def scale(self) -> tuple[float, str]:
        """Factor of the scores of the first layer, and where it comes from (`scale_of`)."""
        return self.scale_of(self.layers[0])

    def scale_of(self, layer: LayerInfo) -> tuple[float, str]:
        """Return the factor of a layer's scores, and where it comes from.

        Raises
        ------
        InputError
            If the file states one that is no positive number.
        """
        stated = self._stated("scale", layer)
        if stated is None:
            return 1 / sqrt(layer.head_dim), "1/sqrt(head_dim), because the dump states none"
        try:
            scale = float(stated)
        except ValueError:
            scale = float("nan")
        if not (isfinite(scale) and scale > 0):
            raise InputError(
                f"{self.path}: metadata scale {printable(stated)!r} is no positive number", hint="give it with --scale"
            )
        return scale, "the dump's metadata"

    @property
    def sliding_window(self) -> int | None:
        """Tokens that a query of the first layer sees, itself included, or None for all (`window_of`)."""
        return self.window_of(self.layers[0])

    def window_of(self, layer: LayerInfo) -> int | None:
        """Return how many tokens a query of a layer sees, itself included, or None for all.

        Raises
        ------
        InputError
            If the file states one that is no positive count.
        """
        stated = self._stated("sliding_window", layer)
        if stated in {None, "", "None", "null"}:
            return None
        if not str(stated).isdecimal() or int(str(stated)) < 1:
            raise InputError(
                f"{self.path}: metadata sliding_window {printable(stated)!r} is no positive count of tokens"
            )
        return int(str(stated))

    def _stated(self, what: str, layer: LayerInfo) -> str | None:
        """Return what the metadata say of a layer, or else of all."""
        return self.metadata.get(f"layers.{layer.index}.{what}", self.metadata.get(what))

    def format_of(self, layer: LayerInfo) -> Format:
        """Return the format in which a layer's keys and values are handed out."""
        return self._rounded_format(layer.format, layer.names["keys"])

    def query_format_of(self, layer: LayerInfo) -> Format:
        """Return the format in which a layer's queries are handed out."""
        return self._rounded_format(layer.query_format, layer.names.get("queries", layer.names["keys"]))

    def _rounded_format(self, stored: Format, name: str) -> Format:
        if stored != BINARY32:
            return stored
        if self.storage_format is None:
            raise InputError(
                f"{self.path}: {printable(name)} is binary32, and is stored in 16 bits by who runs a model",
                hint="say how it is rounded: --storage-format binary16 (or bfloat16)",
            )
        return self.storage_format

    def read_head(self, layer: LayerInfo, kv_head: int, batch: int = 0) -> HeadTensors:
        """Read one kv head and the query heads that share it; nothing else of the file is touched.

        Raises
        ------
        InputError
            If the layer is binary32 and no storage format was given.
        """
        fmt, query_fmt = self.format_of(layer), self.query_format_of(layer)
        conversions: dict[str, Conversion] = {}

        def read(role: str, heads: slice) -> NDArray[Any]:
            codes = self._oriented(self._tensors[layer.index][role])[batch, heads]
            if (layer.query_format if role == "queries" else layer.format) == BINARY32:
                rounded, conversions[role] = to_storage(np.asarray(codes), query_fmt if role == "queries" else fmt)
                return rounded
            return np.array(codes, order="C")  # a copy: the pages of the file are given back below

        keys, values = (read(role, slice(kv_head, kv_head + 1))[0] for role in ("keys", "values"))
        queries = (
            None if layer.group is None else read("queries", slice(kv_head * layer.group, (kv_head + 1) * layer.group))
        )
        self._file.release()
        return HeadTensors(keys, values, queries, fmt, query_fmt, conversions)

    def _oriented(self, tensor: StoredTensor) -> Any:  # noqa: ANN401 - an array or a `RangedArray`
        codes = tensor.codes()
        order = self._axes_of(tensor)
        if "b" not in order:
            codes, order = codes[None], "b" + order
        return codes.transpose([order.index(axis) for axis in "bhsd"])

    def _axes_of(self, tensor: StoredTensor) -> str:
        axes = self._axes if self._axes is not None else AXES.get(len(tensor.shape))
        if axes is None or len(axes) != len(tensor.shape):
            expected = axes or "(batch, heads, tokens, head_dim) or (heads, tokens, head_dim)"
            raise InputError(
                f"{self.path}: {printable(tensor.name)}: expected {expected}, got shape {tensor.shape}",
                hint="name the order of the axes with --axes, e.g. --axes bshd for (batch, tokens, heads, head_dim)",
            )
        return axes

    def _shape(self, tensor: StoredTensor) -> tuple[int, int, int, int]:
        sizes = dict(zip(self._axes_of(tensor), tensor.shape, strict=True))
        return sizes.get("b", 1), sizes["h"], sizes["s"], sizes["d"]

    def _layer(self, index: int) -> LayerInfo:
        found = self._tensors[index]
        for tensor in found.values():
            self._check_tensor(tensor)
        _check_formats(self.path, found)
        keys, values, queries = found["keys"], found["values"], found.get("queries")
        batch, n_kv_heads, seq_len, head_dim = self._shape(keys)
        self._check_like(
            values, keys, self._shape(values), self._shape(keys), ("batch_size", "n_kv_heads", "seq_len", "head_dim")
        )
        n_q_heads = n_queries = None
        if queries is not None:
            q_batch, n_q_heads, n_queries, q_dim = self._shape(queries)
            self._check_like(queries, keys, (q_batch, q_dim), (batch, head_dim), ("batch_size", "head_dim"))
            if n_q_heads % n_kv_heads:
                raise InputError(
                    f"{self.path}: {printable(queries.name)} has {n_q_heads} heads, not a multiple of the {n_kv_heads} of "
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
            stored_bytes=sum(_bytes(tensor) for tensor in found.values()),
            key_scales=self._scales("keys", index, n_kv_heads),
            value_scales=self._scales("values", index, n_kv_heads),
        )

    def _scales(self, role: str, layer: int, n_kv_heads: int) -> tuple[float, ...] | None:
        return find_scales(self.path, self.metadata, self._file.tensors, role, layer, n_kv_heads)

    def _check_tensor(self, tensor: StoredTensor) -> None:
        if tensor.format not in STORED_FORMATS:
            expected = ", ".join(fmt.name for fmt in STORED_FORMATS)
            raise InputError(
                f"{self.path}: {printable(tensor.name)} has dtype {printable(tensor.dtype)}, expected {expected}",
                hint="bytes without a type: say what they are with --byte-format e4m3fn (or e5m2)"
                if tensor.dtype in RAW_BYTES
                else "dump the cache before it is quantised to integers",
            )
        if 0 in tensor.shape:
            raise InputError(
                f"{self.path}: {printable(tensor.name)} is empty: shape {tensor.shape}", hint="dump at least one token"
            )

    def _check_like(
        self,
        tensor: StoredTensor,
        other: StoredTensor,
        got: tuple[int, ...],
        expected: tuple[int, ...],
        axes: tuple[str, ...],
    ) -> None:
        names = f"{printable(tensor.name)}", f"{printable(other.name)}"
        for axis, left, right in zip(axes, got, expected, strict=True):
            if left != right:
                raise InputError(
                    f"{self.path}: {names[0]}: {axis} must match {names[1]}: {left} vs {right}",
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
                f"{path}: {printable(tensor.name)}: dtype must match {printable(keys.name)}: {tensor.dtype} vs {keys.dtype}",
                hint="dump all of a layer in one dtype; queries of an 8-bit cache may be binary16, bfloat16 or binary32",
            )


def _typed(tensors: dict[int, dict[str, StoredTensor]], fmt: Format) -> dict[int, dict[str, StoredTensor]]:
    """Return tensors with those of raw bytes taken for codes of `fmt`."""
    if fmt not in BYTE_FORMATS:
        raise UsageError(
            f"--byte-format {fmt.name} is no 8-bit format of a cache",
            hint="formats: " + ", ".join(known.name for known in BYTE_FORMATS),
        )
    return {
        index: {
            role: replace(tensor, format=fmt) if tensor.dtype in RAW_BYTES else tensor for role, tensor in found.items()
        }
        for index, found in tensors.items()
    }


def _format(tensor: StoredTensor) -> Format:
    assert tensor.format is not None  # noqa: S101 - checked by _check_tensor
    return tensor.format


def _bytes(tensor: StoredTensor) -> int:
    count = _format(tensor).total_bits // 8
    for n in tensor.shape:
        count *= n
    return count


def _check_axes(axes: str | None) -> str | None:
    if axes is None:
        return None
    if sorted(axes) not in (sorted("hsd"), sorted("bhsd")):
        raise UsageError(
            f"--axes {printable(axes)!r} is not an order of b, h, s and d",
            hint="b batch (may be left out), h heads, s tokens, d head_dim",
        )
    return axes


def _find(path: Place, tensors: dict[str, StoredTensor], mapping: Naming | None) -> dict[int, dict[str, StoredTensor]]:
    """Return layer -> role -> tensor by the first convention that finds keys and values."""
    for naming in NAMINGS if mapping is None else (mapping,):
        layers = _match(path, tensors, naming)
        if layers:
            return layers
    listed = "\n  ".join(f"{printable(t.name)}  {t.dtype} {t.shape}" for t in list(tensors.values())[:10])
    more = f"\n  ... and {len(tensors) - 10} more" if len(tensors) > 10 else ""
    what = "no tensor matches --map" if mapping is not None else "no tensors are named like keys and values of a layer"
    raise InputError(
        f"{path}: {what}; the file holds\n  {listed or 'no tensors'}{more}",
        hint="name them: --map 'keys=blocks.{layer}.k' --map 'values=blocks.{layer}.v' --map 'queries=blocks.{layer}.q'",
    )


def _match(path: Place, tensors: dict[str, StoredTensor], naming: Naming) -> dict[int, dict[str, StoredTensor]]:
    layers: dict[int, dict[str, StoredTensor]] = {}
    for role in ("keys", "values", "queries"):
        template = getattr(naming, role)
        if template is None:
            continue
        expression = compile_template(template)
        for name, tensor in tensors.items():
            match = expression.fullmatch(name)
            if match is None:
                continue
            number = match.groupdict().get("layer")
            parts = _by_layer(tensor) if number is None else {int(number): tensor}
            for index, part in parts.items():
                layers.setdefault(index, {})[role] = part
    layers = {index: found for index, found in layers.items() if found.keys() & {"keys", "values"}}
    for index, found in layers.items():
        if not {"keys", "values"} <= found.keys():
            lone, missing = ("keys", "values") if "keys" in found else ("values", "keys")
            raise InputError(
                f"{path}: layer {index} has {printable(found[lone].name)} but no {missing}",
                hint="a dump holds keys and values of each layer",
            )
    return layers


def _by_layer(tensor: StoredTensor) -> dict[int, StoredTensor]:
    """Split a tensor whose first axis is the layer; one with the axes of a single layer is layer 0."""
    if len(tensor.shape) <= 4:
        return {0: tensor}
    return {index: _layer_of(tensor, index) for index in range(tensor.shape[0])}


def _layer_of(tensor: StoredTensor, index: int) -> StoredTensor:
    name = f"{tensor.name}[{index}]"
    return StoredTensor(name, tensor.shape[1:], tensor.format, tensor.dtype, lambda: tensor.codes()[index])
