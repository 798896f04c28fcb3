"""`precalign bench analyze`: the whole analysis against NumPy, and against merely computing the attention in torch."""

from __future__ import annotations

import cProfile
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.benchmarks import numpy_peer
from precalign.analysis.benchmarks.equality import compare
from precalign.analysis.benchmarks.timing import Benchmark, Options, Row, interleave, rows
from precalign.analysis.pipeline import analyze
from precalign.analysis.plan import Options as AnalyzeOptions
from precalign.analysis.plan import Plan, make_plan
from precalign.analysis.readers import open_dump
from precalign.errors import InputError, UnavailableError
from precalign.formats import BINARY16
from precalign.inputs import HeadInputs
from precalign.profile import HeadProfile, profile_head
from precalign.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from precalign.analysis.plan import Task
    from precalign.analysis.readers import Dump

DESCRIPTION = "a whole analysis against NumPy, and against the bare attention in torch"
DEMO = Path(__file__).resolve().parent.parent / "demo/novel.safetensors"
OURS, ALL = "precalign", "precalign, all rules"
DECIDED = "precalign, all rules that only decide"
AIMS = {OURS: 2.0, ALL: 6.0}
"""At most so many times the bare attention."""
SOLVERS = ("certified", "budget")
"""Rules that search for the fewest bits; the others decide in one look."""
ALL_LAYOUT = "8|4|4+skip"
ONE = "1 thread, time of its own"
"""The process's own time, which other users of the machine disturb less."""
PROFILED = "1 thread, where precalign's time goes"


@dataclass(frozen=True)
class Phase:
    """A part of an analysis, told by the code that spends the time.

    Attributes
    ----------
    name : str
    places : tuple of str
        In the path of the file, or after its colon the name of a function.
    products : int
        Multiply-adds for every (step, token, query head, channel); one in binary64 counts twice. 0 where the time goes elsewhere.
    """

    name: str
    places: tuple[str, ...]
    products: int = 0


PHASES = (
    Phase("scores: reduced, full, in binary64", ("decode/scores.py:scores<scores",), 4),
    Phase("outputs: reduced, full, in binary64", ("decode/output.py:add_outputs<outputs",), 4),
    Phase("softmax: reduced, full, in binary64", ("decode/softmax.py", "decode/exact.py")),
    Phase("bounds on scores: a sum over channels", ("decode/scores.py:scores<key_sizes",), 1),
    Phase("bounds on outputs: two sums over tokens", ("bounds/outputs.py:add_spreads",), 3),
    Phase("bounds: the rest", ("precalign/bounds/",)),
    Phase("yardstick: distances, a sum over tokens", ("squared_distances", "decode/output.py:add_outputs<weights"), 2),
    Phase("yardstick: the rest", ("precalign/yardstick.py",)),
    Phase("wasted bits", ("precalign/waste",)),
    Phase("errors", ("decode/errors.py", "decode/codes.py:round")),
    Phase("levels, counts, traffic", ("precalign/rules/", "precalign/counts.py", "precalign/traffic.py")),
)
REST = "the rest: arrays, NumPy, the interpreter"
PROFILE_RUNS, MATMUL_RUNS, MATMUL_SIZE, AT_MOST_S = 3, 9, 512, 30.0
THREE = "torch sdpa, twice and in binary64"
"""The attentions that an analysis computes: reduced, full and exact. A floor, not the reference of the ratios."""


@dataclass(frozen=True)
class Head:
    """One kv head, ready for every contender.

    Attributes
    ----------
    inputs : HeadInputs
    task : Task
    """

    inputs: HeadInputs
    task: Task

    def numbers(self) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float16], float]:
        """Return keys, values, queries and scale."""
        held = (self.inputs.keys, self.inputs.values, self.inputs.queries)
        return (*(codes.view(np.float16) for codes in held), self.inputs.scale)  # type: ignore[return-value]


def run(options: Options) -> Benchmark:
    """Check that precalign and NumPy agree, then time all contenders interleaved, on 1 thread and on as many as allowed.

    Raises
    ------
    InputError
        If the dump is not what the NumPy version covers: binary16, one causal query per token.
    UnavailableError
        If torch is not installed.
    """
    path = options.dump if options.dump is not None else DEMO
    with open_dump(path) as dump:
        plan = make_plan(dump, AnalyzeOptions(layers=str(dump.layers[0].index) if options.small else None))
        heads = _heads(dump, plan)
        checks = [f"{plan.name}: {line}" for line in _check(plan, heads)]
        figures = _figures(heads)
        results: list[Row] = []
        for threads in sorted({1, options.threads}):
            seconds = _time(dump, plan, heads, threads, options.repeats)
            torch_fastest = min(
                (c for c in seconds if c.startswith("torch")), key=lambda c: statistics.median(seconds[c])
            )
            case = ONE if threads == 1 else f"{threads} threads"
            results += rows(case, seconds, reference=torch_fastest, figures=figures)
        results += _phases(plan, heads)
    return Benchmark("analyze", DESCRIPTION, results, checks, _aims(results))


