"""One decode step the slow way: Python integers, sets of addresses and MPFR, sharing no code with the package.

Written from the definitions alone (docs/definitions.md, docs/architecture.md). Arrays are lists; codes are integers.
"""

from __future__ import annotations

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
FIELDS = {"binary16": (5, 10), "bfloat16": (8, 7)}


def fma32(a, b, c):
    """Multiply-add with one rounding to binary32, in MPFR; Python floats in and out."""
    if (a == 0 or b == 0) and c == 0:  # MPFR's sign of zero is IEEE's, but keep it plain
        return float(np.float32(a) * np.float32(b) + np.float32(c))
    with gmpy2.context(IEEE32):
        return float(gmpy2.fma(gmpy2.mpfr(a), gmpy2.mpfr(b), gmpy2.mpfr(c)))


def value_of(code, fmt):
    exponent_bits, m = FIELDS[fmt]
    bias = (1 << (exponent_bits - 1)) - 1
    field, trailing = (code >> m) % (1 << exponent_bits), code % (1 << m)
    magnitude = (trailing + (field > 0) * 2**m) * 2.0 ** (max(field, 1) - bias - m)
    return -magnitude if code >> (m + exponent_bits) else magnitude


def exponent_of(code, fmt):
    exponent_bits, m = FIELDS[fmt]
    return max((code >> m) % (1 << exponent_bits), 1) - (1 << (exponent_bits - 1)) + 1


def exponent32(x):
    return max(int(np.float32(abs(x)).view(np.uint32)) >> 23, 1) - 127


def read(code, level):
    """The first `level` bits of a 16-bit code and the midpoint of the rest."""
    missing = 16 - level
    return code if missing == 0 else (code >> missing << missing) | 1 << (missing - 1)


def exp2(x):
    if x < -126:
        return np.float32(0)
    n = int(np.rint(x))
    f = float(np.float32(x) - np.float32(n))
    y = POLYNOMIAL[0]
    for coefficient in POLYNOMIAL[1:]:
        y = fma32(y, f, coefficient)
    return np.ldexp(np.float32(y), n)


def scores32(query, keys, levels, fmt, scale):
    out = []
    for row in keys:
        total = 0.0
        for q, k, level in zip(query, row, levels, strict=True):
            if level:
                total = fma32(value_of(q, fmt), value_of(read(k, level), fmt), total)
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
                    v = value_of(read(values[t - first][c], levels[t - first]), fmt)
                    partial = fma32(float(probs[t - first]), v, partial)
            total = total + np.float32(partial)
        out.append(total)
    return out


def exact_step(query, keys, values, fmt, scale):
    """Scores, probabilities and outputs in 150-bit arithmetic."""
    with gmpy2.context(WIDE):
        q = [gmpy2.mpfr(value_of(code, fmt)) for code in query]
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
    fitting = [level for level in levels if level and 16 - level <= difference]
    return min(fitting, default=16)


def key_rule(queries, keys, levels, fmt, guard):
    head_dim = len(keys[0])
    chosen = [0] * head_dim
    for query in queries:
        terms = [exponent_of(query[d], fmt) + max(exponent_of(row[d], fmt) for row in keys) for d in range(head_dim)]
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
            estimate = fma32(float(probs[i]), abs(value_of(read(values[i][c], lowest), fmt)), estimate)
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
        return [parameters.get("value_bits", 16)] * len(values)
    if name == "alignedkv":
        return published_value_rule(probs, values, levels, first, fmt, guard)
    skip_at = parameters.get("threshold", 12) if name == "aligned-skip" else None
    return largest_addend_rule(probs, values, levels, fmt, guard, skip_at)


