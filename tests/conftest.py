"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

# Test processes share the cores, and the threads of torch would wait for each other; read when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background has them ignore interrupts, and their children too; some tests interrupt a child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder of real dumps, models and recordings that may stand beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real dumps and recordings), which is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def chromium():
    """Path of a Chromium for tests that look at a page."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs a Chromium: `make browser` installs Debian's")
    return path


def pytest_addoption(parser):
    parser.addoption(
        "--write-proofs", action="store_true", help="record the counts of exhaustive runs in docs/proofs.md"
    )


@pytest.fixture
def proof(request):
    """Record what a run over many cases found: proof(name, cases, mismatches)."""

    def record(name, cases, mismatches):
        assert cases > 0
        assert mismatches == 0, f"{name}: {mismatches} of {cases} cases differ"
        if request.config.getoption("--write-proofs"):
            from proofs import write

            write(ROOT / "docs/proofs.md", name, cases, mismatches)

    return record
