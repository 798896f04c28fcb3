"""The tightest sound tolerance for a test that compares one computation of attention with another."""

from precalign.tolerance.allclose import Allowance, Fit
from precalign.tolerance.compare import Tolerance, Tolerances, attention
from precalign.tolerance.side import PRESETS, Side, parse_side

__all__ = ["PRESETS", "Allowance", "Fit", "Side", "Tolerance", "Tolerances", "attention", "parse_side"]
