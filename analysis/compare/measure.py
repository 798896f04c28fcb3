"""One layer under one contender: bytes, errors of tensors, errors of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.compare.contenders import Contender
from precalign.codecs import CacheShape, Codec, CodedCache, CodedPair, PairCodec, RowCodec, predicted_bytes
from precalign.codecs.attention import MixedHead, StepErrors, errors_of, exact_steps, step_errors
from precalign.codecs.planed import planed_heads
from precalign.codecs.planed_attention import planed_steps
from precalign.formats.codes import exponents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.inputs import Steps

SECTOR_BYTES = 32


@dataclass(frozen=True)
class LayerData:
    """One layer of a dump, as exact numbers.

    Attributes
    ----------
    layer : int
    keys, values : ndarray[float32], (seq_len, n_kv_heads, head_dim)
    queries : ndarray[float64], (n_kv_heads, group, n_steps, head_dim)
        Of the steps looked at.
    steps : Steps
    scale : float
    format, query_format : Format
        Of the cache, of the queries.
    exact : list of (scores, outputs)
        By kv head, from `exact_steps`.
    """

    layer: int
    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    queries: NDArray[np.float64]
    steps: Steps
    scale: float
    format: Format
    query_format: Format
    exact: list[tuple[NDArray[np.float64], NDArray[np.float64]]]

    @classmethod
    def make(
        cls,
        layer: int,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        queries: NDArray[np.float64],
        steps: Steps,
        scale: float,
        fmt: Format,
        query_format: Format,
    ) -> LayerData:
        """Compute exact attention once for all contenders."""
        heads = range(keys.shape[1])
        wide = [(keys[:, head].astype(np.float64), values[:, head].astype(np.float64)) for head in heads]
        exact = [exact_steps(queries[head], *wide[head], steps, scale) for head in heads]
        return cls(layer, keys, values, queries, steps, scale, fmt, query_format, exact)

    @property
    def full_bytes_per_step(self) -> float:
        """Bytes of the sectors that a step reads of the plain cache, a head's share."""
        at_steps = self.steps.visible * self.shape("keys").token_bytes
        n_kv_heads: int = self.keys.shape[1]
        return 2 * float(sectors(at_steps, self.steps).mean()) / n_kv_heads

    def shape(self, side: str) -> CacheShape:
        """Return the shape of a side."""
        _, n_kv_heads, head_dim = self.keys.shape
        return CacheShape(n_kv_heads, head_dim, side, self.format)


@dataclass(frozen=True)
class Held:
    """What a contender makes of a layer.

    Attributes
    ----------
    decoded : dict of str to ndarray[float32], (seq_len, n_kv_heads, head_dim)
        By side, in the order of the tokens.
    nbytes : dict of str to int
        What is kept after the last token, window included.
    coded : dict of str to ndarray[int64], (n_steps,)
        Tokens that are coded when a step attends.
    moved : ndarray[float64], (n_steps,)
        Bytes of the 32-byte sectors that hold what is stored of the tokens a step sees.
    """

    decoded: dict[str, NDArray[np.float32]]
    nbytes: dict[str, int]
    coded: dict[str, NDArray[np.int64]]
    moved: NDArray[np.float64]


def hold(data: LayerData, contender: Contender) -> Held:
    """Run a layer through a contender's codecs."""
    tokens = {"keys": data.keys, "values": data.values}
    if data.layer in contender.exempt_layers:
        contender = Contender(contender.name, None, None)
    if isinstance(contender.keys, PairCodec):
        return _hold_pair(data, contender.keys)
    decoded, nbytes, coded, moved = {}, {}, {}, np.zeros(len(data.steps))
    for side, x in tokens.items():
        codec, shape = contender.codec(side), data.shape(side)
        if not isinstance(codec, Codec):
            decoded[side], nbytes[side] = x, len(x) * shape.token_bytes
            coded[side] = np.zeros_like(data.steps.visible)
            moved += sectors(data.steps.visible * shape.token_bytes, data.steps)
            continue
        cache = CodedCache(codec, shape)
        cache.append(x)
        decoded[side], nbytes[side] = cache.decode(), len(cache.to_bytes())
        coded[side] = np.array([codec.coded_tokens(int(n), shape) for n in data.steps.visible], np.int64)
        at_steps = np.array([predicted_bytes(codec, shape, int(n)) for n in data.steps.visible])
        moved += sectors(at_steps, data.steps)
    return Held(decoded, nbytes, coded, moved)


def sectors(at_steps: NDArray[np.int64], steps: Steps) -> NDArray[np.float64]:
    """Return the bytes of the sectors under so many bytes; of a sliding window, its share of all tokens up to the step."""
    share = (steps.visible - steps.first) / steps.visible
    moved: NDArray[np.float64] = np.ceil(at_steps * share / SECTOR_BYTES) * SECTOR_BYTES
    return moved


def _hold_pair(data: LayerData, codec: PairCodec) -> Held:
    """Run a layer through a codec of both sides; its bytes depend on the data, so those of a step are a share of the final ones."""
    pair, shape = CodedPair(codec, codec, data.shape("keys")), data.shape("keys")
    pair.append(data.keys, data.values)
    back = np.argsort(pair.order)
    keys, values = pair.decode()
    nbytes = len(pair.to_bytes())
    coded = np.array([codec.coded_tokens(int(n), shape) for n in data.steps.visible], np.int64)
    n_coded = codec.coded_tokens(len(keys), shape)
    per_coded = (nbytes - 2 * (len(keys) - n_coded) * shape.token_bytes) / max(n_coded, 1)
    at_steps = coded * per_coded + 2 * (data.steps.visible - coded) * shape.token_bytes
    return Held(
        {"keys": keys[back], "values": values[back]},
        {"keys": pair.key_bytes, "values": nbytes - pair.key_bytes},
        {"keys": coded, "values": coded},
        sectors(at_steps, data.steps),
    )


