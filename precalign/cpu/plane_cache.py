"""`CpuPlaneCache`: a paged key/value cache in planes, and decode attention on the CPU that reads what a rule asks for."""

from __future__ import annotations

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.cpu.planning import channel_order, make_plan, make_scratch
from precalign.cpu.records import CLASSES, Shape, Step, Store
from precalign.cpu.rules import head_rules
from precalign.cpu.values import ROW_CODES, row_codes
from precalign.errors import InputError, UnavailableError, UsageError
from precalign.formats import BFLOAT16, BINARY16
from precalign.interop import to_codes
from precalign.memory import aligned_zeros
from precalign.planes import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from precalign.formats import Format
    from precalign.rules import Rule

_PLANES = ("first", "second", "third")
_FORMATS = (BINARY16, BFLOAT16)


def available_threads() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def _helpers(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="precalign-cpu")


class CpuPlaneCache:
    """A batch of sequences in planes 8|4|4 of pages of 64 tokens, in main memory.

    The interface is that of `precalign.gpu.plane_cache.PlaneCache`; results are bit-equal to the emulator and so to the CUDA kernels
    (docs/architecture.md, the stated order).

    Parameters
    ----------
    rule : str, Rule, or sequence of them, (n_kv_heads,)
        For all kv heads, or one for each; `Policy.rule` gives them.
    head_dim : int
        A multiple of 32.
    n_kv_heads, group, batch_size, max_tokens : int
        `group` query heads share a kv head; `max_tokens` is the capacity of each sequence.
    fmt : Format
        binary16 or bfloat16.
    split_tokens : int
        Tokens of a split, a multiple of 64; part of the stated order, so of the result.
    scale : float, optional
        Factor of the scores, rounded to binary32; 1/sqrt(head_dim) if not given.
    threads : int, optional
        All cores that the process may use, if not given. The result does not depend on it.
    page_order : sequence of int, optional
        Physical page of the i-th logical page (all sequences' pages counted through); the identity if not given. The
        result does not depend on it.
    keep_scores : bool
        Whether `buffer("scores")` is there after `attend`; else probabilities take the place of scores, which moves less memory.

    Raises
    ------
    UsageError
        If a size cannot be meant, or a rule's parameters do not fit the planes.
    UnavailableError
        If the format, the head_dim or the rule is not supported.

    Notes
    -----
    One `append` or `attend` at a time: a cache belongs to one thread, which shares the work out itself.
    """

    _plain = False
    _borrowed = False

    def __init__(
        self,
        rule: str | Rule | Sequence[str | Rule],
        *,
        head_dim: int,
        n_kv_heads: int,
        group: int = 1,
        batch_size: int = 1,
        max_tokens: int,
        fmt: Format = BINARY16,
        split_tokens: int = 256,
        scale: float | None = None,
        threads: int | None = None,
        page_order: Sequence[int] | None = None,
        keep_scores: bool = False,
    ) -> None:
        _check_sizes(head_dim, fmt, split_tokens)
        self.threads = available_threads() if threads is None else threads
        sizes = {"n_kv_heads": n_kv_heads, "group": group, "batch_size": batch_size, "max_tokens": max_tokens}
        for name, count in (sizes | {"threads": self.threads}).items():
            if count < 1:
                raise UsageError(f"{name} must be at least 1, not {count}")
        self.format, self.head_dim, self.group, self.n_kv_heads = fmt, head_dim, group, n_kv_heads
        self.batch_size, self.split_tokens = batch_size, split_tokens
        self.max_pages = -(-max_tokens // PAGE_TOKENS)
        self.scale = np.float32(head_dim**-0.5 if scale is None else scale)
        self.rules, self._head_rules = head_rules(rule, n_kv_heads, fmt)
        self._bfloat = 1 if fmt == BFLOAT16 else None
        row_tokens = self.max_pages * PAGE_TOKENS
        self._shape = Shape(
            head_dim, group, n_kv_heads, batch_size * self.max_pages, row_codes(head_dim), row_tokens, split_tokens, -(-row_tokens // split_tokens),
            1 if fmt == BINARY16 else 2, fmt.trailing_significand_bits, (1 << fmt.exponent_bits) - 1, fmt.bias, self.scale,
        )  # fmt: skip
        self._channels = channel_order(head_dim, bfloat=self._bfloat is not None, plain=self._plain)
        self._store = self._make_store(page_order)
        self._step = self._make_step(self.rules, keep_scores=keep_scores)
        self._plan = make_plan(self._shape, self._store.lengths, self.threads, self._channels)
        self._scratch = [make_scratch(self._shape) for _ in range(self.threads)]

    @property
    def n_q_heads(self) -> int:
        """Query heads: the group times the kv heads."""
        return self.n_kv_heads * self.group

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, (batch_size,)."""
        held: NDArray[np.int64] = self._store.lengths.copy()
        return held

    # What the cache holds

    def _code_arrays(self) -> list[NDArray[Any]]:
        """Return the arrays of keys and of values; the second and third plane of values end with pages of constants."""
        codes = self.batch_size * self.max_pages * self.n_kv_heads * PAGE_TOKENS * self.head_dim
        page = PAGE_TOKENS * self.head_dim // 2
        keys = [aligned_zeros(codes, np.uint8), *(aligned_zeros(codes // 2, np.uint8) for _ in range(2))]
        values = [aligned_zeros(size, np.uint8) for size in (codes, codes // 2 + page, codes // 2 + 2 * page)]
        values[1][codes // 2 :] = values[2][codes // 2 : codes // 2 + page] = 0x88
        return keys + values

    def _make_store(self, page_order: Sequence[int] | None) -> Store:
        n_pages = self.batch_size * self.max_pages
        order = np.arange(n_pages, dtype=np.int32) if page_order is None else np.array(page_order, np.int32)
        if not np.array_equal(np.sort(order), np.arange(n_pages)):
            raise UsageError(f"page_order must be a permutation of the {n_pages} pages")
        maxima = [np.zeros(self.batch_size * self.n_kv_heads * self.head_dim, np.uint8) for _ in range(2)]
        tokens = np.zeros(n_pages * self.n_kv_heads * PAGE_TOKENS, np.uint8)
        table = order.reshape(self.batch_size, self.max_pages)
        arrays = [*self._code_arrays(), *maxima, tokens, table, np.zeros(self.batch_size, np.int64)]
        return Store._make(arrays)

    def _make_step(self, rules: Sequence[Rule], *, keep_scores: bool) -> Step:
        shape, n_heads = self._shape, self.batch_size * self.n_kv_heads
        n_q, tokens = n_heads * self.group, self._shape.row_tokens
        probs = aligned_zeros(n_q * tokens, np.float32)
        strongest = n_q * shape.max_splits * CLASSES if any(rule.name == "alignedkv" for rule in rules) else 1
        return Step(
            queries=np.zeros(n_q * self.head_dim, np.float32),
            query_exponents=np.zeros(n_q * self.head_dim, np.int64),
            key_bits=np.zeros(n_heads * self.head_dim, np.uint8),
            value_bits=np.zeros(n_heads * tokens, np.uint8),
            scores=aligned_zeros(n_q * tokens, np.float32) if keep_scores else probs,
            probs=probs,
            split_maxima=np.zeros(n_q * shape.max_splits, np.float32),
            split_sums=np.zeros(n_q * shape.max_splits, np.float32),
            tops=np.zeros(n_q * shape.max_splits, np.int32),
            seeds=np.zeros(n_q, np.int32),
            references=np.zeros(n_q, np.int32),
            strongest_probs=np.zeros(strongest, np.float32),
            strongest_tokens=np.zeros(strongest, np.int32),
            partials=aligned_zeros(n_q * shape.max_splits * self.head_dim, np.float32),
            outputs=np.zeros(n_q * self.head_dim, np.float32),
        )

    def append(self, keys: Any, values: Any, counts: Sequence[int]) -> None:  # noqa: ANN401 - arrays of several libraries
        """Add tokens to the sequences.

        Parameters
        ----------
        keys, values : uint16 codes, or float16/bfloat16 of NumPy, ml_dtypes or torch, (sum(counts), n_kv_heads, head_dim)
            The new tokens, those of sequence 0 first.
        counts : sequence of int, (batch_size,)
            New tokens of each sequence; 0 is allowed.

        Raises
        ------
        InputError
            If a shape or dtype is not as stated, or a sequence would exceed its capacity.
        UsageError
            If the cache was made by `following`.
        """
        from precalign.cpu.storing import append

        if self._borrowed:
            raise UsageError("this cache shares another's tokens", hint="append to the one it was made from")
        added = np.asarray(counts, np.int64)
        if added.shape != (self.batch_size,) or (added < 0).any():
            raise InputError(f"counts must be ({self.batch_size},) numbers of tokens, not {counts!r}")
        shape = (int(added.sum()), self.n_kv_heads, self.head_dim)
        new_keys, new_values = self._codes(keys, shape, "keys"), self._codes(values, shape, "values")
        if (self._store.lengths + added > self._shape.row_tokens).any():
            raise InputError(
                f"a sequence would hold {int((self._store.lengths + added).max())} tokens",
                hint=f"this cache holds {self._shape.row_tokens} tokens a sequence",
            )
        starts = np.concatenate([[0], np.cumsum(added)])
        plain = 1 if self._plain else None
        for kv_head in range(self.n_kv_heads):
            append(self._shape, self._store, new_keys, new_values, starts, kv_head, plain)
        self._store.lengths[:] += added
        self._plan = make_plan(self._shape, self._store.lengths, self.threads, self._channels)

    def following(self, rule: str | Rule | Sequence[str | Rule]) -> CpuPlaneCache:
        """Return a cache over the same tokens in the same memory that follows another rule.

        It is for attending only: tokens are added to this one, before others are made from it.
        """
        other = copy.copy(self)
        rules, numbers = head_rules(rule, self.n_kv_heads, self.format)
        vars(other).update(rules=rules, _head_rules=numbers, _borrowed=True)
        vars(other)["_scratch"] = [make_scratch(self._shape) for _ in range(self.threads)]
        vars(other)["_step"] = self._make_step(rules, keep_scores=self._step.scores is not self._step.probs)
        return other

    # Attention

    def attend(self, queries: Any) -> NDArray[np.float32]:  # noqa: ANN401 - arrays of several libraries
        """Attend with one query per head and sequence; a sequence without tokens gives zeros.

        Parameters
        ----------
        queries : uint16 codes, or float16/bfloat16 of NumPy, ml_dtypes or torch, (batch_size, n_q_heads, head_dim)
            After rotation. Query head h reads kv head h // group.

        Returns
        -------
        ndarray[float32], (batch_size, n_q_heads, head_dim)
            Overwritten by the next call.
        """
        from precalign.cpu.attend import PHASES, attend
        from precalign.cpu.sync import SPACING
        from precalign.decode.codes import to_binary32

        codes = self._codes(queries, (self.batch_size, self.n_q_heads, self.head_dim), "queries")
        by_head = (self.batch_size * self.n_kv_heads, self.group, self.head_dim)
        self._step.queries.reshape(by_head[0], self.head_dim, self.group)[:] = (
            to_binary32(codes, self.format).reshape(by_head).transpose(0, 2, 1)
        )
        field = (codes >> self._shape.exponent_shift) & self._shape.exponent_mask
        self._step.query_exponents[:] = np.maximum(field, 1).reshape(-1)
        counters = np.zeros((len(self._plan.waves) - 1) * PHASES * 2 * SPACING, np.int64)
        given = (self._bfloat, self._shape, self._head_rules, self._store, self._plan, self._step)
        pool = _helpers(self.threads - 1) if self.threads > 1 else None
        others = [pool.submit(attend, *given, own, counters) for own in self._scratch[1:] if pool is not None]
        attend(*given, self._scratch[0], counters)
        for other in others:
            # One that has not begun is not missed: all tasks are done.
            if not other.cancel():
                other.result()
        outputs: NDArray[np.float32] = self._step.outputs.reshape(self.batch_size, self.n_q_heads, self.head_dim)
        return outputs

    def _codes(self, array: Any, shape: tuple[int, ...], name: str) -> NDArray[np.uint16]:  # noqa: ANN401
        """Return an argument as contiguous codes."""
        held = np.asarray(array) if getattr(array, "dtype", None) == np.uint16 else None
        if held is None:
            held, fmt = to_codes(array)
            if fmt != self.format:
                raise InputError(f"{name}: expected {self.format.name} or its codes (uint16), got {fmt.name}")
        if held.shape != shape:
            raise InputError(f"{name}: expected shape {shape}, got {held.shape}")
        return np.ascontiguousarray(held)

    # What was read

    def buffer(self, name: str) -> NDArray[Any]:
        """Return a buffer in the shape that the CUDA kernels give it, for validation and statistics; a view, but for planes of values.

        Parameters
        ----------
        name : str
            key_first, key_second, key_third, value_first, ..., key_maxima, value_maxima, token_maxima, key_bits, value_bits, scores (with
            `keep_scores`), probs, outputs, block_table.

        Raises
        ------
        UsageError
            If there is no such buffer.
        """
        shapes = self._buffer_shapes()
        if name not in shapes:
            hint = "there are " + ", ".join(shapes)
            if name == "scores":
                hint = "probabilities have taken the place of scores; make the cache with keep_scores=True"
            raise UsageError(f"no buffer {name}", hint=hint)
        shape = shapes[name]
        held = getattr(self._store if hasattr(self._store, name) else self._step, name)
        flat: NDArray[Any] = held.reshape(-1)[: int(np.prod(shape))]
        pages = (self.n_kv_heads, self._shape.n_pages)  # pages of a head lie together here
        if name.startswith("value") and name.endswith(_PLANES):
            n_rows = self.head_dim // self._shape.row_codes
            rows = flat.reshape(*pages, n_rows, PAGE_TOKENS, shape[-1] // n_rows)
            return rows.swapaxes(2, 3).reshape(*pages, *shape[2:]).swapaxes(0, 1)
        if name == "token_maxima" or name.endswith(_PLANES):
            return flat.reshape(*pages, *shape[2:]).swapaxes(0, 1)
        return flat.reshape(shape)

    def memory(self, name: str) -> NDArray[Any]:
        """Return the array of a plane or of whole codes as it lies in memory, flat; for measuring how fast that is read."""
        held: NDArray[Any] = getattr(self._store, name)
        return held

    def _buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        pages = (self.batch_size * self.max_pages, self.n_kv_heads)
        heads, q_heads = (self.batch_size, self.n_kv_heads), (self.batch_size, self.n_q_heads)
        head_dim, tokens = self.head_dim, self._shape.row_tokens
        shapes: dict[str, tuple[int, ...]] = {}
        for plane, parts in zip(_PLANES, (1, 2, 2), strict=True):
            shapes[f"key_{plane}"] = (*pages, head_dim, PAGE_TOKENS // parts)
            shapes[f"value_{plane}"] = (*pages, PAGE_TOKENS, head_dim // parts)
        shapes |= {"key_maxima": (*heads, head_dim), "value_maxima": (*heads, head_dim)}
        shapes |= {"token_maxima": (*pages, PAGE_TOKENS), "block_table": (self.batch_size, self.max_pages)}
        shapes |= {"key_bits": (*heads, head_dim), "value_bits": (*heads, tokens)}
        shapes |= {"probs": (*q_heads, tokens), "outputs": (*q_heads, head_dim)}
        return shapes | ({"scores": (*q_heads, tokens)} if self._step.scores is not self._step.probs else {})

    def statistics(self) -> dict[str, float]:
        """Return what the last `attend` read, over all sequences.

        Returns
        -------
        dict
            key_bits_per_number, value_bits_per_number; bytes: of keys and values as the planes pack them; full_bytes: of all bits.
        """
        lengths = self._store.lengths
        numbers = max(1, int(lengths.sum()) * self.n_kv_heads * self.head_dim)
        seen = np.arange(self._shape.row_tokens) < lengths[:, None, None]
        key_bits = int((self.buffer("key_bits").sum(axis=(1, 2), dtype=np.int64) * lengths).sum())
        value_bits = int(self.buffer("value_bits").sum(dtype=np.int64, where=seen)) * self.head_dim
        return {
            "key_bits_per_number": key_bits / numbers,
            "value_bits_per_number": value_bits / numbers,
            "bytes": (key_bits + value_bits) / 8,
            "full_bytes": float(numbers * 4) if lengths.any() else 0.0,
        }


def _check_sizes(head_dim: int, fmt: Format, split_tokens: int) -> None:
    if fmt not in _FORMATS:
        raise UnavailableError(
            f"the CPU kernels do not read {fmt.name}", hint="supported: " + ", ".join(f.name for f in _FORMATS)
        )
    if head_dim < 1 or head_dim % min(ROW_CODES):
        raise UnavailableError(f"no CPU kernel for head_dim {head_dim}", hint="supported: multiples of 32")
    if split_tokens < PAGE_TOKENS or split_tokens % PAGE_TOKENS:
        raise UsageError(f"split_tokens must be a positive multiple of {PAGE_TOKENS}, not {split_tokens}")
