"""The engines that attend for a layer of a live cache: emulated, CPU kernels, CUDA kernels."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from precalign.errors import UnavailableError, UsageError
from precalign.gpu.devices import open_device
from precalign.live.layer import EmulatedLayer
from precalign.live.planes import PlaneLayer, check_for_kernels
from precalign.rules.aligned_skip import AlignedSkip

if TYPE_CHECKING:
    from precalign.live.layer import LayerCache, LayerRules, LayerShape

ENGINES = ("emulated", "cpu", "gpu")


def check_engine(engine: str) -> None:
    """Refuse an engine that is not there.

    Raises
    ------
    UsageError
        If there is no such engine.
    UnavailableError
        If this installation lacks it.
    """
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", hint="engines: " + ", ".join(ENGINES))
    if engine == "cpu" and find_spec("precalign.cpu") is None:
        raise UnavailableError(
            "the CPU kernels are not part of this installation", hint="engine emulated runs anywhere"
        )
    if engine == "gpu":
        open_device("gpu")


def layer_cache(engine: str, shape: LayerShape, rules: LayerRules, batch_size: int, max_tokens: int) -> LayerCache:
    """Return an empty cache of a layer.

    Parameters
    ----------
    engine : str
        One of `ENGINES`.
    shape : LayerShape
    rules : LayerRules
    batch_size : int
    max_tokens : int
        Capacity of a sequence for kernels, which need one beforehand; the emulation grows.

    Raises
    ------
    UnavailableError
        If this installation has no such engine, or the engine does not know the rule, the layout or the shape.
    """
    check_engine(engine)
    if engine == "emulated":
        return EmulatedLayer(shape, rules, batch_size)
    check_for_kernels(engine, shape, rules)
    return (_cpu if engine == "cpu" else _gpu)(shape, rules, batch_size, max_tokens)


def _cpu(shape: LayerShape, rules: LayerRules, batch_size: int, max_tokens: int) -> LayerCache:
    planes = import_module("precalign.cpu").CpuPlaneCache(
        rules.rules,
        head_dim=shape.head_dim,
        n_kv_heads=shape.n_kv_heads,
        group=shape.group,
        batch_size=batch_size,
        max_tokens=max_tokens,
        fmt=rules.layout.format,
        split_tokens=rules.split_tokens,
        scale=shape.scale,
    )
    return PlaneLayer(shape, rules, planes)


def _gpu(shape: LayerShape, rules: LayerRules, batch_size: int, max_tokens: int) -> LayerCache:
    from precalign.gpu.kernels import KernelConfig
    from precalign.gpu.plane_cache import PlaneCache
    from precalign.rules.static import Static

    rule = rules.rules[0]
    static = [r for r in rules.rules if isinstance(r, Static)]
    if len(static) != len(rules.rules) and len(set(rules.rules)) > 1:
        raise UnavailableError(
            f"layer {shape.index}: heads of one launch share one rule",
            hint="`precalign tune --rule static` makes policies of fixed bits",
        )
    if rule.one_pass:
        raise UnavailableError(
            f"rule {rule}: the one-pass kernels keep no probabilities, by which a live cache counts",
            hint="engine emulated or cpu",
        )
    config = KernelConfig(
        head_dim=shape.head_dim,
        group=shape.group,
        format=rules.layout.format,
        rule=rule.name,
        guard_bits=getattr(rule, "guard_bits", 0),
        skip_diff=rule.threshold if isinstance(rule, AlignedSkip) else KernelConfig.skip_diff,
        split_tokens=rules.split_tokens,
    )
    planes = PlaneCache(
        config,
        n_kv_heads=shape.n_kv_heads,
        batch_size=batch_size,
        max_tokens=max_tokens,
        device=open_device("gpu"),
        scale=shape.scale,
        key_bits=np.array([r.key_bits for r in static]) if static else None,
        value_bits=np.array([r.value_bits for r in static]) if static else None,
    )
    return PlaneLayer(shape, rules, planes)
