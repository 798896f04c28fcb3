"""A worker process as its master sees it: orders out, answers back, and an end to it where none comes."""

from __future__ import annotations

import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from precalign.analysis.fuzz.worker import FAULTS_FILE, HEARTBEAT, HEARTBEAT_FILE, IDLE, PREPARING
from precalign.analysis.parallel import Stopped
from precalign.gpu.nvrtc import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

POLL_SECONDS = 0.2
MOST_POLL_SECONDS = 1.0
"""Between two looks at a worker; where more has gone by, this process was stopped itself, and its worker with it."""
PREPARE_SECONDS = 300.0
"""For making the seeds of a target and reading each once; kernels are compiled meanwhile."""
MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - a folder of the system, in which mkdtemp makes one of our own
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""One core is one worker's."""


def _disk() -> Path | None:
    """Return where the files of cases are written: where TMPDIR says, or else a disk of memory if there is one."""
    return MEMORY_DISK if "TMPDIR" not in os.environ and os.access(MEMORY_DISK, os.W_OK) else None


def _kernel_checks() -> dict[str, str]:
    """Return what makes numba check the bounds of every access in compiled code: an error then, where else strange memory is read.

    Such code is kept apart from the other.
    """
    cache = cache_folder() / "checked-kernels"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    return {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(cache)} if os.access(cache, os.W_OK) else {}


class Ended(Exception):  # noqa: N818 - a fact about the worker, which is then replaced
    """A worker that gave no answer.

    Attributes
    ----------
    case : int or None
        What it was doing; None where it was between cases.
    kind : str
        "hang" or "death".
    what, detail : str
    """

    def __init__(self, case: int | None, kind: str, what: str, detail: str) -> None:
        super().__init__(what)
        self.case, self.kind, self.what, self.detail = case, kind, what, detail


class WorkerProcess:
    """One worker, with a folder of its own on a disk of memory where there is one.

    Parameters
    ----------
    limit_seconds : float
        For one case.
    checked : bool
        Whether compiled kernels check their bounds; they are compiled anew for it, once.
    stopped : callable
        Whether nobody waits for answers any more.
    """

    def __init__(
        self, limit_seconds: float, *, checked: bool = True, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._limit, self._stopped = limit_seconds, stopped
        self._folder = Path(tempfile.mkdtemp(prefix="precalign-fuzz-", dir=_disk()))
        beat = self._folder / HEARTBEAT_FILE
        beat.write_bytes(HEARTBEAT.pack(IDLE, 0.0))
        with beat.open("r+b") as file:
            self._heartbeat = mmap.mmap(file.fileno(), HEARTBEAT.size)
        self._errors = (self._folder / "stderr").open("w+b")
        paths = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-m", "precalign.analysis.fuzz.worker", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | THREADS | {"PYTHONPATH": paths} | (_kernel_checks() if checked else {}),
            start_new_session=True,  # an interrupt is the master's: it ends its workers itself
        )
        self._rest = b""
        self._beat: tuple[int, float] = (IDLE, 0.0)
        self._awake, self._polled = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove what is its own."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # an order that nobody read
                    continue
        shutil.rmtree(self._folder, ignore_errors=True)

    def order(self, target: str, seed: int, begin: int, end: int) -> dict[str, Any]:
        """Have cases run and return the answer.

        Raises
        ------
        Ended
            If the process dies, or a case takes too long; the worker is of no use then.
        Stopped
            If nobody waits any more; likewise.
        """
        line = json.dumps({"target": target, "seed": seed, "begin": begin, "end": end}) + "\n"
        try:
            self._stream(self._process.stdin).write(line.encode())
            self._stream(self._process.stdin).flush()
        except BrokenPipeError:
            raise self._death() from None
        out = self._stream(self._process.stdout)
        while True:
            if select.select([out], [], [], POLL_SECONDS)[0]:
                piece = os.read(out.fileno(), 1 << 16)
                if not piece:
                    raise self._death()
                self._rest += piece
                whole, newline, rest = self._rest.partition(b"\n")
                if newline:
                    self._rest = rest
                    answer: dict[str, Any] = json.loads(whole)
                    if "broken" in answer:
                        raise RuntimeError(
                            f"fuzz target {target}, near case {begin}: it cannot make or place a case\n{answer['broken']}"
                        )
                    return answer
            if self._stopped():
                raise Stopped
            self._check_hang(target)

    @staticmethod
    def _stream(stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None  # noqa: S101 - both are pipes
        return stream

    def _check_hang(self, target: str) -> None:
        beat = HEARTBEAT.unpack_from(self._heartbeat)
        case, limit = beat[0], PREPARE_SECONDS if beat[0] == PREPARING else self._limit
        now = time.monotonic()
        if beat != self._beat:
            self._beat, self._awake = beat, 0.0
        elif not self._is_stopped():
            self._awake += min(now - self._polled, MOST_POLL_SECONDS)
        self._polled = now
        if case == IDLE or self._awake <= limit:
            return
        self._process.send_signal(signal.SIGABRT)  # tells where it hangs before it ends
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        if case == PREPARING:
            raise RuntimeError(f"fuzz target {target} is not ready within {limit:g} s\n{self._left()}")
        raise Ended(case, "hang", f"no answer within {limit:g} s", self._left())

    def _is_stopped(self) -> bool:
        """Whether somebody has stopped the process, as a shell does by Ctrl-Z: it works on nothing then."""
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_bytes()
        except OSError:
            return False
        return text.rpartition(b")")[2].split(None, 1)[0] in {b"T", b"t"}

    def _death(self) -> Ended:
        code = self._process.wait()
        what = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        case, _ = HEARTBEAT.unpack_from(self._heartbeat)
        return Ended(case if case >= 0 else None, "death", what, self._left())

    def _left(self) -> str:
        """Return what the process wrote as it ended."""
        faults = (self._folder / FAULTS_FILE).read_text(encoding="utf-8", errors="replace")
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        return faults[:4000] + self._errors.read().decode("utf-8", "replace")
