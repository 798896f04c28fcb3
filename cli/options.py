"""Options that several subcommands share, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from precalign.analysis.readers import Dump

_DUMP_OPTIONS = (
    click.option(
        "--map",
        "names",
        multiple=True,
        metavar="ROLE=TEMPLATE",
        help="Names of tensors that follow no known convention, as keys=blk{layer}.k; give keys, values and perhaps queries.",
    ),
    click.option("--axes", metavar="ORDER", help="Order of the axes, of b, h, s, d.  [default: bhsd or hsd]"),
    click.option("--storage-format", metavar="FORMAT", help="Format to round binary32 tensors to: fp16 or bf16."),
    click.option("--byte-format", metavar="FORMAT", help="Format of caches of raw bytes (uint8): e4m3fn, e5m2, ..."),
)


def dump_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a dump is read."""
    for option in reversed(_DUMP_OPTIONS):
        function = option(function)
    return function


def open_from(path: str | Path, chosen: Mapping[str, Any]) -> Dump:
    """Open a dump as the options say."""
    from precalign.analysis.readers import open_dump, parse_mapping
    from precalign.formats import get_format

    stored, raw = chosen["storage_format"], chosen["byte_format"]
    return open_dump(
        path,
        mapping=parse_mapping(chosen["names"]),
        axes=chosen["axes"],
        storage_format=None if stored is None else get_format(stored),
        byte_format=None if raw is None else get_format(raw),
    )
