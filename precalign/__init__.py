"""precalign: how many bits of a key/value cache does decode attention need?

`precalign.capture` and `precalign.AlignedCache` work on models of the transformers library; both are imported when they are used.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_LAZY = {
    "capture": "precalign.analysis.models.capture",
    "AlignedCache": "precalign.analysis.models.cache",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("precalign.analysis.models").need_models()
    return getattr(importlib.import_module(_LAZY[name]), name)
