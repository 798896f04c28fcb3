"""Figures of an evaluation against plain Python, its resumption, and what it refuses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models  # noqa: E402 - one thread for torch
from scipy import stats  # noqa: E402

import precalign  # noqa: E402
from precalign.analysis.evaluation.intervals import over_windows, perplexity_change, proportion  # noqa: E402
from precalign.analysis.models import SMALL_MODEL  # noqa: E402
from precalign.analysis.models.evaluate import Evaluation  # noqa: E402
from precalign.analysis.models.scoring import score  # noqa: E402
from precalign.analysis.render.evaluation import page  # noqa: E402
from precalign.cli.main import main  # noqa: E402
from precalign.errors import UnavailableError  # noqa: E402
from precalign.formats import BINARY16  # noqa: E402

TEXT = ROOT / "analysis/demo/novel-small-wrote.txt"
OPTIONS = ["--text", str(TEXT), "--context", "48", "--windows", "3", "--prompts", "2", "--generate", "6"]


def test_scores_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    mine, other = rng.standard_normal((2, 7, 11)).astype(np.float32) * 3
    targets = rng.integers(0, 11, 7)
    found = score(torch.from_numpy(mine), torch.from_numpy(other), torch.from_numpy(targets))

    def probs(row):
        weights = [math.exp(float(x)) for x in row]
        return [w / sum(weights) for w in weights]

    nll = sum(-math.log(probs(row)[t]) for row, t in zip(mine, targets, strict=True)) / 7
    kl = [
        sum(p * math.log(p / q) for p, q in zip(probs(b), probs(a), strict=True))
        for a, b in zip(mine, other, strict=True)
    ]
    assert found.nll == pytest.approx(nll, rel=1e-12)
    assert found.kl == pytest.approx(kl, rel=1e-9)
    assert found.agree == sum(int(np.argmax(a) == np.argmax(b)) for a, b in zip(mine, other, strict=True))


def test_intervals_cover_as_often_as_they_say():
    """Student's interval over windows of a normal spread: 95 % of 2,000 draws, within four standard deviations of a binomial."""
    rng = np.random.default_rng(3)
    draws = rng.standard_normal((2000, 6)) + 2
    hits = sum(e.low <= 2 <= e.high for e in map(over_windows, draws))
    assert abs(hits - 1900) < 4 * math.sqrt(2000 * 0.95 * 0.05)
    change = perplexity_change([3.1, 3.3], [3.0, 3.2])
    assert change.mean == pytest.approx(math.expm1(0.1))
    assert (over_windows([1.5]).low, over_windows([1.5]).mean) == (None, 1.5)
    exact = stats.binomtest(50, 50).proportion_ci(method="exact")
    all_agree = proportion([25, 25], [25, 25])
    assert (all_agree.low, all_agree.high) == pytest.approx((exact.low, exact.high))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    arguments = [
        "eval",
        str(SMALL_MODEL),
        *OPTIONS,
        "--rule",
        "full",
        "--rule",
        "alignedkv",
        "-o",
        str(folder / "cost"),
    ]
    assert main([*arguments, "--rule", "static:key_bits=8,value_bits=8"]) == 0
    return folder / "cost"