def key_waste(queries, keys, fmt):
    """wasted[t][d], the smallest over the group."""
    p = FIELDS[fmt][1] + 1
    wasted = [[p] * len(keys[0]) for _ in keys]
    for query in queries:
        for row, out in zip(keys, wasted, strict=True):
            terms = [exponent_of(q, fmt) + exponent_of(k, fmt) for q, k in zip(query, row, strict=True)]
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
    return (len(addresses) if n_bytes is None else n_bytes), granules(addresses, 32), granules(addresses, 128)


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
    total = np.zeros(3, np.int64)
    for head in probs:
        for i in strongest(head, first):
            for j in planes_of(lowest, widths):
                total += count(value_row(first + i, j, widths, head_dim))
    return tuple(total.tolist())


def prepass_of(rule, parameters, probs, levels, key_levels, widths, head_dim, first, visible):
    if rule == "alignedkv":
        return prepass_counts(probs, levels, widths, head_dim, first)
    if rule == "online" and not parameters.get("two_pass", 0):
        newest = max(first, (visible - 1) // 64 * 64)
        parts = count(key_addresses(key_levels, widths, newest, visible)), count(range(newest, visible))
        return tuple(a + b for a, b in zip(*parts, strict=True))
    return (0, 0, 0)


def metadata_counts(name, head_dim, first, visible):
    kinds = {
        "alignedkv": [range(head_dim), range(head_dim)],
        "full": [],
        "static": [],
    }.get(name, [range(head_dim), range(first, visible)])
    return tuple(sum(column) for column in zip(*(count(kind) for kind in kinds), strict=True)) or (0, 0, 0)


def levels_of(widths, skip, fmt):
    ends = [sum(widths[: j + 1]) for j in range(len(widths))]
    return [0] * skip + [end for end in ends if end > FIELDS[fmt][0]]


def slow_step(
    keys, values, queries, *, fmt, scale, rule, parameters, widths, skip, first, visible, split
):  # one name per result
    """Everything that a profile says of one step, as plain lists; `queries` is (group, head_dim)."""
    keys, values = keys[first:visible].tolist(), values[first:visible].tolist()
    queries, head_dim = queries.tolist(), len(keys[0])
    levels = levels_of(widths, skip, fmt)
    guard = parameters.get("guard_bits", 0)
    fixed = [parameters.get("key_bits", 16)] * head_dim
    key_levels = fixed if rule in ("full", "static") else key_rule(queries, keys, levels, fmt, guard)
    reduced_scores = [scores32(q, keys, key_levels, fmt, scale) for q in queries]
    full_scores = [scores32(q, keys, [16] * head_dim, fmt, scale) for q in queries]
    reduced_probs = [softmax32(s, first, split) for s in reduced_scores]
    full_probs = [softmax32(s, first, split) for s in full_scores]
    per_head = [
        value_rule(rule, parameters, p, values, levels, first, fmt, s, split)
        for p, s in zip(reduced_probs, reduced_scores, strict=True)
    ]
    value_levels = [max(column) for column in zip(*per_head, strict=True)]
    return {
        "key_levels": key_levels,
        "value_levels": value_levels,
        "reduced_scores": reduced_scores,
        "full_scores": full_scores,
        "reduced_probs": reduced_probs,
        "full_probs": full_probs,
        "reduced_outputs": [output32(p, values, value_levels, first, split, fmt) for p in reduced_probs],
        "full_outputs": [output32(p, values, [16] * len(values), first, split, fmt) for p in full_probs],
        "exact": [exact_step(q, keys, values, fmt, scale) for q in queries],
        "key_waste": key_waste(queries, keys, fmt),
        "value_waste": value_waste(full_probs, values, fmt),
        "keys": count(key_addresses(key_levels, widths, first, visible)),
        "values": count(value_addresses(value_levels, widths, head_dim, first)),
        "full": count(range(first * head_dim * 2, visible * head_dim * 2)),
        "prepass": prepass_of(rule, parameters, reduced_probs, levels, key_levels, widths, head_dim, first, visible),
        "metadata": metadata_counts(rule, head_dim, first, visible),
    }
