"""`precalign bench attention`: decode attention that reads planes, against its full-read twin, torch, and the memory itself."""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.benchmarks.attention_peers import check_outputs, read_bandwidth, torch_contenders
from precalign.analysis.benchmarks.timing import Benchmark, Options, Plot, Row, Series, interleave, rows
from precalign.cpu import CpuPlaneCache, FullReadCache
from precalign.cpu.emulated import emulate
from precalign.formats import BFLOAT16, BINARY16
from precalign.rounding import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.formats import Format

DESCRIPTION = "decode attention on the CPU: planes against the full read, torch, and the memory's own speed"
RULES = ("alignedkv", "aligned-max", "aligned-skip", "online")
WIDTHS = (16, 12, 8)
TWIN = "full-read twin"
MEMORY = "reading the same bytes"
LONG = 32768
"""Tokens from which on memory is meant to be the limit: the aims hold from there."""
EMULATED_TOKENS = 4096
CACHE_BYTES = 300e6
HOT_PAGES = 2
"""Pages that take the place of all in the profile: of eight kv heads they fit a second-level cache."""
SECONDS_EACH = 1.5
"""A contender sits out later rounds once it has taken this long on a case."""


@dataclass(frozen=True)
class Case:
    """One shape of cache.

    Attributes
    ----------
    seq_len, head_dim, group, n_kv_heads : int
    fmt : Format
    """

    seq_len: int
    head_dim: int
    group: int
    fmt: Format
    n_kv_heads: int = 8

    def __str__(self) -> str:
        tokens = f"{self.seq_len // 1024}k" if self.seq_len % 1024 == 0 else str(self.seq_len)
        return f"{tokens} tokens, head_dim {self.head_dim}, group {self.group}, {self.fmt.name}, {self.n_kv_heads} kv heads"

    @property
    def full_bytes(self) -> int:
        """Bytes of keys and values."""
        return 4 * self.seq_len * self.head_dim * self.n_kv_heads


def cases(*, small: bool) -> list[Case]:
    """Return the cases: contexts at one shape, and shapes at one context, for both formats."""
    contexts = (1024, 4096) if small else (1024, 8192, LONG, 131072, 524288)
    shapes = [(contexts[-1], 64, 1)] if small else [(LONG, 128, 1), (LONG, 128, 8), (LONG, 64, 1), (LONG, 64, 4)]
    found = []
    for fmt in (BINARY16, BFLOAT16):
        for seq_len, head_dim, group in [*((n, 128, 4) for n in contexts), *shapes]:
            heads = 8
            while heads > 1 and Case(seq_len, head_dim, group, fmt, heads).full_bytes > CACHE_BYTES:
                heads //= 2
            found.append(Case(seq_len, head_dim, group, fmt, 2 if small else heads))
    return found


def run(options: Options) -> Benchmark:
    """Check that all contenders compute the same, then time them, case by case."""
    found: list[Row] = []
    checks: list[str] = []
    for case in cases(small=options.small):
        made, lines = _case(case, options)
        found += made
        checks += lines
    return Benchmark("attention", DESCRIPTION, found, checks, _aims(found), [_plot(found)])


