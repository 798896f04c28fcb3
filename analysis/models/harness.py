"""lm-evaluation-harness with a rule in the loop: a model for `lm_eval.simple_evaluate`, where that package is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from precalign.analysis.models.cache import AlignedCache
from precalign.errors import UnavailableError

if TYPE_CHECKING:
    from precalign.formats import Format


def harness_model(
    model: Any, tokenizer: Any, rule: str | None = "alignedkv", *, storage_format: Format | None = None, **options: Any
) -> Any:
    """Return a model that lm-evaluation-harness can evaluate, every position of its requests a decode step under the rule.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokenizer : transformers tokenizer
    rule : str, optional
        As `AlignedCache` takes it; None is the full cache.
    storage_format : Format, optional
        For a model that computes in binary32.
    **options
        Further arguments of `lm_eval.models.huggingface.HFLM`.

    Raises
    ------
    UnavailableError
        If lm-evaluation-harness is not installed.

    Notes
    -----
    Requests run one at a time: a padded batch would put tokens into the cache that no decode step sees.
    """
    if find_spec("lm_eval") is None:
        raise UnavailableError("lm-evaluation-harness is not installed", hint="pip install lm-eval")
    base: Any = import_module("lm_eval.models.huggingface").HFLM

    class Aligned(base):  # type: ignore[misc] # lm_eval has no types here
        """Scores with a fresh cache at each call."""

        def _model_call(self, inps: Any, *_args: Any, **_kwargs: Any) -> Any:
            cache = AlignedCache(self.model, rule, storage_format=storage_format, every_query=True)
            return self.model(inps, past_key_values=cache).logits

        def _model_generate(self, *_args: Any, **_kwargs: Any) -> Any:
            raise UnavailableError("only tasks that score given answers are supported, not tasks that generate text")

    return Aligned(pretrained=model, tokenizer=tokenizer, batch_size=1, **options)
