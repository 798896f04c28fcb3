"""What is in a dump: facts of the header, and what a pass over the codes tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from precalign.analysis.cache_stats import CacheStats, cache_stats
from precalign.analysis.facts import HOW_TO_CAPTURE_QUERIES
from precalign.analysis.readers import printable
from precalign.errors import InputError
from precalign.formats import BINARY32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precalign.analysis.readers import Dump, LayerInfo

INSPECTION_SCHEMA = "precalign.inspect/1"


@dataclass(frozen=True)
class LayerFacts:
    """One layer: its shapes, and statistics by role where the data was read."""

    info: LayerInfo
    stats: dict[str, CacheStats]

    def shape_cells(self) -> tuple[str, ...]:
        """Return the cells of the table of shapes."""
        info = self.info
        counts = (info.index, info.n_kv_heads, info.n_q_heads, info.seq_len, info.n_queries, info.head_dim)
        formats = dict.fromkeys((info.format.name, info.query_format.name))
        return (*("–" if n is None else str(n) for n in counts), ", queries ".join(formats))

    def statistics_rows(self) -> list[tuple[str, ...]]:
        """Return one row of cells for each role that was read."""
        return [_statistics_row(self.info.index, role, held.figures()) for role, held in self.stats.items()]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        info = self.info
        shape = ("batch_size", "n_kv_heads", "n_q_heads", "seq_len", "n_queries", "head_dim", "stored_bytes")
        return {
            "layer": info.index,
            "tensors": {role: printable(name) for role, name in info.names.items()},
            "format": info.format.name,
            "query_format": None if info.n_queries is None else info.query_format.name,
            "key_scales": info.key_scales,
            "value_scales": info.value_scales,
            **{name: getattr(info, name) for name in shape},
            "statistics": {role: held.figures() for role, held in self.stats.items()},
        }


def _statistics_row(layer: int, role: str, figures: dict[str, Any]) -> tuple[str, ...]:
    nonfinite = figures["nonfinite"]
    span = "all zero" if figures["max_exponent"] is None else f"{figures['min_exponent']} … {figures['max_exponent']}"
    return (
        str(layer),
        role,
        "yes" if nonfinite == 0 else f"no: {nonfinite} infinities or NaNs",
        str(figures["zeros"]),
        str(figures["subnormals"]),
        span,
        str(figures["exponent_wasted_bits"]),
        f"{figures['exponent_entropy_bits']:.1f} bits",
        str(figures["trailing_zero_bits"]),
    )


class Inspection:
    """An opened dump, looked at."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self.name = printable(dump.path.name)
        self.n_layers = len(dump.layers)

    def headline(self) -> str:
        """Return the facts of the file in one line."""
        dump = self._dump
        scale, source = dump.scale
        stored = sum(layer.stored_bytes for layer in dump.layers)
        windows = sorted({w for layer in dump.layers if (w := dump.window_of(layer)) is not None})
        window = f", sliding window {' and '.join(map(str, windows))}" if windows else ""
        return f"{dump.reader}, {self.n_layers} layers, {stored / 1e6:.1f} MB; scale {scale:g} ({source}){window}"

    def layers(self, *, stats: bool) -> Iterator[LayerFacts]:
        """Go through the layers; with `stats` every tensor is read, one head at a time."""
        for info in self._dump.layers:
            rounded = BINARY32 in {info.format, info.query_format}
            readable = not rounded or self._dump.storage_format is not None
            yield LayerFacts(info, self._statistics(info) if stats and readable else {})

    def _statistics(self, info: LayerInfo) -> dict[str, CacheStats]:
        found: dict[str, CacheStats] = {}
        for batch in range(info.batch_size):
            for kv_head in range(info.n_kv_heads):
                head = self._dump.read_head(info, kv_head, batch)
                for role in ("keys", "values", "queries"):
                    codes = getattr(head, role)
                    if codes is not None:
                        held = cache_stats(codes, head.query_format if role == "queries" else head.format)
                        found[role] = found[role] + held if role in found else held
        return found

    def verdict(self, layers: list[LayerFacts]) -> list[str]:
        """Say what `precalign analyze` can do with it."""
        lines = []
        if any(held.info.n_queries is None for held in layers):
            lines += [
                "No queries: exponent statistics, unused format bits and layout traffic can be analysed, decode steps cannot.",
                f"To capture them, {HOW_TO_CAPTURE_QUERIES}.",
            ]
        else:
            lines.append(f"Everything can be analysed: precalign analyze {self.name} -o out/")
        bad = [
            f"layer {held.info.index} ({', '.join(role for role, s in held.stats.items() if s.figures()['nonfinite'])})"
            for held in layers
            if any(s.figures()["nonfinite"] for s in held.stats.values())
        ]
        if bad:
            lines.append(
                f"Infinities or NaNs in {', '.join(bad)}: analyze needs --skip-nonfinite and leaves those heads out."
            )
        if any(BINARY32 in {held.info.format, held.info.query_format} for held in layers):
            lines.append("binary32 is rounded first: say how with --storage-format fp16 (or bf16).")
        scaled = [held.info.index for held in layers if held.info.key_scales or held.info.value_scales]
        if scaled:
            lines.append(f"Scales of the cache are stated for {len(scaled)} of {len(layers)} layers.")
        return lines

    def to_json(self, layers: list[LayerFacts]) -> dict[str, Any]:
        """Return plain data."""
        dump = self._dump
        scale, source = dump.scale
        return {
            "schema": INSPECTION_SCHEMA,
            "name": self.name,
            "reader": dump.reader,
            "scale": scale,
            "scale_source": source,
            "sliding_window": dump.sliding_window,
            "sliding_windows": [dump.window_of(layer) for layer in dump.layers],
            "metadata": {printable(key): printable(value) for key, value in dump.metadata.items()},
            "layers": [held.to_json() for held in layers],
            "verdict": self.verdict(layers),
        }


def inspect_dump(dump: Dump) -> Inspection:
    """Look at an opened dump.

    Raises
    ------
    InputError
        If it holds no layer.
    """
    if not dump.layers:
        raise InputError(f"{printable(dump.path)}: no layers", hint="precalign inspect --help names the conventions")
    return Inspection(dump)
