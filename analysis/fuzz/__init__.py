"""Fuzzing of every reader and parser: what a hostile or damaged input may do is to be refused, and nothing else."""
