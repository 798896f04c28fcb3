"""What the user picks of a dump: layers and heads by list, decode steps by description, and what each step sees."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from precalign.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

STEPS_HINT = "--steps takes all, last, every:N or A:B (B is not part of it; negative counts from the end)"


def parse_indices(text: str, available: Collection[int], what: str, holder: str = "the dump") -> list[int]:
    """Read "0,2,4-6" as indices, each one of `available`.

    Parameters
    ----------
    text : str
    available : collection of int
    what : str
        "layers" or "heads", for the message.
    holder : str
        What has them, for the message.

    Returns
    -------
    list of int
        Ascending, each once.

    Raises
    ------
    UsageError
        If the text is not such a list, or an index is not there.
    """
    there = f"{holder} has {what} {_ranges(sorted(available))}"
    chosen: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if found is None:
            raise UsageError(
                f"--{what} {text}: {part!r} is neither an index nor a range", hint=f"write 0,2,4-6; {there}"
            )
        low, high = int(found[1]), int(found[2] or found[1])
        if high < low:
            raise UsageError(f"--{what} {text}: the range {part.strip()} runs backwards", hint=there)
        missing = next((i for i in range(low, high + 1) if i not in available), None)
        if missing is not None:
            raise UsageError(f"--{what} {text}: there is no {missing}", hint=there)
        chosen.update(range(low, high + 1))
    return sorted(chosen)


def _ranges(indices: list[int]) -> str:
    """Write ascending indices as "0, 2, 4-6"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def parse_steps(text: str, n_queries: int) -> NDArray[np.int64]:
    """Read "all", "last", "every:N" or "A:B" as query indices.

    `every:N` counts back from the last query, so that the longest context is always among them.

    Raises
    ------
    UsageError
        If the text is none of these, or picks no step.
    """
    if text == "all":
        return np.arange(n_queries, dtype=np.int64)
    if text == "last":
        return np.array([n_queries - 1], np.int64)
    if found := re.fullmatch(r"every:(\d{1,18})", text):
        if (stride := int(found[1])) == 0:
            raise UsageError(f"--steps {text}: N must be at least 1", hint=STEPS_HINT)
        return np.arange((n_queries - 1) % stride, n_queries, stride, dtype=np.int64)
    if found := re.fullmatch(r"(-?\d{1,18})?:(-?\d{1,18})?", text):
        chosen = range(n_queries)[int(found[1]) if found[1] else None : int(found[2]) if found[2] else None]
        if not chosen:
            raise UsageError(f"--steps {text}: picks none of the {n_queries} steps", hint=STEPS_HINT)
        return np.arange(chosen.start, chosen.stop, dtype=np.int64)
    raise UsageError(f"--steps {text}: not understood", hint=STEPS_HINT)


def visible_range(
    queries: NDArray[np.int64], n_queries: int, seq_len: int, *, causal: bool, window: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the tokens [first, visible) that each step sees.

    Causal: the last query sees every token, the one before it one token fewer, and so on. With a sliding window of w tokens a step
    sees the last w of them, its own among them.

    Parameters
    ----------
    queries : ndarray[int64], (n_steps,)
        Query indices.
    n_queries, seq_len : int
        At most as many queries as tokens if causal.
    causal : bool
        Else every step sees all tokens.
    window : int or None

    Returns
    -------
    first, visible : ndarray[int64], (n_steps,)
    """
    visible = queries + (seq_len - n_queries + 1) if causal else np.full_like(queries, seq_len)
    first = np.zeros_like(visible) if window is None or not causal else np.maximum(visible - window, 0)
    return first, visible
