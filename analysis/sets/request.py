"""What is asked of every dump of a set, in a form that travels to a worker process."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from precalign import __version__
from precalign.analysis.readers import open_dump, parse_mapping
from precalign.formats import get_format
from precalign.rules import get_rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precalign.analysis.plan import Options
    from precalign.analysis.readers import Dump
    from precalign.analysis.readers.address import Place
    from precalign.policy import Policy

PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "pyarrow")
"""Those that compute or write: another version may give other bytes."""


@dataclass(frozen=True)
class Reading:
    """How dumps are opened, as the options say it.

    Attributes
    ----------
    names : tuple of str
        --map.
    axes, storage_format, byte_format : str or None
    """

    names: tuple[str, ...] = ()
    axes: str | None = None
    storage_format: str | None = None
    byte_format: str | None = None

    def open(self, place: Place) -> Dump:
        """Open a dump.

        Raises
        ------
        PrecalignError
            As `open_dump`, `parse_mapping` and `get_format`.
        """
        return open_dump(
            place,
            mapping=parse_mapping(self.names),
            axes=self.axes,
            storage_format=None if self.storage_format is None else get_format(self.storage_format),
            byte_format=None if self.byte_format is None else get_format(self.byte_format),
        )


@dataclass(frozen=True)
class Request:
    """What is asked of every dump.

    Attributes
    ----------
    options : Options
    policies : mapping of str to Policy
    reading : Reading
    """

    options: Options
    policies: Mapping[str, Policy] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)

    @property
    def rule_names(self) -> tuple[str, ...]:
        """What tables call the rules, and then the policies."""
        rules = dict.fromkeys(str(get_rule(rule)) for rule in self.options.rules)
        return (*rules, *self.policies)

    def facts(self) -> dict[str, Any]:
        """Return the object `options` of summary.json: everything that the result depends on, but for dumps and versions."""
        options = asdict(self.options)
        del options["jobs"]
        options |= {"attention": "causal" if options.pop("causal") else "full", "rules": list(self.rule_names)}
        policies = {
            name: hashlib.sha256(json.dumps(policy.to_json(), sort_keys=True).encode()).hexdigest()
            for name, policy in self.policies.items()
        }
        reading = asdict(self.reading) | {"names": list(self.reading.names)}
        return options | {"policies_sha256": policies} | reading


def versions() -> dict[str, str]:
    """Return the versions on which the bytes of a result may depend."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"precalign": __version__, "python": python} | {package: version(package) for package in PACKAGES}
