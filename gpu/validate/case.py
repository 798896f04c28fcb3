"""A case: one configuration, one batch, one kind of data; what it says is checked to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.validate.data import KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.gpu.kernels import KernelConfig


@dataclass(frozen=True)
class Case:
    """What is validated at once.

    Attributes
    ----------
    config : KernelConfig
    n_kv_heads : int
    appends : tuple of tuple of int
        Tokens that each `append` adds to each sequence; after each append one decode step is attended and compared.
    data : str
        A name of `KINDS`, or of the dump that the codes come from.
    seed : int
        Draws the data, the order of pages, and the orders of blocks and warps.
    policy : tuple of (tuple of int, tuple of int), optional
        Bits of keys and of values of each kv head, for the rule `static`; drawn if not given.
    """

    config: KernelConfig
    n_kv_heads: int = 2
    appends: tuple[tuple[int, ...], ...] = ((70, 0, 1), (3, 1, 0))
    data: str = "normal"
    seed: int = 0
    policy: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def batch_size(self) -> int:
        """Sequences."""
        return len(self.appends[0])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence in the end."""
        return tuple(sum(column) for column in zip(*self.appends, strict=True))

    def __str__(self) -> str:
        config = self.config
        lengths = "+".join(map(str, self.lengths))
        rule = config.variant + (f":guard_bits={config.guard_bits}" if config.guard_bits else "")
        return (
            f"{rule} {config.format.name} head_dim={config.head_dim} group={config.group} "
            f"n_kv_heads={self.n_kv_heads} tokens={lengths} splits={config.split_tokens} data={self.data} seed={self.seed}"
        )

    def codes(self) -> Codes:
        """Draw the codes."""
        config = self.config
        rng = np.random.default_rng([self.seed, config.head_dim, config.group])
        return Codes(
            *KINDS[self.data](rng, self.lengths, self.n_kv_heads, config.head_dim, config.group, config.format)
        )

    @property
    def scale(self) -> float:
        """Factor of the scores of drawn data."""
        return float(self.config.head_dim**-0.5)

    def static_bits(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Bits per kv head of keys and of values for the rule `static`, else None."""
        if self.config.rule != "static":
            return None
        if self.policy is not None:
            keys, values = (np.array(bits, np.int64) for bits in self.policy)
            return keys, values
        allowed = np.array(self.config.levels)
        drawn = np.random.default_rng(self.seed).integers(0, len(allowed), (2, self.n_kv_heads))
        return allowed[drawn[0]], allowed[drawn[1]]


@dataclass(frozen=True)
class Codes:
    """The codes of a batch.

    Attributes
    ----------
    keys, values : list of ndarray[uint16], (seq_len, n_kv_heads, head_dim)
        One for each sequence.
    queries : ndarray[uint16], (batch_size, n_kv_heads * group, head_dim)
    scale : float or None
        Factor of the scores; None for 1/sqrt(head_dim).
    """

    keys: list[NDArray[Any]]
    values: list[NDArray[Any]]
    queries: NDArray[Any]
    scale: float | None = None
