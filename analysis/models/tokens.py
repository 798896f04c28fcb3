"""The tokens that a model is given: a text and its tokenizer, or ids from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.readers import printable
from precalign.analysis.readers.arrays import load_array
from precalign.errors import InputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from precalign.analysis.models.loading import LoadedModel


def read_tokens(loaded: LoadedModel, text: Path | None, token_ids: Path | None) -> NDArray[np.int64]:
    """Return token ids, (n_tokens,).

    Parameters
    ----------
    loaded : LoadedModel
    text : Path, optional
        UTF-8; goes through the model's tokenizer, which adds what it usually adds.
    token_ids : Path, optional
        .npy of one axis of integers, in place of a text.

    Raises
    ------
    UsageError
        If neither or both are given.
    InputError
        If the file cannot be read, is empty, or holds ids that the model has not; or the model has no tokenizer.
    """
    if (text is None) == (token_ids is None):
        raise UsageError("give either a text or token ids", hint="--text FILE or --token-ids FILE.npy")
    if text is not None:
        found = _encode(loaded, text)
    else:
        assert token_ids is not None  # noqa: S101 - one of the two is given
        found = _load(token_ids)
    name = printable(text or token_ids)
    if not len(found):
        raise InputError(f"{name}: is empty", hint="at least two tokens are needed")
    if found.min() < 0 or found.max() >= loaded.vocabulary:
        wrong = found[(found < 0) | (found >= loaded.vocabulary)][0]
        raise InputError(f"{name}: token id {wrong} is not one of the model's {loaded.vocabulary}")
    return found


def limit(loaded: LoadedModel, found: NDArray[np.int64], n_tokens: int | None, name: Path | None) -> NDArray[np.int64]:
    """Return the first `n_tokens`, or as many as there are and the model takes.

    Raises
    ------
    InputError
        If more are asked for than the model has positions or the text has tokens.
    """
    most = loaded.max_tokens
    if n_tokens is None:
        return found[:most]
    if most is not None and n_tokens > most:
        raise InputError(
            f"{n_tokens} tokens are more than the {most} positions of the model", hint=f"give at most {most}"
        )
    if n_tokens > len(found):
        raise InputError(f"{printable(name)}: has {len(found)} tokens, {n_tokens} are asked for")
    return found[:n_tokens]


def _encode(loaded: LoadedModel, path: Path) -> NDArray[np.int64]:
    if loaded.tokenizer is None:
        raise InputError(
            f"{printable(loaded.path)}: holds no tokenizer, so a text cannot be used",
            hint="give token ids: --token-ids FILE.npy",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(path)}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not text.strip():
        raise InputError(f"{printable(path)}: the text is empty")
    encoded: Any = loaded.tokenizer(text, verbose=False)["input_ids"]
    return np.asarray(encoded, np.int64)


def _load(path: Path) -> NDArray[np.int64]:
    found = load_array(path)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(
            f"{printable(path)}: expected one axis of integers, got {found.dtype} {printable(found.shape)}"
        )
    return found.astype(np.int64)
