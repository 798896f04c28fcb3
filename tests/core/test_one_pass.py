"""The order of one-pass kernels against plain Python and MPFR, and its distance from the stated order against its bound."""

import gmpy2
import numpy as np
import pytest
from slow_decode import LOG2E, exp2, fma32, output32, softmax32

from precalign.bounds.one_pass import one_pass_difference
from precalign.decode.one_pass import one_pass


def weight(a, b):
    return exp2((a - b) * LOG2E)


def slow_one_pass(scores, values, split):
    """One query head, from docs/architecture.md alone: lists of (M, L, acc), and the outputs."""
    parts = []
    for begin in range(0, len(scores), split):
        acc, lanes, largest = [0.0] * len(values[0]), [np.float32(0)] * 64, None
        for page in range(begin, min(begin + split, len(scores)), 64):
            tokens = range(page, min(page + 64, begin + split, len(scores)))
            top = max(scores[t] for t in tokens)
            raised = top if largest is None else max(largest, top)
            r = np.float32(1) if largest is None else weight(largest, raised)
            for j in range(64):
                w = weight(scores[page + j], raised) if page + j in tokens else np.float32(0)
                lanes[j] = np.float32(fma32(float(lanes[j]), float(r), float(w)))
            acc = [float(np.float32(a) * r) for a in acc]
            for t in tokens:
                w = float(weight(scores[t], raised))
                acc = [fma32(w, float(v), a) for a, v in zip(acc, values[t], strict=True)]
            largest = raised
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[j] + lanes[j + half] for j in range(half)]
        parts.append((largest, lanes[0], acc))
    top, total, out = max(part[0] for part in parts), 0.0, [0.0] * len(values[0])
    for largest, sum_, acc in parts:
        f = float(weight(largest, top))
        total = fma32(float(sum_), f, total)
        out = [fma32(a, f, o) for a, o in zip(acc, out, strict=True)]
    return parts, [np.float32(o) / np.float32(total) for o in out]


def draw(seed, seq_len, group=2, head_dim=4, spread=6.0):
    rng = np.random.default_rng(seed)
    scores = (rng.standard_normal((group, seq_len)) * spread).astype(np.float32)
    values = rng.standard_normal((seq_len, head_dim)).astype(np.float16).astype(np.float32)
    return scores, values


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


@pytest.mark.parametrize(
    ("seq_len", "split", "spread"),
    [(1, 64, 1.0), (63, 64, 3.0), (65, 64, 3.0), (200, 128, 60.0), (330, 256, 6.0), (257, 256, 0.0)],
)
def test_equals_the_slow_order(seq_len, split, spread):
    scores, values = draw(seq_len, seq_len, spread=spread)
    found = one_pass(scores, values, split)
    for head, row in enumerate(scores):
        parts, out = slow_one_pass(list(row), values.tolist(), split)
        assert (bits(found.maxima[head]) == bits([p[0] for p in parts])).all()
        assert (bits(found.sums[head]) == bits([p[1] for p in parts])).all()
        assert (bits(found.partials[head]) == bits([p[2] for p in parts])).all()
        assert (bits(found.outputs[head]) == bits(out)).all()


def test_one_page_that_holds_the_maximum_scales_nothing():
    scores, values = draw(3, 192)
    scores[:, 5] = 100
    whole = one_pass(scores, values, 256)
    assert (bits(whole.maxima) == bits(np.full((2, 1), 100))).all()
    # No page raises the maximum after the first: the partial sums are one chain over all tokens.
    w = [float(weight(s, np.float32(100))) for s in scores[0]]
    acc = 0.0
    for p, v in zip(w, values[:, 0].tolist(), strict=True):
        acc = fma32(p, v, acc)
    assert whole.partials[0, 0, 0] == np.float32(acc)


def exact_outputs(scores, values):
    with gmpy2.context(precision=150):
        weights = [gmpy2.exp(gmpy2.mpfr(float(s))) for s in scores]
        total = sum(weights)
        columns = zip(*values.tolist(), strict=True)
        return [float(sum(w * v for w, v in zip(weights, column, strict=True)) / total) for column in columns]


@pytest.mark.parametrize(
    ("seq_len", "split", "spread"), [(2, 64, 1.0), (150, 64, 30.0), (400, 256, 4.0), (90, 64, 0.0)]
)
def test_difference_of_the_orders_is_within_its_bound(seq_len, split, spread):
    scores, values = draw(seq_len + 1, seq_len, group=1, head_dim=3, spread=spread)
    bound = one_pass_difference(scores, values, split)[0]
    once = one_pass(scores, values, split).outputs[0]
    probs = softmax32(list(scores[0]), 0, split)
    codes = values.astype(np.float16).view(np.uint16).tolist()
    stated = np.array(output32(probs, codes, [16] * seq_len, 0, split, "binary16"))
    exact = np.array(exact_outputs(scores[0], values))
    assert (np.abs(once.astype(float) - stated) <= bound).all()
    assert (np.abs(once - exact) <= bound).all()
    assert (np.abs(stated - exact) <= bound).all()
    assert (bound < 1e-4 * np.abs(values).max()).all()


def test_bound_is_finite_where_scores_lie_far_apart():
    scores = np.array([[3e37, -3e37, 0, 2e37]], np.float32)
    bound = one_pass_difference(scores, np.ones((4, 2), np.float32), 64)
    assert np.isfinite(bound).all()
