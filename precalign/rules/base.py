"""What a rule is: it decides how many bits of each key channel and of each token's values a decode step reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from precalign.errors import UsageError
from precalign.jit import Array, inline, kernel, reinterpret
from precalign.specs import spec_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.bounds import Bounds
    from precalign.layouts import Layout

    Peek = Callable[[NDArray[np.integer]], NDArray[np.float32]]


NEVER = 1 << 30


@dataclass(frozen=True)
class KeyView:
    """What is known when the key channels of a block of decode steps of one kv head are decided.

    Attributes
    ----------
    layout : Layout
        Rules answer indices into its levels.
    queries : ndarray[float32], (group, n_steps, head_dim)
        Query values of the query heads that share the kv head.
    query_exponents : ndarray[int8 or int16], (group, n_steps, head_dim)
        E(q_d); emin of the format for subnormals and zeros.
    key_max_exponents : ndarray[int8 or int16], (n_steps, head_dim)
        max_t E(k_td) over the tokens that a step sees.
    first, visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    scale : float
        Of the scores.
    value_top_exponents : ndarray[int8 or int16], (n_steps,)
        The largest E(v_tc) that a step sees; a rule that uses it reads the maxima of `Metadata.value_tokens` or `value_channels`.
    beside_bytes : ndarray[int64], (n_steps,)
        What a step reads beside the planes of a rebased layout, the token references in it where the rule's metadata are those; 0 for other layouts.
    previous : Attempt or None
        Where a rule is asked again: what its last attempt at these steps read and found.
    """

    layout: Layout
    queries: NDArray[np.float32]
    query_exponents: NDArray[np.signedinteger]
    key_max_exponents: NDArray[np.signedinteger]
    first: NDArray[np.int64]
    visible: NDArray[np.int64]
    scale: float
    value_top_exponents: NDArray[np.signedinteger]
    beside_bytes: NDArray[np.int64]
    previous: Attempt | None = None


@dataclass(frozen=True)
class KeyReading:
    """What the keys were read with, and what is proven of it.

    Attributes
    ----------
    view : KeyView
        What was known when their levels were decided.
    levels : ndarray[uint8], (n_steps, head_dim)
    log_errors : ndarray[float32], (group, n_steps, seq_len)
        Proven bounds on the logarithms of the weights, from the bits of the keys that were read (`precalign.bounds`): one more
        sum over channels beside each score. Defined where a step sees the token.
    """

    view: KeyView
    levels: NDArray[np.uint8]
    log_errors: NDArray[np.float32]


@dataclass(frozen=True)
class ValueView:
    """What is known when the values of a block of decode steps of one kv head are decided.

    Attributes
    ----------
    layout : Layout
        Rules answer indices into its levels.
    probs : ndarray[float32], (group, n_steps, seq_len)
        Probabilities from the reduced scores; defined where a step sees the token.
    value_max_exponents : ndarray[int8 or int16], (n_steps, head_dim)
        max_t E(v_tc) over the tokens that a step sees.
    token_max_exponents : ndarray[int8 or int16], (seq_len,)
        max_c E(v_tc).
    values : ndarray[unsigned], (seq_len, head_dim)
        Codes, for a rule that reads some of them first; what it reads is counted from `Rule.prepass_tokens`.
    first, visible : ndarray[int64], (n_steps,)
        A step sees tokens [first, visible).
    split_tokens : int
        Tokens of a split in the stated order.
    scores : ndarray[float32], (group, n_steps, seq_len), or None
        The reduced scores, for a rule with `reads_scores`.
    peek : function
        What the first level of the values of tokens (n_steps, n) gives, float32 (n_steps, n, head_dim): for those of `Rule.prepass_tokens`, which are counted.
    value_rounding : float
        What the roundings of the sums over tokens do at most, relative to 2^E(v): `precalign.bounds`.
    keys : KeyReading or None
        What came before; None where a caller reads no keys.
    """

    layout: Layout
    probs: NDArray[np.float32]
    value_max_exponents: NDArray[np.signedinteger]
    token_max_exponents: NDArray[np.signedinteger]
    values: NDArray[np.unsignedinteger]
    first: NDArray[np.int64]
    visible: NDArray[np.int64]
    split_tokens: int
    peek: Peek
    value_rounding: float
    scores: NDArray[np.float32] | None = None
    keys: KeyReading | None = None


@dataclass(frozen=True)
class Attempt:
    """What a rule's decision led to: a kernel has it once the output is computed.

    Attributes
    ----------
    number : int
        1 for the first attempt at these steps.
    key_levels : ndarray[uint8], (n_steps, head_dim)
    value_levels : ndarray[uint8], (n_steps, seq_len)
    output_norms : ndarray[float64], (group, n_steps)
        2-norm over channels.
    bounds : Bounds
        Proven, and the parts that scores and values have in it.
    """

    number: int
    key_levels: NDArray[np.uint8]
    value_levels: NDArray[np.uint8]
    output_norms: NDArray[np.float64]
    bounds: Bounds

    def __getitem__(self, steps: NDArray[np.int64]) -> Attempt:
        bounds = type(self.bounds)(*(getattr(self.bounds, f.name)[:, steps] for f in fields(self.bounds)))
        levels = self.key_levels[steps], self.value_levels[steps]
        return Attempt(self.number, *levels, self.output_norms[:, steps], bounds)


@dataclass(frozen=True)
class Metadata:
    """Which running maxima a rule reads at each step; the traffic model counts them.

    Attributes
    ----------
    key_channels, value_channels, value_tokens : bool
        max_t E(k_td) per channel, max_t E(v_tc) per channel, max_c E(v_tc) per token; one byte each.
    """

    key_channels: bool = False
    value_channels: bool = False
    value_tokens: bool = False


@dataclass(frozen=True)
class Rule(ABC):
    """Decides levels, array at a time; parameters are the fields of the subclass.

    Subclasses are frozen dataclasses with a `name` and one line in the registry of `precalign.rules`.
    """

    name: ClassVar[str]
    metadata: ClassVar[Metadata] = Metadata()
    needs_skip: ClassVar[bool] = False
    reads_scores: ClassVar[bool] = False

    @property
    def one_pass(self) -> bool:
        """Whether a kernel can decide while it goes over keys and values once.

        Scores and probabilities are then never stored, and the keys of the newest page are read once more, before all else.
        """
        return False

    def check(self, layout: Layout) -> None:
        """Raise UsageError if the rule cannot answer with levels of the layout."""
        if self.needs_skip and not layout.skip:
            raise UsageError(
                f"rule {self.name} needs a layout in which a token may be skipped, {layout.name} has no such level",
                hint=f"use the layout {layout.name}+skip",
            )

    @abstractmethod
    def key_levels(self, view: KeyView) -> NDArray[np.uint8]:
        """Return the level of each key channel, (n_steps, head_dim): the widest need of the group."""

    @abstractmethod
    def value_levels(self, view: ValueView, prepass: NDArray[np.int32] | None) -> NDArray[np.uint8]:
        """Return the level of each token's values, (n_steps, seq_len): the widest need of the group.

        `prepass` is what `prepass_tokens` answered. Where a step does not see a token the answer is not looked at.
        """

    def prepass_tokens(self, view: ValueView) -> NDArray[np.int32] | None:
        """Return the tokens that each query head reads at the first level before it decides, or None.

        (group, n_steps, n): token indices, -1 where there is none.
        """
        del view
        return None

    def accepts(self, attempt: Attempt) -> NDArray[np.bool_]:
        """Return whether a step may end with what was read, (n_steps,).

        Where not, the rule is asked again, with `previous` set, and all that the attempt has read counts as pre-pass: values always, keys unless
        the next attempt leaves their levels as they are.
        """
        return np.ones(len(attempt.key_levels), np.bool_)

    def __str__(self) -> str:
        return spec_text(self)


def levels_by_difference(differences: NDArray[np.signedinteger], layout: Layout, guard_bits: int) -> NDArray[np.uint8]:
    """Return the narrowest reading level whose dropped bits are at most ``differences - guard_bits``, same shape."""
    dropped = layout.dropped_bits[layout.first_read : -1]
    levels = np.full(differences.shape, layout.first_read, np.uint8)
    for bits in dropped:
        levels += differences < bits + guard_bits
    return levels


@inline
def prob_exponent(p: Array) -> Array:
    """Return E(p) of a binary32 p >= 0: -126 for subnormals and zero."""
    return max(reinterpret(p) >> np.int32(23), np.int32(1)) - np.int32(127)


@kernel
def levels_by_probability(
    margins: Array,
    offsets: Array,
    probs: Array,
    first: Array,
    visible: Array,
    dropped: Array,
    first_read: int,
    skip_at: int,
    out: Array,
) -> None:
    """Write the levels of values where a token's difference is margin - offset - E(p).

    Parameters
    ----------
    margins : ndarray[int32], (group, n_steps)
    offsets : ndarray[int32], (seq_len,)
    probs : ndarray[float32], (group, n_steps, padded_len)
    first, visible : ndarray[int64], (n_steps,)
    dropped : ndarray[int32]
        Bits left out by the reading levels but the last, guard bits added, descending.
    first_read : int
        Index of the narrowest reading level.
    skip_at : int
        Differences from here on get level 0.
    out : ndarray[uint8], (n_steps, padded_len)
        Written where a step sees the token: the largest level over the group.
    """
    group, n_steps, _ = probs.shape
    smallest = np.empty(len(offsets), np.int32)
    for step in range(n_steps):
        low, high = first[step], visible[step]
        least, offset, levels = smallest[low:high], offsets[low:high], out[step, low:high]
        least[:] = 1 << 30
        for head in range(group):
            # The level falls as the difference grows: the widest need of the group is that of its smallest difference.
            margin, row = margins[head, step], probs[head, step, low:high]
            for i in range(len(least)):
                least[i] = min(least[i], np.int32(np.int32(margin - offset[i]) - prob_exponent(row[i])))
        levels[:] = first_read
        for bits in dropped:
            for i in range(len(least)):
                levels[i] += np.uint8(least[i] < bits)
        if skip_at < NEVER:
            for i in range(len(least)):
                levels[i] = np.uint8(0) if least[i] >= skip_at else levels[i]
