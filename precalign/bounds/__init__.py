"""Certified bounds: what reduced reads and the roundings of the stated order can do to scores and outputs at most."""

from precalign.bounds.steps import Bounds, output_bounds, score_bounds

__all__ = ["Bounds", "output_bounds", "score_bounds"]
