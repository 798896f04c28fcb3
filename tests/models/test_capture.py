"""A captured dump holds what attention got: the model's own cache, and queries that give its outputs back."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

import precalign  # noqa: E402
from precalign.analysis.models import SMALL_MODEL  # noqa: E402
from precalign.analysis.models.loading import load_model  # noqa: E402
from precalign.analysis.models.writer import DumpWriter  # noqa: E402
from precalign.analysis.plan import Options, make_plan  # noqa: E402
from precalign.analysis.readers import open_dump  # noqa: E402
from precalign.cli.main import main  # noqa: E402
from precalign.errors import InputError, OutputError, UnavailableError, UsageError  # noqa: E402


@pytest.mark.parametrize("name", small_models.CONFIGS)
def test_keys_and_values_are_the_cache_and_queries_give_the_outputs_back(name, tmp_path):
    """Against the stock model: its cache bit for bit, and its attention outputs from the captured queries."""
    model, ids = small_models.build(name, torch.float32), small_models.token_ids()
    outputs = {}
    model.set_attn_implementation("sdpa")
    hooks = [hook_output(module, outputs) for module in model.modules() if type(module).__name__.endswith("Attention")]
    with torch.no_grad():
        cache = model(ids, use_cache=True, past_key_values=plain_cache()).past_key_values
    for hook in hooks:
        hook.remove()
    captured = precalign.capture(model, ids, tmp_path / "d.safetensors", dtype="fp16")
    assert captured.windows == small_models.WINDOWS.get(name, [None, None])
    tensors = load_file(tmp_path / "d.safetensors")
    with open_dump(tmp_path / "d.safetensors") as dump:
        scales = [dump.scale_of(layer)[0] for layer in dump.layers]
        windows = [dump.window_of(layer) for layer in dump.layers]
        plan = make_plan(dump, Options())
    assert windows == captured.windows
    for i, layer in enumerate(cache.layers):
        np.testing.assert_array_equal(tensors[f"layers.{i}.keys"], layer.keys.half().numpy())
        np.testing.assert_array_equal(tensors[f"layers.{i}.values"], layer.values.half().numpy())
        again = attention(tensors, i, scales[i], windows[i])
        expected = outputs[i].double()
        assert float((again - expected).abs().max()) < 0.02 * float(expected.abs().max())
    first = {task.layer.index: task.steps.first for task in plan.tasks}
    for i, window in enumerate(windows):
        assert first[i][-1] == (0 if window is None else 50 - window)


def plain_cache():
    """Return a cache that keeps every token, whatever the window."""
    from transformers import DynamicCache

    return DynamicCache()


def hook_output(module, outputs):
    """Keep what goes into the output projection: attention before it is mixed."""
    projection = next(getattr(module, n) for n in ("o_proj", "dense", "c_proj") if hasattr(module, n))
    layer = module.layer_idx

    def keep(_module, given):
        outputs[layer] = given[0].detach()

    return projection.register_forward_pre_hook(keep)


def attention(tensors, i, scale, window):
    q, k, v = (
        torch.from_numpy(tensors[f"layers.{i}.{role}"].astype(np.float64)) for role in ("queries", "keys", "values")
    )
    group, n = q.shape[1] // k.shape[1], q.shape[2]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    behind = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    hidden = (behind < 0) | (behind >= (window or n))
    probs = torch.softmax((q @ k.transpose(-1, -2) * scale).masked_fill(hidden, -torch.inf), -1)
    return (probs @ v).transpose(1, 2).reshape(1, n, -1)


@pytest.mark.parametrize(("stem", "name"), [("novel-1024", "novel"), ("stories260k-512", "stories260k")])
def test_the_recorded_dumps_are_captured_again(stem, name, shared, tmp_path):
    """Equal but for the order in which another machine's matrix products add: its codes and ours are as far from binary64.

    A code differs where a binary32 sum lies so near to a rounding boundary of binary16 that the order decides; so few do. And
    what was recorded is no farther from the binary64 model than rounding to binary16 and a small multiple of our own binary32
    error explain.
    """
    ids = np.load(shared / f"data/kv/{stem}.tokens.npy").astype(np.int64)
    loaded = load_model(shared / "models" / name)
    precalign.capture(loaded.model, ids, tmp_path / "d.safetensors", dtype="fp16")
    ours, theirs = load_file(tmp_path / "d.safetensors"), load_file(shared / f"data/kv/{stem}.safetensors")
    assert ours.keys() == theirs.keys()
    wide = load_model(shared / "models" / name).model.double()
    exact = wide(torch.from_numpy(ids)[None], use_cache=True, past_key_values=recorder()).past_key_values
    for key, recorded in theirs.items():
        assert (recorded != ours[key]).mean() < 0.005, key
        _, layer, role = key.split(".")
        if role != "queries":
            reference = getattr(exact.layers[int(layer)], role).detach().numpy()
            rounding = np.abs(reference.astype(np.float16).astype(np.float64) - reference)
            apart = [np.abs(x.astype(np.float64) - reference) - rounding for x in (ours[key], recorded)]
            assert apart[1].max() <= 8 * max(apart[0].max(), 2.0**-24), key


def recorder():
    """Return a stock cache marked for the implementation that the model was loaded with: it attends by transformers itself."""
    from precalign.analysis.models.attention import mark

    class Plain(type(plain_cache())):
        def update(self, keys, values, layer, *args, **kwargs):
            keys, values = super().update(keys, values, layer, *args, **kwargs)
            return mark(keys, self, layer), values

        def attend(self, call):
            return call.stock(call.query, call.key, call.value)

    return Plain()


def test_shards_and_layers(tmp_path):
    model, ids = small_models.build("llama"), small_models.token_ids()
    done = precalign.capture(model, ids, tmp_path / "d.safetensors", dtype="bf16", shard_bytes=1, layers=[0, 1])
    assert [path.name for path in done.files] == [
        "d.safetensors.index.json", "d-00001-of-00002.safetensors", "d-00002-of-00002.safetensors",
    ]  # fmt: skip
    whole = precalign.capture(model, ids, tmp_path / "w.safetensors", dtype="bf16")
    with open_dump(done.files[0]) as sharded, open_dump(whole.files[0]) as joined:
        assert sharded.scale == joined.scale
        for a, b in zip(sharded.layers, joined.layers, strict=True):
            for head in range(2):
                left, right = sharded.read_head(a, head), joined.read_head(b, head)
                assert all(np.array_equal(getattr(left, r), getattr(right, r)) for r in ("keys", "values", "queries"))
    one = precalign.capture(model, ids, tmp_path / "one.safetensors", dtype="bf16", layers=[1])
    with open_dump(one.files[0]) as dump:
        assert [layer.index for layer in dump.layers] == [1]
    assert not list(tmp_path.glob("*.partial"))


def test_an_interrupted_capture_goes_on(tmp_path, monkeypatch):
    """Stopped after the first layer; the second run writes only what is missing, and the dump is that of one run."""
    model, ids, target = small_models.build("llama"), small_models.token_ids(), tmp_path / "d.safetensors"
    written = []
    add = DumpWriter.add

    def interrupted(self, layer, *args):
        if layer == 1 and not written.count("stop"):
            written.append("stop")
            raise KeyboardInterrupt
        written.append(layer)
        add(self, layer, *args)

    monkeypatch.setattr(DumpWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        precalign.capture(model, ids, target, dtype="fp16")
    assert not target.exists()
    with pytest.raises(OutputError, match="unfinished capture of another kind"):
        precalign.capture(model, ids[:, :20], target, dtype="fp16")
    precalign.capture(model, ids, target, dtype="fp16")
    assert written == [0, "stop", 1]
    precalign.capture(model, ids, tmp_path / "w.safetensors", dtype="fp16")
    assert target.read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_in_python_what_cannot_be_used_is_refused(tmp_path):
    model, ids = small_models.build("llama"), small_models.token_ids()
    target = tmp_path / "d.safetensors"
    with pytest.raises(InputError, match="stored in 16 bits"):
        precalign.capture(model, ids, target)
    with pytest.raises(UsageError, match=r"layers \[5\]"):
        precalign.capture(model, ids, target, dtype="fp16", layers=[5])
    with pytest.raises(InputError, match="token ids"):
        precalign.capture(model, ids[:, :0], target, dtype="fp16")
    target.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        precalign.capture(model, ids, target, dtype="fp16")
    assert target.read_bytes() == b"mine"


def test_latent_attention_is_refused_by_its_name(tmp_path):
    import transformers

    transformers.DeepseekV3Config(num_hidden_layers=1).save_pretrained(tmp_path / "m")
    with pytest.raises(UnavailableError, match="latent attention"):
        load_model(tmp_path / "m")


def command(*arguments):
    return main(list(map(str, arguments)))


def test_the_command(tmp_path, capsys):
    text, dump = tmp_path / "t.txt", tmp_path / "d.safetensors"
    text.write_text("It was a dark and stormy night, and the captain had not come. " * 4, encoding="utf-8")
    assert (
        command("capture", SMALL_MODEL, "--text", text, "--tokens", "40", "--layers", "1-2", "-o", dump, "--json") == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["layers"], told["n_tokens"], told["format"], told["scale"]) == ([1, 2], 40, "binary16", 0.125)
    with open_dump(dump) as opened:
        assert [(la.index, la.seq_len, la.n_q_heads, la.head_dim) for la in opened.layers] == [
            (1, 40, 4, 64),
            (2, 40, 4, 64),
        ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{tmp}", "--text", "{tmp}/t.txt"], 3, "holds no config.json"),
        (["{tmp}/t.txt", "--text", "{tmp}/t.txt"], 3, "is a file"),
        (["{tmp}/none", "--text", "{tmp}/t.txt"], 3, "no such directory"),
        (["{broken}", "--text", "{tmp}/t.txt"], 3, "cannot be used"),
        (["{model}"], 2, "give either a text or token ids"),
        (["{model}", "--text", "{tmp}/empty.txt"], 3, "the text is empty"),
        (["{model}", "--text", "{tmp}/none.txt"], 3, "cannot be read"),
        (["{model}", "--text", "{tmp}/t.txt", "--tokens", "2049"], 3, "more than the 2048 positions"),
        (["{model}", "--text", "{tmp}/t.txt", "--tokens", "1000"], 3, "1000 are asked for"),
        (["{model}", "--text", "{tmp}/t.txt", "--layers", "9"], 2, "the model has layers 0-3"),
        (["{model}", "--text", "{tmp}/t.txt", "--dtype", "fp32"], 2, "stored in 16 bits"),
        (["{model}", "--text", "{tmp}/t.txt", "--compute", "fp64"], 2, "not understood"),
        (["{model}", "--token-ids", "{tmp}/big.npy"], 3, "token id 5000 is not one of the model's 4096"),
        (["{model}", "--token-ids", "{tmp}/t.txt"], 3, "does not begin as a NumPy array does"),
    ],
)
def test_wrong_input_is_told(arguments, code, message, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("A few words of text.", encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{", encoding="utf-8")
    np.save(tmp_path / "big.npy", np.array([1, 5000]))
    places = {"tmp": tmp_path, "model": SMALL_MODEL, "broken": tmp_path / "broken"}
    given = [argument.format(**places) for argument in arguments]
    assert command("capture", *given, "-o", tmp_path / "d.safetensors") == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d.safetensors").exists()
