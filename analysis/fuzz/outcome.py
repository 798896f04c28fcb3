"""What came of a case, and whether it is a finding."""

from __future__ import annotations

import os
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from precalign.errors import PrecalignError

KINDS = {
    "exception": "an exception that is no refusal: a user would be told of a defect",
    "warning": "a warning that a user would see",
    "hang": "no answer within the limit",
    "death": "the process ended: a signal, or an exit",
    "code": "code ran, or a file was opened, because an input asked for it",
    "memory": "more memory than the bound",
    "text": "a message with control characters, with a line of the input's own, or without end",
}
"""What counts as a finding."""
MOST_MESSAGE = 4000
"""Characters of a message; a longer one hides what it says."""
MOST_DETAIL = 6000
_ROOT = str(Path(__file__).resolve().parents[2])
_NOT_OURS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}fuzz{os.sep}")


@dataclass(frozen=True)
class Finding:
    """A case that was not just read or refused.

    Attributes
    ----------
    target : str
    seed, case : int
        What makes it again.
    kind : str
        A key of `KINDS`.
    what : str
        In a line.
    site : str
        Innermost line of precalign, "file:line in function"; empty where there is none.
    detail : str
        A traceback or what the process left.
    """

    target: str
    seed: int
    case: int
    kind: str
    what: str
    site: str = ""
    detail: str = ""

    @property
    def signature(self) -> tuple[str, ...]:
        """What findings of one cause share."""
        what = self.what if self.kind == "code" else " ".join(self.what.split()[: 1 if self.kind == "exception" else 2])
        return (self.target, self.kind, what, self.site)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def harm_of(message: str) -> str | None:
    """Return what a message may do to a terminal or a log, None if nothing."""
    odd = next((c for c in message if not c.isprintable() and c != "\n"), None)
    if odd is not None:
        return f"control character {odd!a} in the message"
    lines = message.split("\n")[1:]
    told = lines[:-1] if lines and lines[-1].startswith("Hint: ") else lines
    if not all(
        line.startswith("  ") for line in told
    ):  # lines that go on are indented; another one may come from the input
        return "a line of its own in the message"
    return f"a message of {len(message)} characters" if len(message) > MOST_MESSAGE else None


def judged(error: BaseException, refusals: tuple[type[PrecalignError], ...]) -> tuple[str, str] | None:
    """Return kind and description of what an exception means, None if it is a refusal as it should be."""
    if isinstance(error, refusals):
        harm = harm_of(str(error))
        return None if harm is None else ("text", harm)
    if isinstance(error, Warning):
        return "warning", described(error)
    if isinstance(error, MemoryError):
        return "memory", described(error)
    return "exception", described(error)


def described(error: BaseException) -> str:
    """Return class and message of an exception in one harmless line."""
    text = ascii(str(error))[1:-1]
    return f"{type(error).__name__}: {text[:300]}"


def site_of(trace: TracebackType | None) -> str:
    """Return the innermost line of precalign in a traceback, the fuzzer's own left out."""
    found = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        name = code.co_filename
        if name.startswith(_ROOT) and not any(part in name.removeprefix(_ROOT) for part in _NOT_OURS):
            found = f"{name.removeprefix(_ROOT + os.sep)}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return found


def detail_of(error: BaseException) -> str:
    """Return the traceback; its end, where it is long."""
    return "".join(traceback.format_exception(error))[-MOST_DETAIL:]
