"""Write what holds of transformers' caches into docs/codecs.md: `python tests/write_cache_docs.py`; minutes, needs optimum-quanto and hqq."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from transformers.cache_utils import DynamicSlidingWindowLayer, StaticSlidingWindowLayer

from precalign.analysis.models.cache import AlignedCache
from precalign.analysis.models.cache_checks import CACHE_CHECKS
from precalign.analysis.models.cache_conform import conform_cache
from precalign.analysis.models.cache_subject import Subject

PAGE = Path(__file__).parent.parent / "docs/caches.md"
QUANTIZED = transformers.QuantizedCache
SUBJECTS = {
    "Dynamic": Subject(transformers.DynamicCache),
    "Static": Subject(transformers.StaticCache),
    "Dynamic, sliding": Subject(DynamicSlidingWindowLayer, {"sliding_window": 16}),
    "Static, sliding": Subject(StaticSlidingWindowLayer, {"max_cache_len": 1024, "sliding_window": 16}),
    "Quantized, quanto": Subject(QUANTIZED, {"backend": "quanto"}),
    "Quantized, hqq": Subject(QUANTIZED, {"backend": "hqq"}),
    "Quantized, fp8": Subject(QUANTIZED, {"backend": "fp8"}),
    "Aligned": Subject(AlignedCache),
}
MARKS = {True: "yes", False: "**no**", None: "–"}


def lines():
    found = {name: {f.check: f for f in conform_cache(subject)} for name, subject in SUBJECTS.items()}
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch", "optimum-quanto", "hqq"))
    yield f"With {versions}.\n"
    yield "| check | " + " | ".join(SUBJECTS) + " |"
    yield "|---|" + "---|" * len(SUBJECTS)
    for check in CACHE_CHECKS:
        yield f"| `{check}` | " + " | ".join(MARKS[found[name][check].holds] for name in SUBJECTS) + " |"
    yield "\nThe smallest batch on which each of them fails:\n"
    for name, findings in found.items():
        yield from (
            f"- {name}, `{check}`: {finding.example}" for check, finding in findings.items() if finding.holds is False
        )


def main():
    torch.set_num_threads(1)
    text = PAGE.read_text(encoding="utf-8")
    content = "\n".join(lines())
    text = re.sub(
        r"(<!-- caches -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.DOTALL
    )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
