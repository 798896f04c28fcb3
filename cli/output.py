"""How the command prints: results on stdout, everything else on stderr, plain where it is not a terminal."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from precalign.errors import OutputError
from precalign.strict_json import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """Return a rich console; off a terminal it writes plain text as wide as it needs to be."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    return Console(stderr=stderr, width=width, highlight=False)


def print_json(data: object) -> None:
    """Print data as JSON on stdout; NaN has no JSON form and is refused rather than written wrongly."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False, default=_plain) + "\n")


def _plain(value: object) -> object:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}",
            hint="does the folder exist, and may you write there?",
        ) from error


def check_file(path: Path, schema: str, *, overwrite: bool) -> None:
    """Refuse a file that must not be written, before any work is done.

    Raises
    ------
    OutputError
        If something is there and `overwrite` is not set, or it is no JSON file of that schema, whatever its version.
    """
    if not os.path.lexists(path):
        if not path.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist", hint="make it first")
        return
    if not overwrite:
        raise OutputError(f"{path}: exists already", hint="choose another file, or replace it with --overwrite")
    try:
        held = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict) or str(held.get("schema")).rpartition("/")[0] != schema.rpartition("/")[0]:
        raise OutputError(
            f"{path}: is not a {schema} file, so it is not overwritten", hint="choose another file, or remove it first"
        )
