"""A result directory appears whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from precalign.analysis.compare.schema import COMPARE_FILE, COMPARE_PAGE, COMPARE_SCHEMA
from precalign.analysis.diff.schema import DIFF_FILE, DIFF_PAGE, DIFF_SCHEMA
from precalign.analysis.frontier.schema import FRONTIER_FILE, FRONTIER_PAGE, FRONTIER_SCHEMA
from precalign.analysis.results.locks import try_lock
from precalign.analysis.results.schema import REPORT_FILE, SUMMARY_FILE, SUMMARY_SCHEMA, TABLES
from precalign.analysis.results.unfinished import LOCK_FILE, RUN_FOLDER, unfinished
from precalign.analysis.sets.schema import SET_FILES, SET_SCHEMA
from precalign.errors import OutputError
from precalign.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = {SUMMARY_FILE, REPORT_FILE, *(f"{table}.parquet" for table in TABLES)}
"""Everything that `precalign analyze` writes to a directory."""
FRONTIER_FILES = {SUMMARY_FILE, FRONTIER_FILE, FRONTIER_PAGE}
COMPARE_FILES = {SUMMARY_FILE, COMPARE_FILE, COMPARE_PAGE}
DIFF_FILES = {SUMMARY_FILE, DIFF_FILE, DIFF_PAGE}
"""The same of `precalign frontier`, `compare` and `diff`."""
OURS = FILES | FRONTIER_FILES | COMPARE_FILES | DIFF_FILES | SET_FILES | {RUN_FOLDER}
"""All of them, and what an unfinished set leaves; a directory with anything else in it is never replaced."""
KINDS = tuple(
    schema.rpartition("/")[0] for schema in (SUMMARY_SCHEMA, FRONTIER_SCHEMA, COMPARE_SCHEMA, DIFF_SCHEMA, SET_SCHEMA)
)
"""Kinds of result directories: `schema` in their summary.json without its version."""
NOTHING_LEFT = "nothing was left there; choose another place"
PARTIAL, REPLACED = ".partial", ".replaced"
"""Suffixes of directories beside the target: of a result in the making, and of an earlier one that makes place for it."""


@contextmanager
def writing(path: Path, hint: str = NOTHING_LEFT) -> Iterator[None]:
    """Turn an operating system's refusal to write into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = (
            str(error) if error.errno is None else os.strerror(error.errno)
        )  # pyarrow puts its own words in strerror
        raise OutputError(f"{path}: cannot be written: {reason}", hint=hint) from error


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
        if running(target):
            raise OutputError(
                f"{target}: another run is writing there", hint="wait for it, or choose another directory"
            )
        if not overwrite:
            begun = unfinished(target)
            if begun is not None and not (target / SUMMARY_FILE).exists():
                raise OutputError(
                    f"{target}: {begun}", hint=f"go on with `{begun.command}`, or replace it with --overwrite"
                )
            raise OutputError(
                f"{target}: exists already", hint="choose another directory, or replace it with --overwrite"
            )
        if not target.is_dir() or not _is_result(target):
            raise OutputError(
                f"{target}: is not a result directory of precalign, so it is not overwritten",
                hint="choose another directory",
            )
        if foreign := sorted(entry.name for entry in target.iterdir() if entry.name not in OURS):
            raise OutputError(
                f"{target}: holds files that precalign did not write ({', '.join(map(repr, foreign[:3]))}), so it is not overwritten",
                hint="move them elsewhere first",
            )


def running(target: Path) -> bool:
    """Whether a run of a set is writing to `target` now."""
    try:
        handle = try_lock(target / RUN_FOLDER / LOCK_FILE)
    except OSError:  # no such run, or not ours to look at
        return False
    if handle is None:
        return True
    os.close(handle)
    return False


def _is_result(path: Path) -> bool:
    if (path / RUN_FOLDER).is_dir():
        return True
    try:
        summary = parse_json((path / SUMMARY_FILE).read_text(encoding="utf-8"))
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
        remove_stale(final)
    with _staging(final) as staging:
        yield staging
        with writing(target):
            _make_durable(staging)
            check_target(target, overwrite=overwrite)  # another run may have been quicker
            _take_place(staging, final)


@contextmanager
def _staging(final: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `final`, locked, so that others can tell it from one whose run was killed."""
    lock = None
    while lock is None:
        # An interrupt between the making of the directory and the `try` that removes it would leave it behind.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with writing(final):
                staging = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=PARTIAL, dir=final.parent))
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            with writing(final), suppress(FileNotFoundError):  # taken for a stale one before it was locked
                lock = try_lock(staging)
            if lock is not None:
                yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def remove_stale(final: Path) -> None:
    """Remove what killed runs left beside `final`; where one was killed while it replaced `final`, put that back."""
    name = re.compile(rf"\.{re.escape(final.name)}\.[a-z0-9_]{{8}}({re.escape(PARTIAL)}|{re.escape(REPLACED)})")
    for left in sorted(final.parent.iterdir()):
        if name.fullmatch(left.name) is None or left.is_symlink() or not left.is_dir():
            continue
        with suppress(OSError):  # another run may be removing it
            if any(entry.name not in OURS for entry in left.iterdir()):
                continue
            lock = try_lock(left)
            if lock is None:
                continue
            try:
                if left.suffix == REPLACED and not os.path.lexists(final):
                    left.rename(final)
                else:
                    shutil.rmtree(left)
            finally:
                os.close(lock)


def _make_durable(directory: Path) -> None:
    """Have everything on the disk before a name points to it; let others read what they usually may."""
    for path in [*directory.iterdir(), directory]:
        to_disk(path)
    mask = os.umask(0)
    os.umask(mask)
    directory.chmod(0o777 & ~mask)


def _take_place(staging: Path, final: Path) -> None:
    if not (final.is_dir() and any(final.iterdir())):
        staging.replace(final)  # atomic, also over an empty directory
    else:
        replaced = staging.with_suffix(REPLACED)
        lock = try_lock(final)  # so that nobody takes it for one that a killed run left
        try:
            final.rename(replaced)
            try:
                staging.rename(final)
            except BaseException:
                replaced.rename(final)
                raise
            shutil.rmtree(replaced)
        finally:
            if lock is not None:
                os.close(lock)
    to_disk(final.parent)


def to_disk(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
