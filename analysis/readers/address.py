"""Where a dump lies: a local path, or a URL that fsspec can open. Local paths never import fsspec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeGuard

from precalign.analysis.readers.base import printable
from precalign.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")

WITH_QUERY = ("http", "https")
"""Protocols in whose URLs a question mark begins a query; elsewhere it is a letter of a name, or of a pattern."""


def is_url(text: str) -> bool:
    """Whether an argument is a URL rather than a path; "C:/x" and "a:b" are paths."""
    return URL.match(text) is not None


def shown_url(url: str) -> str:
    """Return a URL without user, password and query: these may be credentials, and results are passed on."""
    if url.count("://") != 1:
        return url  # a chain of protocols, of which only fsspec knows what is what
    scheme, _, rest = url.partition("://")
    if scheme in WITH_QUERY:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


@dataclass(frozen=True)
class Remote:
    """An object behind a URL, where a reader expects a path.

    Attributes
    ----------
    url : str
        Whole, with whatever secrets it carries; only `str()` of this may be shown.
    """

    url: str

    @property
    def name(self) -> str:
        """Last part of the URL's path."""
        return shown_url(self.url).rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Of the name, as a path's."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix, as a path's."""
        return PurePosixPath(self.name).stem

    def beside(self, name: str) -> Remote:
        """Return another object in the same folder."""
        end = len(self.url)
        if self.url.startswith(WITH_QUERY) and (query := re.search(r"[?#]", self.url)):
            end = query.start()
        return Remote(f"{self.url[:end].rpartition('/')[0]}/{name}{self.url[end:]}")

    def __str__(self) -> str:
        return shown_url(self.url)


Place = Path | Remote


def is_folder(place: Place) -> TypeGuard[Path]:
    """Whether it is a folder on this machine; what lies behind a URL is an object."""
    return not isinstance(place, Remote) and place.is_dir()


def place_of(text: str | Path) -> Place:
    """Return a path or a URL from an argument; `file://` is a path."""
    if isinstance(text, Path) or not is_url(text):
        return Path(text)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return Remote(text)


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL and the path in it.

    Raises
    ------
    UnavailableError
        If fsspec or the package of the protocol is not installed.
    InputError
        If fsspec does not know the protocol.
    """
    try:
        import fsspec
    except ImportError as error:
        raise UnavailableError(
            f"{shown_url(url)}: URLs need fsspec, which is not installed", hint="pip install 'precalign[scale]'"
        ) from error
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UnavailableError(
            f"{shown_url(url)}: {printable(error)}", hint="fsspec names the package of each protocol"
        ) from error
    except (ValueError, OSError) as error:
        raise InputError(f"{shown_url(url)}: {printable(error)}", hint="is the URL right?") from error
    return fs, path


def entries(remote: Remote) -> dict[str, Any]:
    """Return what the store says about an object now, not what was listed before.

    Raises
    ------
    InputError
        If it is not there or may not be read.
    """
    fs, path = file_system(remote.url)
    with reading(remote):
        fs.invalidate_cache()
        info: dict[str, Any] = fs.info(path)
    return info


class reading:  # noqa: N801 - reads as a verb where it is used
    """Turn a store's refusal into an `InputError` that names the object."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{printable(self._remote)}: no such object", hint="is the URL right?") from error
        # Stores raise their own classes (botocore's, aiohttp's), which no one here can list.
        if isinstance(error, Exception) and not isinstance(error, (InputError, UnavailableError)):
            raise InputError(
                f"{printable(self._remote)}: cannot be read: {printable(error or type(error).__name__)}"
            ) from error


def unique(places: Iterator[Place]) -> list[Place]:
    """Return each place once, the first of each; paths that lead to one file are one."""
    seen: dict[object, Place] = {}
    for place in places:
        key = place if isinstance(place, Remote) else place.resolve()
        seen.setdefault(key, place)
    return list(seen.values())
