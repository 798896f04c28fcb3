"""Attention of decode steps over a cache whose older tokens went through a codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precalign.jit import Array, fma, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.inputs import Steps


@dataclass(frozen=True)
class MixedHead:
    """Keys and values of one kv head, exact and as a codec gives them back.

    Attributes
    ----------
    keys, values : ndarray[float64], (seq_len, head_dim)
    decoded_keys, decoded_values : ndarray[float64], (seq_len, head_dim)
        The cache's own where a side has no codec.
    coded_keys, coded_values : ndarray[int64], (n_steps,)
        How many tokens are coded when a step attends; those after them are in the window, exact.
    """

    keys: NDArray[np.float64]
    values: NDArray[np.float64]
    decoded_keys: NDArray[np.float64]
    decoded_values: NDArray[np.float64]
    coded_keys: NDArray[np.int64]
    coded_values: NDArray[np.int64]


@dataclass(frozen=True)
class StepErrors:
    """Errors of decode steps of one kv head against exact attention, (group, n_steps).

    Attributes
    ----------
    score_max : ndarray[float64]
        max_t |s_t - exact|.
    output : ndarray[float64]
        ||o - exact||_2 / ||exact||_2; 0 where both vanish.
    cosine : ndarray[float64]
        Of o and the exact output; 1 where both vanish.
    """

    score_max: NDArray[np.float64]
    output: NDArray[np.float64]
    cosine: NDArray[np.float64]


BLOCK = 1024


@kernel
def _products(rows: Array, columns: Array, out: Array) -> None:
    """Write rows (n, k) times columns (k, m) into out (n, m), each sum in the order of k."""
    for begin in range(0, columns.shape[1], BLOCK):
        for i in range(rows.shape[0]):
            to = out[i, begin : begin + BLOCK]
            to[:] = 0
            for j in range(rows.shape[1]):
                x, row = rows[i, j], columns[j, begin : begin + BLOCK]
                for c in range(len(to)):
                    to[c] = fma(x, row[c], to[c])


def multiply(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows (..., n, k) times columns (k, m).

    A BLAS spreads products as small as these over threads that wait for each other: ten times the time beside other work, and another
    order of the sums for one row than for many.
    """
    flat = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]))
    out = np.empty((len(flat), columns.shape[1]))
    _products(flat, np.ascontiguousarray(columns), out)
    return out.reshape(*rows.shape[:-1], columns.shape[1])


def exact_steps(
    queries: NDArray[np.float64], keys: NDArray[np.float64], values: NDArray[np.float64], steps: Steps, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exact scores (group, n_steps, seq_len), -inf where unseen, and outputs (group, n_steps, head_dim), in binary64.

    Parameters
    ----------
    queries : ndarray[float64], (group, n_steps, head_dim)
    """
    scores = scale * multiply(queries, keys.T)
    scores[:, ~seen_tokens(steps, len(keys))] = -np.inf
    return scores, multiply(softmax(scores), values)


def mixed_steps(
    queries: NDArray[np.float64],
    cache: MixedHead,
    steps: Steps,
    scale: float,
    exact_scores: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scores and outputs as `exact_steps` does, each step over the cache as it is then.

    `exact_scores` are those over `cache.keys`, where they are at hand.
    """
    if exact_scores is None:
        exact_scores = scale * multiply(queries, cache.keys.T)
    places = np.arange(len(cache.keys))
    of_codec = scale * multiply(queries, cache.decoded_keys.T)
    scores = np.where(places < cache.coded_keys[:, None], of_codec, exact_scores)
    scores[:, ~seen_tokens(steps, len(cache.keys))] = -np.inf
    probs = softmax(scores)
    from_codec = places < cache.coded_values[:, None]
    outputs = multiply(np.where(from_codec, probs, 0), cache.decoded_values)
    if not from_codec.all():
        outputs += multiply(np.where(from_codec, 0, probs), cache.values)
    return scores, outputs


def step_errors(
    queries: NDArray[np.float64],
    exact: tuple[NDArray[np.float64], NDArray[np.float64]],
    cache: MixedHead,
    steps: Steps,
    scale: float,
) -> StepErrors:
    """Return what a codec does to the steps; `exact` is what `exact_steps` gave."""
    return errors_of(mixed_steps(queries, cache, steps, scale, exact[0]), exact, steps)


def errors_of(
    got: tuple[NDArray[np.float64], NDArray[np.float64]],
    exact: tuple[NDArray[np.float64], NDArray[np.float64]],
    steps: Steps,
) -> StepErrors:
    """Return the errors of scores (group, n_steps, seq_len) and outputs (group, n_steps, head_dim) against exact ones."""
    (scores, outputs), (exact_scores, exact_outputs) = got, exact
    seen = seen_tokens(steps, scores.shape[-1])
    difference = np.where(seen, np.abs(np.where(seen, scores, 0) - np.where(seen, exact_scores, 0)), 0)
    size, length = np.linalg.norm(exact_outputs, axis=-1), np.linalg.norm(outputs, axis=-1)
    error = np.linalg.norm(outputs - exact_outputs, axis=-1)
    inner = (outputs * exact_outputs).sum(axis=-1)
    vanish = (size == 0) & (length == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(vanish, 0, error / size)
        cosine = np.where(vanish, 1, np.where(size * length > 0, inner / (size * length), 0))
    return StepErrors(difference.max(axis=-1), relative, cosine)


def seen_tokens(steps: Steps, seq_len: int) -> NDArray[np.bool_]:
    """Return which tokens a step sees, (n_steps, seq_len)."""
    places = np.arange(seq_len)
    seen: NDArray[np.bool_] = (places >= steps.first[:, None]) & (places < steps.visible[:, None])
    return seen


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities over the last axis, in binary64."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return probs
