"""Locks that end with their process, however it ends: `flock` on a file or directory."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def try_lock(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """Lock what lies at `path` and return its open descriptor; None if another process holds it.

    Closing the descriptor lets go. What was locked still lies at `path`: it was neither removed nor replaced in between.

    Raises
    ------
    OSError
        If it cannot be opened.
    """
    while True:
        handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:  # removed by its owner between open and lock
            if not flags & os.O_CREAT:
                os.close(handle)
                raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
