"""Decode steps of any length for benchmarks of kernels: a dump's layer, its tokens and heads repeated; and drawn numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.readers import open_dump
from precalign.errors import InputError
from precalign.formats import BINARY16, Format
from precalign.gpu.kernels import KernelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from precalign.analysis.benchmarks.timing import Options

DEMO = Path(__file__).resolve().parent.parent / "demo/novel.safetensors"
N_KV_HEADS = 8
COMPARED = (
    ("full", False),
    ("alignedkv", False),
    ("aligned-max", False),
    ("aligned-skip", False),
    ("full", True),
    ("online", True),
)
"""(rule, one_pass)"""


@dataclass(frozen=True)
class Problem:
    """One decode step of one sequence.

    Attributes
    ----------
    name : str
    context : int
        Tokens.
    keys, values : ndarray[uint16], (context, n_kv_heads, head_dim)
        All kv heads alike, so that the emulation of one checks it.
    queries : ndarray[uint16], (n_q_heads, head_dim)
    scale : float
    format : Format
    """

    name: str
    context: int
    keys: NDArray[np.uint16]
    values: NDArray[np.uint16]
    queries: NDArray[np.uint16]
    scale: float
    format: Format

    def configs(self) -> list[KernelConfig]:
        """Return what is compared: the full reads and the rules."""
        head_dim, group = self.keys.shape[2], len(self.queries) // self.keys.shape[1]
        return [KernelConfig(head_dim, group, self.format, rule, one_pass=once) for rule, once in COMPARED]


def problems(options: Options, contexts: Sequence[int], n_kv_heads: int = N_KV_HEADS) -> Iterator[Problem]:
    """Yield a step for each context: of the dump given, or of the demo dump (head_dim 64) and of drawn numbers (head_dim 128).

    Raises
    ------
    InputError
        If the dump has no queries.
    """
    sources = [_of_dump(options.dump or DEMO)] + ([] if options.dump else [_drawn()])
    for name, keys, values, queries, scale, fmt in sources:
        for context in contexts:
            yield Problem(
                f"{name}, head_dim {keys.shape[1]}, {context} tokens",
                context,
                _repeated(keys, context, n_kv_heads),
                _repeated(values, context, n_kv_heads),
                np.tile(queries, (n_kv_heads, 1)),
                scale,
                fmt,
            )


def _repeated(rows: NDArray[Any], context: int, n_kv_heads: int) -> NDArray[Any]:
    """Return the rows over and over until there are `context`, the same for every kv head."""
    tokens = np.resize(np.arange(len(rows)), context)
    return np.ascontiguousarray(np.broadcast_to(rows[tokens][:, None], (context, n_kv_heads, rows.shape[1])))


def _of_dump(path: Path) -> tuple[str, NDArray[Any], NDArray[Any], NDArray[Any], float, Format]:
    with open_dump(path) as dump:
        layer = dump.layers[len(dump.layers) // 2]
        head = dump.read_head(layer, 0)
        if head.queries is None:
            raise InputError(f"{path}: layer {layer.index} has no queries, so there is no decode step")
        queries = np.ascontiguousarray(head.queries[:, -1])
        return path.name, head.keys, head.values, queries, dump.scale[0], dump.format_of(layer)


def _drawn(head_dim: int = 128, group: int = 4, n_tokens: int = 4096) -> tuple[Any, ...]:
    """Draw channels of very different size, as rotated keys have them."""
    rng = np.random.default_rng(0)
    sizes = 2.0 ** rng.uniform(-4, 3, head_dim)
    keys, values = (rng.standard_normal((n_tokens, head_dim)) for _ in range(2))
    queries = rng.standard_normal((group, head_dim))
    parts = (part.astype(np.float16).view(np.uint16) for part in (keys * sizes, values, queries))
    return ("drawn", *parts, head_dim**-0.5, BINARY16)
