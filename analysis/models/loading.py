"""Open a model directory: only what lies there, nothing is fetched and no code of the directory runs."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

from precalign.analysis.models import check_model_path
from precalign.analysis.models.cache import attach
from precalign.analysis.readers import printable
from precalign.errors import InputError, UnavailableError, UsageError
from precalign.formats import BFLOAT16, BINARY16, Format, get_format

if TYPE_CHECKING:
    from pathlib import Path

COMPUTE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready for `AlignedCache`.

    Attributes
    ----------
    path : Path
    model : transformers.PreTrainedModel
        In evaluation mode, its attention set to "precalign".
    tokenizer : transformers tokenizer or None
        None where the directory holds none.
    format : Format
        In which its cache is stored.
    """

    path: Path
    model: Any
    tokenizer: Any
    format: Format

    @property
    def max_tokens(self) -> int | None:
        """Positions that the model knows, or None if its configuration states none."""
        stated = getattr(self.model.config, "max_position_embeddings", None)
        return int(stated) if stated else None

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.model.config.get_text_config().vocab_size)


def load_model(path: Path, *, compute: str = "fp32", dtype: str | None = None) -> LoadedModel:
    """Open a causal language model in transformers' layout.

    Parameters
    ----------
    path : Path
        A directory with config.json and weights.
    compute : str
        In which the model computes: fp32, or fp16 or bf16, which is then the cache's format too.
    dtype : str, optional
        In which the cache is stored: fp16 or bf16; that of the stored weights if not given, binary16 where these are binary32.

    Raises
    ------
    InputError
        If the path is no model directory, or what lies there cannot be loaded.
    UnavailableError
        If the model is of a kind that is not supported: latent attention, state spaces, an encoder.
    """
    if compute not in COMPUTE:
        raise UsageError(f"--compute {compute}: not understood", hint="give fp32, fp16 or bf16")
    shown = printable(path)
    check_model_path(path)
    _quiet()
    config = _config(path)
    _check_kind(config, shown)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=COMPUTE[compute], local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"{shown}: cannot be loaded: {_first_line(error)}") from error
    model.eval()
    attach(model)
    return LoadedModel(path, model, _tokenizer(path), _storage(config, compute, dtype))


def stock_copy(loaded: LoadedModel) -> Any:
    """Return a copy of the model that attends by transformers' own implementation."""
    model = copy.deepcopy(loaded.model)
    model.set_attn_implementation("sdpa")
    return model


def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _config(path: Path) -> Any:
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
        return transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{printable(path)}: config.json cannot be used: {_first_line(error)}") from error


def _check_kind(config: Any, shown: str) -> None:
    text = config.get_text_config()
    if getattr(text, "kv_lora_rank", None):
        raise UnavailableError(
            f"{shown}: {config.model_type} has latent attention: its cache holds a compressed vector, not keys and values",
            hint="supported: multi-head, grouped-query and multi-query attention",
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnavailableError(
            f"{shown}: {config.model_type} is an encoder and a decoder; give a causal language model"
        )
    others = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if others:
        raise UnavailableError(
            f"{shown}: {config.model_type} has layers of other kinds: {', '.join(sorted(others))}",
            hint="every layer must be full or sliding attention",
        )


def _tokenizer(path: Path) -> Any:
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"{printable(path)}: the tokenizer cannot be loaded: {_first_line(error)}") from error


def _storage(config: Any, compute: str, dtype: str | None) -> Format:
    own = {torch.float16: BINARY16, torch.bfloat16: BFLOAT16}
    computed = own.get(COMPUTE[compute])
    if dtype is None:
        stored: Format = computed or own.get(getattr(config, "dtype", None), BINARY16)
        return stored
    chosen = get_format(dtype)
    if chosen not in own.values():
        raise UsageError(f"--dtype {dtype}: a cache is stored in 16 bits", hint="give fp16 or bf16")
    if computed is not None and computed != chosen:
        raise UsageError(f"--compute {compute} stores its cache in {computed.name}, not {chosen.name}")
    return chosen


def _first_line(error: BaseException) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0], 200)
