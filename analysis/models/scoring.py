"""Logits to figures: how likely the text was, which token came first, how far two distributions lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

CHUNK_NUMBERS = 1 << 22
"""Logits looked at together in binary64."""


@dataclass(frozen=True)
class Scores:
    """Figures of the positions of a window.

    Attributes
    ----------
    nll : float
        Mean of -log p(next token), nats.
    agree : int
        Positions whose most likely token is the reference's.
    kl : list of float
        KL(reference || this) of each position's next-token distribution, nats.
    """

    nll: float
    agree: int
    kl: list[float]


def score(logits: Any, reference: Any, targets: Any) -> Scores:
    """Compare logits (n_positions, vocabulary) with the reference's; targets (n_positions,) are the tokens that followed."""
    chunk = max(1, CHUNK_NUMBERS // logits.shape[-1])
    nll, agree, kl = 0.0, 0, []
    for begin in range(0, len(logits), chunk):
        part = slice(begin, begin + chunk)
        mine, other = (torch.log_softmax(x[part].double(), dim=-1) for x in (logits, reference))
        nll -= float(mine.gather(1, targets[part, None]).sum())
        agree += int((logits[part].argmax(-1) == reference[part].argmax(-1)).sum())
        # Rounding may leave a sum of about 1e-17 below zero; a divergence is never negative.
        kl += (other.exp() * (other - mine)).sum(-1).clamp_min(0).tolist()
    return Scores(nll / len(logits), agree, kl)
