"""A cache class of transformers under test: found, made for a shape, fed, looked at as a decode step sees it, weighed."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers.cache_utils import Cache, CacheLayerMixin

from precalign.analysis.models.storage import DTYPES
from precalign.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from precalign.codecs.conform import Case

MAX_TOKENS = 1024
"""What a class that must be told how many tokens it will hold is told."""
OF_CONFIG = ("sliding_window",)
"""Options that the model's configuration takes in place of the class."""


@dataclass(frozen=True)
class CacheCase:
    """One batch that a check looks at."""

    case: Case
    batch: int = 1
    layers: int = 1

    def __str__(self) -> str:
        return f"batch of {self.batch}, {self.case}"

    def tokens(self, seed: int, n_tokens: int | None = None) -> torch.Tensor:
        """Draw numbers of the case's format, (batch, n_kv_heads, n_tokens, head_dim); each sequence has its own."""
        from dataclasses import replace

        case = self.case if n_tokens is None else replace(self.case, n_tokens=n_tokens)
        drawn = np.stack([case.tokens(1000 * seed + sequence) for sequence in range(self.batch)])
        return torch.from_numpy(drawn).transpose(1, 2).contiguous().to(DTYPES[case.format.name])


@dataclass(frozen=True)
class Seen:
    """What a decode step sees of tokens that came before it.

    Attributes
    ----------
    begin : int
        Position of the first of them: 0, or later where a window slides.
    keys, values : ndarray[float32], (batch, n_kv_heads, n_tokens, head_dim)
    """

    begin: int
    keys: NDArray[np.float32]
    values: NDArray[np.float32]

    @property
    def end(self) -> int:
        """Position after the last token."""
        n_tokens: int = self.keys.shape[2]
        return self.begin + n_tokens

    def between(self, begin: int, end: int) -> Seen:
        """Return what is seen of tokens [begin, end)."""
        cut = slice(max(begin - self.begin, 0), max(end - self.begin, 0))
        return Seen(max(begin, self.begin), self.keys[:, :, cut], self.values[:, :, cut])

    def pick(self, sequences: slice | list[int], heads: slice = slice(None)) -> Seen:
        """Return some of the sequences and heads."""
        return Seen(self.begin, self.keys[sequences][:, heads], self.values[sequences][:, heads])


