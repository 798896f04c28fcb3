"""Benchmarks, by name: each module has `DESCRIPTION` and `run(options) -> Benchmark`.

Every benchmark checks that the contenders compute the same result before it times them, and times them interleaved in
one run, so that its figures are ratios and not absolute speeds of a machine that nobody else has.
"""

from __future__ import annotations

# name -> module; adding a benchmark is one file and one line here.
BENCHMARKS: dict[str, str] = {
    "accumulate": "precalign.analysis.benchmarks.accumulate",
    "analyze": "precalign.analysis.benchmarks.analyze",
    "attention": "precalign.analysis.benchmarks.attention",
    "codecs": "precalign.analysis.benchmarks.codecs",
    "gpu": "precalign.analysis.benchmarks.gpu",
    "memory": "precalign.analysis.benchmarks.memory",
    "model": "precalign.analysis.benchmarks.model",
    "numerics": "precalign.analysis.benchmarks.numerics",
    "ptx": "precalign.analysis.benchmarks.ptx",
    "scale": "precalign.analysis.benchmarks.scale",
}
