"""One case on one device: append, attend, and compare every buffer with the emulator after each step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.gpu.cache_inputs import PAGE_TOKENS
from precalign.gpu.plane_cache import PlaneCache
from precalign.gpu.ptx.faults import KernelFault
from precalign.gpu.validate.emulated import emulate
from precalign.gpu.validate.history import decided, history_of, padded, plane_history
from precalign.gpu.validate.points import Difference, Tallies, compare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from precalign.gpu.devices.base import Device
    from precalign.gpu.validate.case import Case, Codes
    from precalign.gpu.validate.emulated import Emulated, Once

PLANE_FILE = "planes.cuh"
"""All loads from planes, and no others, stand in this header; that is how their sectors are told from the rest."""
N_ORDERS = 2


@dataclass
class CaseResult:
    """What a case gave.

    Attributes
    ----------
    case : str
    rule, format : str
    head_dim, group : int
    tallies : Tallies
    plane_sectors, other_sectors : int
        Global sectors read by `attend`, summed over the steps: from planes, and all else (scores, probabilities, metadata).
    modelled_sectors : int
        What the traffic model says for `plane_sectors`.
    full_sectors : int
        Plane sectors that reading every bit takes.
    fault : str or None
        What the machine found, if it stopped the case.
    """

    case: str
    rule: str
    format: str
    head_dim: int
    group: int
    tallies: Tallies = field(default_factory=Tallies)
    plane_sectors: int = 0
    other_sectors: int = 0
    modelled_sectors: int = 0
    full_sectors: int = 0
    fault: str | None = None


def check(case: Case, device: Device, codes: Codes | None = None, *, until_failure: bool = False) -> CaseResult:
    """Validate one case.

    Parameters
    ----------
    case : Case
    device : Device
        Where the kernels run. A device with `reports` is measured, one with a `seed` is tried in several orders.
    codes : Codes, optional
        From a dump; drawn by the case if not given.
    until_failure : bool
        Whether a step that differs is the last.
    """
    config = case.config
    result = CaseResult(str(case), config.variant, config.format.name, config.head_dim, config.group)
    run = _Run(case, device, case.codes() if codes is None else codes, result)
    try:
        run.steps(until_failure=until_failure)
    except KernelFault as fault:
        result.fault = str(fault)
        tally = result.tallies["memory"]
        tally.checked += 1
        tally.failed += 1
        tally.first = tally.first or Difference(str(case), {}, "no finding", str(fault))
    return result


class _Run:
    """One case while it runs."""

    def __init__(self, case: Case, device: Device, codes: Codes, result: CaseResult) -> None:
        self.case, self.device, self.codes, self.result = case, device, codes, result
        self.tallies, self.decided = result.tallies, decided(case.config)
        config, static = case.config, case.static_bits()
        self.scale = config.head_dim**-0.5 if codes.scale is None else codes.scale
        capacity = -(-max(case.lengths) // PAGE_TOKENS) + 1  # a page of nothing behind the longest sequence
        n_pages = capacity * case.batch_size
        self.cache = PlaneCache(
            config,
            n_kv_heads=case.n_kv_heads,
            batch_size=case.batch_size,
            max_tokens=capacity * PAGE_TOKENS,
            device=device,
            scale=self.scale,
            page_order=np.random.default_rng(case.seed).permutation(n_pages).tolist(),
            key_bits=None if static is None else static[0],
            value_bits=None if static is None else static[1],
        )
        self.static = static
        self.table = self.cache.buffer("block_table")

    def steps(self, *, until_failure: bool) -> None:
        lengths = np.zeros(self.case.batch_size, np.int64)
        for number, added in enumerate(self.case.appends):
            self._order(self.case.seed + number + 1)
            parts = zip(lengths, added, strict=True)
            spans = [slice(begin, begin + count) for begin, count in parts]
            keys, values = (
                np.concatenate([held[span] for held, span in zip(side, spans, strict=True)])
                for side in (self.codes.keys, self.codes.values)
            )
            self.cache.append(keys, values, added)
            self._count_accesses()
            lengths += added
            self._order(None)
            self.cache.attend(self.codes.queries)
            buffers = {part.buffer: self.cache.buffer(part.buffer) for part in self.decided}
            emulated = list(self._emulated(lengths))
            self._compare(emulated, buffers)
            self._compare_sectors(emulated)
            self._count_accesses()
            if until_failure and self.tallies.failed:
                return
            if number == len(self.case.appends) - 1:
                self._other_orders(buffers, lengths)

    def _emulated(self, lengths: NDArray[np.int64]) -> Iterator[tuple[dict[str, int], Emulated]]:
        group = self.case.config.group
        for sequence, length in enumerate(lengths):
            for kv_head in range(self.case.n_kv_heads if length else 0):
                static = None if self.static is None else (int(self.static[0][kv_head]), int(self.static[1][kv_head]))
                keys, values = (
                    np.ascontiguousarray(side[sequence][:length, kv_head])
                    for side in (self.codes.keys, self.codes.values)
                )
                queries = np.ascontiguousarray(self.codes.queries[sequence, kv_head * group : (kv_head + 1) * group])
                emulated = emulate(self.case.config, keys, values, queries, self.scale, static)
                yield {"sequence": sequence, "kv head": kv_head}, emulated

    # What the buffers hold

    def _compare(self, emulated: list[tuple[dict[str, int], Emulated]], buffers: dict[str, NDArray[Any]]) -> None:
        stored = {name: self.cache.buffer(name) for name in _STORED}
        group = self.case.config.group
        for place, expected in emulated:
            sequence, kv_head = place["sequence"], place["kv head"]
            seq_len = expected.scores.shape[1]
            pages = self.table[sequence, : -(-seq_len // PAGE_TOKENS)]
            own, name = (sequence, kv_head), str(self.case)
            heads = slice(kv_head * group, (kv_head + 1) * group)
            for plane, bytes_ in expected.planes.items():
                held = stored[plane][pages, kv_head]
                axes: tuple[str, ...] = ("page", "channel", "byte") if plane.startswith("key") else ("token", "byte")
                if plane.startswith("value"):
                    held = held.reshape(-1, held.shape[-1])[:seq_len]
                history = partial(plane_history, plane, pages)
                compare(self.tallies["planes"], name, place, axes, bytes_, held, history)
            for kind, maxima in expected.maxima.items():
                by_token = kind == "token_maxima"
                held = stored[kind][pages, kv_head].reshape(-1)[:seq_len] if by_token else stored[kind][own]
                axes = ("token",) if by_token else ("channel",)
                compare(self.tallies["maxima"], name, place, axes, maxima, held, lambda _, kind=kind: [kind])
            got = {
                part.buffer: buffers[part.buffer][sequence, heads if part.axes[0] == "query head" else kv_head]
                for part in self.decided
            }
            for part in self.decided:
                # Rows are as long as the cache: behind the sequence they must still hold the zeros they began with.
                wanted = padded(expected.buffer(part.buffer), got[part.buffer].shape)
                history = partial(history_of, part.buffer, expected, got)
                compare(self.tallies[part.point], name, place, part.axes, wanted, got[part.buffer], history)
            if expected.once is not None:
                self._compare_passes(place, expected.once, got["outputs"])
        empty = np.flatnonzero(np.bincount([p["sequence"] for p, _ in emulated], minlength=self.case.batch_size) == 0)
        for slot in empty.tolist():
            outputs = buffers["outputs"][slot]
            place = {"sequence": slot}
            axes = ("query head", "channel")
            compare(self.tallies["outputs"], str(self.case), place, axes, np.zeros_like(outputs), outputs)

    def _compare_passes(self, place: dict[str, int], once: Once, outputs: NDArray[np.float32]) -> None:
        """Hold the difference from the order with stored probabilities against its proven bound."""
        difference, tally = np.abs(outputs.astype(np.float64) - once.stated), self.tallies["passes"]
        beyond = difference > once.bound
        tally.checked += beyond.size
        if beyond.any():
            tally.failed += int(beyond.sum())
            head, channel = (int(i) for i in np.argwhere(beyond)[0])
            where = {**place, "query head": head, "channel": channel}
            most, got = f"at most {once.bound[head, channel]:.3g}", f"{difference[head, channel]:.3g}"
            tally.first = tally.first or Difference(str(self.case), where, most, got)

    # What was read

    def _compare_sectors(self, emulated: list[tuple[dict[str, int], Emulated]]) -> None:
        reports = getattr(self.device, "reports", None)
        if reports is None:
            return
        modelled = Counter[str]()
        for _, expected in emulated:
            modelled.update(expected.sectors)
            self.result.full_sectors += _full_sectors(expected, self.case.config.head_dim)
        for kernel, report in reports.items():
            loads = [line for line in report.memory.values() if line.space == "global" and line.opcode.startswith("ld")]
            planes = sum(line.sectors for line in loads if line.location.file.endswith(PLANE_FILE))
            self.result.plane_sectors += planes
            self.result.other_sectors += sum(line.sectors for line in loads) - planes
            self.result.modelled_sectors += modelled[kernel]
            tally = self.tallies["sectors"]
            tally.checked += 1
            if planes != modelled[kernel]:
                tally.failed += 1
                lines = tuple(
                    f"{line.location}: {line.opcode}, {line.requests} requests, {line.sectors} sectors"
                    for line in loads
                    if line.location.file.endswith(PLANE_FILE)
                )
                expected_text, got = f"{modelled[kernel]} sectors of planes in {kernel}", str(planes)
                tally.first = tally.first or Difference(str(self.case), {}, expected_text, got, lines)

    def _count_accesses(self) -> None:
        """Count what the machine checked and forget it, so that the next launches are measured by themselves."""
        reports = getattr(self.device, "reports", None)
        if reports is None:
            return
        for report in reports.values():
            self.tallies["memory"].checked += sum(line.lanes for line in report.memory.values())
        reports.clear()

    # Whether it depends on the order

    def _order(self, seed: int | None) -> None:
        if hasattr(self.device, "seed"):
            self.device.seed = seed

    def _other_orders(self, buffers: dict[str, NDArray[Any]], lengths: NDArray[np.int64]) -> None:
        if not hasattr(self.device, "seed"):
            return
        for order in range(1, N_ORDERS):
            self._order(1000 * order + self.case.seed)
            self.cache.attend(self.codes.queries)
            for name, once in buffers.items():
                again = self.cache.buffer(name)
                place = {"order": order, "longest": int(lengths.max())}
                axes = tuple(f"{name} axis {axis}" for axis in range(again.ndim))
                compare(self.tallies["order"], str(self.case), place, axes, once, again)
            self._count_accesses()


_STORED = (
    *(f"{side}_{plane}" for side in ("key", "value") for plane in ("first", "second", "third")),
    "key_maxima",
    "value_maxima",
    "token_maxima",
)


def _full_sectors(expected: Emulated, head_dim: int) -> int:
    """Return the plane sectors of the full read: rows of 64 tokens and channels fill whole sectors in every plane."""
    from precalign.gpu.validate.emulated import value_row_sectors

    seq_len = expected.scores.shape[1]
    whole, rest = divmod(seq_len, PAGE_TOKENS)
    keys: int = head_dim * (4 * whole + (-(-rest // 32) + 2 if rest else 0))
    return keys + value_row_sectors(np.full(seq_len, 16, np.uint8), head_dim)
