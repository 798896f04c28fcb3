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
}
"""Entry point -> source file, in the order in which a decode step launches them (store when tokens arrive)."""

RULES = {"full": 0, "alignedkv": 1, "aligned-max": 2, "aligned-skip": 3, "static": 4}
"""Rules that the kernels decide by themselves -> RULE_* of planes.cuh."""

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

    def __post_init__(self) -> None:
        _require("head_dim", self.head_dim, HEAD_DIMS)
        _require("group", self.group, range(1, MAX_GROUP + 1))
        _require("format", self.format.name, [f.name for f in FORMATS])
        _require("rule", self.rule, list(RULES))
        # A multiple of 64 because 64 lanes sum a split; at most 512 because a split's probabilities live in shared memory.
        _require("split_tokens", self.split_tokens, (64, 128, 192, 256))

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
