"""A result directory appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from precalign.analysis.compare.schema import COMPARE_FILE, COMPARE_PAGE, COMPARE_SCHEMA
from precalign.analysis.diff.schema import DIFF_FILE, DIFF_PAGE, DIFF_SCHEMA
from precalign.analysis.frontier.schema import FRONTIER_FILE, FRONTIER_PAGE, FRONTIER_SCHEMA
from precalign.analysis.results.schema import REPORT_FILE, SUMMARY_FILE, SUMMARY_SCHEMA, TABLES
from precalign.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = {SUMMARY_FILE, REPORT_FILE, *(f"{table}.parquet" for table in TABLES)}
"""Everything that `precalign analyze` writes to a directory."""
FRONTIER_FILES = {SUMMARY_FILE, FRONTIER_FILE, FRONTIER_PAGE}
COMPARE_FILES = {SUMMARY_FILE, COMPARE_FILE, COMPARE_PAGE}
DIFF_FILES = {SUMMARY_FILE, DIFF_FILE, DIFF_PAGE}
"""The same of `precalign frontier`, `compare` and `diff`; a directory with anything else in it is never replaced."""
KINDS = tuple(schema.rpartition("/")[0] for schema in (SUMMARY_SCHEMA, FRONTIER_SCHEMA, COMPARE_SCHEMA, DIFF_SCHEMA))
"""Kinds of result directories: `schema` in their summary.json without its version."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = (
            str(error) if error.errno is None else os.strerror(error.errno)
        )  # pyarrow puts its own words in strerror
        raise OutputError(
            f"{path}: cannot be written: {reason}", hint="nothing was left there; choose another place"
        ) from error


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a place beside `target` to write a file to; when the block ends well it takes the name, else nothing remains of it.

    Raises
    ------
    OutputError
        Where the system refuses to write.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with writing(target):
        try:
            yield part
            handle = os.open(part, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that must not be written, before any work is done.

    Raises
    ------
    OutputError
        If something is there and `overwrite` is not set, or what is there is not a result directory and nothing else.
    """
    with writing(target):
        if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
            return
        if not overwrite:
            raise OutputError(
                f"{target}: exists already", hint="choose another directory, or replace it with --overwrite"
            )
        if not target.is_dir() or not _is_result(target):
            raise OutputError(
                f"{target}: is not a result directory of precalign, so it is not overwritten",
                hint="choose another directory",
            )
        if foreign := sorted(
            entry.name
            for entry in target.iterdir()
            if entry.name not in FILES | FRONTIER_FILES | COMPARE_FILES | DIFF_FILES
        ):
            raise OutputError(
                f"{target}: holds files that precalign did not write ({', '.join(map(repr, foreign[:3]))}), so it is not overwritten",
                hint="move them elsewhere first",
            )


def _is_result(path: Path) -> bool:
    try:
        summary = json.loads((path / SUMMARY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and str(summary.get("schema")).rpartition("/")[0] in KINDS


@contextmanager
def result_directory(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a directory to fill; when the block ends well it takes the place of `target`, else nothing remains of it.

    Parameters
    ----------
    target : Path
        The directory to make. Missing parents are made.
    overwrite : bool
        Whether an earlier result there may be replaced.

    Yields
    ------
    Path
        A temporary directory beside `target`.

    Raises
    ------
    OutputError
        As `check_target`, and where the system refuses to write.
    """
    check_target(target, overwrite=overwrite)
    final = Path(os.path.realpath(target))  # a link to a directory stays a link
    with writing(target):
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
    try:
        yield staging
        with writing(target):
            _make_durable(staging)
            check_target(target, overwrite=overwrite)  # another run may have been quicker
            _take_place(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_durable(directory: Path) -> None:
    """Have everything on the disk before a name points to it; let others read what they usually may."""
    for path in [*directory.iterdir(), directory]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    mask = os.umask(0)
    os.umask(mask)
    directory.chmod(0o777 & ~mask)


def _take_place(staging: Path, final: Path) -> None:
    if not (final.is_dir() and any(final.iterdir())):
        staging.replace(final)  # atomic, also over an empty directory
    else:
        replaced = staging.with_suffix(".replaced")
        final.rename(replaced)
        try:
            staging.rename(final)
        except BaseException:
            replaced.rename(final)
            raise
        shutil.rmtree(replaced)
    handle = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
