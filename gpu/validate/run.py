"""Many cases, in several processes, gathered into one result."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from precalign.gpu.devices import open_device
from precalign.gpu.validate.check import CaseResult, check
from precalign.gpu.validate.invariance import Witness, check_invariance, check_splits
from precalign.gpu.validate.points import POINTS, Tallies
from precalign.gpu.validate.pool import in_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precalign.gpu.devices.base import Device
    from precalign.gpu.validate.case import Case, Codes


@dataclass
class Traffic:
    """Plane sectors of a rule, measured and modelled, and of the full read of the same steps."""

    cases: int = 0
    planes: int = 0
    modelled: int = 0
    full: int = 0
    other: int = 0

    @property
    def saving(self) -> float:
        """1 - planes / full."""
        return 1 - self.planes / self.full if self.full else 0.0


@dataclass
class Validation:
    """What a run proved.

    Attributes
    ----------
    device : str
    cases : int
    tallies : Tallies
    traffic : dict of (rule, format, head_dim) to Traffic
    faults : list of str
    witnesses : list of Witness
        The shortest sequences whose result depends on the size of a split, or on the number of passes.
    """

    device: str
    cases: int = 0
    tallies: Tallies = field(default_factory=Tallies)
    traffic: dict[tuple[str, str, int], Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    faults: list[str] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)

    def add(self, result: CaseResult) -> None:
        """Add a case."""
        self.cases += 1
        self.tallies.add(result.tallies)
        if result.fault:
            self.faults.append(f"{result.case}: {result.fault}")
        if result.full_sectors:
            row = self.traffic[result.rule, result.format, result.head_dim]
            row.cases += 1
            row.planes += result.plane_sectors
            row.modelled += result.modelled_sectors
            row.full += result.full_sectors
            row.other += result.other_sectors

    @property
    def failed(self) -> bool:
        """Whether any equality failed."""
        return self.tallies.failed

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        traffic = [
            {
                "rule": rule,
                "format": fmt,
                "head_dim": head_dim,
                "cases": row.cases,
                "plane_sectors": row.planes,
                "modelled_plane_sectors": row.modelled,
                "full_read_plane_sectors": row.full,
                "other_sectors": row.other,
                "saving": row.saving,
            }
            for (rule, fmt, head_dim), row in sorted(self.traffic.items())
        ]
        return {
            "schema": "precalign.validate/1",
            "device": self.device,
            "cases": self.cases,
            "failed": self.failed,
            "points": {name: {"what": POINTS[name], **tally} for name, tally in self.tallies.to_json().items()},
            "traffic": traffic,
            "faults": self.faults,
            "witnesses": [asdict(witness) for witness in self.witnesses],
        }


@dataclass(frozen=True)
class Work:
    """One case for a process.

    Attributes
    ----------
    case : Case
    device : str
        "cpu" executes PTX, "gpu" runs on the current CUDA device, "auto" on that if there is one.
    codes : Codes or None
        Of a dump; None for drawn ones.
    texts : dict of str to str or None
        CUDA sources by name, if not those of the package.
    invariance : bool
        Whether drawn batches are also attended alone, in other slots and with other pages.
    engine : str
        Of the PTX machine: "checked", "compiled" or "both".
    """

    case: Case
    device: str
    codes: Codes | None = None
    texts: dict[str, str] | None = None
    invariance: bool = True
    engine: str = "checked"


def _open(work: Work) -> Device:
    return open_device(work.device, texts=work.texts, engine=work.engine)


def run_one(work: Work) -> CaseResult:
    """Validate one case on a device of its own."""
    device = _open(work)
    result = check(work.case, device, work.codes)
    if work.invariance and result.fault is None and work.codes is None and work.case.batch_size > 1:
        for further in (check_invariance, check_splits):
            further(work.case, lambda: _open(work), result.tallies)
    return result


def validate(work: Sequence[Work], *, jobs: int = 1, progress: Callable[[int], None] = lambda _: None) -> Validation:
    """Validate cases.

    Parameters
    ----------
    work : sequence of Work
        At least one; all on one device.
    jobs : int
        Processes; a GPU is used by one.
    progress : callable
        Told of every case that is done.

    Raises
    ------
    UnavailableError
        If there is no such device, or no CUDA compiler.
    """
    name = _open(work[0]).name
    found = Validation(name)
    for result in in_processes(run_one, work, 1 if name == "gpu" else jobs):
        found.add(result)
        progress(1)
    return found
