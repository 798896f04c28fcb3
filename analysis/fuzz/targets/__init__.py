"""What is fuzzed: one file per kind of input, named in `precalign.analysis.fuzz.registry`."""
