"""A watch over one process: whatever an input makes it do besides computing is seen, and stopped.

Python tells an audit hook of each file that is opened, each module that is imported, each text that is compiled, each program that is started. The
hook cannot be removed, so a guard belongs into a worker process alone. Native code tells nothing; for that there is the canary, a file that payloads
would leave behind.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precalign.analysis.fuzz.draw import CANARY

if TYPE_CHECKING:
    from types import CodeType, FrameType

_REFUSED = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill", "os.startfile", "subprocess.Popen", "pty.spawn"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.putenv", "os.unsetenv"),
    *("os.chdir", "shutil.", "tempfile.", "socket.", "urllib.", "http.client", "ftplib.", "smtplib.", "webbrowser.", "sqlite3.", "pickle.find_class"),
    *("ctypes.dlopen", "code.__new__", "function.__new__", "builtins.input", "builtins.breakpoint", "cpython.run", "signal.pthread_kill"),
    *("sys.settrace", "sys.setprofile", "sys.addaudithook", "resource.setrlimit", "syslog.", "fcntl."),
)  # fmt: skip
"""Events, or what they begin with, that no reader may cause."""
_PLACES = (
    *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(sys.prefix, sys.base_prefix, "/usr/share", "/usr/lib", "/proc/self", "/sys", "/dev/null", "/etc/localtime"),
    str(Path(__file__).resolve().parents[2]),
)
_ROOTS = {os.path.realpath(place) for place in _PLACES}
"""Where installed files lie: reading them, and running what they hold, is no doing of an input."""
_COMPILERS = (
    "/numba/",
    "/llvmlite/",
    "/dataclasses.py",
    "/collections/__init__.py",
    "/jinja2/",
    "/typing.py",
    "/enum.py",
)
"""Installed code that compiles text of its own making."""
_CACHES = ("/numba/core/caching.py", "/importlib/_bootstrap_external.py")
"""Installed code that keeps files of its own making."""
_MOST_FRAMES = 40


class Refused(BaseException):
    """What an input asked for and did not get."""


class Guard:
    """The watch.

    Parameters
    ----------
    folder : Path
        The only place from which files of a case are read; the process works there.

    Attributes
    ----------
    seen : list of str
        What was refused since `arm`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._canary = Path(self._folder) / CANARY
        self._armed = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def arm(self) -> None:
        """Watch from now on."""
        self.seen = []
        self._armed = True

    def disarm(self) -> None:
        """Watch no longer; what native code may have left is looked for."""
        self._armed = False
        if os.path.lexists(self._canary):
            self.seen.append(f"{CANARY} was left behind: a payload was run")
            Path(self._canary).unlink()

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        told = self._judge(event, arguments)
        if told is not None:
            self._armed = False  # what follows tells of itself only
            self.seen.append(told)
            raise Refused(told)

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        """Return what was refused, None for what may be."""
        if event == "open":
            return self._judge_open(*arguments)
        if event == "exec":
            return None if _of_installed(arguments[0]) or _called_by(_COMPILERS) else f"exec of {_shown(arguments[0])}"
        if event == "compile":
            return None if _only_parses() or _called_by(_COMPILERS) else f"compile of {_shown(arguments[0])}"
        if event == "import":
            found = arguments[0]
            return None if _is_installed(found) else f"import of {_shown(found)}"
        if event in {"pickle.find_class", "code.__new__"} and _called_by(
            _COMPILERS
        ):  # how compiled code brings an exception
            return None
        if event.startswith(_REFUSED) and not _called_by(_CACHES):
            return f"{event} {_shown(arguments)}"
        return None

    def _judge_open(self, path: Any, mode: Any, flags: Any) -> str | None:  # noqa: ANN401 - an event's arguments
        if isinstance(path, int):
            return None
        writes = (
            any(c in mode for c in "wax+")
            if isinstance(mode, str)
            else bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        )
        where = os.path.realpath(os.fsdecode(path))
        if writes:
            return None if _called_by(_CACHES) else f"open of {_shown(self._told(where))} for writing"
        inside = self._told(where) != where
        return (
            None if inside or where.startswith(tuple(_ROOTS)) else f"open of {_shown(where)}, which is not of the case"
        )

    def _told(self, where: str) -> str:
        """Return a path below the folder as relative to it: the folder has another name every time."""
        return where.removeprefix(self._folder + os.sep)


def trust_loaded() -> None:
    """Take the places of all modules that are loaded by now for installed: packages may be links to elsewhere."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        before, packages, _ = os.path.realpath(file or "").partition("site-packages")
        if packages:
            _ROOTS.add(before + packages)


def _of_installed(code: CodeType) -> bool:
    name = getattr(code, "co_filename", "")
    return name.startswith("<frozen") or os.path.realpath(name).startswith(tuple(_ROOTS))


def _is_installed(module: object) -> bool:
    """Whether a module is of Python or installed, by its first name; only what is there can be imported by name."""
    root = str(module).partition(".")[0]
    return root in sys.modules or root in sys.stdlib_module_names or root in _LIBRARIES


_LIBRARIES = frozenset(
    (
        "precalign",
        "numpy",
        "ml_dtypes",
        "pyarrow",
        "numba",
        "llvmlite",
        "scipy",
        "fsspec",
        "safetensors",
        "jinja2",
        "markupsafe",
        "rich",
        "plotly",
    )
)


def _only_parses() -> bool:
    """Whether text is made a syntax tree and nothing else, as ast.literal_eval does it."""
    frame: FrameType | None = sys._getframe(3)  # noqa: SLF001 - the only way to see who asks
    return frame is not None and frame.f_code.co_name == "parse" and frame.f_code.co_filename.endswith("/ast.py")


def _called_by(files: tuple[str, ...]) -> bool:
    frame: FrameType | None = sys._getframe(3)  # noqa: SLF001 - the only way to see who asks
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return False
        if any(file in frame.f_code.co_filename for file in files):
            return True
        frame = frame.f_back
    return False


def _shown(what: object) -> str:
    text = ascii(what)
    return text if len(text) <= 200 else text[:199] + "…"
