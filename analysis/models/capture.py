"""A model's cache as a dump: keys, values and queries as attention gets them, layer by layer as one pass goes through the model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from precalign.analysis.models.attention import Call, mark
from precalign.analysis.models.cache import attach
from precalign.analysis.models.storage import codes, storage_format
from precalign.analysis.models.writer import DumpWriter, header_of
from precalign.errors import InputError, UnavailableError, UsageError
from precalign.formats import get_format
from precalign.live.layer import LayerShape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.formats import Format

DEFAULT_SHARD_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Captured:
    """What was written.

    Attributes
    ----------
    files : list of Path
        The one to open first.
    layers : list of int
    n_tokens : int
    format : Format
    shape : LayerShape
        Of the first layer.
    windows : list of (int or None)
        Sliding window of each layer.
    """

    files: list[Path]
    layers: list[int]
    n_tokens: int
    format: Format
    shape: LayerShape
    windows: list[int | None]


class _Enough(Exception):  # noqa: N818 - not an error: every layer that was asked for has been seen
    """Ends the pass."""


class _Recorder(DynamicCache):  # type: ignore[misc] # transformers has no types here
    """A cache that keeps nothing: what attention gets goes to a function, layer by layer."""

    def __init__(self, model: Any, tell: Callable[[Call], None]) -> None:
        super().__init__(config=model.config)
        self._tell = tell

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Any, Any]:
        return mark(key_states, self, layer_idx), value_states

    def attend(self, call: Call) -> Any:
        self._tell(call)
        return call.stock(call.query, call.key, call.value)


def capture(
    model: Any,
    inputs: Any,
    output: str | Path,
    *,
    layers: Sequence[int] | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    name: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Captured:
    """Run a model over tokens once and write keys, values and post-rotation queries of its layers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model whose attention goes through transformers' attention interface.
    inputs : array or tensor of int, (n_tokens,) or (batch_size, n_tokens), or a mapping with input_ids
        Sequences of equal length, without padding.
    output : str or Path
        The dump, .safetensors; in shards with an index beside it if larger than `shard_bytes`.
    layers : sequence of int, optional
        Which layers; all if not given.
    dtype : str, optional
        fp16 or bf16: the format of the dump where the model computes in binary32; rounded to nearest even.
    overwrite : bool
        Whether a file there may be replaced.
    shard_bytes : int
        Largest size of a file; at least one layer is in each.
    name : str, optional
        What the metadata call the model; its type if not given.
    progress : callable, optional
        Called with 1 for every layer.

    Returns
    -------
    Captured

    Raises
    ------
    UsageError
        If a layer is not there.
    InputError
        If the tokens or the format cannot be used.
    UnavailableError
        If the model's attention is of a kind that cannot be captured.
    OutputError
        If the dump cannot be written, or is there.

    Notes
    -----
    Layers are written as the pass meets them, so no more than one is held, and an interrupted capture goes on from those that were
    written: calling it again runs the pass once more, but only up to the last layer that is missing.
    """
    attach(model)
    ids = _ids(model, inputs)
    n_layers = int(model.config.get_text_config().num_hidden_layers)
    chosen = sorted(set(range(n_layers) if layers is None else layers))
    if not chosen or not set(chosen) <= set(range(n_layers)):
        raise UsageError(f"layers {chosen}: the model has 0 .. {n_layers - 1}")
    fmt = storage_format(model.dtype, None if dtype is None else get_format(dtype))
    writer = DumpWriter(Path(output), _identity(model, ids, chosen, fmt), overwrite=overwrite)
    missing = [layer for layer in chosen if not writer.has(layer)]
    if progress is not None and len(missing) < len(chosen):
        progress(len(chosen) - len(missing))

    def tell(call: Call) -> None:
        if call.layer in missing:
            tensors = {"keys": call.key, "values": call.value, "queries": call.query}
            writer.add(call.layer, {role: codes(t, fmt) for role, t in tensors.items()}, fmt, _facts(call.shape))
            missing.remove(call.layer)
            if progress is not None:
                progress(1)
        if not missing:
            raise _Enough

    if missing:
        _run(model, ids, tell)
    if missing:
        raise UnavailableError(
            f"layers {missing} of {type(model).__name__} never called transformers' attention interface",
            hint="layers of another kind (state spaces, linear attention) have no such cache; choose others with --layers",
        )
    facts = [header_of(writer._part(layer))[0]["__metadata__"] for layer in chosen]  # noqa: SLF001 - its own files
    metadata = {"model": name or str(model.config.model_type), "n_tokens": str(ids.shape[1])} | _merged(chosen, facts)
    files = writer.finish(chosen, metadata, shard_bytes)
    return Captured(files, chosen, ids.shape[1], fmt, _shape_of(chosen[0], facts[0]), [_window(f) for f in facts])


def _ids(model: Any, inputs: Any) -> Any:
    given = inputs["input_ids"] if hasattr(inputs, "keys") else inputs
    ids = torch.as_tensor(np.asarray(given).astype(np.int64) if not isinstance(given, torch.Tensor) else given)
    ids = ids.to(torch.int64).to(model.device)
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or 0 in ids.shape:
        raise InputError(f"token ids: expected (batch_size, n_tokens), got shape {tuple(ids.shape)}")
    return ids


def _run(model: Any, ids: Any, tell: Callable[[Call], None]) -> None:
    recorder = _Recorder(model, tell)
    try:
        with torch.no_grad():
            model.base_model(input_ids=ids, past_key_values=recorder, use_cache=True)
    except _Enough:
        return


def _identity(model: Any, ids: Any, layers: list[int], fmt: Format) -> dict[str, Any]:
    first = next(iter(model.parameters())).detach().float().cpu().numpy()
    return {
        "schema": "precalign.capture/1",
        "config": hashlib.sha256(model.config.to_json_string().encode()).hexdigest(),
        "weights": hashlib.sha256(first.tobytes()).hexdigest(),
        "computes": str(model.dtype),
        "tokens": hashlib.sha256(ids.cpu().numpy().tobytes()).hexdigest(),
        "layers": layers,
        "format": fmt.name,
    }


def _facts(shape: LayerShape) -> dict[str, str]:
    window = {} if shape.window is None else {"sliding_window": str(shape.window)}
    sizes = {"n_q_heads": str(shape.n_q_heads), "n_kv_heads": str(shape.n_kv_heads), "head_dim": str(shape.head_dim)}
    return {"scale": repr(shape.scale)} | sizes | window


def _merged(layers: list[int], facts: list[dict[str, str]]) -> dict[str, str]:
    """Return what all layers share under its own name, and what differs layer by layer."""
    merged: dict[str, str] = {}
    for key in ("scale", "n_q_heads", "n_kv_heads", "sliding_window"):
        stated = [fact.get(key) for fact in facts]
        if len(set(stated)) == 1:
            merged |= {} if stated[0] is None else {key: stated[0]}
        else:
            merged |= {f"layers.{i}.{key}": value for i, value in zip(layers, stated, strict=True) if value is not None}
    return merged


def _window(facts: dict[str, str]) -> int | None:
    return int(facts["sliding_window"]) if "sliding_window" in facts else None


def _shape_of(layer: int, facts: dict[str, str]) -> LayerShape:
    n_q_heads, n_kv_heads, head_dim = (int(facts[name]) for name in ("n_q_heads", "n_kv_heads", "head_dim"))
    return LayerShape(layer, n_q_heads, n_kv_heads, head_dim, float(facts["scale"]), _window(facts))
