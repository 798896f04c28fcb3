"""The hidden folder in which a set is computed: who writes there, what was asked, what is finished; and how the whole takes its place."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precalign.analysis.results.directory import OURS, check_target, to_disk, writing
from precalign.analysis.results.locks import try_lock
from precalign.analysis.results.schema import SUMMARY_FILE
from precalign.analysis.results.unfinished import (
    GROUP_SUFFIX,
    GROUPS_FOLDER,
    LOCK_FILE,
    MANIFEST_FILE,
    PLAN_FILE,
    RUN_FOLDER,
    unfinished,
)
from precalign.analysis.sets.groups import whole
from precalign.errors import OutputError, shown
from precalign.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from precalign.analysis.sets.planning import Planned

RUN_SCHEMA = "precalign.run/1"
WHOLE_FOLDER, PUBLISHING_FILE = "whole", "publishing"
HINT = "what is finished stays: make room or choose a place that can be written, then run the same command again"
COMPARED = ("options", "versions", "dumps")
"""What must be the same for a run to go on."""


class Workspace:
    """The hidden folder of a run that holds its lock.

    Attributes
    ----------
    target : Path
        The directory of the set.
    plan : Path
        The plan, once it is complete.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = Path(os.path.realpath(target)) / RUN_FOLDER
        self.plan = self.folder / PLAN_FILE
        self._groups = self.folder / GROUPS_FOLDER

    def begin(self, manifest: dict[str, Any], *, overwrite: bool) -> None:
        """Go on with what is there if it is the same run; else begin anew.

        Parameters
        ----------
        manifest : dict
            `COMPARED`, and the command that goes on.
        overwrite : bool
            Whether the unfinished run of something else may be thrown away.

        Raises
        ------
        OutputError
            If something else was begun there.
        """
        there = self._manifest()
        # What it wrote must be what is compared: a tuple is a list in JSON.
        manifest = json.loads(json.dumps({"schema": RUN_SCHEMA} | manifest, allow_nan=False))
        different = None if there is None else _difference(there, manifest)
        if different is not None and not overwrite:
            raise OutputError(
                f"{self.target}: the unfinished run there was begun with {different}",
                hint=f"go on with `{(there or {}).get('command')}`, or start again with --overwrite",
            )
        with writing(self.target, HINT):
            if there is None or different is not None:
                self._clear()
            self._groups.mkdir(exist_ok=True)
            _write(self.folder / MANIFEST_FILE, json.dumps(manifest, indent=1).encode())

    def _manifest(self) -> dict[str, Any] | None:
        try:
            held = parse_json((self.folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return held if isinstance(held, dict) else None

    def _clear(self) -> None:
        for entry in self.folder.iterdir():
            if entry.name != LOCK_FILE:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def start_again(self) -> None:
        """Throw away what was planned and computed."""
        with writing(self.target, HINT):
            self.plan.unlink()
            shutil.rmtree(self._groups)
            self._groups.mkdir()

    def write_plan(self, plans: Iterable[Planned]) -> None:
        """Write the plan, whole or not at all."""
        part = self.plan.with_suffix(".part")
        with writing(self.target, HINT):
            file = part.open("w", encoding="utf-8")
        with file:
            for planned in plans:
                with writing(self.target, HINT):
                    file.write(planned.line())
            with writing(self.target, HINT):
                file.flush()
        with writing(self.target, HINT):
            to_disk(part)
            part.replace(self.plan)

    def group_file(self, index: int) -> Path:
        """Return where a group's rows stand once it is finished."""
        return self._groups / f"{index:06d}{GROUP_SUFFIX}"

    def finished(self, index: int) -> bool:
        """Whether a group is finished; a file that the disk did not keep whole is removed."""
        path = self.group_file(index)
        try:
            if whole(path.read_bytes()):
                return True
        except FileNotFoundError:
            return False
        path.unlink()
        return False

    def keep(self, index: int, packed: bytes) -> None:
        """Write a finished group, whole or not at all.

        Raises
        ------
        OutputError
            If it cannot be written; what was finished before stays.
        """
        with writing(self.target, HINT):
            _write(self.group_file(index), packed)

    def forget(self) -> None:
        """Let nothing remain of a run that cannot begin."""
        self._clear()

    @property
    def staged(self) -> Path:
        """Where the whole set stands before it takes its place."""
        return self.folder / WHOLE_FOLDER

    def staging(self) -> Path:
        """Return an empty folder for the whole set."""
        folder = self.staged
        with writing(self.target, HINT):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        return folder

    def publish(self) -> None:
        """Let the staged set take its place; summary.json comes last, and then the hidden folder goes."""
        staged, final = self.staged, self.folder.parent
        with writing(self.target, HINT):
            for path in [*staged.rglob("*"), staged]:
                to_disk(path)
            (final / SUMMARY_FILE).unlink(missing_ok=True)
            to_disk(final)
            # From here on a summary.json in the directory is the new one.
            _write(self.folder / PUBLISHING_FILE, b"")
            for name in sorted(OURS - {RUN_FOLDER, SUMMARY_FILE}):
                _remove(final / name)
                if (staged / name).exists():
                    (staged / name).rename(final / name)
            to_disk(final)
            (staged / SUMMARY_FILE).rename(final / SUMMARY_FILE)
            to_disk(final)
        self.remove()

    def published(self) -> bool:
        """Whether an earlier run was killed after the set was whole."""
        return (self.folder / PUBLISHING_FILE).exists() and (self.folder.parent / SUMMARY_FILE).exists()

    def remove(self) -> None:
        """Remove the hidden folder."""
        with writing(self.target, HINT):
            (self.folder / MANIFEST_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.folder)


@contextmanager
def workspace(target: Path, *, overwrite: bool) -> Iterator[Workspace]:
    """Yield the workspace of a set, locked.

    Raises
    ------
    OutputError
        If another run writes there, or what is there must not be replaced.
    """
    held = Workspace(target)
    with writing(target, HINT):
        begun = held.folder.is_dir()
    if not begun:
        check_target(target, overwrite=overwrite)
    with writing(target):
        held.folder.mkdir(parents=True, exist_ok=True)
        lock = try_lock(held.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    if lock is None:
        raise OutputError(f"{target}: another run is writing there", hint="wait for it, or choose another directory")
    try:
        yield held
    finally:
        os.close(lock)
        _leave_nothing(held)


def _leave_nothing(held: Workspace) -> None:
    """Remove the folder of a run that has not even begun, and the directory if it holds nothing else."""
    if held.folder.is_dir() and not (held.folder / MANIFEST_FILE).exists():
        shutil.rmtree(held.folder, ignore_errors=True)
        try:
            held.folder.parent.rmdir()
        except OSError:  # an earlier result, or the user's own empty directory that someone else looks into
            return


def check_set_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target before any work is done, unless an unfinished set is there."""
    if unfinished(target) is None:
        check_target(target, overwrite=overwrite)


def _difference(there: dict[str, Any], now: dict[str, Any]) -> str | None:
    if there.get("schema") != now["schema"]:
        return f"another version of precalign ({shown(repr(there.get('schema')))}, here {now['schema']!r})"
    for what in COMPARED:
        old, new = there.get(what), now[what]
        if old == new:
            continue
        if not isinstance(old, dict):
            return f"other {what}"
        key = next(key for key in {**old, **new} if old.get(key) != new.get(key))
        return f"other {what}: {key} {_shown(old.get(key))} there, {_shown(new.get(key))} now"
    return None


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        to_disk(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
