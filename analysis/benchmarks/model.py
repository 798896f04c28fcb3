"""`precalign bench model`: decoding with a rule, emulated, against the stock model."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.benchmarks.timing import Benchmark, Options, interleave, rows
from precalign.analysis.models import SMALL_MODEL, need_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.analysis.models.loading import LoadedModel

DESCRIPTION = "decoding with the emulated rule against the stock model, after 1,024 tokens (256 with --small)"
AIM = 3.0
DECODED = 16
RULES = ("full", "alignedkv")
STOCK = "transformers, stock"
UNTIL_EQUAL = 1e-2
"""Largest difference of a logit between `full` and stock attention over the same cache: both sum binary32 in their own order, and
what they answer is rounded to 16 bits once more as keys and values of the next layer."""


def run(options: Options) -> Benchmark:
    """Check that `full` answers what stock attention answers, then time contenders interleaved, each with its own growing cache.

    Raises
    ------
    UnavailableError
        If torch or transformers is not installed.
    """
    need_models()
    import torch

    from precalign.analysis.models.loading import load_model

    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        loaded = load_model(options.model or SMALL_MODEL)
        n_tokens = 256 if options.small else 1024
        with torch.no_grad():
            contenders = {
                name: Contender(loaded, name, n_tokens) for name in (STOCK, *(f"emulated, {rule}" for rule in RULES))
            }
            checks = [_check(loaded, n_tokens)]
            seconds = interleave(contenders, options.repeats)
    finally:
        torch.set_num_threads(threads)
    case = f"{loaded.path.name}, {n_tokens} tokens, {options.threads} threads"
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians[f"emulated, {RULES[-1]}"] / medians[STOCK]
    verdict = "met" if ratio <= AIM else "not met"
    return Benchmark(
        "model",
        DESCRIPTION,
        rows(case, seconds, reference=STOCK, figures=_figures),
        checks,
        [f"the emulated rule costs at most {AIM:g}x the stock model: {verdict}, {ratio:.2f}x"],
    )


def _figures(name: str, median: float) -> dict[str, float]:
    del name
    return {"ms_per_token": median * 1e3 / DECODED}


class Contender:
    """Decodes `DECODED` tokens at each call; the prompt is read beforehand."""

    def __init__(self, loaded: LoadedModel, name: str, n_tokens: int) -> None:
        from precalign.analysis.models.cache import AlignedCache
        from precalign.analysis.models.loading import stock_copy

        rule = name.removeprefix("emulated, ")
        self.model: Any = stock_copy(loaded) if name == STOCK else loaded.model
        # Without a cache the model makes its own and hands it out.
        self.cache: Any = None if name == STOCK else AlignedCache(loaded.model, rule, storage_format=loaded.format)
        self.token = _prompt(loaded, n_tokens)
        self._step()

    def _step(self) -> Any:  # noqa: ANN401 - a torch.Tensor
        answer = self.model(self.token, past_key_values=self.cache, use_cache=True)
        self.cache, logits = answer.past_key_values, answer.logits[:, -1:]
        self.token = logits.argmax(dim=-1)
        return logits

    def __call__(self) -> None:
        """Decode."""
        for _ in range(DECODED):
            self._step()


def _prompt(loaded: LoadedModel, n_tokens: int) -> Any:  # noqa: ANN401 - a torch.Tensor
    import torch

    ids = np.random.default_rng(0).integers(2, loaded.vocabulary, (1, n_tokens))
    return torch.from_numpy(ids)


def _check(loaded: LoadedModel, n_tokens: int) -> str:
    from precalign.analysis.models.cache import AlignedCache

    def decode(rule: str | None) -> Any:  # noqa: ANN401
        import torch

        cache, ids = AlignedCache(loaded.model, rule, storage_format=loaded.format), _prompt(loaded, n_tokens)
        step: Callable[[Any], Any] = lambda token: loaded.model(token, past_key_values=cache).logits[:, -1]  # noqa: E731
        step(ids[:, :-8])
        return torch.stack([step(ids[:, i : i + 1]) for i in range(n_tokens - 8, n_tokens)])

    apart = float((decode("full") - decode(None)).abs().max())
    if not apart < UNTIL_EQUAL:
        raise AssertionError(f"full and stock attention differ by {apart} in a logit")
    return f"8 decode steps: logits of `full` and of stock attention over the same cache differ by at most {apart:.1e}"
