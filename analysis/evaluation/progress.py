"""The figures of an evaluation while it runs: one line of JSON each, so that an interrupted run goes on."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from precalign.analysis.readers import printable
from precalign.analysis.results.directory import writing
from precalign.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EVAL_FILE, PAGE_FILE = "eval.json", "report.html"
FILES = {EVAL_FILE, PAGE_FILE}
PROGRESS_FILE = "progress.jsonl"


class Progress:
    """Records beside the target, in TARGET.partial/progress.jsonl.

    Parameters
    ----------
    target : Path
        The directory that will hold the result.
    identity : mapping
        What is evaluated, plain data: the first line.

    Raises
    ------
    OutputError
        If an unfinished evaluation of something else stands there.
    """

    def __init__(self, target: Path, identity: Mapping[str, Any]) -> None:
        self._target, self.folder = target, target.with_name(target.name + ".partial")
        self._file = self.folder / PROGRESS_FILE
        self.records: dict[tuple[str, str, int], dict[str, Any]] = {}
        first = json.dumps(identity, sort_keys=True)
        with writing(target):
            lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else []
            if lines and lines[0] != first:
                raise OutputError(
                    f"{printable(self.folder)}: holds an unfinished evaluation of another kind",
                    hint="finish that one with its own options, or remove the folder",
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            whole = [line for line in lines[1:] if _is_whole(line)]
            self._file.write_text("".join(f"{line}\n" for line in (first, *whole)), encoding="utf-8")
        for line in whole:
            self._keep(json.loads(line))

    def _keep(self, record: dict[str, Any]) -> None:
        self.records[record["kind"], record["rule"], record["window"]] = record

    def get(self, kind: str, rule: str, window: int) -> dict[str, Any] | None:
        """Return a record of an earlier run or of this one, or None."""
        return self.records.get((kind, rule, window))

    def add(self, record: dict[str, Any]) -> dict[str, Any]:
        """Keep a record (kind, rule, window and figures), on the disk before this returns."""
        with writing(self._target), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._keep(record)
        return record

    def finish(self, summary: Mapping[str, Any], page: str) -> None:
        """Write the result and put it in place of the target; the records go."""
        with writing(self._target):
            self._file.unlink()
            (self.folder / EVAL_FILE).write_text(
                json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )
            (self.folder / PAGE_FILE).write_text(page, encoding="utf-8")
            if self._target.is_dir():
                shutil.rmtree(self._target)
            self.folder.replace(self._target)


def check_eval_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that must not be written, before any work is done.

    Raises
    ------
    OutputError
        If something is there that is no evaluation, or is one and must not be replaced.
    """
    with writing(target):
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return
        if not overwrite:
            raise OutputError(
                f"{printable(target)}: exists already", hint="choose another directory, or replace it with --overwrite"
            )
        if not target.is_dir() or {entry.name for entry in target.iterdir()} - FILES:
            raise OutputError(
                f"{printable(target)}: holds more than an evaluation of precalign, so it is not overwritten",
                hint="choose another directory",
            )


def _is_whole(line: str) -> bool:
    """Whether a line was written to its end."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
