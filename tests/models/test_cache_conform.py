"""The conformance kit for transformers' caches: what is right holds, each thing that goes wrong in published code is found on a small batch."""

from __future__ import annotations

import importlib.util
import json
from typing import ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.cache_utils import DynamicLayer  # noqa: E402

from precalign.analysis.models.cache import AlignedCache  # noqa: E402
from precalign.analysis.models.cache_checks import CACHE_CHECKS  # noqa: E402
from precalign.analysis.models.cache_conform import conform_cache  # noqa: E402
from precalign.analysis.models.cache_subject import CacheCase, Fed, Subject, held_bytes  # noqa: E402
from precalign.cli.main import main  # noqa: E402
from precalign.codecs.conform import Case  # noqa: E402
from precalign.errors import UsageError  # noqa: E402
from precalign.formats import BINARY16  # noqa: E402


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("precalign.analysis.models.cache_conform.TOKENS", (1, 2, 17, 40))


def found(made, **given):
    return {finding.check: finding for finding in conform_cache(Subject(made, given))}


def held(findings):
    return {name: finding.holds for name, finding in findings.items()}


def test_the_plain_cache_holds_everything():
    findings = found(transformers.DynamicCache)
    assert list(findings) == list(CACHE_CHECKS)
    assert [name for name, holds in held(findings).items() if holds is not True] == ["window"]
    assert "no window in full precision is declared" in findings["window"].example


def test_a_static_cache_has_no_crop_and_a_sliding_one_keeps_the_memory_of_its_prompt():
    findings = found(transformers.StaticCache)
    assert {name for name, holds in held(findings).items() if holds is None} == {"crop", "split", "window"}
    assert "refused" in findings["crop"].example
    assert all(holds is not False for holds in held(findings).values())
    sliding = found(transformers.DynamicCache, sliding_window=16)
    assert [name for name, holds in held(sliding).items() if holds is False] == ["bits"]
    assert "17 tokens" in sliding["bits"].example
    fed, x = (
        Fed(Subject(transformers.DynamicCache, {"sliding_window": 16}), CacheCase(case(200))),
        torch.zeros(1, 1, 200, 64),
    )
    fed.append(x.half(), x.half())
    assert held_bytes(fed.cache) >= 2 * 200 * 64 * 2  # all 200 tokens, where 15 are needed


def case(n_tokens, heads=1):
    return Case(n_tokens, heads, 64, BINARY16, "normal")


class Layer(DynamicLayer):
    """Correct; each class below breaks one thing."""

    def update(self, keys, values, *args, **kwargs):
        return super().update(self.coded(keys), self.coded(values))

    def coded(self, x):
        return x

    @staticmethod
    def rounded(x, scale):
        return torch.round(x / scale * 7) * scale / 7


class Short(Layer):
    def get_seq_length(self):
        return max(super().get_seq_length() - 1, 0)


class WholePrompt(Layer):
    residual_length = 32

    def coded(self, x):
        return x if self.is_initialized else self.rounded(x, x.abs().amax(-1, keepdim=True))


class Drifts(Layer):
    def update(self, keys, values, *args, **kwargs):
        if self.is_initialized:
            self.keys = self.keys * 1.01
        return super().update(keys, values)


class ScaledTogether(Layer):
    axes = ()

    def coded(self, x):
        return self.rounded(x, x.abs().amax(self.axes, keepdim=True))


class OverBatch(ScaledTogether):
    axes = (0, 3)


class OverHeads(ScaledTogether):
    axes = (1, 3)


class FirstToken(Layer):
    def coded(self, x):
        self.scale = getattr(self, "scale", x[:, :, :1].abs().amax(-1, keepdim=True) + 1e-3)
        return x if self.is_initialized else torch.minimum(torch.maximum(x, -self.scale), self.scale)


class KeysOnly(Layer):
    def reorder_cache(self, beam_idx):
        self.keys = self.keys[beam_idx]


