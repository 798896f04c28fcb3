"""The renderers by name; adding one is one file and one line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from precalign.analysis.compare.schema import COMPARE_PAGE
from precalign.analysis.diff.schema import DIFF_PAGE
from precalign.analysis.frontier.schema import FRONTIER_PAGE
from precalign.analysis.results.reader import any_summary, as_written, open_result
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
SPECIAL = {
    "precalign.frontier": (
        "precalign.analysis.frontier.reader:open_frontier",
        "precalign.analysis.render.frontier",
        FRONTIER_PAGE,
    ),
    "precalign.compare": (
        "precalign.analysis.compare.reader:open_comparison",
        "precalign.analysis.render.comparison",
        COMPARE_PAGE,
    ),
    "precalign.diff": (
        "precalign.analysis.diff.reader:open_difference",
        "precalign.analysis.render.difference",
        DIFF_PAGE,
    ),
    "precalign.set": ("precalign.analysis.sets.reader:open_set", "precalign.analysis.render.sets", REPORT_FILE),
}
"""Kinds of result directories other than those of analyze: kind -> (opener, module with html, terminal and show, name of the page)."""
SPECIAL_FORMS = ("html", "terminal")
"""Forms in which those are rendered."""


def _kind(directory: Path) -> str:
    """Return what wrote a result directory: `schema` of its summary without the version.

    Raises
    ------
    InputError
        If it is no result directory.
    """
    return str(any_summary(directory, "precalign analyze DUMP -o DIR").get("schema")).rpartition("/")[0]


def _opened(directory: Path, opener: str) -> Any:  # noqa: ANN401 - a Frontier or Comparison
    module, _, name = opener.partition(":")
    return getattr(importlib.import_module(module), name)(directory)


def render(directory: Path, name: str) -> str:
    """Render a result directory.

    Parameters
    ----------
    directory : Path
        Written by `precalign analyze`, `frontier`, `compare` or `diff`.
    name : str
        A key of `RENDERERS`.

    Raises
    ------
    InputError
        If the directory is no result directory, or one of another version, or damaged.
    UsageError
        If such a result has no such form.
    """
    kind = _kind(directory)
    text: str
    if kind in SPECIAL:
        opener, module, _ = SPECIAL[kind]
        if name not in SPECIAL_FORMS:
            raise UsageError(
                f"{directory}: a result of {kind} has no form {name!r}", hint="forms: " + ", ".join(SPECIAL_FORMS)
            )
        with as_written(directory):
            text = getattr(importlib.import_module(module), name)(_opened(directory, opener))
        return text
    with as_written(directory):
        text = importlib.import_module(RENDERERS[name][0]).render(open_result(directory))
    return text


def show(directory: Path, out: Console) -> None:
    """Print a result directory on a terminal.

    Raises
    ------
    InputError
        As `render`.
    """
    kind = _kind(directory)
    if kind in SPECIAL:
        opener, module, _ = SPECIAL[kind]
        with as_written(directory):
            importlib.import_module(module).show(_opened(directory, opener), out)
        return
    from precalign.analysis.render import terminal

    with as_written(directory):
        terminal.show(open_result(directory), out)


def page_name(directory: Path) -> str:
    """Return what the page of a result directory is called."""
    kind = _kind(directory)
    return SPECIAL[kind][2] if kind in SPECIAL else REPORT_FILE
