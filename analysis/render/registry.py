"""The renderers by name; adding one is one file and one line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from precalign.analysis.frontier.schema import FRONTIER_PAGE
from precalign.analysis.results.reader import any_summary, open_result
from precalign.analysis.results.schema import REPORT_FILE
from precalign.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

# name -> (module, suffix of the file it writes)
RENDERERS = {
    "html": ("precalign.analysis.render.html", ".html"),
    "md": ("precalign.analysis.render.markdown", ".md"),
    "terminal": ("precalign.analysis.render.terminal", ".txt"),
}
FRONTIERS = ("html", "terminal")
"""Forms in which a frontier is rendered."""


def is_frontier(directory: Path) -> bool:
    """Whether a result directory was written by `precalign frontier`.

    Raises
    ------
    InputError
        If it is no result directory.
    """
    summary = any_summary(directory, "precalign analyze DUMP -o DIR")
    return str(summary.get("schema")).startswith("precalign.frontier/")


def render(directory: Path, name: str) -> str:
    """Render a result directory.

    Parameters
    ----------
    directory : Path
        Written by `precalign analyze` or `precalign frontier`.
    name : str
        A key of `RENDERERS`.

    Raises
    ------
    InputError
        If the directory is no result directory, or one of another version, or damaged.
    UsageError
        If a frontier has no such form.
    """
    if is_frontier(directory):
        from precalign.analysis.frontier.reader import open_frontier
        from precalign.analysis.render import frontier

        if name not in FRONTIERS:
            raise UsageError(f"a frontier has no form {name!r}", hint="forms: " + ", ".join(FRONTIERS))
        opened = open_frontier(directory)
        return frontier.html(opened) if name == "html" else frontier.terminal(opened)
    text: str = importlib.import_module(RENDERERS[name][0]).render(open_result(directory))
    return text


def show(directory: Path, out: Console) -> None:
    """Print a result directory on a terminal.

    Raises
    ------
    InputError
        As `render`.
    """
    if is_frontier(directory):
        from precalign.analysis.frontier.reader import open_frontier
        from precalign.analysis.render import frontier

        frontier.show(open_frontier(directory), out)
        return
    from precalign.analysis.render import terminal

    terminal.show(open_result(directory), out)


def page_name(directory: Path) -> str:
    """Return what the page of a result directory is called."""
    return FRONTIER_PAGE if is_frontier(directory) else REPORT_FILE
