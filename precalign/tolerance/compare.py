"""Two sides of one computation: how far their results may lie apart, element by element."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16, BINARY32, BINARY64, Format, get_format
from precalign.formats.codes import ulp
from precalign.matrix_units import MatrixUnit
from precalign.tolerance.allclose import Allowance, fit
from precalign.tolerance.outputs import Errors, Tokens, errors_of_side
from precalign.tolerance.scores import scores_of
from precalign.tolerance.side import Side, parse_side

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

STORED = {"float16": BINARY16, "bfloat16": BFLOAT16, "float32": BINARY32}


@dataclass(frozen=True)
class Tolerance:
    """How far two arrays may lie apart, element by element.

    Attributes
    ----------
    absolute : ndarray[float64]
        |kernel - reference| of each element is at most this; infinite where nothing can be promised.
    centre : ndarray[float64]
        The result in binary64.
    size : ndarray[float64]
        |reference| is at least this.
    format : Format
        Of the kernel's result: the unit of `ulps`.
    """

    absolute: NDArray[np.float64]
    centre: NDArray[np.float64]
    size: NDArray[np.float64]
    format: Format

    @property
    def ulps(self) -> NDArray[np.float64]:
        """The tolerance in units in the last place of the centre, in the kernel's format."""
        inside = np.clip(self.centre, -self.format.largest, self.format.largest)
        result: NDArray[np.float64] = self.absolute / ulp(inside, self.format)
        return result

    def allclose(self) -> Allowance:
        """Return the best (rtol, atol) that is sound for every element."""
        return fit(self.size, self.absolute)

    def exceeded(self, got: ArrayLike, reference: ArrayLike) -> NDArray[np.bool_]:
        """Tell which elements differ by more than their tolerance, or are no numbers.

        Raises
        ------
        InputError
            If a shape is not that of `absolute`.
        """
        a, b = np.asarray(got, np.float64), np.asarray(reference, np.float64)
        for name, x in (("got", a), ("reference", b)):
            if x.shape != self.absolute.shape:
                raise InputError(f"{name}: expected shape {self.absolute.shape}, got {x.shape}")
        with np.errstate(invalid="ignore"):
            return ~(np.abs(a - b) <= self.absolute * (1 + 2.0**-40))


@dataclass(frozen=True)
class Tolerances:
    """Of one attention: scores and probs (n_queries, n_tokens), outputs (n_queries, head_dim)."""

    scores: Tolerance
    probs: Tolerance
    outputs: Tolerance


def as_side(side: str | Side) -> Side:
    """Return a side, given as one or as its spec."""
    return side if isinstance(side, Side) else parse_side(side)


def attention(
    queries: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    *,
    kernel: str | Side,
    reference: str | Side = "exact",
    scale: float | None = None,
    storage: str | Format | None = None,
) -> Tolerances:
    """Return how far decode attention by two sides may lie apart on these very numbers.

    Parameters
    ----------
    queries : array_like, (n_queries, head_dim) or (head_dim,)
    keys, values : array_like, (n_tokens, head_dim)
        Both sides get the same; all tokens are seen by all queries.
    kernel, reference : str or Side
        A preset or `key=value,...` as `precalign.tolerance.parse_side` reads.
    scale : float, optional
        Of the scores; 1 / sqrt(head_dim).
    storage : str or Format, optional
        Of all three; by default what their dtype says. Needed for binary64 arrays, which must hold numbers of it.

    Raises
    ------
    InputError
        Shapes that do not match, NaNs or infinities, numbers that are not of the storage format.
    UsageError
        A scale that is no positive number; a matrix unit that does not take the format; sides that `parse_side` refuses.

    Notes
    -----
    Sound: no rounding is left out, and what the binary64 evaluation may lose is added. Overflow gives an infinite tolerance. What a
    kernel does with subnormal partial sums must be IEEE (kept); weights may be flushed to zero.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> q, k, v = (rng.standard_normal(shape).astype(np.float16) for shape in ((1, 64), (100, 64), (100, 64)))
    >>> found = attention(q, k, v, kernel="float32,output=fp16", reference="float64")
    >>> float(found.outputs.absolute.max()) < 1.3e-4
    True
    """
    q, k, v, fmt = _inputs(queries, keys, values, storage)
    factor = k.shape[1] ** -0.5 if scale is None else scale
    if not (isfinite(factor) and factor > 0):
        raise UsageError(f"scale {scale}: must be a positive number")
    sides = as_side(kernel), as_side(reference)
    for side in sides:
        check_units(side, fmt)
    with np.errstate(
        over="ignore", invalid="ignore", divide="ignore"
    ):  # infinite bounds, and what they are multiplied by
        rows = [_one(query, k, v, sides, factor, fmt) for query in q]
    formats = formats_of(sides[0])
    parts = []
    for index in range(3):
        absolute, centre, size = (np.stack([row[index][part] for row in rows]) for part in range(3))
        parts.append(Tolerance(absolute, centre, size, formats[index]))
    return Tolerances(*parts)


