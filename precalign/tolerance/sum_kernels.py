"""Rounding errors of a sum at most: in a known order, in any order, and in a matrix unit. docs/tolerance.md derives them.

All three take exact terms t_i with |what the side adds - t_i| <= loose_i + lost_i: `loose` is what its inputs differ by, of which only the
size matters here, and `lost` what roundings have already done, which the answer includes. A carry is a partial sum that comes first.
Each answers per problem (value, loose, lost): the exact sum, and the sums of both.
"""

from __future__ import annotations

import numpy as np

from precalign.jit import Array, kernel
from precalign.tolerance.rounding import binade, error_of, is_exact

SLACK = 2.0**-51
"""Covers the binary64 evaluation of a partial sum, per term and of the sum of magnitudes."""


@kernel
def enter_terms(terms: Array, loose: Array, product: Array, lost: Array) -> None:
    """Add the rounding of each product to `lost`, which holds what the roundings of its factors did."""
    for problem in range(terms.shape[0]):
        for i in range(terms.shape[1]):
            size, spread = abs(terms[problem, i]), loose[problem, i] + lost[problem, i]
            if spread > 0.0 or not is_exact(size, product):
                lost[problem, i] += error_of(size + spread, product)


@kernel
def ordered_sums(
    terms: Array, loose: Array, lost: Array, entered: int, left: Array, right: Array, to: Array, out: Array
) -> None:
    """Bound the sums of a schedule: at each node, the roundings below it and its own at the largest size it may have.

    Parameters
    ----------
    terms, loose, lost : ndarray[float64], (n_problems, n_terms)
    entered : int
        So many terms, from the first on, are numbers of the accumulator already and do not enter by a rounding.
    left, right : ndarray[int32], (n_terms - 1,)
    to : Rounding
    out : ndarray[float64], (3, n_problems)
        value, loose, lost.
    """
    n = terms.shape[1]
    value, spread, error = np.empty(2 * n), np.empty(2 * n), np.empty(2 * n)
    for problem in range(terms.shape[0]):
        total = 0.0
        for i in range(n):
            value[i], spread[i], error[i] = terms[problem, i], loose[problem, i], lost[problem, i]
            total += abs(value[i])
        slack = total * (n + 4) * SLACK
        for k in range(max(n - 1, 1)):
            node = n + k
            a = left[k] if n > 1 else 0
            if entered <= a < n:
                size = abs(value[a]) + spread[a] + error[a]
                if not (spread[a] == 0.0 and error[a] == 0.0 and is_exact(value[a], to)):
                    error[a] += error_of(size, to)
            if n == 1:
                node = 0
                break
            b = right[k]
            value[node], spread[node] = value[a] + value[b], spread[a] + spread[b]
            below = error[a] + error[b]
            error[node] = below + error_of(abs(value[node]) + spread[node] + below + slack, to)
        out[0, problem], out[1, problem], out[2, problem] = value[node], spread[node], error[node]


@kernel
def unordered_sums(terms: Array, loose: Array, lost: Array, entered: int, to: Array, out: Array) -> None:
    """Bound the sums of every binary tree of additions, each term rounded on entry or not.

    Sort the n - 1 partial sums by how many terms they hold: the j-th holds at most j + 1, because it holds as many partial sums less
    one, all of which come before it. So it is at most the sum of the j + 1 largest terms of one sign.
    """
    n = terms.shape[1]
    high, low = np.empty(n), np.empty(n)
    for problem in range(terms.shape[0]):
        value, spread, error, total = 0.0, 0.0, 0.0, 0.0
        for i in range(n):
            t, s, e = terms[problem, i], loose[problem, i], lost[problem, i]
            if i >= entered and not (s == 0.0 and e == 0.0 and is_exact(t, to)):
                e += error_of(abs(t) + s + e, to)
            high[i], low[i] = max(t + s, 0.0), max(s - t, 0.0)
            value, spread, error, total = value + t, spread + s, error + e, total + abs(t)
        slack = total * (n + 4) * SLACK
        high.sort()
        low.sort()
        positive, negative = high[n - 1] if n else 0.0, low[n - 1] if n else 0.0
        for j in range(1, n):
            positive += high[n - 1 - j]
            negative += low[n - 1 - j]
            error += error_of(max(positive, negative) + error + slack, to)
        out[0, problem], out[1, problem], out[2, problem] = value, spread, error


@kernel
def unit_sums(
    terms: Array,
    loose: Array,
    lost: Array,
    exponents: Array,
    stages: Array,
    fraction_bits: int,
    min_exponent: int,
    kept: Array,
    carry: Array,
    out: Array,
) -> None:
    """Bound the dot products of a matrix unit: what each group cuts, and the rounding of its result.

    Parameters
    ----------
    terms, loose, lost : ndarray[float64], (n_problems, n_terms)
        Products are exact in a unit: `lost` is of the operands.
    exponents : ndarray[int64], (n_problems, n_terms)
        E(a) + E(b) of a product, not normalised, or more.
    stages : ndarray[int32], (n_groups, group)
    fraction_bits, min_exponent : int
        Terms are cut `fraction_bits` below the largest exponent of their group, which is at least `min_exponent`.
    kept : Rounding
        Of the group's result.
    carry : ndarray[float64], (3, n_problems)
        value, loose, lost of the accumulator before.
    out : ndarray[float64], (3, n_problems)
    """
    for problem in range(terms.shape[0]):
        value, spread, error = carry[0, problem], carry[1, problem], carry[2, problem]
        total = abs(value)
        for i in range(terms.shape[1]):
            total += abs(terms[problem, i])
        slack = total * (terms.shape[1] + 4) * SLACK
        for stage in range(stages.shape[0]):
            size = abs(value) + spread + error + slack
            top = 2.0**min_exponent
            if abs(value) + spread + error > 0.0:
                top = max(top, binade(size))
            for i in stages[stage]:
                if i >= 0 and (terms[problem, i] != 0.0 or loose[problem, i] > 0.0):
                    top = max(top, 2.0 ** exponents[problem, i])
            quantum = top * 2.0**-fraction_bits
            least = abs(value) - spread - error - slack
            whole = least > 0.0 and max(binade(least), 2.0**kept.emin) * 2.0 ** (1 - kept.precision) >= quantum
            cut = 0.0 if whole or size == 0.0 else quantum
            for i in stages[stage]:
                if i < 0:
                    continue
                t, s, e = abs(terms[problem, i]), loose[problem, i], lost[problem, i]
                if s == 0.0 and e == 0.0:  # what is cut of a known number; a smaller top exponent would cut less
                    cut += t - np.floor(t / quantum) * quantum
                else:
                    cut += min(quantum, t + s + e)
                value, spread, error = value + terms[problem, i], spread + s, error + e
            error += cut
            error += error_of(abs(value) + spread + error + slack, kept)
        out[0, problem], out[1, problem], out[2, problem] = value, spread, error
