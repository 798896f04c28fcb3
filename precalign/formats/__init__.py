"""Floating-point formats by name, or as a user writes them: ``get_format("e4m3:bias=7,specials=fn")``."""

from __future__ import annotations

import re

from precalign.errors import UsageError
from precalign.formats.format import Format, Specials
from precalign.formats.p3109 import p3109

BINARY64 = Format("binary64", 11, 52, 1023, aliases=("fp64", "float64", "double"))
BINARY32 = Format("binary32", 8, 23, 127, aliases=("fp32", "float32", "single"))
TF32 = Format("tf32", 8, 10, 127, aliases=("tensorfloat32",))
BINARY16 = Format("binary16", 5, 10, 15, aliases=("fp16", "float16", "half"))
BFLOAT16 = Format("bfloat16", 8, 7, 127, aliases=("bf16",))
E5M2 = Format("e5m2", 5, 2, 15, aliases=("fp8_e5m2", "float8_e5m2"))
E4M3FN = Format("e4m3fn", 4, 3, 7, Specials.FN, aliases=("e4m3", "fp8_e4m3", "fp8_e4m3fn", "float8_e4m3fn"))
E5M2FNUZ = Format("e5m2fnuz", 5, 2, 16, Specials.FNUZ, aliases=("float8_e5m2fnuz",))
E4M3FNUZ = Format("e4m3fnuz", 4, 3, 8, Specials.FNUZ, aliases=("float8_e4m3fnuz",))
E4M3B11FNUZ = Format("e4m3b11fnuz", 4, 3, 11, Specials.FNUZ, aliases=("float8_e4m3b11fnuz",))
E4M3_IEEE = Format("e4m3ieee", 4, 3, 7, aliases=("float8_e4m3",))
E3M4 = Format("e3m4", 3, 4, 3, aliases=("float8_e3m4",))
E3M2 = Format("e3m2", 3, 2, 3, Specials.FINITE, aliases=("fp6_e3m2", "float6_e3m2fn"))
E2M3 = Format("e2m3", 2, 3, 1, Specials.FINITE, aliases=("fp6_e2m3", "float6_e2m3fn"))
E2M1 = Format("e2m1", 2, 1, 1, Specials.FINITE, aliases=("fp4_e2m1", "float4_e2m1fn", "fp4"))
E8M0 = Format("e8m0", 8, 0, 127, Specials.UNSIGNED_NAN, signed=False, aliases=("float8_e8m0fnu",))

FORMATS = {
    f.name: f
    for f in (
        *(BINARY64, BINARY32, TF32, BINARY16, BFLOAT16),
        *(E5M2, E4M3FN, E5M2FNUZ, E4M3FNUZ, E4M3B11FNUZ, E4M3_IEEE, E3M4),
        *(E3M2, E2M3, E2M1, E8M0),
    )
}
_BY_ANY_NAME = FORMATS | {alias: f for f in FORMATS.values() for alias in f.aliases}
_OWN = re.compile(r"e([0-9]{1,9})m([0-9]{1,9})(?::(.*))?")
_P3109 = re.compile(r"p3109:k=([0-9]{1,9}),p=([0-9]{1,9})(?:,(.*))?")


def get_format(name: str) -> Format:
    """Return the format known under a canonical name or an alias, or described by the text.

    Parameters
    ----------
    name : str
        A name ("binary16", "fp16"), ``eEmM[:bias=B,specials=S]`` with E exponent and M trailing significand bits, S one of ieee, fn,
        fnuz, finite (bias 2^(E-1) - 1 and ieee if not given), or ``p3109:k=K,p=P[,unsigned][,finite]``.

    Raises
    ------
    UsageError
        If no format has that name; the message lists those there are.
    """
    text = name.strip().lower()
    found = _BY_ANY_NAME.get(text)
    if found is not None:
        return found
    if match := _P3109.fullmatch(text):
        return p3109(int(match[1]), int(match[2]), match[3] or "")
    if match := _OWN.fullmatch(text):
        return _own(text, int(match[1]), int(match[2]), match[3] or "")
    raise UsageError(
        f"unknown format {name!r}",
        hint="known: " + ", ".join(FORMATS) + '; or write your own as "e5m10" or "e4m3:bias=8,specials=fnuz"',
    )


def _own(text: str, exponent_bits: int, trailing_significand_bits: int, settings: str) -> Format:
    bias, specials = (1 << max(exponent_bits - 1, 0)) - 1, Specials.IEEE
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key == "bias" and re.fullmatch(r"[+-]?[0-9]{1,9}", value):
            bias = int(value)
        elif key == "specials" and value in {s.value for s in Specials if s.user}:
            specials = Specials(value)
        else:
            raise UsageError(
                f"format {text!r}: cannot read {setting!r}", hint="settings: bias=B and specials=ieee|fn|fnuz|finite"
            )
    if not 1 <= exponent_bits <= 11 or not 0 <= trailing_significand_bits <= 52 or abs(bias) > 1023:
        raise UsageError(
            f"format {text!r} is out of range",
            hint="1 to 11 exponent bits, 0 to 52 trailing significand bits, |bias| at most 1023",
        )
    if specials is Specials.IEEE and trailing_significand_bits == 0:
        raise UsageError(
            f"format {text!r} has no code for NaN",
            hint="IEEE specials need at least one trailing significand bit; or specials=finite",
        )
    fmt = Format(text, exponent_bits, trailing_significand_bits, bias, specials)
    if fmt.emin - trailing_significand_bits < -1074 or fmt.emax > 1023:
        raise UsageError(
            f"format {text!r} has values that binary64 cannot hold", hint="every value must be a binary64 number"
        )
    return fmt


__all__ = [
    "BFLOAT16", "BINARY16", "BINARY32", "BINARY64", "E2M1", "E2M3", "E3M2", "E3M4", "E4M3B11FNUZ", "E4M3FN", "E4M3FNUZ", "E4M3_IEEE", "E5M2",
    "E5M2FNUZ", "E8M0", "FORMATS", "TF32", "Format", "Specials", "get_format", "p3109",
]  # fmt: skip
