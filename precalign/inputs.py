"""What is profiled: one kv head with its query heads, and the decode steps looked at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from precalign.decode.codes import all_finite, exponent_dtype, exponents
from precalign.errors import InputError
from precalign.waste import exponent_rows, exponent_tiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from precalign.formats import Format


@dataclass(frozen=True)
class HeadInputs:
    """One kv head and the query heads that share it.

    Attributes
    ----------
    keys, values : ndarray[unsigned], (seq_len, head_dim)
        Codes of `format`.
    queries : ndarray[unsigned], (group, n_queries, head_dim)
        Codes of `query_format`, after rotation.
    format : Format
    scale : float
        Of the scores, usually 1 / sqrt(head_dim).
    name : str
        What error messages call it.
    query_format : Format, optional
        Of the queries, and of the outputs that a model stores: a cache of 8 bits is attended to by queries of 16. As `format` if not given.
    """

    keys: NDArray[Any]
    values: NDArray[Any]
    queries: NDArray[Any]
    format: Format
    scale: float
    name: str = "head"
    query_format: Format | None = None

    def __post_init__(self) -> None:
        shapes = {
            "keys": (self.keys, 2, self.format),
            "values": (self.values, 2, self.format),
            "queries": (self.queries, 3, self.outside_format),
        }
        for what, (codes, axes, fmt) in shapes.items():
            if codes.dtype != fmt.code_dtype or codes.ndim != axes or 0 in codes.shape:
                expected = f"{fmt.code_dtype} codes with {axes} non-empty axes"
                raise InputError(f"{self.name}.{what}: expected {expected}, got {codes.dtype} {codes.shape}")
            if codes.shape[-1] != self.keys.shape[-1]:
                dims = f"{codes.shape[-1]} vs {self.keys.shape[-1]}"
                raise InputError(f"{self.name}.{what}: head_dim must match {self.name}.keys: {dims}")
            if not all_finite(codes, fmt):
                raise InputError(f"{self.name}.{what}: holds infinities or NaNs, which no decode step can be judged by")
        if len(self.values) != len(self.keys):
            lengths = f"{len(self.values)} vs {len(self.keys)}"
            raise InputError(f"{self.name}.values: seq_len must match {self.name}.keys: {lengths}")

    @property
    def outside_format(self) -> Format:
        """Return the format of queries and stored outputs."""
        return self.format if self.query_format is None else self.query_format

    @cached_property
    def query_exponents(self) -> NDArray[np.signedinteger]:
        """E(q_d), (group, n_queries, head_dim); of one integer type with `key_exponents`."""
        return self._as_wide(exponents(self.queries, self.outside_format))

    @cached_property
    def key_exponents(self) -> NDArray[np.signedinteger]:
        """E(k_td), (seq_len, head_dim)."""
        return self._as_wide(exponents(self.keys, self.format))

    def _as_wide(self, found: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
        """Return exponents in the type that holds those of keys and of queries."""
        wider = max((self.format, self.outside_format), key=lambda fmt: fmt.bias)
        return found.astype(exponent_dtype(wider), copy=False)

    @cached_property
    def value_exponents(self) -> NDArray[np.signedinteger]:
        """E(v_tc), (seq_len, head_dim)."""
        return exponents(self.values, self.format)

    @cached_property
    def key_exponent_tiles(self) -> NDArray[np.signedinteger]:
        """E(k_td), (n_tiles, head_dim, 64)."""
        return exponent_tiles(self.key_exponents)

    @cached_property
    def value_exponent_tiles(self) -> NDArray[np.signedinteger]:
        """E(v_tc), (n_tiles, head_dim, 64)."""
        return exponent_tiles(self.value_exponents)

    @cached_property
    def value_exponent_rows(self) -> NDArray[np.signedinteger]:
        """E(v_tc), (seq_len, head_dim padded to a multiple of 64)."""
        return exponent_rows(self.value_exponents)


@dataclass(frozen=True)
class Steps:
    """A block of decode steps: step i is query ``queries[i]`` and sees tokens [first[i], visible[i]).

    Attributes
    ----------
    queries, first, visible : ndarray[int64], (n_steps,)
    """

    queries: NDArray[np.int64]
    first: NDArray[np.int64]
    visible: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, block: slice | NDArray[np.int64]) -> Steps:
        return Steps(self.queries[block], self.first[block], self.visible[block])
