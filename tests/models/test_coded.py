"""A model over a cache under codecs: lossless is stock, q8_0 is stock attention over what gguf's quantiser makes of the cache."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models  # noqa: E402 - one thread for torch
from transformers import DynamicCache  # noqa: E402

import precalign  # noqa: E402
from precalign.analysis.models import SMALL_MODEL  # noqa: E402
from precalign.cli.main import main  # noqa: E402
from precalign.codecs import CacheShape, get_codec, parse_pair, predicted_bytes  # noqa: E402
from precalign.errors import UsageError  # noqa: E402
from precalign.formats import BINARY16  # noqa: E402

TEXT = ROOT / "analysis/demo/novel-small-wrote.txt"


def logits(model, ids, **arguments):
    cache = precalign.AlignedCache(model, storage_format=BINARY16, every_query=True, **arguments)
    with torch.no_grad():
        return model(ids, past_key_values=cache).logits.numpy(), cache


class GgufCache(DynamicCache):
    """Every token goes through gguf's quantiser as it comes."""

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        quants, gguf = pytest.importorskip("gguf.quants"), pytest.importorskip("gguf")
        kind = gguf.GGMLQuantizationType.Q8_0

        def through(x):
            rows = x.to(torch.float16).float().numpy()
            with np.errstate(all="ignore"):
                coded = quants.quantize(np.ascontiguousarray(rows).reshape(-1, 32), kind)
            return torch.from_numpy(quants.dequantize(coded, kind).reshape(rows.shape))

        return super().update(through(key_states), through(value_states), layer_idx, *args, **kwargs)


def test_lossless_is_stock():
    model, ids = small_models.build("gemma"), small_models.token_ids()
    stock, _ = logits(model, ids, rule=None)
    coded, cache = logits(model, ids, codec="planes")
    assert np.abs(coded - stock).max() < 2e-5 * np.abs(stock).max()
    totals = cache.totals()
    assert totals["key_bytes"] == totals["full_key_bytes"]


def test_q8_0_is_attention_over_what_gguf_makes_of_the_cache():
    model, ids = small_models.build("gemma"), small_models.token_ids()
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        expected = model(ids, past_key_values=GgufCache(config=model.config)).logits.numpy()
    coded, cache = logits(model, ids, codec="q8_0")
    stock, _ = logits(model, ids, rule=None)
    away = np.abs(coded - stock).max()
    # Queries are rounded to binary16 in one and not in the other: a thousandth of what the codec itself does would be too much.
    assert np.abs(coded - expected).max() < 0.25 * away
    assert away > 0
    totals = cache.totals()
    per_token = predicted_bytes(get_codec("q8_0"), CacheShape(1, 32, "keys"), 1)
    steps = sum(range(1, ids.shape[1] + 1))
    assert totals["key_bytes"] == totals["value_bytes"] == 2 * steps * per_token


@pytest.mark.parametrize(
    "codec", ["kivi:group=16,window=16,bits=4", "packkv:window=0", "int8-token+quanto:group=32,window=4"]
)
def test_one_token_at_a_time_is_all_at_once(codec):
    model, ids = small_models.build("gemma"), small_models.token_ids(n=90)
    whole, _ = logits(model, ids, codec=codec)
    cache = precalign.AlignedCache(model, storage_format=BINARY16, codec=codec, every_query=True)
    with torch.no_grad():
        parts = [
            model(ids[:, begin : begin + 1], past_key_values=cache).logits.numpy() for begin in range(ids.shape[1])
        ]
    assert np.abs(np.concatenate(parts, axis=1) - whole).max() < 1e-3 * np.abs(whole).max()


def test_eval_judges_codecs(tmp_path, capsys):
    options = ["--text", str(TEXT), "--context", "48", "--windows", "2", "--prompts", "1", "--generate", "4"]
    codecs = ["--codec", "q8_0", "--codec", "turboquant:bits=2", "--codec", "q8_0+q4_0"]
    assert main(["eval", str(SMALL_MODEL), *options, *codecs, "-o", str(tmp_path / "cost"), "--json"]) == 0
    found = {row["rule"]: row for row in json.loads(capsys.readouterr().out)["rules"]}
    assert list(found) == ["codec q8_0", "codec turboquant:bits=2", "codec q8_0+q4_0"]
    assert (
        found["codec q8_0"]["kl"]["mean"]
        < found["codec q8_0+q4_0"]["kl"]["mean"]
        < found["codec turboquant:bits=2"]["kl"]["mean"]
    )
    assert found["codec q8_0"]["totals"]["bytes_saving"] == pytest.approx(1 - 8.5 / 16, abs=1e-12)
    assert found["codec q8_0+q4_0"]["totals"]["value_bits_mean"] == pytest.approx(4.5, abs=1e-12)
    assert main(["eval", str(SMALL_MODEL), *options, "--codec", "q9", "-o", str(tmp_path / "other")]) == 2
    assert "unknown codec 'q9'" in capsys.readouterr().err


def test_pairs_of_codecs():
    assert parse_pair("kivi") == (get_codec("kivi"), get_codec("kivi"))
    assert parse_pair("kivi+q4_0") == (get_codec("kivi"), get_codec("q4_0"))
    with pytest.raises(UsageError, match="codes keys and values together: give it alone"):
        parse_pair("packkv+q4_0")
