"""One side of a comparison: the orders, formats and functions by which it computes attention."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import cached_property

from precalign.accumulate.orders import Order, get_order
from precalign.accumulate.sums import known_orders
from precalign.errors import UnavailableError, UsageError
from precalign.formats import BINARY32, BINARY64, Format, get_format
from precalign.matrix_units import MatrixUnit, get_unit
from precalign.matrix_units.unit import CONSECUTIVE
from precalign.tolerance.exponentials import EXPONENTIALS, Exponential, get_exponential
from precalign.tolerance.rounding import Rounding, rounding_to

ANY = "any"
SCALES = ("after", "before", "both")
DIVISIONS = {"exact": 0.0, "reciprocal": 1.0, "approx": 2.0}
"""Extra error of the division in unit roundoffs: none, x * fl(1 / l), x * rcp.approx(l) (PTX ISA: 1 ulp)."""
DIRECTED = {"RTZ", "RUP", "RDN", "RTO"}


@dataclass(frozen=True)
class Softmax:
    """How weights are normalised: `two-pass`, `online:N` or `split:N`, N tokens a block."""

    kind: str = "two-pass"
    block: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "two-pass" else f"{self.kind}:{self.block}"


@dataclass(frozen=True)
class Side:
    """How one side computes; the defaults promise least, so that what is not known may be left out.

    Attributes
    ----------
    exact : bool
        The real numbers themselves: no error at all. The rest is not looked at.
    score_order, sum_order, output_order : Order, MatrixUnit or None
        Of the sums over head_dim, of the normaliser, and over tokens; None: any order whatever.
    accumulator : Format
        Of every partial sum.
    product : Format or None
        Products are rounded to it first; None: they enter exactly (fused multiply-add).
    rounding : str
        Mode of the accumulations: RNE, RNA, RTZ, RUP, RDN, RTO.
    scale : str
        Where the factor of the scores goes: `after` the sum, `before` (queries), `both` (its root on queries and keys).
    score_format : Format or None
        Scores are rounded to it after the scale.
    exp : Exponential
    softmax : Softmax
    softmax_format : Format
        Of s - m, weights, normaliser and division.
    prob_format : Format or None
        What multiplies the values (probabilities, or weights where they are normalised late) is rounded to it.
    division : str
        `exact` (rounded once), `reciprocal` or `approx`.
    output : Format or None
        Outputs are rounded to it.
    """

    exact: bool = False
    score_order: Order | MatrixUnit | None = None
    sum_order: Order | None = None
    output_order: Order | MatrixUnit | None = None
    accumulator: Format = BINARY32
    product: Format | None = BINARY32
    rounding: str = "RNE"
    scale: str = "after"
    score_format: Format | None = None
    exp: Exponential = EXPONENTIALS["exp"]
    softmax: Softmax = Softmax()
    softmax_format: Format = BINARY32
    prob_format: Format | None = None
    division: str = "reciprocal"
    output: Format | None = None

    @cached_property
    def to_accumulator(self) -> Rounding:
        """How partial sums round."""
        return rounding_to(self.accumulator, directed=self.rounding in DIRECTED)

    @cached_property
    def to_product(self) -> Rounding:
        """How products round."""
        return rounding_to(self.product, directed=self.rounding in DIRECTED)

    @cached_property
    def to_softmax(self) -> Rounding:
        """How the softmax rounds: always to nearest."""
        return rounding_to(self.softmax_format)

    @cached_property
    def outcome(self) -> Format:
        """The format of the outputs."""
        return self.output or (BINARY64 if self.exact else self.accumulator)

    def __str__(self) -> str:
        if self.exact:
            return "exact"
        held = ((f.name.replace("_", "-"), getattr(self, f.name)) for f in fields(self) if f.name != "exact")
        return ",".join(f"{name}={_text(name, value)}" for name, value in held)


EXACT = Side(exact=True)
PRESETS = {
    "exact": EXACT,
    "float64": Side(accumulator=BINARY64, product=BINARY64, softmax_format=BINARY64),
    "float32": Side(),
    "stated": Side(
        score_order=get_order("sequential"),
        sum_order=get_order("decode-split"),
        output_order=get_order("blocked:256/sequential"),
        product=None,
        exp=EXPONENTIALS["exp2_fma"],
        division="exact",
    ),
    "torch-math": Side(scale="both"),
    "torch-flash-cpu": Side(exp=EXPONENTIALS["torch-flash"], softmax=Softmax("online", 512)),
    "flash-fp16": Side(
        score_order=get_unit("A100"),
        output_order=get_unit("A100"),
        exp=EXPONENTIALS["ex2.approx-folded"],
        softmax=Softmax("online", 64),
        prob_format=get_format("binary16"),
        output=get_format("binary16"),
        division="approx",
    ),
}
"""Sides with a name. float64 and float32 hold for any order, fused or not: torch.matmul, and NumPy with exp=numpy in float32."""
FORMATS = {"accumulator", "product", "score-format", "softmax-format", "prob-format", "output"}
OPTIONAL = {"product": "fma", "score-format": "none", "prob-format": "none", "output": "none"}
KEYS = (
    *(
        "order",
        "score-order",
        "sum-order",
        "output-order",
        "accumulator",
        "product",
        "rounding",
        "scale",
        "score-format",
        "exp",
    ),
    *("softmax", "softmax-format", "prob-format", "division", "output"),
)


def _text(name: str, value: object) -> str:
    if value is None:
        return ANY if name.endswith("order") else OPTIONAL[name]
    if isinstance(value, MatrixUnit):
        return f"unit:{value.name}"
    return str(getattr(value, "name", value))


def parse_side(text: str) -> Side:
    """Read `preset` or `key=value,key=value`, the preset first if there is one.

    Examples
    --------
    >>> parse_side("order=lanes:32/tree,product=fma,exp=ex2.approx,output=fp16").outcome.name
    'binary16'
    >>> parse_side("exact").exact
    True

    Raises
    ------
    UsageError
        Unknown preset, key, order, format, exponential; a key given twice; a value a key cannot have.
    UnavailableError
        A matrix unit for which no bound is derived.
    """
    first, *rest = [part.strip() for part in text.split(",")]
    side, settings = Side(), [first, *rest]
    if "=" not in first:
        if first.lower() not in PRESETS:
            raise UsageError(f"unknown side {first!r}", hint=f"presets: {', '.join(PRESETS)}; keys: {', '.join(KEYS)}")
        side, settings = PRESETS[first.lower()], rest
    if side.exact and settings:
        raise UsageError(f"side {text!r}: exact takes no settings")
    seen: set[str] = set()
    for setting in settings:
        key, _, value = (part.strip() for part in setting.partition("="))
        if key not in KEYS or not value:
            raise UsageError(f"side {text!r}: cannot read {setting!r}", hint="keys: " + ", ".join(KEYS))
        if key in seen:
            raise UsageError(f"side {text!r}: {key} is given twice")
        seen.add(key)
        side = _set(side, key, value, seen)
    if side.softmax_format not in (BINARY32, BINARY64):
        raise UnavailableError(
            f"no bound is derived for a softmax in {side.softmax_format.name}",
            hint="softmax-format=binary32 or binary64",
        )
    return side


def _set(side: Side, key: str, value: str, seen: set[str]) -> Side:
    field = key.replace("-", "_")
    if key == "order":
        order = _order(value)
        plain = None if isinstance(order, MatrixUnit) else order
        every = {"score-order": order, "sum-order": plain, "output-order": order}
        return replace(side, **{k.replace("-", "_"): v for k, v in every.items() if k not in seen})  # type: ignore[arg-type]
    if key.endswith("-order"):
        order = _order(value)
        if key == "sum-order" and isinstance(order, MatrixUnit):
            raise UsageError("sum-order: a normaliser is no dot product, so that no matrix unit computes it")
        return replace(side, **{field: order})  # type: ignore[arg-type]
    if key in FORMATS:
        fmt = None if value.lower() == OPTIONAL.get(key) else get_format(value)
        return replace(side, **{field: fmt})  # type: ignore[arg-type]
    if key == "exp":
        return replace(side, exp=get_exponential(value))
    if key == "softmax":
        return replace(side, softmax=_softmax(value))
    choices = {"rounding": ("RNE", "RNA", *sorted(DIRECTED)), "scale": SCALES, "division": tuple(DIVISIONS)}[key]
    chosen = value.upper() if key == "rounding" else value
    if chosen not in choices:
        raise UsageError(f"{key}={value}: not understood", hint=f"{key} is one of " + ", ".join(choices))
    return replace(side, **{key: chosen})  # type: ignore[arg-type]


def _softmax(value: str) -> Softmax:
    if value == "two-pass":
        return Softmax()
    if match := re.fullmatch(r"(online|split):([1-9]\d{0,8})", value):
        return Softmax(match[1], int(match[2]))
    raise UsageError(f"softmax={value}: not understood", hint="two-pass, online:N or split:N, with N tokens a block")


def _order(value: str) -> Order | MatrixUnit | None:
    if value.lower() == ANY:
        return None
    if value.lower().startswith("unit:"):
        unit = get_unit(value[5:])
        if unit.late_c or unit.pattern != CONSECUTIVE:
            raise UnavailableError(
                f"no bound is derived for {unit.name}: it adds c after two interleaved groups",
                hint="fp16, bf16 and tf32 units, and fp8 units with one group, have one",
            )
        return unit
    try:
        return get_order(value)
    except UsageError as error:
        known = [ANY, *(name for name in known_orders() if name not in {"kahan", "neumaier", "klein", "exact"})]
        raise UsageError(error.message, hint=f"known orders: {', '.join(known)}, unit:GPU[:inputs:output]") from None