@dataclass(frozen=True)
class Subject:
    """A class, and what its constructor is given.

    Attributes
    ----------
    made : type
        A subclass of transformers' Cache or of its CacheLayerMixin.
    given : mapping of str to value
        Arguments by name.
    """

    made: type[Any]
    given: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.made.__name__, *(f"{name}={value}" for name, value in self.given.items())])

    def build(self, case: CacheCase) -> Any:
        """Return an empty cache of the case's shape.

        Raises
        ------
        UsageError
            If the class does not take what it is given, or needs something that is not known here.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the packages behind a class are not what is asked here
            if issubclass(self.made, CacheLayerMixin):
                return Cache(layers=[self._made(case) for _ in range(case.layers)])
            return self._made(case)

    def _made(self, case: CacheCase) -> Any:
        of_config = () if not (self._takes("config") or self._takes("model")) else OF_CONFIG
        arguments = {name: value for name, value in self.given.items() if name not in of_config or self._takes(name)}
        for name, parameter in inspect.signature(self.made).parameters.items():
            if name in arguments:
                continue
            if name in KNOWN:
                arguments[name] = KNOWN[name](self, case)
            elif parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                raise UsageError(
                    f"{self.made.__name__} needs {name}", hint=f"give it: --{name.replace('_', '-')} VALUE"
                )
        try:
            return self.made(**arguments)
        except (TypeError, ValueError, ImportError) as error:
            raise UsageError(f"{self}: cannot be made: {error}", hint=f"it takes: {self._parameters()}") from error

    def _takes(self, name: str) -> bool:
        return name in inspect.signature(self.made).parameters

    def _parameters(self) -> str:
        return ", ".join(name for name in inspect.signature(self.made).parameters if name not in ("args", "kwargs"))

    def _of_model(self, case: CacheCase) -> tuple[int, int, int, int | None]:
        sliding = None if self._takes("sliding_window") else self.given.get("sliding_window")
        return case.case.n_kv_heads, case.case.head_dim, case.layers, sliding

    def config(self, case: CacheCase) -> Any:
        """Return the configuration of a model that such a cache could belong to."""
        return _config(*self._of_model(case))

    def model(self, case: CacheCase) -> Any:
        """Return a model of random weights, for classes that ask for the model itself."""
        return _model(*self._of_model(case), case.case.format.name)

    def claim(self, name: str, case: CacheCase) -> Any:
        """Return an attribute by which the class, or a layer of it, says what it does, or None."""
        cache = self.build(case)
        for held in (*getattr(cache, "layers", ()), cache):
            value = getattr(held, name, None)
            if value is not None and not callable(value):
                return value
        return self.given.get(name)


@lru_cache(maxsize=64)
def _config(n_kv_heads: int, head_dim: int, layers: int, sliding: int | None) -> Any:
    return transformers.MistralConfig(
        vocab_size=8,
        hidden_size=n_kv_heads * head_dim,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=n_kv_heads,
        num_key_value_heads=n_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=MAX_TOKENS,
        sliding_window=sliding,
    )


@lru_cache(maxsize=16)
def _model(n_kv_heads: int, head_dim: int, layers: int, sliding: int | None, fmt: str) -> Any:
    config = _config(n_kv_heads, head_dim, layers, sliding)
    return transformers.AutoModelForCausalLM.from_config(config).to(DTYPES[fmt]).eval()


KNOWN: dict[str, Callable[[Subject, CacheCase], Any]] = {
    "config": lambda subject, case: subject.config(case),
    "model": lambda subject, case: subject.model(case),
    "max_cache_len": lambda _subject, _case: MAX_TOKENS,
}
"""Constructor parameters that are filled in where they are not given."""


class Fed:
    """A cache that is fed as a model does it, and what its last update gave back.

    Parameters
    ----------
    subject : Subject
    case : CacheCase
    """

    def __init__(self, subject: Subject, case: CacheCase) -> None:
        self.cache, self.n_tokens = subject.build(case), 0
        self.promised = self.returned = 0

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> Seen:
        """Append tokens to the first layer; return what attention of these tokens sees."""
        n = keys.shape[-2]
        # Lengths may be tensors: they count on after the update.
        self.promised, offset = (int(size) for size in self.cache.get_mask_sizes(n, 0))
        with torch.no_grad():
            seen_keys, seen_values = self.cache.update(keys, values, 0)
        self.n_tokens += n
        self.returned = int(seen_keys.shape[-2])
        valid = self.n_tokens - offset  # what lies behind is room for later tokens
        return Seen(offset, _numbers(seen_keys[:, :, :valid]), _numbers(seen_values[:, :, :valid]))

    def see(self, case: CacheCase) -> Seen:
        """Return what the next decode step sees of the tokens held; its own token is added."""
        n = self.n_tokens
        probe = case.tokens(99, 1)
        return self.append(probe, probe).between(0, n)


def _numbers(tensor: torch.Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = tensor.detach().to(torch.float32).cpu().numpy().copy()
    return numbers


def held_bytes(cache: Any) -> int:
    """Return the bytes of all tensors and arrays that can be reached from an object, each piece of memory once and whole.

    A view of a few tokens keeps all of the memory that it is a view of.
    """
    return sum(dict(_memory(cache, set())).values())


def _memory(held: Any, known: set[int]) -> Iterator[tuple[int, int]]:
    if id(held) in known or isinstance(held, str | bytes | int | float | type | torch.dtype | torch.nn.Module):
        return
    known.add(id(held))
    if isinstance(held, torch.Tensor):
        if type(held) is torch.Tensor or not vars(held):
            storage = held.untyped_storage()
            yield storage.data_ptr(), storage.nbytes()
            return
    elif isinstance(held, np.ndarray):
        whole = held
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        yield whole.__array_interface__["data"][0], whole.nbytes
        return
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple | set) else ()
    for part in (*parts, *getattr(held, "__dict__", {}).values()):
        yield from _memory(part, known)
