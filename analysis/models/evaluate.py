"""What rules cost a model: every position of a text as a decode step, and greedy text against the full cache's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from precalign.analysis.evaluation.progress import Progress, check_eval_target
from precalign.analysis.evaluation.summary import STOCK, summarize
from precalign.analysis.models.cache import AlignedCache
from precalign.analysis.models.scoring import score
from precalign.codecs import parse_pair
from precalign.errors import InputError, UsageError
from precalign.rules import get_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from precalign.analysis.models.loading import LoadedModel
    from precalign.policy import Policy

DEFAULT_CONTEXT = 1024
DEFAULT_WINDOWS = 8


@dataclass(frozen=True)
class Contestant:
    """A rule, a policy or a codec under its name; none of them is the full cache."""

    name: str
    rule: str | None = None
    policy: Policy | None = None
    codec: str | None = None


@dataclass(frozen=True)
class EvalPlan:
    """What will be evaluated.

    Attributes
    ----------
    contestants : tuple of Contestant
    context : int
        Tokens of a window; windows follow each other in the text and are judged apart.
    windows : int
    prompts : int
        Windows whose first half is continued greedily.
    generated : int
        Tokens of a continuation.
    layout : str or None
        Plane widths.
    """

    contestants: tuple[Contestant, ...]
    context: int
    windows: int
    prompts: int
    generated: int
    layout: str | None = None

    @property
    def units(self) -> int:
        """Pieces of work: a window or a prompt of one contestant or of the reference."""
        return (len(self.contestants) + 1) * (self.windows + self.prompts)


def make_eval_plan(
    loaded: LoadedModel,
    n_tokens: int,
    rules: Sequence[str],
    policies: Sequence[tuple[str, Policy]],
    codecs: Sequence[str] = (),
    *,
    context: int | None,
    windows: int | None,
    prompts: int,
    generated: int,
    layout: str | None,
) -> EvalPlan:
    """Check the choices against the model and the text.

    Raises
    ------
    UsageError
        If a rule or a codec is not known, or there is none.
    InputError
        If the text is too short, or a window is longer than the model.
    """
    contestants = [Contestant(str(get_rule(text)), rule=text) for text in rules]
    contestants += [Contestant(f"policy {name}", policy=policy) for name, policy in policies]
    for text in codecs:
        keys, values = parse_pair(text)
        contestants.append(Contestant(f"codec {keys}" + (f"+{values}" if values != keys else ""), codec=text))
    unique = tuple({c.name: c for c in contestants}.values())
    if not unique:
        raise UsageError("nothing to evaluate: give --rule, --policy or --codec")
    most = loaded.max_tokens
    size = context if context is not None else min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT, n_tokens)
    if most is not None and size > most:
        raise InputError(f"{size} tokens are more than the {most} positions of the model", hint=f"--context {most}")
    if size < 2 or n_tokens < size:
        raise InputError(
            f"the text has {n_tokens} tokens, too few for a window of {max(size, 2)}",
            hint="give a longer text, or --context",
        )
    there = n_tokens // size
    if windows is not None and windows > there:
        raise InputError(f"the text has {there} windows of {size} tokens, {windows} are asked for")
    chosen = min(DEFAULT_WINDOWS, there) if windows is None else windows
    generated = min(generated, size // 2 if most is None else most - size // 2)
    return EvalPlan(unique, size, chosen, min(prompts, chosen) if generated else 0, generated, layout)


class Evaluation:
    """The work itself.

    Parameters
    ----------
    loaded : LoadedModel
    ids : ndarray[int64], (n_tokens,)
    plan : EvalPlan
    """

    def __init__(self, loaded: LoadedModel, ids: NDArray[np.int64], plan: EvalPlan) -> None:
        self._loaded, self._plan = loaded, plan
        self._ids = torch.from_numpy(ids[: plan.windows * plan.context]).reshape(plan.windows, plan.context)
        for contestant in plan.contestants:
            self._cache(contestant, every_query=True)  # what does not fit is refused before any work is done

    def _cache(self, contestant: Contestant | None, *, every_query: bool) -> AlignedCache:
        chosen = contestant or Contestant(STOCK)
        return AlignedCache(
            self._loaded.model,
            chosen.rule,
            policy=chosen.policy,
            codec=chosen.codec,
            layout=self._plan.layout,
            storage_format=self._loaded.format,
            every_query=every_query,
        )

    def run(
        self, target: Path, facts: dict[str, Any], *, overwrite: bool, tell: Callable[[int], None]
    ) -> tuple[dict[str, Any], Progress]:
        """Do what earlier runs have not done; return eval.json and the records, which still stand beside the target."""
        check_eval_target(target, overwrite=overwrite)
        plan = self._plan
        names = [contestant.name for contestant in plan.contestants]
        progress = Progress(target, facts | {"ids": self._digest(), "names": names, "policies": self._policies()})
        with torch.no_grad():
            for window in range(plan.windows):
                self._window(window, progress, tell)
            for prompt in range(plan.prompts):
                self._prompt(prompt, progress, tell)
        return summarize(facts, progress, names, plan.windows, plan.prompts), progress

    def _digest(self) -> str:
        return hashlib.sha256(self._ids.numpy().tobytes()).hexdigest()

    def _policies(self) -> list[Any]:
        return [c.policy.to_json()["heads"] for c in self._plan.contestants if c.policy is not None]

    def _logits(self, cache: AlignedCache, window: int) -> Any:
        return self._loaded.model(self._ids[window : window + 1], past_key_values=cache).logits[0, :-1]

    def _window(self, window: int, progress: Progress, tell: Callable[[int], None]) -> None:
        reference = None
        for contestant in (None, *self._plan.contestants):
            name = STOCK if contestant is None else contestant.name
            if progress.get("window", name, window) is None:
                if reference is None:
                    reference = self._logits(self._cache(None, every_query=False), window)
                cache = self._cache(contestant, every_query=True)
                logits = reference if contestant is None else self._logits(cache, window)
                found = score(logits, reference, self._ids[window, 1:])
                record = {"kind": "window", "rule": name, "window": window, "nll": found.nll}
                if contestant is not None:
                    record |= {
                        "agree": found.agree,
                        "positions": len(found.kl),
                        "kl": found.kl,
                        "totals": cache.totals(),
                    }
                progress.add(record)
            tell(1)

    def _prompt(self, prompt: int, progress: Progress, tell: Callable[[int], None]) -> None:
        stock = progress.get("prompt", STOCK, prompt)
        if stock is None:
            text = self._continue(None, prompt, None)
            stock = progress.add({"kind": "prompt", "rule": STOCK, "window": prompt, "text": text})
        tell(1)
        for contestant in self._plan.contestants:
            if progress.get("prompt", contestant.name, prompt) is None:
                text = self._continue(contestant, prompt, stock["text"])
                same = text == stock["text"]
                at = None if same else len(text) - 1
                progress.add({"kind": "prompt", "rule": contestant.name, "window": prompt, "diverged_at": at})
            tell(1)

    def _continue(self, contestant: Contestant | None, prompt: int, expected: list[int] | None) -> list[int]:
        """Return the greedy continuation of the first half of a window; it ends with the first token that is not expected."""
        cache = self._cache(contestant, every_query=False)
        token, text = self._ids[prompt : prompt + 1, : self._plan.context // 2], []
        for i in range(self._plan.generated):
            logits = self._loaded.model(token, past_key_values=cache).logits[:, -1:]
            token = logits.argmax(-1)
            text.append(int(token))
            if expected is not None and text[-1] != expected[i]:
                break
        return text
