"""torch tensors to the codes of a 16-bit cache and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from precalign.errors import InputError
from precalign.formats import BFLOAT16, BINARY16

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.formats import Format

DTYPES = {BINARY16.name: torch.float16, BFLOAT16.name: torch.bfloat16}


def storage_format(dtype: Any, chosen: Format | None) -> Format:
    """Return the format in which the cache of a model is stored.

    Parameters
    ----------
    dtype : torch.dtype
        In which the model computes.
    chosen : Format, optional
        For a model that computes in binary32; its keys, values and queries are rounded to it, to nearest even.

    Raises
    ------
    InputError
        If the model computes in binary32 and nothing was chosen, or in 16 bits and something else was.
    """
    own = next((fmt for fmt in (BINARY16, BFLOAT16) if DTYPES[fmt.name] == dtype), None)
    if chosen is not None and chosen.name not in DTYPES:
        raise InputError(f"a cache is stored in binary16 or bfloat16, not {chosen.name}")
    if own is None and chosen is None:
        raise InputError(
            f"the model computes in {dtype}, and a cache is stored in 16 bits",
            hint="say how it is rounded (storage_format, --dtype), or load the model in float16 or bfloat16",
        )
    if own is not None and chosen is not None and own != chosen:
        raise InputError(f"the model computes in {own.name}, so its cache is {own.name} and not {chosen.name}")
    return own or chosen  # type: ignore[return-value] # one of them is there


def round_to(tensor: Any, fmt: Format) -> Any:
    """Return the tensor rounded to the format, in its own type; itself where it is of that format."""
    return tensor if tensor.dtype == DTYPES[fmt.name] else tensor.to(DTYPES[fmt.name]).to(tensor.dtype)


def codes(tensor: Any, fmt: Format) -> NDArray[Any]:
    """Return codes, rounded to nearest even where the tensor is wider."""
    stored = tensor.detach().to(DTYPES[fmt.name]).contiguous().cpu().view(torch.int16).numpy()
    held: NDArray[Any] = stored.view(fmt.code_dtype)
    return held
