"""`precalign conform`: what holds of a codec or of a cache class, and the smallest case where it fails."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from precalign.cli.output import console, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from precalign.codecs.conform import Finding


@click.command("conform", context_settings={"ignore_unknown_options": True})
@click.argument("subject", metavar="CODEC|MODULE:CLASS")
@click.argument("given", nargs=-1, type=click.UNPROCESSED, metavar="[--PARAMETER VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(*, subject: str, given: Sequence[str], as_json: bool) -> None:
    """Check what must hold of a codec or a cache: sizes, streams, batches, windows, edges.

    Give one of precalign's codecs with its parameters, or a class as module:Class, importable from here: a subclass of
    precalign.codecs.Codec, RowCodec or PairCodec, of transformers' Cache, or of a layer of such a cache. What its constructor takes is given as
    options; a configuration, a model and a length are made where it asks for them. Importing runs that module. The exit
    code is 1 if a check fails.

    \b
    Examples:
      precalign conform kivi:bits=2,group=32
      precalign conform my_codec:MyCodec --bits 3
      precalign conform transformers:QuantizedCache --backend quanto
      precalign conform transformers:DynamicCache --sliding-window 16
    """
    title, what, findings = _subject(subject, _arguments(given))
    found = list(findings)
    failed = any(finding.holds is False for finding in found)
    if as_json:
        rows = [asdict(finding) | {"what": what[finding.check]} for finding in found]
        print_json({"schema": "precalign.conform/2", "subject": title, "checks": rows})
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table("check", "what must hold", "holds", "cases", title=escape(title), title_justify="left")
        for finding in found:
            held = {True: "yes", False: "NO", None: "-"}[finding.holds]
            table.add_row(finding.check, what[finding.check], held, str(finding.cases))
        out = console()
        out.print(table)
        for finding in found:
            if finding.example:
                out.print(f"{finding.check}: {finding.example}", markup=False, soft_wrap=True)
    if failed:
        click.get_current_context().exit(1)


def _arguments(given: Sequence[str]) -> dict[str, Any]:
    """Return constructor arguments of "--name value" and "--name=value"."""
    from precalign.errors import UsageError

    found, words = {}, list(given)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("--") or not (equals or words):
            raise UsageError(f"{word!r}: not understood", hint="parameters are written --name VALUE")
        found[name[2:].replace("-", "_")] = _value(value if equals else words.pop(0))
    return found


def _value(text: str) -> Any:  # noqa: ANN401 - whatever was written
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _subject(text: str, given: dict[str, Any]) -> tuple[str, dict[str, str], Iterator[Finding]]:
    """Return a title, what each check asks, and what it finds."""
    from precalign.codecs import CODECS, Codec, PairCodec, get_codec
    from precalign.errors import UsageError

    module, colon, _ = text.partition(":")
    if module in CODECS or not colon:
        codec = get_codec(text)  # whose error lists the codecs
        if given:
            raise UsageError(f"codec {codec}: its parameters are written after its name", hint="kivi:bits=4,group=64")
        return _codec(codec)
    made = _class(text)
    if issubclass(made, Codec | PairCodec):
        try:
            return _codec(made(**given))
        except TypeError as error:
            raise UsageError(f"{text}: cannot be made: {error}") from error
    if any(base.__module__ == "transformers.cache_utils" for base in made.__mro__):
        return _cache(made, given)
    raise UsageError(
        f"{text}: is not a subclass of precalign.codecs.Codec, RowCodec or PairCodec, nor of transformers' Cache"
    )


def _codec(codec: Any) -> tuple[str, dict[str, str], Iterator[Finding]]:  # noqa: ANN401 - of one's own
    from precalign.codecs.conform import CHECKS, conform

    return f"codec {codec}", {name: check.what for name, check in CHECKS.items()}, conform(codec)


def _cache(made: type, given: dict[str, Any]) -> tuple[str, dict[str, str], Iterator[Finding]]:
    from precalign.analysis.models.cache_checks import CACHE_CHECKS
    from precalign.analysis.models.cache_conform import conform_cache
    from precalign.analysis.models.cache_subject import Subject

    subject = Subject(made, given)
    return f"cache {subject}", {name: check.what for name, check in CACHE_CHECKS.items()}, conform_cache(subject)


def _class(text: str) -> type:
    import importlib
    import sys

    from precalign.errors import UsageError

    module, _, name = text.partition(":")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{text}: cannot be imported: {error}", hint="write module:Class, importable from the current folder"
        ) from error
    finally:
        sys.path.remove("")
    if not isinstance(found, type):
        raise UsageError(f"{text}: is not a class, so it is not a subclass of anything that is checked here")
    return found
