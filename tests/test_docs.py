"""Every example in the documentation runs, and prints what the page says it prints.

A ```console block holds `$ command` lines, each followed by the output that the page promises (none promised: none
checked; `...` stands for anything). The blocks of a page run in order in one folder that holds the demo dump as
`dump.safetensors`. ```python blocks of a page run in the same folder and share their names.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHECKER = doctest.OutputChecker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(page):
    """Yield (kind, line number, text) of every block that runs."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield match[1], text[: match.start()].count("\n") + 2, match[2]


def commands(block):
    """Split a console block into (command, promised output)."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.count('"') % 2:  # a quoted text goes on in the next line
            line, _, output = output.partition("\n")
            command += f"\n{line}"
        yield command, output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    demo = ROOT / "analysis/demo/novel.safetensors"
    if demo.exists():
        shutil.copy(demo, tmp_path / "dump.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


@pytest.mark.parametrize("page", [p for p in PAGES if any(examples(p))], ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_run(page, folder):
    names = {}
    for kind, line, text in examples(page):
        if kind == "python":
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)  # noqa: S102 - our own pages
            continue
        for command, promised in commands(text):
            done = run(command, folder)
            fails = promised.startswith("Error")
            assert (done.returncode != 0) == fails, f"{page.name}: $ {command}\n{done.stdout}{done.stderr}"
            got = done.stderr if fails else done.stdout
            assert not promised.strip() or CHECKER.check_output(promised, got, FLAGS), (
                f"{page.name}: $ {command}\npromised:\n{promised}\ngot:\n{got}"
            )


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in navigation, page


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
