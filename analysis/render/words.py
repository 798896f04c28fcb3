"""Numbers and sentences as every renderer writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def bits(value: float | None) -> str:
    """13.8 bits."""
    return "–" if value is None else f"{value:.1f} bits"


def percent(share: float | None) -> str:
    """26.4 %; a loss keeps its sign."""
    return "–" if share is None else f"{round(100 * share, 1) + 0.0:.1f} %".replace("-", "−")  # no minus before 0.0


def error(value: float | None) -> str:
    """9.1e-04; infinite errors are stored as null."""
    return "∞" if value is None else f"{value:.1e}"


def times(ratio: float | None) -> str:
    """4.5×."""
    return "–" if ratio is None else f"{ratio:.1f}×" if ratio < 100 else f"{ratio:.0f}×"


def size(count: float) -> str:
    """1.2 MB (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError  # the loop returns


def title(summary: dict[str, Any]) -> str:
    """Return the dump's name, without anything a terminal would obey."""
    name = str(summary["dump"]["name"])
    return "".join(c if c.isprintable() else "�" for c in name)


@dataclass(frozen=True)
class Number:
    """One of the big numbers.

    Attributes
    ----------
    key : str
        Stable name, for tests and scripts.
    value : float or None
        As in summary.json.
    text, label : str
        As shown.
    """

    key: str
    value: float | None
    text: str
    label: str


def numbers(summary: dict[str, Any], rule: dict[str, Any]) -> list[Number]:
    """Return the four numbers that answer the user's question for one rule."""
    totals, errors = rule["totals"], rule["errors"]
    full = summary_bits(summary)
    output = errors["output_relative_error_to_exact"]["median"]
    rounding = errors["rounding_relative_error"]["median"]
    ratio = output / rounding if output is not None and rounding else None
    return [
        Number(
            "key_bits_mean", totals["key_bits_mean"], bits(totals["key_bits_mean"]), f"read of the {full} of each key"
        ),
        Number(
            "value_bits_mean",
            totals["value_bits_mean"],
            bits(totals["value_bits_mean"]),
            f"read of the {full} of each value",
        ),
        Number(
            "bytes_saving",
            totals["bytes_saving"],
            percent(totals["bytes_saving"]),
            "fewer bytes moved, all metadata counted",
        ),
        Number(
            "output_relative_error_to_exact",
            output,
            error(output),
            f"median relative output error; {times(ratio)} that of rounding the exact output to {output_format(summary)}",
        ),
    ]


def summary_bits(summary: dict[str, Any]) -> int:
    """Return the bits of a number in the plain cache."""
    return int(summary["layout"]["format_bits"])


def output_format(summary: dict[str, Any]) -> str:
    """Return the format in which a model stores outputs: that of its queries."""
    return str(summary["dump"]["query_format"])


def sentence(summary: dict[str, Any], rule: dict[str, Any]) -> str:
    """Return what the cache wastes, in one sentence."""
    totals = rule["totals"]
    waste = summary["waste"]["share"]
    output = rule["errors"]["output_relative_error_to_exact"]["median"]
    return (
        f"Of the {summary_bits(summary)} bits of a number, decode attention under the rule {rule['rule']} read "
        f"{totals['key_bits_mean']:.1f} of each key and {totals['value_bits_mean']:.1f} of each value: "
        f"{percent(totals['bytes_saving'])} fewer bytes, at a median relative output error of {error(output)}. "
        f"By the alignment criterion {percent(waste)} of all bits read were wasted. {exponents_sentence(summary)}"
    )


def yardstick_sentence(rule: dict[str, Any], n_steps: int) -> str:
    """Return how the rule's bits compare with the fewest there could be, and how often it had to read again."""
    totals = rule["totals"]
    again = totals["attempts"] - n_steps
    text = f"The fewest bits that could give the same worst-case error are {percent(totals['optimal_bits_share'])} of those read."
    return text + (f" {again} of {n_steps} steps were read again, to meet the tolerance." if again else "")


def memory_sentence(rule: dict[str, Any]) -> str:
    """Return what memory moves less, by how much it hands out at once."""
    by_fetch: dict[int, dict[str, Any]] = {}
    for row in rule["memory"]:
        by_fetch.setdefault(row["fetch_bytes"], {"saving": row["saving"], "gpus": []})["gpus"].append(row["gpu"])
    parts = [
        f"{percent(held['saving'])} where it hands out {size} bytes ({', '.join(held['gpus'])})"
        for size, held in sorted(by_fetch.items())
    ]
    return "Fewer bytes from memory: " + ", ".join(parts) + "."


def exponents_sentence(summary: dict[str, Any]) -> str:
    """Return what the exponents waste, beside the significands."""
    unneeded = {kind: summary["cache"][kind]["group_exponent_wasted_bits_mean"] for kind in ("key", "value")}
    return (
        f"Of the {summary['layout']['exponent_bits']} exponent bits, {unneeded['key']:.1f} tell nothing within a key channel and "
        f"{unneeded['value']:.1f} nothing within a token's values."
    )


def sentence_without_queries(summary: dict[str, Any]) -> str:
    """Return what can be said of a dump without queries."""
    unused = {kind: held["exponent_wasted_bits"] for kind, held in summary["cache"].items()}
    return (
        f"This dump holds no queries, so no decode step could be taken. Of its exponent bits, {unused['key']} of the keys' and "
        f"{unused['value']} of the values' are never needed. {exponents_sentence(summary)}"
    )
