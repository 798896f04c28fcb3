"""One decode step the slow way: Python integers, sets of addresses and MPFR, sharing no code with the package.

Written from the definitions alone (docs/definitions.md, docs/architecture.md). Arrays are lists; codes are integers.
"""

from __future__ import annotations

from fractions import Fraction

import gmpy2
import numpy as np

IEEE32 = gmpy2.ieee(32)
WIDE = gmpy2.context(precision=150)
LOG2E = np.array(0x3FB8AA3B, np.uint32).view(np.float32)[()]
POLYNOMIAL = [
    float.fromhex(text)
    for text in (
        "0x1.416b52p-13",
        "0x1.5f082ep-10",
        "0x1.3b2de0p-7",
        "0x1.c6af7cp-5",
        "0x1.ebfbdcp-3",
        "0x1.62e430p-1",
        "0x1p0",
    )
]
FIELDS = {
    "binary16": (5, 10),
    "bfloat16": (8, 7),
    "e4m3fn": (4, 3),
    "e5m2": (5, 2),
    "e4m3fnuz": (4, 3),
    "e5m2fnuz": (5, 2),
}
BIASES = {"binary16": 15, "bfloat16": 127, "e4m3fn": 7, "e5m2": 15, "e4m3fnuz": 8, "e5m2fnuz": 16}


def width_of(fmt):
    return 1 + sum(FIELDS[fmt])


class Rebased(int):
    """A code as a cache with rebased exponents holds it: `stored_bits` in the planes, or escaped."""

    @classmethod
    def of(cls, code, fmt, reference, stored_bits):
        self = cls(code)
        self.stored_bits = stored_bits
        x = abs(Fraction(value_of(code, fmt)))
        binades = 2 ** (stored_bits - 1 - FIELDS[fmt][1]) - 1
        self.escaped = x != 0 and x < Fraction(2) ** (reference - binades + 1)
        return self


