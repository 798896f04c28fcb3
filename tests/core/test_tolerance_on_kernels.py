"""What a sound tolerance is for: defects that 1e-2 passes are caught, and correct kernels pass, torch's among them."""

import numpy as np
import pytest

from precalign.formats import BINARY16
from precalign.tolerance import attention, parse_side
from precalign.tolerance.defects import DEFECTS, Case, Verdict, judge


def head(seed, n=700, dim=128, n_queries=1):
    """Keys with channels of different sizes, attention spread over many tokens; binary16 values."""
    rng = np.random.default_rng(seed)
    size = 2.0 ** rng.uniform(-2, 1, dim)
    q, k = rng.standard_normal((n_queries, dim)) / size, rng.standard_normal((n, dim)) * size
    return tuple(x.astype(np.float16) for x in (q, k, rng.standard_normal((n, dim))))


def verdicts(kernel, seeds=range(3)):
    held: dict[str, Verdict] = {}
    for seed in seeds:
        q, k, v = (x.astype(np.float64) for x in head(seed))
        judge(Case(q[0], k, v, 128**-0.5, BINARY16), parse_side(kernel), held)
    return held


def test_defects_that_the_customary_tolerance_passes_are_caught():
    held = verdicts("stated")
    assert held.pop("correct").caught == 0
    assert set(held) == set(DEFECTS)
    # All pass with 1e-2 on some head on which they are caught; the rescale may be large enough for both.
    for name, verdict in held.items():
        assert verdict.caught == verdict.queries, name
        assert verdict.ratio > 5, name
    passed = [name for name, verdict in held.items() if verdict.passes_customary == verdict.queries]
    assert len(passed) >= 5, passed


def test_most_are_caught_with_no_order_known():
    held = verdicts("float32")
    assert held.pop("correct").caught == 0
    assert sum(verdict.caught > 0 for verdict in held.values()) >= 6


@pytest.mark.parametrize("kernel", ["flash-fp16", "order=any,accumulator=fp16,output=fp16", "float32,softmax=split:64"])
def test_correct_kernels_raise_no_alarm(kernel):
    assert verdicts(kernel, seeds=range(2))["correct"].caught == 0


def torch_results(q, k, v):
    """Attention in float32 three ways: (preset, scores or None, probs or None, outputs)."""
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    a, b, c = (torch.from_numpy(x.astype(np.float32)) for x in (q, k, v))
    s = a @ b.T * q.shape[1] ** -0.5
    p = torch.softmax(s, dim=-1)
    yield "float32", s, p, p @ c
    for preset, backend in (("torch-math", SDPBackend.MATH), ("torch-flash-cpu", SDPBackend.FLASH_ATTENTION)):
        with sdpa_kernel(backend):
            yield preset, None, None, scaled_dot_product_attention(*(x[None, None] for x in (a, b, c)))[0, 0]


@pytest.mark.parametrize("seed", range(2))
def test_torch_in_float32_is_within(seed):
    q, k, v = head(seed, n=600, dim=64, n_queries=5)
    for preset, s, p, o in torch_results(q, k, v):
        found = attention(q, k, v, kernel=preset, reference="exact")
        pairs = ((found.scores, s), (found.probs, p), (found.outputs, o))
        for tolerance, got in pairs:
            if got is not None:
                assert not tolerance.exceeded(got.numpy(), tolerance.centre).any()
                pair = tolerance.allclose()
                np.testing.assert_allclose(
                    got.numpy().astype(np.float64), tolerance.centre, rtol=pair.rtol, atol=pair.atol
                )


def test_numpy_in_float32_is_within_float64():
    q, k, v = head(7, n=300, n_queries=3)
    results = []
    for dtype in (np.float32, np.float64):
        a, b, c = (x.astype(dtype) for x in (q, k, v))
        s = a @ b.T * dtype(128**-0.5)
        w = np.exp(s - s.max(axis=1, keepdims=True))
        results.append(w / w.sum(axis=1, keepdims=True) @ c)
    found = attention(q, k, v, kernel="float32,exp=numpy,division=exact", reference="float64").outputs
    assert not found.exceeded(*results).any()
    assert found.absolute.max() < 1e-3
