"""Models of the transformers library: their caches captured, and decoded with a rule.

The files of this folder are the adapter of transformers and torch; nothing else imports either, and they are imported only when a
model is asked for.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from precalign.analysis.readers import printable
from precalign.errors import InputError, UnavailableError

SMALL_MODEL = Path(__file__).resolve().parent.parent / "demo/novel-small"
"""The model that ships with the project."""


def need_models() -> None:
    """Say clearly what is missing before anything here is imported.

    Raises
    ------
    UnavailableError
        If torch or transformers is not installed.
    """
    lacking = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if lacking:
        raise UnavailableError(
            f"models need {' and '.join(lacking)}, which this installation has not",
            hint="pip install 'precalign[models]'",
        )


def check_model_path(path: Path) -> None:
    """Refuse what cannot be a model directory, before torch is imported.

    Raises
    ------
    InputError
        If there is no such directory, or no config.json in it.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such directory"
        raise InputError(f"{printable(path)}: {what}", hint="give the directory that holds config.json and the weights")
    if not (path / "config.json").is_file():
        raise InputError(
            f"{printable(path)}: holds no config.json", hint="is this a model directory in transformers' layout?"
        )