class CropsKeysOnly(Layer):
    def crop(self, tokens_to_remove):
        super().crop(tokens_to_remove)
        self.values = self.values.roll(1, -2)


class SelectsFirst(Layer):
    def batch_select_indices(self, indices):
        super().batch_select_indices(indices * 0)


class KeepsOld(Layer):
    def reset(self):
        pass


class Shared(Layer):
    updates: ClassVar = []

    def update(self, keys, values, *args, **kwargs):
        self.updates.append(1)
        seen = super().update(keys, values)
        return seen[0] + len(self.updates), seen[1]


class KeepsGiven(Layer):
    def update(self, keys, values, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values
            return keys, values
        return super().update(keys, values)


class ZeroByZero(Layer):
    def coded(self, x):
        top = x.abs().amax(-1, keepdim=True)
        return x / top * top


class OneScale(Layer):
    def coded(self, x):
        scale = x.float().abs().amax().half()
        return (x / scale) * scale


class Saturates(Layer):
    def coded(self, x):
        return x.clamp(-448, 448)


class Frozen(Layer):
    def coded(self, x):
        if not self.is_initialized:
            self.scale = x.abs().amax()
        return x.clamp(-self.scale, self.scale)


class Claims(Layer):
    nbits = 4


@pytest.mark.parametrize(
    ("layer", "check", "example"),
    [
        (
            Short,
            "counted",
            "batch of 1, 1 tokens, 1 kv heads, head_dim 64, binary16, normal: get_seq_length is 0 after 1 tokens",
        ),
        (WholePrompt, "stream", "2 tokens, 1 kv heads, head_dim 64, binary16, normal: appended in 2 pieces"),
        (WholePrompt, "window", "1 tokens, 1 kv heads, head_dim 64, binary16, normal: the window takes 32 tokens"),
        (Drifts, "settled", "1 tokens, 1 kv heads, head_dim 64, binary16, normal: 150 tokens later"),
        (OverBatch, "batch", "1 tokens, 1 kv heads"),
        (OverBatch, "batch error", "1 tokens, 1 kv heads"),
        (OverHeads, "heads", "1 tokens, 2 kv heads"),
        (FirstToken, "padded", "1 tokens, 1 kv heads"),
        (
            KeysOnly,
            "reorder",
            "1 tokens, 1 kv heads, head_dim 64, binary16, normal: reorder_cache([1, 0]): 128 of 128 values differ, first sequence 0, head 0, token 0",
        ),
        (CropsKeysOnly, "crop", "17 tokens, 1 kv heads, head_dim 64, binary16, normal: crop(-5): 768 of 768 values"),
        (SelectsFirst, "split", "batch_select_indices([1]): 64 of 64 keys differ"),
        (KeepsOld, "reset", "1 tokens"),
        (Shared, "apart", "1 tokens"),
        (KeepsGiven, "copies", "1 tokens, 1 kv heads, head_dim 64, binary16, normal: 64 of 64 keys differ"),
        (ZeroByZero, "finite", "1 tokens, 1 kv heads, head_dim 64, binary16, zero: keys: an infinity or NaN"),
        (OneScale, "contained", "2 tokens, 1 kv heads, head_dim 64, binary16, normal: keys: inf in the last token"),
        (Saturates, "range", "1 tokens, 1 kv heads, head_dim 64, binary16, normal: relative error 0, and"),
        (Frozen, "growth", "1 tokens, 1 kv heads, head_dim 64, binary16, normal: error of later tokens"),
        (
            Claims,
            "bits",
            "1 tokens, 1 kv heads, head_dim 64, binary16, normal: 2 tokens: 512 bytes are held, at most 432 are declared",
        ),
    ],
)
def test_what_is_wrong_is_found_on_the_smallest_batch(layer, check, example, monkeypatch):
    monkeypatch.setattr(Shared, "updates", [])
    monkeypatch.setattr("precalign.analysis.models.cache_conform.CACHE_CHECKS", {check: CACHE_CHECKS[check]})
    finding = found(layer)[check]
    assert finding.holds is False
    assert example in finding.example


def test_an_error_of_the_class_is_a_finding_and_a_refusal_is_not(monkeypatch):
    class Breaks(Layer):
        def reorder_cache(self, beam_idx):
            self.keys = self.keys[beam_idx + 5]

        def crop(self, tokens_to_remove):
            raise RuntimeError("tokens stay")

    findings = found(Breaks)
    assert findings["reorder"].holds is False
    assert "IndexError" in findings["reorder"].example
    assert findings["crop"].holds is None
    assert findings["crop"].example.endswith("crop: tokens stay")


@pytest.mark.parametrize(
    ("backend", "package", "fails"),
    [
        ("quanto", "optimum.quanto", {"stream", "batch", "heads", "padded", "crop", "split", "window", "finite"}),
        ("hqq", "hqq", {"stream", "settled", "batch", "batch error", "heads", "padded", "window", "contained"}),
        ("fp8", "transformers", {"stream", "batch", "heads", "crop", "split", "contained", "growth"}),
    ],
)
def test_quantized_caches_of_transformers(backend, package, fails):
    if importlib.util.find_spec(package.partition(".")[0]) is None or importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    if backend == "fp8" and not hasattr(transformers.cache_utils, "Fp8QuantizedLayer"):
        pytest.skip("this transformers has no fp8 cache")
    findings = found(transformers.QuantizedCache, backend=backend)
    failed = {name for name, holds in held(findings).items() if holds is False}
    assert fails <= failed
    assert {"counted", "reorder", "reset", "apart", "copies", "range"}.isdisjoint(failed)
    assert findings["window"].holds is (None if backend == "fp8" else False)


def test_the_caches_of_this_project(monkeypatch):
    monkeypatch.setattr("precalign.analysis.models.cache_conform.TOKENS", (1, 17))
    findings = found(AlignedCache, rule="online")
    assert {name for name, holds in held(findings).items() if holds is None} == {"reorder", "crop", "split", "window"}
    # It keeps the tensors of the model beside its planes: an instrument, not a saving.
    assert {name for name, holds in held(findings).items() if holds is False} <= {"bits"}
    cache = Subject(AlignedCache, {}).build(CacheCase(case(4)))
    x = torch.ones(1, 1, 4, 64).half()
    cache.update(x, x, 0)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert not cache._waiting


def test_memory_is_counted_once_and_whole():
    whole = torch.zeros(100, dtype=torch.float16)
    array = np.zeros(30, np.float32)
    holder = {"a": whole, "b": [whole[:3], {"c": array[::2]}], "d": array}
    assert held_bytes(holder) == 200 + 120


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(
        "precalign.analysis.models.cache_checks.CACHE_CHECKS",
        few := {name: CACHE_CHECKS[name] for name in ("counted", "crop")},
    )
    monkeypatch.setattr("precalign.analysis.models.cache_conform.CACHE_CHECKS", few)
    assert main(["conform", "transformers:DynamicCache", "--sliding-window", "16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["subject"] == "cache DynamicCache sliding_window=16"
    assert [row["holds"] for row in told["checks"]] == [True, None]
    assert main(["conform", "transformers:QuantizedCache", "--backend=none"]) == 2
    assert "QuantizedCache backend=None: cannot be made" in capsys.readouterr().err
    assert main(["conform", "transformers:QuantizedCache"]) == 2
    assert "Hint: give it: --backend VALUE" in capsys.readouterr().err
    assert main(["conform", "transformers:DynamicCache", "--foo"]) == 2
    assert "'--foo': not understood" in capsys.readouterr().err
    assert main(["conform", "q4_0", "--bits", "3"]) == 2
    with pytest.raises(UsageError, match="unexpected keyword argument 'sliding_window'"):
        Subject(Needs, {"other": 1, "sliding_window": 3}).build(CacheCase(case(1)))
    with pytest.raises(UsageError, match="needs other"):
        Subject(Needs).build(CacheCase(case(1)))


class Needs(Layer):
    def __init__(self, other):
        super().__init__()
