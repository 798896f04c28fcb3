"""The exponential functions that softmax kernels call, and how far each may be off.

An entry is a name, the form of its argument, its error in units in the last place, and who says so. Adding one is one line.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from precalign.bounds.rounding import EXP2_ULP
from precalign.errors import UsageError

NATURAL, BASE_2, FOLDED = "natural", "base-2", "folded"
FORMS = {
    NATURAL: "exp(fl(s - m))",
    BASE_2: "exp2(fl(fl(s - m) * LOG2E))",
    FOLDED: "exp2(fma(qk, c, -fl(m * c))), c = scale * log2(e)",
}


class Exponential(NamedTuple):
    """How a side computes e^(s - m).

    Attributes
    ----------
    name : str
    form : str
        One of `FORMS`.
    ulps : float
        Error of the function itself, in ulp of the softmax's format.
    source : str
    """

    name: str
    form: str
    ulps: float
    source: str


EXPONENTIALS = {
    e.name: e
    for e in (
        Exponential("correct", NATURAL, 0.5, "correctly rounded"),
        Exponential(
            "exp", NATURAL, 1.0, "glibc manual, Known Maximum Errors (expf 1 ulp); SLEEF u10, which torch calls"
        ),
        Exponential("exp2_fma", BASE_2, EXP2_ULP, "enumerated over all arguments, docs/proofs.md"),
        Exponential(
            "ex2.approx", BASE_2, 2.0, "PTX ISA, ex2.approx.f32: 2 ulp over the full range; also what __expf calls"
        ),
        Exponential("ex2.approx-folded", FOLDED, 2.0, "PTX ISA, as above; the form of FlashAttention-2 and later"),
        Exponential(
            "cuda-expf", NATURAL, 2.0, "CUDA C++ Programming Guide, Mathematical Functions: expf, 2 ulp (full range)"
        ),
        Exponential(
            "numpy", NATURAL, 3.0, "NumPy's vectorised float32 exp: 2.42 ulp found over 6 million arguments, rounded up"
        ),
        Exponential(
            "torch-flash", NATURAL, 20.0, "torch's CPU flash attention, Vectorized::exp_u20: 'ULP=20' by its source"
        ),
    )
}
_OWN = re.compile(r"(?:(natural|base-2|folded):)?(\d+(?:\.\d+)?)")


def get_exponential(text: str) -> Exponential:
    """Return an exponential by name, or an own one: `1.5`, `base-2:2`, `folded:2` (form and error in ulp).

    Raises
    ------
    UsageError
        If it is neither.
    """
    if found := EXPONENTIALS.get(text.lower()):
        return found
    if match := _OWN.fullmatch(text):
        return Exponential(text, match[1] or NATURAL, float(match[2]), "stated by the user")
    raise UsageError(
        f"unknown exponential {text!r}",
        hint="known: " + ", ".join(EXPONENTIALS) + "; or its error in ulp, as 1.5, base-2:2 or folded:2",
    )