def test_figures_are_those_of_the_model_called_by_hand(finished):
    """The reference from the stock model on a cache rounded by hand; a rule's from its logits one token at a time."""
    summary = json.loads((finished / "eval.json").read_text(encoding="utf-8"))
    from precalign.analysis.models.loading import load_model

    loaded = load_model(SMALL_MODEL)
    ids = torch.tensor(loaded.tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"])[:48][None]
    cache = precalign.AlignedCache(loaded.model, "static:key_bits=8,value_bits=8", storage_format=BINARY16)
    nll, totals = 0.0, None
    with torch.no_grad():
        for i in range(47):
            logits = loaded.model(ids[:, i : i + 1], past_key_values=cache).logits[0, -1].double()
            nll -= float(torch.log_softmax(logits, -1)[ids[0, i + 1]])
        totals = cache.totals()
        rounded = precalign.AlignedCache(loaded.model, None, storage_format=BINARY16)
        stock = loaded.model(ids, past_key_values=rounded).logits[0, :-1].double()
    reference = -float(torch.log_softmax(stock, -1).gather(1, ids[0, 1:, None]).mean())
    static = summary["rules"][2]
    assert summary["reference"]["window_nll"][0] == pytest.approx(reference, rel=1e-6)
    assert static["window_nll"][0] == pytest.approx(
        nll / 47, rel=1e-4
    )  # one token at a time, products add in another order
    assert totals["key_ideal_bits"] * 2 == totals["full_ideal_bits"] // 2
    assert static["totals"]["key_bits_mean"] == static["totals"]["value_bits_mean"] == 8


def test_full_costs_nothing_and_eight_bits_cost_something(finished):
    full, aligned, static = json.loads((finished / "eval.json").read_text(encoding="utf-8"))["rules"]
    assert full["agreement"]["mean"] == 1
    assert full["diverged_at"] == [None, None]
    assert full["kl"]["worst"] < 1e-5
    assert full["kl"]["mean"] < aligned["kl"]["mean"] < static["kl"]["mean"]
    assert abs(aligned["perplexity_change"]["mean"]) < 1e-3
    assert 8 <= static["totals"]["value_bits_mean"] < aligned["totals"]["value_bits_mean"] < 16


def test_the_page_shows_every_number_and_loads_nothing(finished):
    summary = json.loads((finished / "eval.json").read_text(encoding="utf-8"))
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert html == page(summary)
    assert all(rule["rule"] in html for rule in summary["rules"])
    assert "<script" not in html
    assert "://" not in html
    summary["model"] = "<img src=x>"
    assert "<img" not in page(summary)


def test_an_interrupted_evaluation_goes_on(finished, tmp_path, monkeypatch):
    """Stopped in the second window; the second run does only the rest, and the result is that of one run."""
    arguments = [
        "eval",
        str(SMALL_MODEL),
        *OPTIONS,
        "--rule",
        "full",
        "--rule",
        "alignedkv",
        "--rule",
        "static:key_bits=8,value_bits=8",
    ]
    target, logits, seen = tmp_path / "cost", Evaluation._logits, []

    def interrupted(self, cache, window):
        seen.append(window)
        if seen.count(1) == 3:
            raise KeyboardInterrupt
        return logits(self, cache, window)

    monkeypatch.setattr(Evaluation, "_logits", interrupted)
    assert main([*arguments, "-o", str(target)]) == 130
    assert not target.exists()
    before = len(seen)
    assert main([*arguments[:-2], "-o", str(target)]) == 4  # other rules: not the evaluation that stopped
    assert main([*arguments, "-o", str(target)]) == 0
    assert seen[before:] == [1, 1, 1, 2, 2, 2, 2]  # the reference again, the two rules left, then the third window
    assert (target / "eval.json").read_bytes() == (finished / "eval.json").read_bytes()
    assert not (tmp_path / "cost.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--codec", "q9"], 2, "unknown codec"),
        (["--rule", "nearest"], 2, "unknown rule"),
        (["--context", "4096"], 3, "more than the 2048 positions"),
        (["--windows", "1000"], 3, "1000 are asked for"),
        (["--policy", "{tmp}/none.json"], 3, "no such file"),
        (["--policy", "{tmp}/other.json"], 3, "expected the schema"),
        (["--rule", "aligned-skip", "--layout", "8,4,4"], 2, "may be skipped"),
        (["-o", "{tmp}/mine"], 4, "exists already"),
        (["-o", "{tmp}/mine", "--overwrite"], 4, "not overwritten"),
    ],
)
def test_wrong_input_is_told(arguments, code, message, tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear", encoding="utf-8")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(["eval", str(SMALL_MODEL), "--text", str(TEXT), "-o", str(tmp_path / "cost"), *given]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cost").exists()


def test_the_harness_is_told_when_absent():
    from precalign.analysis.models.harness import harness_model

    with pytest.raises(UnavailableError, match="lm-evaluation-harness"):
        harness_model(None, None)


def test_the_harness_model_scores_with_the_rule(monkeypatch):
    """A stand-in for the package's base class, which keeps the model and calls `_model_call`."""
    import sys
    from types import ModuleType

    from precalign.analysis.models import harness

    class HFLM:
        def __init__(self, pretrained, tokenizer, batch_size):
            self.model, self.tokenizer, self.batch_size = pretrained, tokenizer, batch_size

    package = ModuleType("lm_eval.models.huggingface")
    package.HFLM = HFLM
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", package)
    monkeypatch.setattr(harness, "find_spec", lambda name: name)
    model, ids = small_models.build("llama"), small_models.token_ids(30)
    wrapped = harness.harness_model(model, None, "static:key_bits=8,value_bits=8", storage_format=BINARY16)
    cache = precalign.AlignedCache(model, "static:key_bits=8,value_bits=8", storage_format=BINARY16, every_query=True)
    with torch.no_grad():
        assert torch.equal(wrapped._model_call(ids), model(ids, past_key_values=cache).logits)
    with pytest.raises(UnavailableError, match="generate text"):
        wrapped._model_generate(ids)


def test_the_aim_holds_on_text_that_was_held_out(shared, tmp_path):
    """A part of the measured table: three windows of 256 tokens of the held-out text, perplexity within 0.1 %."""
    arguments = [
        "eval",
        str(shared / "models/novel"),
        "--text",
        str(shared / "data/text/sherlock.txt"),
        "--rule",
        "alignedkv",
    ]
    assert main([*arguments, "--context", "256", "--windows", "3", "--prompts", "0", "-o", str(tmp_path / "cost")]) == 0
    (rule,) = json.loads((tmp_path / "cost/eval.json").read_text(encoding="utf-8"))["rules"]
    assert abs(rule["perplexity_change"]["mean"]) < 1e-3
    assert rule["agreement"]["mean"] > 0.995
