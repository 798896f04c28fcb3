"""A dump: the layers found in a file, and one kv head of them at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.readers.base import TensorFile, printable, shown
from precalign.analysis.readers.conversion import Conversion, to_storage
from precalign.analysis.readers.finding import find_layers, typed
from precalign.analysis.readers.identity import Identity, check_unchanged
from precalign.analysis.readers.layers import Axes, LayerInfo, describe
from precalign.analysis.readers.scales import find_scales
from precalign.errors import InputError
from precalign.formats import BINARY32

if TYPE_CHECKING:
    from typing import Any, Self

    from numpy.typing import NDArray

    from precalign.analysis.readers.address import Place
    from precalign.analysis.readers.names import Naming
    from precalign.formats import Format


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
        self._axes = Axes(path, axes)
        self._tensors = find_layers(path, file.tensors, mapping)
        if byte_format is not None:
            self._tensors = typed(self._tensors, byte_format)
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
                f"{shown(self.path)}: metadata scale {printable(stated)!r} is no positive number",
                hint="give it with --scale",
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
        if re.fullmatch(r"0*[1-9][0-9]{0,17}", str(stated)) is None:
            raise InputError(
                f"{shown(self.path)}: metadata sliding_window {printable(stated)!r} is no positive count of tokens",
                hint="the metadata count the tokens that a query sees, itself included",
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
                f"{shown(self.path)}: {printable(name)} is binary32, and is stored in 16 bits by who runs a model",
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
            codes = self._axes.oriented(self._tensors[layer.index][role])[batch, heads]
            if (layer.query_format if role == "queries" else layer.format) == BINARY32:
                rounded, conversions[role] = to_storage(np.asarray(codes), query_fmt if role == "queries" else fmt)
                return rounded
            return np.array(codes, order="C")

        keys, values = (read(role, slice(kv_head, kv_head + 1))[0] for role in ("keys", "values"))
        queries = (
            None if layer.group is None else read("queries", slice(kv_head * layer.group, (kv_head + 1) * layer.group))
        )
        return HeadTensors(keys, values, queries, fmt, query_fmt, conversions)

    def _layer(self, index: int) -> LayerInfo:
        def scales(role: str, n_kv_heads: int) -> tuple[float, ...] | None:
            return find_scales(self.path, self.metadata, self._file.tensors, role, index, n_kv_heads)

        return describe(self.path, index, self._tensors[index], self._axes, scales)
