"""Dumps as cases for the validation of kernels: a layer is one sequence, its last query the decode step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from precalign.analysis.readers.base import printable
from precalign.errors import InputError
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.kernels.config import RULES
from precalign.gpu.validate.case import Case, Codes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from precalign.analysis.readers import Dump, LayerInfo


def dump_cases(
    dump: Dump, rules: Sequence[str] | None, layers: Sequence[int] | None = None
) -> Iterator[tuple[Case, Codes]]:
    """Return a case and its codes for each layer and rule.

    All tokens but the last are appended at once, then the last one; both times the last query attends.

    Parameters
    ----------
    dump : Dump
    rules : sequence of str, optional
        All that the kernels know if not given.
    layers : sequence of int, optional
        All if not given.

    Raises
    ------
    InputError
        If a layer has no queries, or one token only.
    UnavailableError
        If no kernel is built for its head_dim, group or format.
    """
    for layer in dump.layers:
        if layers is not None and layer.index not in layers:
            continue
        if layer.n_queries is None:
            raise InputError(f"{dump.path}: layer {layer.index} has no queries, so there is no decode step to validate")
        codes = _codes(dump, layer)
        group = codes.queries.shape[1] // layer.n_kv_heads
        for rule in rules or RULES:
            config = KernelConfig(layer.head_dim, group, dump.format_of(layer), rule)
            last = min(1, layer.seq_len - 1)
            appends = ((layer.seq_len - last,), (last,)) if last else ((1,),)
            name = f"{printable(dump.path.name)}:layer{layer.index}"
            yield Case(config, layer.n_kv_heads, appends, name, layer.index), codes


def _codes(dump: Dump, layer: LayerInfo) -> Codes:
    heads = [dump.read_head(layer, kv_head) for kv_head in range(layer.n_kv_heads)]
    queries = np.concatenate([head.queries[:, -1] for head in heads if head.queries is not None])
    keys, values = (np.stack([getattr(head, side) for head in heads], axis=1) for side in ("keys", "values"))
    return Codes([keys], [values], queries[None], dump.scale[0])
