"""The conformance kit for cache classes of transformers: every check from the smallest batch up, so that a failure is a small one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precalign.analysis.models.cache_checks import CACHE_CHECKS, CacheCheck, RefusedError, declared_window
from precalign.analysis.models.cache_subject import CacheCase, Subject
from precalign.codecs.conform import Case, Finding
from precalign.errors import UsageError
from precalign.formats import BFLOAT16, BINARY16

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS = (1, 2, 3, 17, 64, 65, 129, 200)
"""Sequence lengths, ascending: one token, odd ones, both sides of the ends of groups and windows."""
HEADS = (1, 2)
HEAD_DIM = 64


def cases(subject: Subject, check: CacheCheck) -> Iterator[CacheCase]:
    """Yield the batches that a check looks at, ascending; the ends of the class's own window are among their lengths."""
    first = _case(1, 1, BINARY16, "normal")
    own = (declared_window(subject, first), subject.claim("sliding_window", first))
    near = {int(w) + i for w in own if w for i in (-1, 0, 1) if 0 < int(w) + i <= max(TOKENS)}
    for n_tokens in sorted({*TOKENS, *near}):
        for fmt in (BINARY16, BFLOAT16):
            for n_kv_heads in HEADS:
                for kind in check.data:
                    yield _case(n_tokens, n_kv_heads, fmt, kind)


def _case(n_tokens: int, n_kv_heads: int, fmt: Any, kind: str) -> CacheCase:
    return CacheCase(Case(n_tokens, n_kv_heads, HEAD_DIM, fmt, kind))


def conform_cache(subject: Subject) -> Iterator[Finding]:
    """Yield what each check finds.

    Raises
    ------
    UsageError
        If the class cannot be made.
    """
    first = _case(1, 1, BINARY16, "normal")
    subject.build(first)
    for name, check in CACHE_CHECKS.items():
        why = check.claim(subject, first) if check.claim else ""
        yield Finding(name, None, 0, f"not claimed: {why}") if why else _finding(subject, name, check)


def _finding(subject: Subject, name: str, check: CacheCheck) -> Finding:
    n_cases = 0
    for case in cases(subject, check):
        n_cases += 1
        try:
            failure = check.run(subject, case)
        except RefusedError as refusal:
            return Finding(name, None, n_cases, f"refused: {case}: {refusal}")
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a class under test raises is a finding
            failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if failure:
            return Finding(name, False, n_cases, f"{case}: {failure}")  # noqa: FBT003 - what holds
    return Finding(name, True, n_cases)  # noqa: FBT003 - what holds
