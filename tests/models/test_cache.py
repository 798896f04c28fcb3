"""A model with a rule in the loop: `full` is the stock model but for the order of sums, and counts are those of an analysis."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

import precalign  # noqa: E402
from precalign.analysis.models.storage import codes  # noqa: E402
from precalign.analysis.pipeline import analyze  # noqa: E402
from precalign.analysis.plan import Options, make_plan  # noqa: E402
from precalign.analysis.readers import open_dump  # noqa: E402
from precalign.errors import InputError, UnavailableError, UsageError  # noqa: E402
from precalign.formats import BFLOAT16, BINARY16  # noqa: E402
from precalign.policy import Policy  # noqa: E402


def decode(model, cache, ids, prompt=30):
    """Return the logits of the prompt's last token and of every token after it."""
    with torch.no_grad():
        logits = [model(ids[:, :prompt], past_key_values=cache).logits[:, -1]]
        logits += [model(ids[:, i : i + 1], past_key_values=cache).logits[:, -1] for i in range(prompt, ids.shape[1])]
    return torch.stack(logits)


def all_at_once(model, cache, ids):
    with torch.no_grad():
        return model(ids, past_key_values=cache).logits


class Witness(precalign.AlignedCache):
    """Compares each decode step of `full` with binary64 attention over the same codes, and keeps the worst."""

    def attend(self, call):
        answered = super().attend(call)
        q, k, v = (
            torch.from_numpy(codes(t, self.format).view(np.float16).astype(np.float64))
            for t in (call.query, call.key, call.value)
        )
        k, v = (t.repeat_interleave(call.shape.group, dim=1) for t in (k, v))
        n, seen = q.shape[2], k.shape[2]
        behind = torch.arange(seen - n, seen)[:, None] - torch.arange(seen)[None, :]
        hidden = (behind < 0) | (behind >= (call.shape.window or seen))
        scores = (q @ k.transpose(-1, -2) * call.shape.scale).masked_fill(hidden, -torch.inf)
        exact = (torch.softmax(scores, -1) @ v).transpose(1, 2)
        # u = 2^-24. A score errs by (head_dim + 1) u sum |q k| scale, a weight by twice that and 8 u relative, a sum of n
        # terms by n u; what is left is of order u^2, and the factor 2 is more than it.
        u, size = 2.0**-24, (q.abs() @ k.abs().transpose(-1, -2) * call.shape.scale).amax(-1)
        relative = 2 * (call.shape.head_dim + 1) * u * size + (8 + 3 * seen) * u
        bound = 2 * relative[..., None] * (torch.softmax(scores, -1) @ v.abs())
        assert ((answered - exact).abs() <= bound.transpose(1, 2)).all()
        return answered


