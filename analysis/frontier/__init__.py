"""Saving against error for all rules over their parameters."""