def _heads(dump: Dump, plan: Plan) -> list[Head]:
    heads = []
    for task in plan.tasks:
        layer = task.layer
        codes = dump.read_head(layer, task.kv_head)
        if plan.format != BINARY16 or codes.queries is None or layer.n_queries != layer.seq_len:
            raise InputError(
                f"{plan.name}: the benchmark needs binary16 and one query per token",
                hint="the demo dump is the default",
            )
        heads.append(Head(HeadInputs(codes.keys, codes.values, codes.queries, plan.format, task.scale), task))
    return heads


def _profile(plan: Plan, head: Head) -> HeadProfile:
    (profile,) = _profiles(plan, head)
    return profile


def _profiles(plan: Plan, head: Head) -> list[HeadProfile]:
    assert head.task.steps is not None  # noqa: S101 - _heads has looked
    steps = head.task.steps
    # A record of inputs keeps derived exponents; a fresh one pays for them, as an analysis does.
    inputs = HeadInputs(*(getattr(head.inputs, name) for name in ("keys", "values", "queries", "format", "scale")))
    return profile_head(
        inputs, steps=steps.queries, first=steps.first, visible=steps.visible, rules=plan.rules, layout=plan.layout
    )


def _check(plan: Plan, heads: list[Head]) -> list[str]:
    compared = [compare(_profile(plan, head), numpy_peer.profile(*head.numbers()), *head.numbers()) for head in heads]
    steps, equal = (sum(part) for part in zip(*compared, strict=True))
    rest = "" if equal == steps else "; in each of the others the order of a sum decides an exponent"
    return [
        f"precalign and NumPy: wasted bits and key reads of all {steps} steps are equal",
        f"precalign and NumPy: value reads are equal in {equal} of {steps} steps{rest}",
    ]


def _time(dump: Dump, plan: Plan, heads: list[Head], threads: int, repeats: int) -> dict[str, list[float]]:
    layers = plan.options.layers
    whole = make_plan(dump, AnalyzeOptions(layers=layers, jobs=threads))
    everything, deciding = (
        make_plan(dump, AnalyzeOptions(layers=layers, rules=rules, layout=ALL_LAYOUT))
        for rules in (tuple(RULES), tuple(name for name in RULES if name not in SOLVERS))
    )
    numbers = [head.numbers() for head in heads]
    with (
        tempfile.TemporaryDirectory(prefix="precalign-bench-") as folder,
        ThreadPoolExecutor(threads) as pool,
        _libraries(threads) as torch,
    ):
        target = Path(folder) / "out"
        contenders: dict[str, Callable[[], object]] = {
            "precalign, tables written": lambda: analyze(whole, target, overwrite=True),
            OURS: lambda: list(pool.map(lambda head: _profile(plan, head), heads)),
            DECIDED: lambda: list(pool.map(lambda head: _profiles(deciding, head), heads)),
            ALL: lambda: list(pool.map(lambda head: _profiles(everything, head), heads)),
            "numpy": lambda: [numpy_peer.profile(*held) for held in numbers],
            **_torch_contenders(torch, heads),
        }
        return interleave(contenders, repeats, AT_MOST_S, time.process_time if threads == 1 else time.perf_counter)


def _torch_contenders(torch: Any, heads: list[Head]) -> dict[str, Callable[[], object]]:  # noqa: ANN401 - the module
    """Causal attention of all heads of a layer in one call, in binary32, converted and expanded beforehand."""
    layers: dict[int, list[Head]] = {}
    for head in heads:
        layers.setdefault(head.task.layer.index, []).append(head)
    ready = []
    for held in layers.values():
        group = held[0].inputs.queries.shape[0]
        keys, values = (
            torch.from_numpy(np.stack([head.numbers()[i] for head in held]).astype(np.float32)).repeat_interleave(
                group, 0
            )
            for i in (0, 1)
        )
        queries = torch.from_numpy(np.concatenate([head.numbers()[2] for head in held]).astype(np.float32))
        mask = torch.full((len(keys[0]), len(keys[0])), float("-inf")).triu(1)
        ready.append((queries[None], keys[None], values[None], held[0].inputs.scale, mask))

    attention = torch.nn.functional.scaled_dot_product_attention
    wide = [tuple(tensor.double() for tensor in held[:3]) for held in ready]

    def fused() -> list[Any]:
        return [attention(q, k, v, is_causal=True, scale=scale) for q, k, v, scale, _ in ready]

    def three_times() -> list[Any]:
        exact = [
            attention(*held, is_causal=True, scale=scale) for held, (*_, scale, _) in zip(wide, ready, strict=True)
        ]
        return [*fused(), *fused(), *exact]

    def plain() -> list[Any]:
        return [torch.softmax(q @ k.transpose(-1, -2) * scale + mask, -1) @ v for q, k, v, scale, mask in ready]

    with torch.no_grad():
        for a, b in zip(fused(), plain(), strict=True):
            # Both are within (head_dim + seq_len) roundings of the same real numbers.
            if not torch.allclose(a, b, rtol=1e-4, atol=1e-4):
                raise AssertionError("torch's two attentions differ")
    return {"torch sdpa": fused, "torch matmul, softmax, matmul": plain, THREE: three_times}