@pytest.mark.parametrize("name", small_models.CONFIGS)
def test_full_is_attention_within_the_bound_of_its_order(name):
    """Every attention output of `full` is within the order bound of binary64, and so are the logits of the stock model's."""
    model, ids = small_models.build(name), small_models.token_ids()
    stock = decode(model, precalign.AlignedCache(model, None, storage_format=BINARY16), ids)
    full = decode(model, Witness(model, "full", storage_format=BINARY16), ids)
    every = all_at_once(model, Witness(model, "full", storage_format=BINARY16, every_query=True), ids)
    spread = float(stock.std())
    assert torch.allclose(full, stock, rtol=0, atol=spread / 64), float((full - stock).abs().max())
    assert torch.allclose(every[0, 29:], stock[:, 0], rtol=0, atol=spread / 64)
    assert torch.equal(full.argmax(-1), stock.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_without_a_rule_the_stock_model_answers_bit_for_bit(dtype):
    from transformers import DynamicCache

    model, ids = small_models.build("llama", dtype), small_models.token_ids()
    model.set_attn_implementation("sdpa")
    expected = decode(model, DynamicCache(config=model.config), ids)
    got = decode(model, precalign.AlignedCache(model, None), ids)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gemma3"])
def test_generate_takes_the_cache(name):
    model, ids = small_models.build(name), small_models.token_ids(24)
    cache = precalign.AlignedCache(model, "alignedkv", storage_format=BINARY16)
    out = model.generate(
        ids, past_key_values=cache, max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0
    )
    assert out.shape == (1, 36)
    heads = cache.head_totals()
    assert {totals["steps"] for totals in heads.values()} == {11}  # the first new token comes from the prompt
    assert 0 < cache.totals()["key_ideal_bits"] < cache.totals()["full_ideal_bits"]


@pytest.mark.parametrize("every_query", [False, True])
@pytest.mark.parametrize(
    ("name", "rule", "fmt"),
    [("llama", "alignedkv", BINARY16), ("mistral", "aligned-skip:threshold=8", BINARY16), ("gemma3", "online", BFLOAT16), ("gpt2", "aligned-max", BINARY16)],
)  # fmt: skip
def test_an_analysis_counts_what_the_live_cache_counted(name, rule, fmt, every_query, tmp_path):
    """The cache's own codes as a dump, analysed with the same rule: every count is equal, bits and bytes."""
    model, ids = small_models.build(name), small_models.token_ids(90)
    cache = precalign.AlignedCache(model, rule, storage_format=fmt, record=True, every_query=every_query)
    if every_query:
        all_at_once(model, cache, ids)
    else:
        decode(model, cache, ids, prompt=60)
    if fmt == BFLOAT16:
        summary = None
        path = dump_with_torch(cache, tmp_path)
    else:
        path = tmp_path / "live.safetensors"
        tensors = {
            f"layers.{i}.{role}": c.view(np.float16) for i, held in cache.recorded().items() for role, c in held.items()
        }
        save_file(tensors, path, metadata(cache))
    with open_dump(path) as dump:
        summary = analyze(make_plan(dump, Options(rules=(rule,))), tmp_path / "out")
    counted, live = summary["rules"][0]["totals"], cache.totals()
    assert live["steps"] == summary["options"]["n_steps"] == (90 if every_query else 30) * len(cache.head_totals())
    compared = live.keys() - {"steps"}
    assert len(compared) > 20
    assert {name: counted[name] for name in compared} == {name: live[name] for name in compared}


def metadata(cache):
    shapes = cache.shapes()
    windows = {f"layers.{i}.sliding_window": str(s.window) for i, s in shapes.items() if s.window}
    return windows | {f"layers.{i}.scale": repr(s.scale) for i, s in shapes.items()}


def dump_with_torch(cache, folder):
    from safetensors.torch import save_file as save_torch

    tensors = {
        f"layers.{i}.{role}": torch.from_numpy(c.view(np.int16).copy()).view(torch.bfloat16)
        for i, held in cache.recorded().items()
        for role, c in held.items()
    }
    save_torch(tensors, folder / "live.safetensors", metadata(cache))
    return folder / "live.safetensors"


def test_a_policy_gives_every_head_its_rule():
    model, ids = small_models.build("llama"), small_models.token_ids(70)
    heads = [
        (0, 0, "full"),
        (0, 1, "static:key_bits=8,value_bits=8"),
        (1, 0, "alignedkv"),
        (1, 1, "static:key_bits=12,value_bits=8"),
    ]
    data = {
        "schema": "precalign.policy/1", "format": "binary16", "layout": "8|4|4", "split_tokens": 256,
        "heads": [{"layer": layer, "kv_head": head, "rule": rule} for layer, head, rule in heads],
    }  # fmt: skip
    policy = Policy.from_json(json.loads(json.dumps(data)))
    cache = precalign.AlignedCache(model, policy=policy, storage_format=BINARY16)
    decode(model, cache, ids)
    found = cache.head_totals()
    half = {place: totals["full_ideal_bits"] // 2 for place, totals in found.items()}
    assert found[0, 0]["key_ideal_bits"] == half[0, 0]
    assert found[0, 1]["key_ideal_bits"] == half[0, 1] // 2
    assert found[1, 1]["key_ideal_bits"] == half[1, 1] * 3 // 4
    assert found[1, 1]["value_ideal_bits"] == half[1, 1] // 2


def kernels_and_emulation(engine):
    """Decode 2 tokens of a model with head_dim 64 by kernels and emulated; return logits and counts of both."""
    import transformers

    torch.manual_seed(4)
    config = transformers.LlamaConfig(**small_models.GROUPED | {"head_dim": 64, "num_hidden_layers": 1})
    model, ids = transformers.AutoModelForCausalLM.from_config(config).eval(), small_models.token_ids(72)
    found = []
    for chosen in (engine, "emulated"):
        cache = precalign.AlignedCache(
            model, "alignedkv", engine=chosen, layout="8|4|4", storage_format=BINARY16, max_tokens=128
        )
        found.append((decode(model, cache, ids, prompt=70), cache.head_totals()))
    return found


def test_cuda_kernels_decode_what_the_emulation_decodes(monkeypatch):
    """The kernels' PTX, executed without a GPU, inside the model: the same logits to the bit, the same counts."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's wheels are not installed")
    from precalign.analysis.models import engines
    from precalign.gpu.devices.ptx import PtxDevice

    monkeypatch.setattr(engines, "open_device", lambda name: PtxDevice())
    (logits, counts), (expected, expected_counts) = kernels_and_emulation("gpu")
    assert torch.equal(logits, expected)
    assert counts == expected_counts


def test_cpu_kernels_decode_what_the_emulation_decodes():
    pytest.importorskip("precalign.cpu", reason="needs the CPU kernels")
    (logits, counts), (expected, expected_counts) = kernels_and_emulation("cpu")
    assert torch.equal(logits, expected)
    assert counts == expected_counts


def test_an_engine_that_is_not_there_is_refused_before_any_work():
    model = small_models.build("llama")
    with pytest.raises(UsageError, match="no engine 'tpu'"):
        precalign.AlignedCache(model, engine="tpu", storage_format=BINARY16)
    pytest.importorskip("precalign.gpu.devices.device")
    try:
        import cupy  # noqa: F401
    except ImportError:
        with pytest.raises(UnavailableError):
            precalign.AlignedCache(model, engine="gpu", storage_format=BINARY16)


def test_kernels_refuse_what_they_do_not_do(monkeypatch):
    from precalign.analysis.models import engines

    monkeypatch.setattr(engines, "open_device", lambda name: None)
    model, ids = small_models.build("mistral"), small_models.token_ids(20)
    cache = precalign.AlignedCache(model, "alignedkv", engine="gpu", storage_format=BINARY16)
    with pytest.raises(UnavailableError, match="no sliding window"):
        decode(model, cache, ids, prompt=18)


def test_batches_of_equal_length_are_their_sequences():
    model, ids = small_models.build("llama"), small_models.token_ids(40, batch=2)
    caches = [precalign.AlignedCache(model, "alignedkv", storage_format=BINARY16) for _ in range(3)]
    decode(model, caches[0], ids)
    for i in range(2):
        decode(model, caches[1 + i], ids[i : i + 1])
    for place, totals in caches[0].head_totals().items():
        apart = [cache.head_totals()[place]["steps"] for cache in caches[1:]]
        assert totals["steps"] == sum(apart)


def test_padding_is_refused():
    model, ids = small_models.build("llama"), small_models.token_ids(20, batch=2)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    cache = precalign.AlignedCache(model, "full", storage_format=BINARY16)
    with pytest.raises(UnavailableError, match="neither causal nor a sliding window"), torch.no_grad():
        model(ids, attention_mask=mask, past_key_values=cache)


def test_what_cannot_be_meant_is_refused_with_a_hint():
    model, ids = small_models.build("llama"), small_models.token_ids(20)
    with pytest.raises(InputError, match="stored in 16 bits"):
        precalign.AlignedCache(model)
    with pytest.raises(UsageError, match="unknown rule"):
        precalign.AlignedCache(model, "nearest", storage_format=BINARY16)
    with pytest.raises(UsageError, match="cache of precalign"), torch.no_grad():
        model(ids, use_cache=True)
    cache = precalign.AlignedCache(model, "alignedkv", storage_format=BINARY16)
    with pytest.raises(UnavailableError, match="beam search"):
        model.generate(ids, past_key_values=cache, num_beams=2, max_new_tokens=3, pad_token_id=0)
    with pytest.raises(UnavailableError, match="no queries"):
        cache.recorded()


def test_capped_scores_are_refused():
    import transformers

    config = transformers.Gemma2Config(**small_models.GROUPED | {"head_dim": 32, "sliding_window": 16})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    cache = precalign.AlignedCache(model, "full", storage_format=BINARY16)
    with pytest.raises(UnavailableError, match="soft cap"), torch.no_grad():
        model(small_models.token_ids(20), past_key_values=cache)


def test_a_model_with_attention_of_its_own_is_refused():
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(
        transformers.BloomConfig(vocab_size=97, hidden_size=64, n_layer=1, n_head=4)
    )
    with pytest.raises(UnavailableError, match="BloomForCausalLM"):
        precalign.AlignedCache(model, "full", storage_format=BINARY16)
