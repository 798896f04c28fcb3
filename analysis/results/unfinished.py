"""What an unfinished run of a set leaves in its directory, and how others learn of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precalign.errors import shown
from precalign.strict_json import parse_json

if TYPE_CHECKING:
    from pathlib import Path

RUN_FOLDER = ".precalign-run"
"""Inside the directory of a set while it is computed: manifest, plan, finished groups, lock. Gone when the set is whole."""
MANIFEST_FILE, PLAN_FILE, GROUPS_FOLDER, LOCK_FILE = "manifest.json", "plan.jsonl", "groups", "lock"
GROUP_SUFFIX = ".group"


@dataclass(frozen=True)
class Unfinished:
    """A run that has not come to its end.

    Attributes
    ----------
    command : str
        What goes on with it.
    done : int
        Groups of tasks that are finished.
    """

    command: str
    done: int

    def __str__(self) -> str:
        """Return what is shown of it, behind the directory's name."""
        return f"holds an unfinished run ({self.done} {'group' if self.done == 1 else 'groups'} of tasks done)"


def unfinished(directory: Path) -> Unfinished | None:
    """Return the unfinished run of a directory, None if there is none."""
    folder = directory / RUN_FOLDER
    if not folder.is_dir():
        return None
    try:
        command = shown(parse_json((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["command"], 1000)
    except (OSError, ValueError, KeyError, TypeError):
        command = "precalign analyze ..., as it was begun"
    done = sum(1 for _ in (folder / GROUPS_FOLDER).glob(f"*{GROUP_SUFFIX}"))
    return Unfinished(command, done)
