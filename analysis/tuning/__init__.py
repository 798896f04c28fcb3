"""Policies from data: calibrated on some decode steps, verified on others."""
