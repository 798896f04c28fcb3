"""`precalign conform`: what holds of a codec, and the smallest case where it fails."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from precalign.cli.output import console, print_json

if TYPE_CHECKING:
    from precalign.codecs import Codec, PairCodec


@click.command("conform")
@click.argument("codec")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(*, codec: str, as_json: bool) -> None:
    """Check what must hold of a codec: sizes, streams, windows, edges.

    CODEC is one of precalign's with its parameters, or your own as module:Class, importable from here: a subclass of
    precalign.codecs.Codec, RowCodec or PairCodec that needs no arguments. Importing runs that module. The exit code is 1 if a check
    fails.

    \b
    Examples:
      precalign conform kivi:bits=2,group=32
      precalign conform my_codec:MyCodec
    """
    from precalign.codecs.conform import CHECKS, conform

    made = _codec(codec)
    found = list(conform(made))
    failed = any(finding.holds is False for finding in found)
    if as_json:
        rows = [asdict(finding) | {"what": CHECKS[finding.check].what} for finding in found]
        print_json({"schema": "precalign.conform/1", "codec": str(made), "checks": rows})
    else:
        from rich.table import Table

        table = Table("check", "what must hold", "holds", "cases", title=f"codec {made}", title_justify="left")
        for finding in found:
            held = {True: "yes", False: "NO", None: "-"}[finding.holds]
            table.add_row(finding.check, CHECKS[finding.check].what, held, str(finding.cases))
        out = console()
        out.print(table)
        for finding in found:
            if finding.example:
                out.print(f"{finding.check}: {finding.example}", markup=False, soft_wrap=True)
    if failed:
        click.get_current_context().exit(1)


def _codec(text: str) -> Codec | PairCodec:
    from precalign.codecs import CODECS, get_codec

    if text.partition(":")[0] in CODECS:
        return get_codec(text)
    return _own_codec(text)


def _own_codec(text: str) -> Codec | PairCodec:
    import importlib
    import sys

    from precalign.codecs import Codec, PairCodec, get_codec
    from precalign.errors import UsageError

    module, _, name = text.partition(":")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        if not name:
            return get_codec(text)  # whose error lists the codecs
        raise UsageError(
            f"{text}: cannot be imported: {error}", hint="write module:Class, importable from the current folder"
        ) from error
    finally:
        sys.path.remove("")
    if not (isinstance(found, type) and issubclass(found, Codec | PairCodec)):
        raise UsageError(f"{text}: is not a subclass of precalign.codecs.Codec, RowCodec or PairCodec")
    made: Codec | PairCodec = found()
    return made
