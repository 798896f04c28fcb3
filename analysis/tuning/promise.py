"""What a policy promises, when calibration may promise it, and when a verification keeps it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import bdtr

from precalign.errors import InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.analysis.measure import Measured

ABOUT = {
    "error": "the relative output error against exact arithmetic",
    "bound": "the bound that is proven of the relative output error",
}


@dataclass(frozen=True)
class Promise:
    """In every kv head, at least a share `quantile` of decode steps stays within `tolerance`.

    A step counts as within if all query heads of the group are.

    Attributes
    ----------
    tolerance : float
    quantile : float
        In (0, 1]; 1 is every step.
    about : str
        A key of `ABOUT`.
    confidence : float
        In [0, 1): calibration promises only where steps like these, drawn independently, would refute a smaller share with this
        confidence. 0 takes the calibration steps at face value. Without effect on `quantile` 1, of which no sample can be confident.

    Raises
    ------
    UsageError
        If a field is out of its range.
    """

    tolerance: float
    quantile: float = 0.99
    about: str = "error"
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise UsageError(f"--tolerance {self.tolerance:g}: must be a positive number")
        if not 0 < self.quantile <= 1:
            raise UsageError(f"--quantile {self.quantile:g}: must be above 0 and at most 1", hint="1 is every step")
        if not 0 <= self.confidence < 1:
            raise UsageError(f"--confidence {self.confidence:g}: must be at least 0 and below 1")
        if self.about not in ABOUT:
            raise UsageError(f"--about {self.about}: not known", hint="it takes " + " or ".join(ABOUT))

    @property
    def sentence(self) -> str:
        """The promise in words."""
        share = "all" if self.quantile == 1 else f"at least {100 * self.quantile:g} % of"
        return f"In every head, {ABOUT[self.about]} is at most {self.tolerance:g} in {share} decode steps."

    def by_step(self, measured: Measured) -> NDArray[np.float32]:
        """Return the figure that the promise is about, (n_steps,): the largest of the group's query heads."""
        figures: NDArray[np.float32] = (measured.errors if self.about == "error" else measured.bounds).max(axis=1)
        return figures

    def above(self, measured: Measured) -> int:
        """Return in how many steps the tolerance is exceeded."""
        return int(np.count_nonzero(~(self.by_step(measured).astype(np.float64) <= self.tolerance)))

    def allowed(self, n_steps: int) -> int:
        """Return how many of `n_steps` may exceed the tolerance for the promise to be kept in them."""
        return math.floor(n_steps * (1 - Fraction(repr(self.quantile))))

    def allowed_in_calibration(self, n_steps: int) -> int:
        """Return how many of `n_steps` may exceed it for the promise to be made; -1 if these are too few for any.

        The largest k for which a share of exceeding steps above 1 - quantile would show k or fewer of them with a probability of at
        most 1 - confidence (Clopper and Pearson's bound), and never more than `allowed`.
        """
        most = self.allowed(n_steps)
        if self.quantile == 1 or self.confidence == 0:
            return most
        counts = np.arange(most + 1)
        fits = bdtr(counts, n_steps, 1 - self.quantile) <= 1 - self.confidence
        return int(np.count_nonzero(fits)) - 1  # the probability grows with the count

    @property
    def least_steps(self) -> int:
        """Fewest calibration steps from which anything can be promised."""
        if self.quantile == 1 or self.confidence == 0:
            return 1
        return max(1, math.ceil(math.log(1 - self.confidence) / math.log(self.quantile) - 1e-9))

    def check(self, n_steps: int, name: str) -> None:
        """Refuse to calibrate on too few steps.

        Raises
        ------
        InputError
            Naming how many it takes.
        """
        if self.allowed_in_calibration(n_steps) < 0:
            raise InputError(
                f"{name}: quantile {self.quantile:g} with confidence {self.confidence:g} takes {self.least_steps} calibration steps, "
                f"there are {n_steps}",
                hint="take more --steps or a lower --quantile; --confidence 0 takes the calibration steps at face value",
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any, name: str) -> Promise:  # noqa: ANN401 - whatever a file holds
        """Read plain data.

        Raises
        ------
        InputError
            If it is not a promise; `name` is the file.
        """
        number = (int, float)
        kinds: dict[str, type | tuple[type, ...]] = {
            "tolerance": number,
            "quantile": number,
            "confidence": number,
            "about": str,
        }
        if not isinstance(data, dict) or any(
            not isinstance(data.get(key), kind) or isinstance(data.get(key), bool) for key, kind in kinds.items()
        ):
            raise InputError(
                f"{name}: report.promise must hold {', '.join(kinds)}, got {data!r}",
                hint="a policy that `precalign tune` made holds it; for another one give --tolerance",
            )
        try:
            return cls(**{key: data[key] for key in kinds})
        except UsageError as error:
            raise InputError(f"{name}: report.promise: {error.message}") from error
