"""The targets by name; adding one is one class and one line."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path

from precalign.analysis.fuzz.target import Target
from precalign.errors import UsageError

_HERE = "precalign.analysis.fuzz.targets"
TARGETS = {
    "safetensors": f"{_HERE}.safetensors:Safetensors",
    "index": f"{_HERE}.safetensors:Index",
    "npz": f"{_HERE}.numpy_files:Npz",
    "npy": f"{_HERE}.numpy_files:Npy",
    "npy-folder": f"{_HERE}.numpy_files:NpyFolder",
    "torch": f"{_HERE}.torch_files:Torch",
    "torch-old": f"{_HERE}.torch_files:TorchOld",
    "names": f"{_HERE}.names:Names",
    "results": f"{_HERE}.results:Results",
    "run-folder": f"{_HERE}.results:RunFolder",
    "policy": f"{_HERE}.policy:PolicyFile",
    "recordings": f"{_HERE}.recordings:Recordings",
    "kernel-array": f"{_HERE}.recordings:ArrayArgument",
    "codecs": f"{_HERE}.codecs:Codecs",
    "ptx": f"{_HERE}.ptx:Ptx",
    "listings": f"{_HERE}.ptx:Listings",
    "specs": f"{_HERE}.specs:Specs",
}
"""Name -> where its class is."""


@cache
def get_target(text: str) -> Target:
    """Return a target of `TARGETS`, or the class that "module:Class" names, importable from here.

    Raises
    ------
    UsageError
        If there is no such target.
    """
    module, colon, name = TARGETS.get(text, text).partition(":")
    if not colon:
        raise UsageError(f"no fuzz target {text!r}", hint="targets: " + ", ".join(TARGETS) + "; or module:Class")
    if text not in TARGETS and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(
            f"fuzz target {text}: {error}", hint="give module:Class, a Target without arguments"
        ) from error
    if not isinstance(made, Target):
        raise UsageError(f"fuzz target {text}: is no precalign.analysis.fuzz.target.Target")
    return made
