"""One configuration of the kernels: everything that is fixed when they are compiled."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from precalign.decode import exp2
from precalign.errors import InputError, UnavailableError
from precalign.formats import BFLOAT16, BINARY16

if TYPE_CHECKING:
    from pathlib import Path

    from precalign.formats import Format

KERNELS = {
    "store": "store.cu",
    "store_maxima": "store.cu",
    "store_lengths": "store.cu",
    "key_scores": "keys.cu",
    "softmax": "softmax.cu",
    "values": "values.cu",
    "combine": "combine.cu",
    "newest": "one_pass.cu",
    "one_pass": "one_pass.cu",
    "one_pass_combine": "one_pass.cu",
}
"""Entry point -> source file, in the order in which a decode step launches them (store when tokens arrive)."""

_STORE = ("store", "store_maxima", "store_lengths")
_TWO_PASSES = ("key_scores", "softmax", "values", "combine")

RULES = {"full": 0, "alignedkv": 1, "aligned-max": 2, "aligned-skip": 3, "static": 4, "online": 5}
"""Rules that the kernels decide by themselves -> RULE_* of planes.cuh."""

ONE_PASS_RULES = ("online", "full", "static")
"""Rules that a kernel can follow while it goes over the cache once; `online` in no other way."""

VARIANTS = tuple([(rule, False) for rule in RULES if rule != "online"] + [(rule, True) for rule in ONE_PASS_RULES])
"""Every (rule, one_pass) that kernels are built for."""

HEAD_DIMS = (64, 96, 128, 256)
MAX_GROUP = 8
FORMATS = (BINARY16, BFLOAT16)


@dataclass(frozen=True)
class KernelConfig:
    """What the kernels are compiled for.

    Attributes
    ----------
    head_dim, group : int
        Elements of a head; query heads that share a kv head.
    format : Format
        binary16 or bfloat16.
    rule : str
        A name of `RULES`.
    guard_bits, skip_diff : int
        Parameters of the rule.
    split_tokens : int
        Tokens per split, a multiple of 64; part of the stated order, so of the result.
    one_pass : bool
        Whether keys and values are gone over once, in the order of one-pass kernels; always so for `online`.

    Raises
    ------
    UnavailableError
        If no kernel can be built for it; the message lists what there is.
    """

    head_dim: int
    group: int
    format: Format = BINARY16
    rule: str = "alignedkv"
    guard_bits: int = 0
    skip_diff: int = 12
    split_tokens: int = 256
    one_pass: bool = False

    def __post_init__(self) -> None:
        if self.rule == "online":
            object.__setattr__(self, "one_pass", True)
        _require("head_dim", self.head_dim, HEAD_DIMS)
        _require("group", self.group, range(1, MAX_GROUP + 1))
        _require("format", self.format.name, [f.name for f in FORMATS])
        _require("rule", self.rule, list(RULES))
        # A multiple of 64 because 64 lanes sum a split; at most 256 because a split's probabilities live in shared memory.
        _require("split_tokens", self.split_tokens, (64, 128, 192, 256))
        if self.one_pass:
            _require("rule of one pass", self.rule, ONE_PASS_RULES)

    @property
    def variant(self) -> str:
        """The rule, and that it runs in one pass where that is not what it always does."""
        return f"{self.rule} in one pass" if self.one_pass and self.rule != "online" else self.rule

    @property
    def levels(self) -> tuple[int, ...]:
        """Bits that a number can be read at."""
        return (8, 12, 16) if self.format == BINARY16 else (12, 16)

    def entries(self) -> tuple[str, ...]:
        """Return the entry points that this configuration launches."""
        if not self.one_pass:
            return (*_STORE, *_TWO_PASSES)
        return (*_STORE, *(("newest",) if self.rule == "online" else ()), "one_pass", "one_pass_combine")

    def macros(self) -> dict[str, str]:
        """Return the macros under which the sources are compiled."""
        return {
            "HEAD_DIM": str(self.head_dim),
            "GROUP": str(self.group),
            "BFLOAT16": str(int(self.format == BFLOAT16)),
            "RULE": str(RULES[self.rule]),
            "GUARD_BITS": str(self.guard_bits),
            "SKIP_DIFF": str(self.skip_diff),
            "SPLIT_TOKENS": str(self.split_tokens),
        } | {f"EXP2_C{power}": f"{float(getattr(exp2, f'C{power}')).hex()}f" for power in range(1, 7)}


def _require(what: str, given: object, supported: object) -> None:
    if given not in supported:  # type: ignore[operator]
        listed = ", ".join(str(s) for s in supported)  # type: ignore[attr-defined]
        raise UnavailableError(f"no kernel for {what} {given}", hint=f"supported: {listed}")


def sources(folder: Path | None = None) -> dict[str, str]:
    """Return the CUDA sources and headers, by file name.

    Parameters
    ----------
    folder : Path, optional
        A folder whose .cu and .cuh files stand in for those of the same name.

    Raises
    ------
    InputError
        If the folder holds no such file, or one that no kernel uses.
    """
    shipped = resources.files("precalign.gpu.kernels")
    texts = {f.name: f.read_text(encoding="utf-8") for f in shipped.iterdir() if f.name.endswith((".cu", ".cuh"))}
    if folder is None:
        return texts
    own = {path.name: path for path in sorted(folder.glob("*.cu*")) if path.suffix in (".cu", ".cuh")}
    if not own or not own.keys() <= texts.keys():
        found = ", ".join(sorted(own.keys() - texts.keys())) or "no .cu or .cuh file"
        raise InputError(
            f"{folder}: {found}: not one of the kernels' sources",
            hint="files that may stand in: " + ", ".join(sorted(texts)),
        )
    return texts | {name: path.read_text(encoding="utf-8") for name, path in own.items()}
