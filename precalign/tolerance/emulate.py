"""What a side computes, rounding by rounding: the results that its bounds are put to the test with.

An order that is not known is drawn at random, and so is whether products are fused; the error of the exponential is pushed to its limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from precalign import matrix_units
from precalign.accumulate import total
from precalign.accumulate.orders import Sequential, get_order
from precalign.decode.codes import round_to_format
from precalign.formats import BINARY64, get_format
from precalign.formats.codes import ulp
from precalign.matrix_units import MatrixUnit
from precalign.rounding import encode, round_to
from precalign.tolerance.exponentials import FOLDED, NATURAL
from precalign.tolerance.outputs import stored_probs
from precalign.tolerance.side import DIRECTED, SCALES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.accumulate.orders import Order
    from precalign.formats import Format
    from precalign.tolerance.side import Side

ORDERS = (
    "sequential",
    "reverse",
    "pairwise",
    "tree",
    "numpy",
    "lanes:4/tree",
    "lanes:32/tree",
    "blocked:16/sequential",
    "half2",
)
LOG2_E = 1.4426950408889634


class Results(NamedTuple):
    """Scores and probs (n_tokens,), outputs (head_dim,)."""

    scores: NDArray[np.float64]
    probs: NDArray[np.float64]
    outputs: NDArray[np.float64]


def settle(side: Side, rng: np.random.Generator) -> Side:
    """Return a side in which nothing is left open."""
    drawn: dict[str, Any] = {
        name: get_order(str(rng.choice(ORDERS)))
        for name in ("score_order", "sum_order", "output_order")
        if getattr(side, name) is None
    }
    if rng.random() < 0.5:
        drawn["product"] = None
    return replace(side, **drawn)


def rounded(x: NDArray[np.float64], fmt: Format | None) -> NDArray[np.float64]:
    """Round to nearest into an IEEE format; None and binary64 leave alone."""
    return x if fmt is None or fmt == BINARY64 else round_to_format(x, fmt)


@dataclass(frozen=True)
class Emulation:
    """One settled side.

    Attributes
    ----------
    side : Side
    push : ndarray[float64], (n_tokens,)
        In [-1, 1]: by how much of its error the exponential of each token is off.
    """

    side: Side
    push: NDArray[np.float64]

    def run(
        self, query: NDArray[np.float64], keys: NDArray[np.float64], values: NDArray[np.float64], scale: float
    ) -> Results:
        """Compute one query."""
        scores = self._scores(query, keys, scale)
        if self.side.softmax.kind == "two-pass":
            return self._two_pass(scores, values)
        return self._late(scores, values)

    def _sum(self, terms: NDArray[np.float64], order: Order | None) -> NDArray[np.float64]:
        assert order is not None  # noqa: S101 - settled
        return total(terms, order, accumulator=self.side.accumulator, rounding=self.side.rounding)

    def _normaliser(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        assert self.side.sum_order is not None  # noqa: S101 - settled
        return total(weights[None], self.side.sum_order, accumulator=self.side.softmax_format)

    def _dot(
        self,
        a: NDArray[np.float64],
        b: NDArray[np.float64],
        order: Order | MatrixUnit | None,
        carry: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Sum a * b over the last axis, (n_problems, n_terms), after the carry."""
        if isinstance(order, MatrixUnit):
            return _unit_dot(a, b, order, carry)
        products = a * b
        if self.side.product is not None:
            products = _directed(products, self.side.product, self.side.rounding)
        if carry is not None and order == Sequential():
            return self._sum(np.concatenate([carry[:, None], products], axis=1), order)
        found = self._sum(products, order)
        if carry is None:
            return found
        return self._sum(np.stack([carry, found], axis=1), Sequential())

    def _scores(self, query: NDArray[np.float64], keys: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
        side = self.side
        factor = rounded(np.array(scale if side.scale != SCALES[2] else scale**0.5), side.accumulator)
        a, b = np.broadcast_to(query, keys.shape), keys
        if side.scale != "after":
            a = _directed(a * factor, side.accumulator, side.rounding)
        if side.scale == "both":
            b = _directed(b * factor, side.accumulator, side.rounding)
        sums = rounded(self._dot(a, b, side.score_order), side.softmax_format)
        if side.scale == "after":
            sums = rounded(sums * rounded(np.array(scale), side.softmax_format), side.softmax_format)
        return rounded(sums, side.score_format)

    def _exp(self, x: NDArray[np.float64], maximum: float, push: NDArray[np.float64]) -> NDArray[np.float64]:
        """e^(x - maximum), off by what the function may be off; numbers below the normal ones are flushed to zero."""
        side, fmt = self.side, self.side.softmax_format
        log2_e = float(rounded(np.array(LOG2_E), fmt))
        if side.exp.form == NATURAL:
            exact = np.exp(rounded(x - maximum, fmt))
        elif side.exp.form == FOLDED:
            exact = np.exp2(rounded(x * log2_e - rounded(np.array(maximum * log2_e), fmt), fmt))
        else:
            exact = np.exp2(rounded(rounded(x - maximum, fmt) * log2_e, fmt))
        off = np.where(exact == 1, 0.0, push * max(side.exp.ulps - 0.5, 0.0))
        found = rounded(exact + off * ulp(exact, fmt), fmt)
        return np.where(found < 2.0**fmt.emin, 0.0, found)

    def _divided(self, x: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
        fmt = self.side.softmax_format
        if self.side.division == "exact":
            return rounded(x / by, fmt)
        inverse = rounded(1 / by, fmt)
        if self.side.division == "approx":
            inverse = rounded(1 / by + 0.5 * self.push[0] * ulp(1 / by, fmt), fmt)
        return rounded(x * inverse, fmt)

    def _two_pass(self, scores: NDArray[np.float64], values: NDArray[np.float64]) -> Results:
        side = self.side
        weights = self._exp(scores, float(scores.max()), self.push)
        normaliser = self._normaliser(weights)
        probs = rounded(self._divided(weights, normaliser), stored_probs(side))
        outputs = self._dot(np.broadcast_to(probs, values.T.shape), values.T, side.output_order)
        return Results(scores, probs, rounded(outputs, side.output))

    def _late(self, scores: NDArray[np.float64], values: NDArray[np.float64]) -> Results:
        side, size, fmt = self.side, self.side.softmax.block, self.side.softmax_format
        online = side.softmax.kind == "online"
        top, sums, parts = -np.inf, np.zeros(1), []
        running: NDArray[np.float64] | None = None
        weights = np.empty_like(scores)
        for begin in range(0, len(scores), size):
            block = slice(begin, min(begin + size, len(scores)))
            own = float(scores[block].max())
            now = max(top, own) if online else own
            weights[block] = self._exp(scores[block], now, self.push[block])
            found = self._normaliser(weights[block])
            if online and running is not None:
                factor = self._exp(np.array([top]), now, self.push[block.start : block.start + 1])
                weights[:begin] *= factor
                running, sums = self._rescaled(running * factor), rounded(sums * factor, fmt)
            stored = rounded(weights[block], stored_probs(side))
            a = np.broadcast_to(stored, values[block].T.shape)
            running = self._dot(a, values[block].T, side.output_order, running if online else None)
            sums = rounded(sums + found, fmt)
            parts.append((now, found, running))
            top = now
        if not online:
            factors, sums, running = self._combined(parts)
            for index, factor in enumerate(factors):
                weights[index * size : (index + 1) * size] *= factor
        assert running is not None  # noqa: S101 - there is a token
        probs = rounded(self._divided(rounded(weights, fmt), sums), stored_probs(side))
        return Results(scores, probs, rounded(self._divided(running, sums), side.output))

    def _rescaled(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Round to the format in which outputs are accumulated."""
        order = self.side.output_order
        if isinstance(order, MatrixUnit):
            return rounded(x, get_format(order.output))
        return _directed(x, self.side.accumulator, self.side.rounding)

    def _combined(
        self, parts: list[tuple[float, NDArray[np.float64], NDArray[np.float64]]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return e^(m_i - m), and the sums of the splits, each times its factor, in ascending order."""
        fmt = self.side.softmax_format
        tops = np.array([own for own, _, _ in parts])
        factors = self._exp(tops, float(tops.max()), self.push[: len(tops)])
        held = []
        for index in (1, 2):
            terms = np.stack([rounded(part[index] * f, fmt) for part, f in zip(parts, factors, strict=True)], axis=1)
            held.append(total(terms, "sequential", accumulator=fmt))
        return factors, held[0], held[1]


def _unit_dot(
    a: NDArray[np.float64], b: NDArray[np.float64], unit: MatrixUnit, carry: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    x, y = (encode(np.ascontiguousarray(values), get_format(unit.inputs)) for values in (a, b))
    if unit.inputs == "tf32":  # which lives in the top bits of a binary32
        x, y = (codes.astype(np.uint32) << np.uint32(13) for codes in (x, y))
    found = matrix_units.dot(x, y, None if carry is None else carry.astype(np.float32), unit=unit)
    return found.view(np.float32 if unit.output == "fp32" else np.float16).astype(np.float64)


def _directed(x: NDArray[np.float64], fmt: Format, mode: str) -> NDArray[np.float64]:
    """Round in the mode of the accumulation."""
    if fmt == BINARY64:
        return x
    if mode not in DIRECTED:
        return rounded(x, fmt)
    return np.asarray(round_to(x, fmt, mode), np.float64)
