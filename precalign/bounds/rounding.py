"""What the roundings of the stated order can do at most: binary32, round to nearest even.

u = 2^-24. A result is fl(x) = x (1 + d) + e with |d| <= u, |e| <= 2^-150 and d e = 0; k roundings one after the other are a factor
1 + theta with |theta| <= gamma(k) = k u / (1 - k u) (Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1).
"""

from __future__ import annotations

UNIT_ROUNDOFF = 2.0**-24
TINY = 2.0**-149
"""The spacing of subnormals: twice what one result loses there."""

LOG2E_ERROR = 1.335e-8
"""|LOG2E ln 2 - 1| of the binary32 LOG2E."""
EXP2_ULP = 0.80
"""Error of exp2_fma in ulp on [-126, 0]: enumerated (tests/core/test_exp2.py, docs/proofs.md)."""

EXPONENT_ERROR = (1 + UNIT_ROUNDOFF) ** 2 * (1 + LOG2E_ERROR) - 1 + 2.0**-50
"""fl(fl(s - m) * LOG2E) ln 2 is within this of s - m, relative; 2^-50 is for the rounding of this line."""
WEIGHT_ERROR = EXP2_ULP * 2.0**-23 / (1 - EXP2_ULP * 2.0**-23) + TINY + 2.0**-76
"""|log w - x ln 2| for w = exp2_fma(x): an ulp is at most 2^-23 of the result."""


def gamma(k: int) -> float:
    """Return k u / (1 - k u), rounded up."""
    if k * UNIT_ROUNDOFF >= 0.5:
        raise ValueError(f"{k} roundings of binary32 in a row have no useful bound")
    return k * UNIT_ROUNDOFF / (1 - k * UNIT_ROUNDOFF) * (1 + 2.0**-50)


def inflation(n_terms: int) -> float:
    """Return the factor that covers the bound's own rounding, where it is made of chains of `n_terms` non-negative terms.

    Chains run in binary32 over at most 64 terms or head_dim channels (`n_terms` is the larger, plus 16 for what is done to each term) and from there on in
    binary64; 2^-29 covers 2^22 binary64 roundings. All terms are non-negative, so every rounding is relative to the result.
    """
    return (1 + gamma(n_terms)) / (1 - gamma(n_terms)) * (1 + 2.0**-29)
