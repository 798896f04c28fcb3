"""Decode attention of others on the same codes, on the same stream: torch and flashinfer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from precalign.analysis.benchmarks.decode_problems import Problem
    from precalign.gpu.devices.device import CupyDevice


def numbers(tensor: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:  # noqa: ANN401 - a torch tensor
    """Return a result as binary32 on the host."""
    return np.asarray(tensor.float().cpu().numpy()).reshape(shape)


def _import(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UnavailableError(f"{name} cannot be imported ({error})") from error


def _tensors(device: CupyDevice, problem: Problem) -> tuple[Any, Any, Any]:
    """Return queries (n_q_heads, head_dim), keys and values (seq_len, n_kv_heads, head_dim), on CuPy's memory."""
    torch = _import("torch")
    if not torch.cuda.is_available():
        raise UnavailableError("torch sees no CUDA device")
    dtype = {"binary16": torch.float16, "bfloat16": torch.bfloat16}[problem.format.name]

    def tensor(codes: NDArray[Any]) -> Any:  # noqa: ANN401
        return torch.from_dlpack(device.upload(codes.view(np.int16))).view(dtype)

    return tensor(problem.queries), tensor(problem.keys), tensor(problem.values)


def torch_sdpa(device: CupyDevice, problem: Problem) -> Callable[[], Any]:
    """Return torch's scaled_dot_product_attention over a contiguous cache, query heads grouped."""
    queries, keys, values = _tensors(device, problem)
    attend = _import("torch").nn.functional.scaled_dot_product_attention
    q, k, v = queries[None, :, None], keys.transpose(0, 1)[None].contiguous(), values.transpose(0, 1)[None].contiguous()
    return lambda: attend(q, k, v, scale=problem.scale, enable_gqa=True)


def flashinfer(device: CupyDevice, problem: Problem) -> Callable[[], Any]:
    """Return flashinfer's decode of one sequence."""
    decode = _import("flashinfer").single_decode_with_kv_cache
    queries, keys, values = _tensors(device, problem)
    return lambda: decode(queries, keys, values, kv_layout="NHD", sm_scale=problem.scale)


PEERS: dict[str, Callable[[CupyDevice, Problem], Callable[[], Any]]] = {
    "torch SDPA": torch_sdpa,
    "flashinfer": flashinfer,
}
