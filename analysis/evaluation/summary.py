"""eval.json: what the windows add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign import __version__
from precalign.analysis.evaluation.intervals import METHOD, over_windows, perplexity, perplexity_change, proportion
from precalign.live.counter import add_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.analysis.evaluation.progress import Progress

EVAL_SCHEMA = "precalign.eval/1"
STOCK = "stock"
"""The reference: transformers' own attention over the whole cache in its storage format."""


def summarize(
    facts: dict[str, Any], progress: Progress, rules: Sequence[str], windows: int, prompts: int
) -> dict[str, Any]:
    """Return eval.json of finished records."""
    reference = [progress.records["window", STOCK, w] for w in range(windows)]
    base = [record["nll"] for record in reference]
    return {
        "schema": EVAL_SCHEMA,
        "precalign": __version__,
        **facts,
        "method": METHOD,
        "reference": {"perplexity": perplexity(base).to_json(), "window_nll": base},
        "rules": [_rule(progress, rule, windows, prompts, base) for rule in rules],
    }


def _rule(progress: Progress, rule: str, windows: int, prompts: int, base: list[float]) -> dict[str, Any]:
    records = [progress.records["window", rule, w] for w in range(windows)]
    nll = [record["nll"] for record in records]
    kl = np.concatenate([np.asarray(record["kl"]) for record in records])
    totals: dict[str, int] = {}
    for record in records:
        totals = add_counts(totals, record["totals"])
    diverged = [progress.records["prompt", rule, p]["diverged_at"] for p in range(prompts)]
    return {
        "rule": rule,
        "perplexity": perplexity(nll).to_json(),
        "perplexity_change": perplexity_change(nll, base).to_json(),
        "agreement": proportion([r["agree"] for r in records], [r["positions"] for r in records]).to_json(),
        "kl": over_windows([np.mean(record["kl"]) for record in records]).to_json()
        | {"p99": float(np.quantile(kl, 0.99, method="inverted_cdf")), "worst": float(kl.max())},
        "diverged_at": diverged,
        "window_nll": nll,
        "totals": totals | read_ratios(totals),
    }


def read_ratios(totals: dict[str, int]) -> dict[str, float]:
    """Return bits a number and the share of bytes that is saved, metadata and pre-pass counted (docs/results.md)."""
    numbers = totals["full_ideal_bits"] / 2
    bits = max(int(name.split("_")[3]) for name in totals if name.startswith("key_channels_at_"))
    read = sum(totals[f"{stem}_bytes"] for stem in ("key", "value", "metadata", "prepass"))
    return {
        "key_bits_mean": totals["key_ideal_bits"] * bits / numbers,
        "value_bits_mean": totals["value_ideal_bits"] * bits / numbers,
        "bytes_saving": 1 - read / (totals["full_key_bytes"] + totals["full_value_bytes"]),
    }
