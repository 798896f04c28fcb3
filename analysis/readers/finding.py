"""Which tensors of a file are keys, values and queries of which layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from precalign.analysis.readers.base import RAW_BYTES, StoredTensor, printable, shown
from precalign.analysis.readers.names import NAMINGS, Naming, compile_template
from precalign.decode.codes import BYTE_FORMATS
from precalign.errors import InputError, UsageError

if TYPE_CHECKING:
    from precalign.analysis.readers.address import Place
    from precalign.formats import Format

Found = dict[int, dict[str, StoredTensor]]
"""Layer -> role -> tensor."""
MAX_LAYERS = 10_000
"""A tensor whose first axis is the layer holds no more: each becomes a record of its own."""


def find_layers(path: Place, tensors: dict[str, StoredTensor], mapping: Naming | None) -> Found:
    """Return layer -> role -> tensor by the first convention that finds keys and values."""
    for naming in NAMINGS if mapping is None else (mapping,):
        layers = _match(path, tensors, naming)
        if layers:
            return layers
    listed = "\n  ".join(f"{printable(t.name)}  {t.dtype} {t.shape}" for t in list(tensors.values())[:10])
    more = f"\n  ... and {len(tensors) - 10} more" if len(tensors) > 10 else ""
    what = "no tensor matches --map" if mapping is not None else "no tensors are named like keys and values of a layer"
    raise InputError(
        f"{shown(path)}: {what}; the file holds\n  {listed or 'no tensors'}{more}",
        hint="name them: --map 'keys=blocks.{layer}.k' --map 'values=blocks.{layer}.v' --map 'queries=blocks.{layer}.q'",
    )


def _match(path: Place, tensors: dict[str, StoredTensor], naming: Naming) -> Found:
    layers: Found = {}
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
            parts = _by_layer(path, tensor) if number is None else {int(number): tensor}
            for index, part in parts.items():
                layers.setdefault(index, {})[role] = part
    layers = {index: found for index, found in layers.items() if found.keys() & {"keys", "values"}}
    for index, found in layers.items():
        if not {"keys", "values"} <= found.keys():
            lone, missing = ("keys", "values") if "keys" in found else ("values", "keys")
            raise InputError(
                f"{shown(path)}: layer {index} has {printable(found[lone].name)} but no {missing}",
                hint="a dump holds keys and values of each layer",
            )
    return layers


def _by_layer(path: Place, tensor: StoredTensor) -> dict[int, StoredTensor]:
    """Split a tensor whose first axis is the layer; one with the axes of a single layer is layer 0."""
    if len(tensor.shape) <= 4:
        return {0: tensor}
    if tensor.shape[0] > MAX_LAYERS or 0 in tensor.shape:
        raise InputError(
            f"{shown(path)}: {printable(tensor.name)} has shape {tensor.shape}, whose first axis is the layer; expected 1 to {MAX_LAYERS} layers "
            "and nothing empty",
            hint="dump a tensor for each layer",
        )
    return {index: _layer_of(tensor, index) for index in range(tensor.shape[0])}


def _layer_of(tensor: StoredTensor, index: int) -> StoredTensor:
    name = f"{tensor.name}[{index}]"
    return StoredTensor(name, tensor.shape[1:], tensor.format, tensor.dtype, lambda: tensor.codes()[index])


def typed(tensors: Found, fmt: Format) -> Found:
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