def rebased_keys(keys, fmt, stored_bits):
    """Keys as lists; the reference of a channel is the largest exponent in its page of 64 tokens."""
    out = []
    for t, row in enumerate(keys):
        page = keys[t // 64 * 64 : t // 64 * 64 + 64]
        references = [max(exponent_of(other[d], fmt) for other in page) for d in range(len(row))]
        out.append([Rebased.of(code, fmt, r, stored_bits) for code, r in zip(row, references, strict=True)])
    return out


def rebased_values(values, fmt, stored_bits):
    return [
        [Rebased.of(code, fmt, max(exponent_of(other, fmt) for other in row), stored_bits) for code in row]
        for row in values
    ]


def fma32(a, b, c):
    """Multiply-add with one rounding to binary32, in MPFR; Python floats in and out."""
    if (a == 0 or b == 0) and c == 0:  # MPFR's sign of zero is IEEE's, but keep it plain
        return float(np.float32(a) * np.float32(b) + np.float32(c))
    with gmpy2.context(IEEE32):
        return float(gmpy2.fma(gmpy2.mpfr(a), gmpy2.mpfr(b), gmpy2.mpfr(c)))


def value_of(code, fmt):
    exponent_bits, m = FIELDS[fmt]
    bias, code = BIASES[fmt], int(code)
    field, trailing = (code >> m) % (1 << exponent_bits), code % (1 << m)
    magnitude = (trailing + (field > 0) * 2**m) * 2.0 ** (max(field, 1) - bias - m)
    return -magnitude if code >> (m + exponent_bits) else magnitude


def exponent_of(code, fmt):
    exponent_bits, m = FIELDS[fmt]
    return max((code >> m) % (1 << exponent_bits), 1) - BIASES[fmt]


def exponent32(x):
    return max(int(np.float32(abs(x)).view(np.uint32)) >> 23, 1) - 127


def read(code, level, width=16):
    """The first `level` bits of a code and the midpoint of the rest."""
    missing = width - level
    return code if missing == 0 else (code >> missing << missing) | 1 << (missing - 1)


def read_value(code, level, fmt):
    """The number that a read of `level` bits gives, as a float; exact, because no format here is as wide as binary64."""
    if not isinstance(code, Rebased):
        return value_of(read(code, level, width_of(fmt)), fmt)
    x = Fraction(value_of(code, fmt))
    if code.escaped or x == 0 or level == code.stored_bits:
        return value_of(code, fmt)
    step = Fraction(2)  # the weight of the last digit that is read
    while step > abs(x):
        step /= 2
    while 2 * step <= abs(x):
        step *= 2
    step /= 2 ** (FIELDS[fmt][1] - (code.stored_bits - level))
    middle = (abs(x) // step + Fraction(1, 2)) * step
    return float(middle) if x > 0 else -float(middle)


def exp2(x):
    if x < -126:
        return np.float32(0)
    n = int(np.rint(x))
    f = float(np.float32(x) - np.float32(n))
    y = POLYNOMIAL[0]
    for coefficient in POLYNOMIAL[1:]:
        y = fma32(y, f, coefficient)
    return np.ldexp(np.float32(y), n)


def scores32(query, keys, levels, fmt, scale, query_fmt=None):
    out = []
    for row in keys:
        total = 0.0
        for q, k, level in zip(query, row, levels, strict=True):
            if level:
                total = fma32(value_of(q, query_fmt or fmt), read_value(k, level, fmt), total)
        out.append(np.float32(total) * np.float32(scale))
    return out


def softmax32(scores, first, split):
    largest = max(scores)
    weights = {first + i: exp2((s - largest) * LOG2E) for i, s in enumerate(scores)}
    total = np.float32(0)
    for begin in range(0, max(weights) + 1, split):
        lanes = [np.float32(0)] * 64
        for t in range(begin, begin + split):
            lanes[t % 64] = lanes[t % 64] + weights.get(t, np.float32(0))
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[j] + lanes[j + half] for j in range(half)]
        total = total + lanes[0]
    return [w / total for w in weights.values()]


def output32(probs, values, levels, first, split, fmt):
    head_dim = len(values[0])
    out = []
    for c in range(head_dim):
        total = np.float32(0)
        for begin in range(0, first + len(probs), split):
            partial = 0.0
            for t in range(max(begin, first), min(begin + split, first + len(probs))):
                if levels[t - first]:
                    v = read_value(values[t - first][c], levels[t - first], fmt)
                    partial = fma32(float(probs[t - first]), v, partial)
            total = total + np.float32(partial)
        out.append(total)
    return out


def exact_step(query, keys, values, fmt, scale, query_fmt=None):
    """Scores, probabilities and outputs in 150-bit arithmetic."""
    with gmpy2.context(WIDE):
        q = [gmpy2.mpfr(value_of(code, query_fmt or fmt)) for code in query]
        scores = [sum(a * value_of(k, fmt) for a, k in zip(q, row, strict=True)) * gmpy2.mpfr(scale) for row in keys]
        weights = [gmpy2.exp(s - max(scores)) for s in scores]
        total = sum(weights)
        probs = [w / total for w in weights]
        outputs = [
            sum(p * value_of(row[c], fmt) for p, row in zip(probs, values, strict=True)) for c in range(len(values[0]))
        ]
    return scores, probs, outputs


def narrowest(difference, levels):
    """The narrowest reading level whose dropped bits do not exceed the difference; the whole code if there is none."""
    fitting = [level for level in levels if level and max(levels) - level <= difference]
    return min(fitting, default=max(levels))


def key_rule(queries, keys, levels, fmt, guard, query_fmt=None):
    head_dim = len(keys[0])
    chosen = [0] * head_dim
    for query in queries:
        q = [exponent_of(code, query_fmt or fmt) for code in query]
        terms = [q[d] + max(exponent_of(row[d], fmt) for row in keys) for d in range(head_dim)]
        for d in range(head_dim):
            chosen[d] = max(chosen[d], narrowest(max(terms) - terms[d] - guard, levels))
    return chosen


def strongest(probs, first):
    """The earliest token with the largest probability of each class modulo 32, in class order."""
    best = {}
    for i, p in enumerate(probs):
        j = (first + i) % 32
        if j not in best or p > probs[best[j]]:
            best[j] = i
    return [best[j] for j in sorted(best)]


def published_value_rule(probs, values, levels, first, fmt, guard):
    lowest = min(level for level in levels if level)
    margins = []
    for c in range(len(values[0])):
        estimate = 0.0
        for i in strongest(probs, first):
            estimate = fma32(float(probs[i]), abs(read_value(values[i][c], lowest, fmt)), estimate)
        margins.append(exponent32(estimate) - max(exponent_of(row[c], fmt) for row in values))
    return [narrowest(min(margins) - exponent32(p) - guard, levels) for p in probs]


def largest_addend_rule(probs, values, levels, fmt, guard, skip_at):
    terms = [exponent32(p) + max(exponent_of(v, fmt) for v in row) for p, row in zip(probs, values, strict=True)]
    differences = [max(terms) - e for e in terms]
    return [0 if skip_at is not None and d >= skip_at else narrowest(d - guard, levels) for d in differences]


def online_rule(scores, values, levels, first, split, fmt, guard, *, two_pass):
    """Splits apart, pages of 64 in ascending order, each maximum beginning with that of the newest page."""
    n = len(values)
    e = []
    for s, row in zip(scores, values, strict=True):
        binades = np.clip(np.float32(s) * LOG2E, -(2.0**24), 2.0**24)
        e.append(int(np.floor(binades)) + max(exponent_of(v, fmt) for v in row))
    newest = (first + n - 1) // 64
    chosen = []
    for t in range(first, first + n):
        known = [
            e[u - first]
            for u in range(first, first + n)
            if two_pass or u // 64 == newest or (u // split == t // split and u // 64 <= t // 64)
        ]
        chosen.append(narrowest(max(known) - e[t - first] - guard, levels))
    return chosen


def value_rule(name, parameters, probs, values, levels, first, fmt, scores, split):
    guard = parameters.get("guard_bits", 0)
    if name == "online":
        return online_rule(
            scores, values, levels, first, split, fmt, guard, two_pass=bool(parameters.get("two_pass", 0))
        )
    if name in ("full", "static"):
        return [parameters.get("value_bits", max(levels))] * len(values)
    if name == "alignedkv":
        return published_value_rule(probs, values, levels, first, fmt, guard)
    skip_at = parameters.get("threshold", 12) if name == "aligned-skip" else None
    return largest_addend_rule(probs, values, levels, fmt, guard, skip_at)


def key_waste(queries, keys, fmt, query_fmt=None):
    """wasted[t][d], the smallest over the group."""
    p = FIELDS[fmt][1] + 1
    wasted = [[p] * len(keys[0]) for _ in keys]
    for query in queries:
        for row, out in zip(keys, wasted, strict=True):
            terms = [exponent_of(q, query_fmt or fmt) + exponent_of(k, fmt) for q, k in zip(query, row, strict=True)]
            for d, e in enumerate(terms):
                out[d] = min(out[d], max(terms) - e)
    return wasted


def value_waste(probs, values, fmt):
    """wasted[t][c], the smallest over the group."""
    p = FIELDS[fmt][1] + 1
    wasted = [[p] * len(values[0]) for _ in values]
    for head in probs:
        terms = [[exponent32(w) + exponent_of(v, fmt) for v in row] for w, row in zip(head, values, strict=True)]
        for c in range(len(values[0])):
            coarsest = max(row[c] for row in terms)
            for t, row in enumerate(terms):
                wasted[t][c] = min(wasted[t][c], coarsest - row[c])
    return wasted


def planes_of(level, widths):
    """Indices of the planes that a read of `level` bits needs."""
    return [j for j in range(len(widths)) if sum(widths[:j]) < level]


def granules(addresses, size):
    return len({address // size for address in addresses})


def count(addresses, n_bytes=None):
    addresses = set(addresses)
    n_bytes = len(addresses) if n_bytes is None else n_bytes
    return n_bytes, *(granules(addresses, size) for size in (32, 64, 128))


def aligned(n_bytes):
    return -(-n_bytes // 128) * 128


def key_addresses(levels, widths, first, visible):
    """Every byte address loaded for the keys, planes far apart."""
    out = set()
    for d, level in enumerate(levels):
        for j in planes_of(level, widths):
            row, page_bytes = 8 * widths[j], aligned(len(levels) * 8 * widths[j])
            for t in range(first, visible):
                begin = t % 64 * widths[j]
                for bit in (begin, begin + widths[j] - 1):
                    out.add((j << 40) + t // 64 * page_bytes + d * row + bit // 8)
                out.update(
                    (j << 40) + t // 64 * page_bytes + d * row + byte
                    for byte in range(begin // 8, (begin + widths[j] - 1) // 8 + 1)
                )
    return out


def value_row(t, plane, widths, head_dim):
    row = -(-head_dim * widths[plane] // 8)
    begin = (plane << 40) + t // 64 * aligned(64 * row) + t % 64 * row
    return range(begin, begin + row)


def value_addresses(levels, widths, head_dim, first):
    return {
        address
        for i, level in enumerate(levels)
        for j in planes_of(level, widths)
        for address in value_row(first + i, j, widths, head_dim)
    }


def prepass_counts(probs, levels, widths, head_dim, first):
    lowest = min(level for level in levels if level)
    total = np.zeros(4, np.int64)
    for head in probs:
        for i in strongest(head, first):
            for j in planes_of(lowest, widths):
                total += count(value_row(first + i, j, widths, head_dim))
    return tuple(total.tolist())


def prepass_of(rule, parameters, probs, levels, key_levels, widths, head_dim, first, visible, beside=None):
    if rule == "alignedkv":
        return prepass_counts(probs, levels, widths, head_dim, first)
    if rule == "online" and not parameters.get("two_pass", 0):
        newest = max(first, (visible - 1) // 64 * 64)
        parts = [count(key_addresses(key_levels, widths, newest, visible)), count(range(newest, visible))]
        if beside is not None:
            parts += [count(part) for part in beside.keys(newest, visible)]
        return tuple(sum(column) for column in zip(*parts, strict=True))
    return (0, 0, 0, 0)


class Beside:
    """The byte addresses beside the planes of a cache with rebased exponents, array by array."""

    def __init__(self, keys, values):
        self.rows = {"keys": keys, "values": values}

    def _escapes(self, what, first, visible):
        pages = range(first // 64, (visible - 1) // 64 + 1)
        yield [byte for page in (*pages, pages[-1] + 1) for byte in range(4 * page, 4 * page + 4)]
        entries, n = [], 0
        for t, row in enumerate(self.rows[what]):
            for code in row:
                if code.escaped:
                    if t // 64 in pages:
                        entries += range(4 * n, 4 * n + 4)
                    n += 1
        yield entries

    def keys(self, first, visible):
        head_dim = len(self.rows["keys"][0])
        yield range(first // 64 * head_dim, ((visible - 1) // 64 + 1) * head_dim)
        yield from self._escapes("keys", first, visible)

    def values(self, first, visible):
        yield from self._escapes("values", first, visible)


def metadata_counts(name, head_dim, first, visible, beside=None):
    kinds = {
        "alignedkv": [range(head_dim), range(head_dim)],
        "full": [],
        "static": [],
    }.get(name, [range(head_dim), range(first, visible)])
    if beside is not None:
        kinds = [*kinds, *beside.keys(first, visible), *beside.values(first, visible)]
        if name in ("alignedkv", "full", "static"):  # the other rules read the maxima of tokens themselves
            kinds.append(range(first, visible))
    return tuple(sum(column) for column in zip(*(count(kind) for kind in kinds), strict=True)) or (0, 0, 0, 0)


def levels_of(widths, skip, fmt):
    ends = [sum(widths[: j + 1]) for j in range(len(widths))]
    return [0] * skip + [end for end in ends if end >= ends[-1] - FIELDS[fmt][1]]


def slow_step(
    keys,
    values,
    queries,
    *,
    fmt,
    scale,
    rule,
    parameters,
    widths,
    skip,
    first,
    visible,
    split,
    query_fmt=None,
    rebased=False,
):  # one name per result
    """Everything that a profile says of one step, as plain lists; `queries` is (group, head_dim)."""
    keys, values, beside = keys.tolist(), values.tolist(), None
    if rebased:
        keys, values = rebased_keys(keys, fmt, sum(widths)), rebased_values(values, fmt, sum(widths))
        beside = Beside(keys, values)
    keys, values = keys[first:visible], values[first:visible]
    queries, head_dim, full = queries.tolist(), len(keys[0]), sum(widths)
    levels = levels_of(widths, skip, fmt)
    guard = parameters.get("guard_bits", 0)
    fixed = [parameters.get("key_bits", full)] * head_dim
    key_levels = fixed if rule in ("full", "static") else key_rule(queries, keys, levels, fmt, guard, query_fmt)
    reduced_scores = [scores32(q, keys, key_levels, fmt, scale, query_fmt) for q in queries]
    full_scores = [scores32(q, keys, [full] * head_dim, fmt, scale, query_fmt) for q in queries]
    reduced_probs = [softmax32(s, first, split) for s in reduced_scores]
    full_probs = [softmax32(s, first, split) for s in full_scores]
    per_head = [
        value_rule(rule, parameters, p, values, levels, first, fmt, s, split)
        for p, s in zip(reduced_probs, reduced_scores, strict=True)
    ]
    value_levels = [max(column) for column in zip(*per_head, strict=True)]
    row_bytes = head_dim * width_of(fmt) // 8
    prepass = (levels, key_levels, widths, head_dim, first, visible, beside)
    return {
        "key_levels": key_levels,
        "value_levels": value_levels,
        "reduced_scores": reduced_scores,
        "full_scores": full_scores,
        "reduced_probs": reduced_probs,
        "full_probs": full_probs,
        "reduced_outputs": [output32(p, values, value_levels, first, split, fmt) for p in reduced_probs],
        "full_outputs": [output32(p, values, [full] * len(values), first, split, fmt) for p in full_probs],
        "exact": [exact_step(q, keys, values, fmt, scale, query_fmt) for q in queries],
        "key_waste": key_waste(queries, keys, fmt, query_fmt),
        "value_waste": value_waste(full_probs, values, fmt),
        "keys": count(key_addresses(key_levels, widths, first, visible)),
        "values": count(value_addresses(value_levels, widths, head_dim, first)),
        "full": count(range(first * row_bytes, visible * row_bytes)),
        "prepass": prepass_of(rule, parameters, reduced_probs, *prepass),
        "metadata": metadata_counts(rule, head_dim, first, visible, beside),
    }