@contextmanager
def _libraries(threads: int) -> Iterator[Any]:
    """Yield torch, with torch and NumPy's BLAS held to this many threads."""
    try:
        import torch
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise UnavailableError(f"this benchmark needs {error.name}", hint="pip install 'precalign[bench]'") from error
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield torch
    finally:
        torch.set_num_threads(before)


def _phases(plan: Plan, heads: list[Head]) -> list[Row]:
    """Return where the time of one thread goes, and how fast it could be: its multiply-adds at the speed of a matrix product of NumPy's BLAS.

    Profiled, so a little slower than timed; the quickest of a few runs counts.
    """
    unit_ms = 1e3 * _pairs(heads) * 2 / _matmul_flops()
    spent = min((_spent(plan, heads) for _ in range(PROFILE_RUNS)), key=lambda found: sum(found.values()))
    total = sum(spent.values())
    products = {phase.name: phase.products for phase in PHASES}
    result = []
    for name, seconds in spent.items():
        floor = {"floor_ms": products[name] * unit_ms} if products.get(name) else {}
        result.append(Row(PROFILED, name, seconds * 1e3, seconds * 1e3, 0.0, None, {"share": seconds / total} | floor))
    return result


def _spent(plan: Plan, heads: list[Head]) -> dict[str, float]:
    """Return the seconds of each phase, by a profile."""
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    for head in heads:
        _profile(plan, head)
    profile.disable()
    spent = dict.fromkeys([*(phase.name for phase in PHASES), REST], 0.0)
    for entry in profile.getstats():
        # A kernel that several phases call is told by who calls it.
        for called in entry.calls or ():
            spent[_phase(f"{_place(called.code)}<{_function(entry.code)}")] += called.inlinetime
    return spent


def _place(code: Any) -> str:  # noqa: ANN401 - a code object, or the name of what has none
    """Return file and function; what has no file is NumPy's and the interpreter's. numba's kernels have theirs."""
    return code if isinstance(code, str) else f"{Path(code.co_filename).as_posix()}:{code.co_name}"


def _function(code: Any) -> str:  # noqa: ANN401
    return code if isinstance(code, str) else str(code.co_name)


def _phase(place: str) -> str:
    return next((phase.name for phase in PHASES if any(part in place for part in phase.places)), REST)


def _matmul_flops() -> float:
    """Return the operations per second of a matrix product in binary32 on one thread, the best of a few."""
    from threadpoolctl import threadpool_limits

    a = np.ones((MATMUL_SIZE, MATMUL_SIZE), np.float32)
    with threadpool_limits(1, user_api="blas"):
        np.matmul(a, a)
        seconds = []
        for _ in range(MATMUL_RUNS):
            start = time.thread_time()
            np.matmul(a, a)
            seconds.append(time.thread_time() - start)
    return 2.0 * MATMUL_SIZE**3 / min(seconds)


def _pairs(heads: list[Head]) -> int:
    """Return how many (step, token, query head, channel) there are."""
    total = 0
    for head in heads:
        assert head.task.steps is not None  # noqa: S101 - _heads has looked
        total += int(head.task.steps.visible.sum()) * head.inputs.queries.shape[0] * head.inputs.keys.shape[1]
    return total


def _figures(heads: list[Head]) -> Callable[[str, float], dict[str, float]]:
    steps = read = 0
    for head in heads:
        assert head.task.steps is not None  # noqa: S101 - _heads has looked
        steps += len(head.task.steps)
        read += int(head.task.steps.visible.sum()) * head.inputs.keys.shape[1] * 2 * 2
    return lambda _contender, seconds: {"steps_per_s": steps / seconds, "cache_gb_per_s": read / seconds / 1e9}


def _aims(results: list[Row]) -> list[str]:
    floor = {row.case: row.ratio for row in results if row.contender == THREE}
    return [
        f"{row.case}: {row.contender}: at most {AIMS[row.contender]:.0f}x the bare attention of the faster torch: "
        f"{'met' if row.ratio <= AIMS[row.contender] else 'not met'}, {row.ratio:.1f}x; "
        f"the three attentions of an analysis alone are {floor[row.case]:.1f}x in torch"
        for row in results
        if row.contender in AIMS and row.ratio is not None
    ]