def draw(case: Case, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return keys and values (seq_len, n_kv_heads, head_dim) and queries (1, n_q_heads, head_dim), codes.

    Channels of keys differ in size by up to 2^5, as rotated keys do; values of tokens by up to 2^3; queries make scores that spread
    over a few units, so that attention is neither flat nor a single token.
    """
    rng = np.random.default_rng(seed)
    sizes = 2.0 ** -np.linspace(0, 5, case.head_dim)
    rng.shuffle(sizes)
    shape = (case.seq_len, case.n_kv_heads, case.head_dim)
    keys, values = np.empty(shape, np.uint16), np.empty(shape, np.uint16)

    def fill(begin: int) -> None:
        own, part = np.random.default_rng((seed, begin)), slice(begin, begin + 4096)
        drawn = own.standard_normal((2, *keys[part].shape), np.float32)
        keys[part] = encode(drawn[0] * sizes.astype(np.float32), case.fmt)
        exponents = own.integers(-3, 1, (*keys[part].shape[:2], 1))
        values[part] = encode(np.ldexp(drawn[1], exponents), case.fmt)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, case.seq_len, 4096)))
    queries = rng.standard_normal((1, case.n_kv_heads * case.group, case.head_dim), np.float32)
    spread = np.sqrt((queries**2 * sizes.astype(np.float32) ** 2).sum(axis=-1, keepdims=True) / case.head_dim)
    return keys, values, encode(3 * queries / spread, case.fmt)


def _case(case: Case, options: Options) -> tuple[list[Row], list[str]]:
    keys, values, queries = draw(case)
    sizes: dict[str, Any] = {
        "head_dim": case.head_dim, "n_kv_heads": case.n_kv_heads, "group": case.group, "max_tokens": case.seq_len,
        "fmt": case.fmt, "threads": options.threads,
    }  # fmt: skip
    twin, planes = FullReadCache(**sizes), CpuPlaneCache("full", **sizes)
    for cache in (twin, planes):
        cache.append(keys, values, [case.seq_len])
    widths = [bits for bits in WIDTHS if case.fmt == BINARY16 or bits > 8]
    names = {f"all {bits} bits": f"static:key_bits={bits},value_bits={bits}" for bits in widths}
    caches = {TWIN: twin} | {name: planes.following(rule) for name, rule in (names | {r: r for r in RULES}).items()}
    torch = torch_contenders(keys, values, queries, case.fmt, float(planes.scale), options.threads)
    checks = _check(case, caches, keys, values, queries)
    checks += check_outputs(str(case), twin.attend(queries), torch, keys, values, queries, case.fmt, float(twin.scale))

    contenders: dict[str, Callable[[], object]] = {MEMORY: read_bandwidth(twin, options.threads)}
    attending: dict[str, Callable[[], object]] = {
        name: partial(cache.attend, queries) for name, cache in caches.items()
    }
    contenders |= attending
    seconds = interleave(contenders | torch, options.repeats, at_most_s=SECONDS_EACH)
    read = {name: cache.statistics()["bytes"] for name, cache in caches.items()}
    hot = _arithmetic(attending, (twin, planes), options.repeats)
    fastest = min(torch, key=lambda name: statistics.median(seconds[name]), default=None)
    sdpa = next((name for name in torch if name == f"torch sdpa, {case.fmt.name}"), None)

    def figures(name: str, median: float) -> dict[str, float]:
        moved = read.get(name, case.full_bytes)
        faster = partial(_times_faster, seconds, name)
        result = {"gb_per_s": moved / median / 1e9, "of_memory_speed": moved / case.full_bytes * faster(MEMORY)}
        if name in caches:
            result |= {"arithmetic": hot[name] / min(seconds[name]), "saved": 1 - moved / case.full_bytes}
            result |= {"speed_up": faster(TWIN)}
            result |= {} if sdpa is None else {"vs_sdpa": faster(sdpa)}
            result |= {} if fastest is None else {"vs_torch": faster(fastest)}
        return result

    return rows(str(case), seconds, reference=TWIN, figures=figures), checks


def _times_faster(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """Return how many times as fast as another a contender is: the median over rounds, so that a slow moment hits both."""
    return statistics.median(theirs / own for own, theirs in zip(seconds[name], seconds[other], strict=False))


def _arithmetic(
    attending: dict[str, Callable[[], object]], stores: tuple[CpuPlaneCache, ...], repeats: int
) -> dict[str, float]:
    """Return the best seconds of each contender with all pages of a sequence mapped to the same few.

    Every operation is done as often as before, but keys and values come from the second-level cache: what is left is arithmetic, and
    scores and probabilities on their way between the phases.
    """
    tables = [cache.buffer("block_table") for cache in stores]  # that of planes is shared by all that follow it
    held = [table.copy() for table in tables]
    for table in tables:
        table[:] = table % HOT_PAGES
    seconds = interleave(attending, repeats, at_most_s=SECONDS_EACH)
    for table, before in zip(tables, held, strict=True):
        table[:] = before
    return {name: min(times) for name, times in seconds.items()}


def _check(
    case: Case, caches: dict[str, CpuPlaneCache], keys: NDArray[Any], values: NDArray[Any], queries: NDArray[Any]
) -> list[str]:
    """Compare the twin with the full read of planes, and rules with the emulator where that takes seconds."""
    full = caches["all 16 bits"].attend(queries)
    if not np.array_equal(caches[TWIN].attend(queries).view(np.uint32), full.view(np.uint32)):
        raise AssertionError(f"{case}: the twin differs from the full read of planes")
    checks = [f"{case}: the twin equals the full read of planes, bit for bit"]
    if case.seq_len > EMULATED_TOKENS:
        return checks
    own_keys, own_values = (np.ascontiguousarray(side[:, 0]) for side in (keys, values))
    own = queries[0, : case.group]
    for name, cache in caches.items():
        given = (cache.rules[0], case.fmt, cache.split_tokens, own_keys, own_values, own, float(cache.scale))
        expected = emulate(*given)["outputs"]
        if not np.array_equal(cache.attend(queries)[0, : case.group].view(np.uint32), expected.view(np.uint32)):
            raise AssertionError(f"{case}: {name} differs from the emulator")
    return [*checks, f"{case}: outputs of a kv head under every rule equal the emulator's, bit for bit"]


def _is_long(row: Row) -> bool:
    """Whether a case begins with "32k tokens" or more; shorter contexts may be no multiple of 1,024."""
    tokens = row.case.partition(" ")[0]
    return tokens.endswith("k") and int(tokens.removesuffix("k")) >= LONG // 1024


def _of(found: list[Row], contender: str, figure: str, fmt: str | None = None) -> list[float]:
    """Return a figure of a contender on the cases of long contexts."""
    long = [row for row in found if row.contender == contender and _is_long(row)]
    return [row.figures[figure] for row in long if figure in row.figures and (fmt is None or fmt in row.case)]


def _aims(found: list[Row]) -> list[str]:
    saving = [
        row.figures["speed_up"]
        for row in found
        if row.contender in RULES and row.figures["saved"] >= 0.4 and _is_long(row)
    ]
    wanted = [
        ("full-read twin: share of the speed of reading the same bytes", 0.85, _of(found, TWIN, "of_memory_speed")),
        ("full-read twin: times torch's attention in the cache's format", 5, _of(found, TWIN, "vs_sdpa")),
        ("full-read twin: times the fastest of torch's ways", 1.3, _of(found, TWIN, "vs_torch")),
        ("all 8 bits: times the twin", 1.6, _of(found, "all 8 bits", "speed_up")),
        ("all 12 bits: times the twin", 1.2, _of(found, "all 12 bits", "speed_up")),
        ("rules that save 40 % of bytes or more: times the twin", 1.4, saving),
    ]
    lines = []
    for what, aim, got in wanted:
        if got:
            verdict = "met" if min(got) >= aim else f"met on {sum(x >= aim for x in got)}"
            span = f"{min(got):.2f} to {max(got):.2f}, median {statistics.median(got):.2f}"
            lines.append(
                f"{what}, from {LONG // 1024}k tokens on, at least {aim}: {verdict} of {len(got)} cases, {span}"
            )
    return lines


def _plot(found: list[Row]) -> Plot:
    """Draw speed-up over bytes saved, with the line of a kernel that nothing but memory limits."""
    series = []
    for name in dict.fromkeys(row.contender for row in found if "saved" in row.figures and row.contender != TWIN):
        own = [row for row in found if row.contender == name]
        points = [(row.figures["saved"], row.figures["speed_up"], row.case) for row in own]
        x, y, labels = (list(part) for part in zip(*points, strict=True))
        series.append(Series(name, x, y, labels))
    saved = [i / 100 for i in range(0, 61, 2)]
    series.append(Series("ideal: 1 / (1 - saved)", saved, [1 / (1 - s) for s in saved], line=True))
    return Plot("Speed-up over the full-read twin", "share of bytes saved", "speed-up", series)