def formats_of(side: Side) -> tuple[Format, Format, Format]:
    """Return the formats of a side's scores, probabilities and outputs."""
    if side.exact:
        return BINARY64, BINARY64, BINARY64
    return side.score_format or side.softmax_format, side.prob_format or side.softmax_format, side.outcome


def check_units(side: Side, storage: Format) -> None:
    """Refuse a matrix unit whose inputs cannot hold what is stored.

    Raises
    ------
    UsageError
    """
    for name, order in (("score-order", side.score_order), ("output-order", side.output_order)):
        if isinstance(order, MatrixUnit):
            takes = get_format(order.inputs)
            if takes.precision_bits < storage.precision_bits or takes.emin > storage.emin:
                raise UsageError(
                    f"{name}: {order.name} takes {takes.name}, and the data are {storage.name}",
                    hint=f"unit:{order.gpu}:bf16" if storage == BFLOAT16 else "another unit, or round the data first",
                )
            if name == "output-order" and side.prob_format not in (None, takes):
                raise UsageError(
                    f"prob-format={side.prob_format.name if side.prob_format else 'none'}: {order.name} takes {takes.name}",
                    hint="leave prob-format out",
                )


Row = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]


def _one(
    query: NDArray[np.float64],
    keys: NDArray[np.float64],
    values: NDArray[np.float64],
    sides: tuple[Side, Side],
    scale: float,
    storage: Format,
) -> tuple[Row, Row, Row]:
    """Return (absolute, centre, size) of scores, probs and outputs of one query."""
    scores = [scores_of(side, query, keys, scale, storage) for side in sides]
    centre = scores[0].value
    weights = np.exp(centre - centre.max())
    probs = weights / weights.sum()
    outputs = probs @ values
    tokens = Tokens(values, storage, probs, outputs)
    errors = [errors_of_side(side, s, tokens) for side, s in zip(sides, scores, strict=True)]
    first, second, third = (_row(middle, errors, part) for part, middle in enumerate((centre, probs, outputs)))
    return first, second, third


def _row(middle: NDArray[np.float64], errors: list[Errors], part: int) -> Row:
    absolute = (errors[0][part] + errors[1][part]) * (1 + 2.0**-50)
    absolute[np.isnan(absolute)] = np.inf
    return absolute, middle, np.nan_to_num(np.maximum(np.abs(middle) - errors[1][part], 0))


def _inputs(
    queries: ArrayLike, keys: ArrayLike, values: ArrayLike, storage: str | Format | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], Format]:
    given: dict[str, NDArray[Any]] = {
        "queries": np.atleast_2d(np.asarray(queries)),
        "keys": np.asarray(keys),
        "values": np.asarray(values),
    }
    fmt = get_format(storage) if isinstance(storage, str) else storage or _storage(given)
    for name, x in given.items():
        if x.ndim != 2 or 0 in x.shape:
            raise InputError(f"{name}: expected two non-empty axes, got shape {x.shape}")
        if x.shape[1] != given["keys"].shape[1]:
            raise InputError(f"{name}: head_dim must match keys: {x.shape[1]} vs {given['keys'].shape[1]}")
        if not np.isfinite(x.astype(np.float64)).all():
            raise InputError(f"{name}: holds infinities or NaNs, for which there is no tolerance")
    if len(given["values"]) != len(given["keys"]):
        raise InputError(f"values: n_tokens must match keys: {len(given['values'])} vs {len(given['keys'])}")
    wide = {name: np.ascontiguousarray(x, np.float64) for name, x in given.items()}
    for name, x in wide.items():
        if not _is_of(x, fmt):
            raise InputError(
                f"{name}: holds numbers that are not {fmt.name}", hint="round them to it first, for both sides"
            )
    return wide["queries"], wide["keys"], wide["values"], fmt


def _storage(given: dict[str, NDArray[Any]]) -> Format:
    names = {x.dtype.name for x in given.values()}
    if len(names) == 1 and (name := names.pop()) in STORED:
        return STORED[name]
    raise InputError(
        "queries, keys, values: dtypes "
        + ", ".join(x.dtype.name for x in given.values())
        + " name no one storage format",
        hint="give storage='binary16', 'bfloat16' or 'binary32'",
    )


def _is_of(x: NDArray[np.float64], fmt: Format) -> bool:
    if fmt.precision_bits > 24:
        raise UsageError(
            f"storage in {fmt.name} is too wide", hint="products must be exact in binary64: binary32 or narrower"
        )
    scaled = x / ulp(np.clip(x, -fmt.largest, fmt.largest), fmt)
    return bool((scaled == np.rint(scaled)).all() and (np.abs(x) <= fmt.largest).all())
