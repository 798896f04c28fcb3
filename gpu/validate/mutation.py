"""The validator validated: every seeded defect must be caught."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from precalign.errors import InputError
from precalign.formats import BINARY16
from precalign.gpu.devices.ptx import PtxDevice
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.kernels.config import sources
from precalign.gpu.validate.case import Case
from precalign.gpu.validate.check import check
from precalign.gpu.validate.pool import in_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from precalign.gpu.validate.mutant import Mutant


@dataclass(frozen=True)
class Catch:
    """What became of a seeded defect.

    Attributes
    ----------
    mutant, kind, file : str
    caught_by : str or None
        The first point that failed, "fault: ..." where the machine stopped the kernel, "compiler" where it does not compile; None where
        nothing noticed.
    case : str or None
        The case that caught it.
    evidence : str
        The first difference.
    tried : int
        Cases until then.
    """

    mutant: str
    kind: str
    file: str
    caught_by: str | None
    case: str | None
    evidence: str
    tried: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def hunting_cases(rule: str, *, one_pass: bool = False) -> Iterator[Case]:
    """Return the cases against which a defect is tried, cheapest first; one that fails is enough."""

    def case(head_dim: int, group: int, data: str, *appends: tuple[int, ...], seed: int = 0, splits: int = 64) -> Case:
        config = KernelConfig(head_dim, group, BINARY16, rule, split_tokens=splits, one_pass=one_pass)
        return Case(config, 2, appends, data, seed)

    if one_pass:  # a running maximum needs pages in a split, and splits
        yield case(64, 2, "spread", (100, 3), (30, 1), splits=128)
        yield case(64, 4, "normal", (190,), (3,), splits=256, seed=4)  # mild scores: every rescaling shows in a sum
        yield case(64, 3, "peaked", (330,), (3,), splits=256, seed=2)
    else:
        yield case(64, 2, "spread", (70, 5), (3, 1))
    yield case(96, 3, "peaked", (321, 1), (1, 2), seed=1)
    yield case(128, 4, "normal", (650, 0, 64), (0, 7, 1), seed=2)
    for seed, data in enumerate(("tiny", "flat", "negative", "wide")):
        yield case(128, 2, data, (130, 66), (1, 1), seed=3 + seed, splits=128 if one_pass else 64)
    yield Case(KernelConfig(64, 1, BINARY16, rule, one_pass=one_pass), 1, ((2500,),), "spread", 9)


def hunt(mutant: Mutant) -> Catch:
    """Try a defect against one case after another until one catches it."""
    texts = mutant.apply(sources())
    place = (mutant.name, mutant.kind, mutant.file)
    tried = 0
    for case in hunting_cases(mutant.rule, one_pass=mutant.one_pass):
        tried += 1
        try:
            result = check(case, PtxDevice(texts=texts), until_failure=True)
        except InputError as error:
            return Catch(*place, "compiler", str(case), str(error).splitlines()[0], tried)
        failure = result.tallies.first_failure()
        if result.fault is not None:
            return Catch(*place, "fault", str(case), result.fault, tried)
        if failure is not None:
            point, tally = failure
            assert tally.first is not None  # noqa: S101 - a failed tally holds its first difference
            return Catch(*place, point, str(case), tally.first.lines()[1].strip(), tried)
    return Catch(*place, None, None, "", tried)


def hunt_all(mutants: Sequence[Mutant], jobs: int, progress: Callable[[int], None] = lambda _: None) -> Iterator[Catch]:
    """Hunt defects in several processes, in the order of the list."""
    for catch in in_processes(hunt, mutants, jobs):
        progress(1)
        yield catch