def measure(data: LayerData, contender: Contender) -> list[dict[str, Any]]:
    """Return one row per kv head: `precalign.analysis.compare.schema` names and explains the columns."""
    if contender.reading is not None and data.layer not in contender.exempt_layers:
        return _measure_planed(data, contender)
    held = hold(data, contender)
    n_kv_heads = data.keys.shape[1]
    sizes = {f"{side[:-1]}_bits_per_number": 8 * held.nbytes[side] / data.keys.size for side in held.nbytes}
    stored, moved = sum(held.nbytes.values()) / n_kv_heads, float(held.moved.mean()) / n_kv_heads
    common = _sizes(data, contender, "codec", sizes, stored, moved)
    return [common | {"kv_head": head} | _errors(data, held, head) for head in range(n_kv_heads)]


def _sizes(
    data: LayerData, contender: Contender, kind: str, bits: dict[str, float], stored_bytes: float, moved_bytes: float
) -> dict[str, Any]:
    """Return the columns that say what a kv head stores and moves a step; `bits` are bits per number of keys and of values."""
    return {
        "contender": contender.name,
        "kind": kind,
        "layer": data.layer,
        "n_steps": len(data.steps),
        **bits,
        "bits_per_number": sum(bits.values()) / 2,
        "stored_bytes": stored_bytes,
        "moved_bytes_per_step": moved_bytes,
        "full_bytes_per_step": data.full_bytes_per_step,
    }


def _measure_planed(data: LayerData, contender: Contender) -> list[dict[str, Any]]:
    """Return the rows of codes in planes that a rule reads in part."""
    codec, reading, n_kv_heads = contender.keys, contender.reading, data.keys.shape[1]
    assert isinstance(codec, RowCodec)  # noqa: S101 - `parse_contender` has looked
    assert reading is not None  # noqa: S101 - the caller has looked
    tokens = {"keys": data.keys, "values": data.values}
    sides = {side: planed_heads(codec, x, data.shape(side), reading.layout) for side, x in tokens.items()}
    rows = []
    for head in range(n_kv_heads):
        keys, values = (sides[side][head] for side in tokens)
        q = data.queries[head].astype(np.float32)
        found = planed_steps(
            q,
            exponents(q, data.query_format),
            keys,
            values,
            reading.rule,
            data.steps,
            data.scale,
            query_bits=data.query_format.total_bits,
        )
        stored = {"key": keys.nbytes, "value": values.nbytes}
        once = {side[:-1]: sides[side][0].header.size / n_kv_heads for side in tokens}
        sizes = {side: stored[side] + once[side] for side in stored}
        bits = {f"{side}_bits_per_number": 8 * n_kv_heads * size / data.keys.size for side, size in sizes.items()}
        full = len(reading.layout.levels) - 1
        rows.append(
            _sizes(data, contender, "codec read by rule", bits, sum(sizes.values()), float(found.moved.mean()))
            | {"kv_head": head}
            | _tensor_errors("key", data.keys[:, head].astype(np.float64), keys.numbers(full).astype(np.float64))
            | _tensor_errors("value", data.values[:, head].astype(np.float64), values.numbers(full).astype(np.float64))
            | summarise(errors_of((found.scores, found.outputs), data.exact[head], data.steps))
        )
    return rows


def _errors(data: LayerData, held: Held, head: int) -> dict[str, float]:
    keys, values = (x[:, head].astype(np.float64) for x in (data.keys, data.values))
    cache = MixedHead(
        keys,
        values,
        held.decoded["keys"][:, head].astype(np.float64),
        held.decoded["values"][:, head].astype(np.float64),
        held.coded["keys"],
        held.coded["values"],
    )
    errors = step_errors(data.queries[head], data.exact[head], cache, data.steps, data.scale)
    return (
        _tensor_errors("key", keys, cache.decoded_keys)
        | _tensor_errors("value", values, cache.decoded_values)
        | summarise(errors)
    )


def _tensor_errors(name: str, exact: NDArray[np.float64], decoded: NDArray[np.float64]) -> dict[str, float]:
    size, got = np.linalg.norm(exact, axis=1), np.linalg.norm(decoded, axis=1)
    inner = (exact * decoded).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.where(size * got > 0, inner / (size * got), (size == got).astype(np.float64))
    whole = float(np.linalg.norm(size))
    off = float(np.linalg.norm(np.linalg.norm(decoded - exact, axis=1)))
    return {
        f"{name}_relative_error": off / whole if whole else float(off > 0),
        f"{name}_cosine_mean": float(cosines.mean()),
    }


def summarise(errors: StepErrors) -> dict[str, float]:
    """Return the figures of attention over the steps and query heads of one kv head."""
    return {
        "score_error_max": float(errors.score_max.max()),
        "output_error_median": float(np.median(errors.output)),
        "output_error_p99": float(np.quantile(errors.output, 0.99)),
        "output_error_max": float(errors.output.max()),
        "output_cosine_mean": float(errors.cosine.mean()),
        "output_cosine_min": float(errors.cosine.min()),
    }
