"""Imports run one way, and importing the command stays light."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# A layer may import those to its right in cli -> analysis -> gpu -> precalign, never those to its left.
LAYERS = {"precalign": 0, "gpu": 1, "analysis": 2, "cli": 3}
HEAVY = ("numba", "torch", "transformers", "cupy", "pyarrow", "plotly", "scipy", "numpy", "rich")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module):
    parts = module.split(".")
    return LAYERS.get(parts[1], 0) if len(parts) > 1 else 0


@pytest.mark.parametrize("folder", LAYERS)
def test_imports_run_one_way(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for module in imported_modules(path):
            if module.split(".")[0] == "precalign":
                assert layer_of(module) <= LAYERS[folder], f"{path} imports {module}, a layer above its own"


def test_core_does_no_input_or_output():
    for path in (ROOT / "precalign").rglob("*.py"):
        used = {module.split(".")[0] for module in imported_modules(path)}
        assert not used & {"click", "rich", "pyarrow", "plotly", "safetensors", "jinja2", "pathlib"}, path


@pytest.mark.parametrize("module", ["cupy", "torch", "transformers"])
def test_frameworks_are_imported_in_one_place(module):
    """CuPy in one file, torch in the files named as its adapters, transformers in analysis/models."""
    users = [
        p for f in LAYERS for p in (ROOT / f).rglob("*.py") if module in {m.split(".")[0] for m in imported_modules(p)}
    ]
    allowed = {
        "cupy": ("device.py",),
        "torch": ("torch_adapter.py", "benchmarks", "models"),
        "transformers": ("models",),
    }[module]
    for path in users:
        assert path.name in allowed or path.parent.name in allowed, f"{path} imports {module}"


@pytest.mark.parametrize("statement", ["import precalign", "import precalign.cli.main"])
def test_importing_is_light(statement):
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_lists_every_command_once():
    from precalign.cli.main import COMMANDS, GROUPS

    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
