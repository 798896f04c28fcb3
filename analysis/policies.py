"""Policies in files, and whether a policy fits a dump."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from precalign.analysis.readers.base import printable
from precalign.errors import InputError, UsageError
from precalign.policy import Policy
from precalign.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from precalign.analysis.plan import Options, Task
    from precalign.analysis.readers import LayerInfo
    from precalign.formats import Format
    from precalign.rules import Rule


RENAME = "tables name a policy after its file: rename the file"


def read_policy(path: Path) -> Policy:
    """Read policy.json.

    Raises
    ------
    InputError
        If the file cannot be read, is no JSON, or is no policy.
    """
    name = printable(path)
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{name}: no such file", hint="`precalign tune DUMP -o policy.json` makes one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as JSON: {printable(error, 300)}") from error
    return Policy.from_json(data, name)


def policy_text(policy: Policy) -> str:
    """Return policy.json; the same policy gives the same text."""
    return json.dumps(policy.to_json(), indent=2, allow_nan=False) + "\n"


def read_policies(paths: Sequence[Path]) -> dict[str, Policy]:
    """Read policies and name each after its file: policy.json is `policy`.

    Raises
    ------
    InputError
        As `read_policy`.
    UsageError
        If two files would have one name.
    """
    policies: dict[str, Policy] = {}
    for path in paths:
        name = printable(path.stem)
        if name in policies:
            raise UsageError(f"--policy {printable(path)}: another policy is called {name!r}", hint=RENAME)
        policies[name] = read_policy(path)
    return policies


def with_policies(options: Options, policies: Mapping[str, Policy]) -> Options:
    """Return the options with the layout and the split that policies bring.

    Raises
    ------
    UsageError
        If policies differ in these, or `options` names another layout.
    """
    brought: tuple[str, str, int] | None = None
    for name, policy in policies.items():
        asked = options.layout.replace(" ", "").replace(",", "|") if options.layout else policy.layout.name
        if policy.layout.name != asked:
            raise UsageError(
                f"policy {name} is of the layout {policy.layout.name}, not {asked}",
                hint="a policy brings its layout: leave --layout out",
            )
        if brought is not None and (policy.layout.name, policy.split_tokens) != brought[1:]:
            raise UsageError(
                f"policies of one layout and one split go together: {brought[0]} has {brought[1]} in splits of {brought[2]} tokens, "
                f"{name} has {policy.layout.name} in splits of {policy.split_tokens}",
                hint="analyze them one by one",
            )
        brought = (name, policy.layout.name, policy.split_tokens)
    return options if brought is None else replace(options, layout=brought[1], split_tokens=brought[2])


def check_policies(
    policies: Mapping[str, Policy],
    rules: Sequence[Rule],
    fmt: Format,
    layers: Sequence[LayerInfo],
    tasks: Sequence[Task],
) -> None:
    """Refuse a policy of another model.

    A dump may hold fewer layers than the policy names, but of a layer that both have they must have the same kv heads.

    Raises
    ------
    UsageError
        If a policy and a rule have one name.
    InputError
        If the policy is of another format, lacks a head that is to be analysed, or names a head that a layer does not have.
    """
    hint = "is it the policy of another model?"
    heads = {layer.index: layer.n_kv_heads for layer in layers}
    for name, policy in policies.items():
        if name in map(str, rules):
            raise UsageError(f"a rule and a policy are called {name!r}", hint=RENAME)
        if policy.layout.format != fmt:
            raise InputError(
                f"policy {name} is of {policy.layout.format.name}, the dump of {fmt.name}",
                hint="tune a policy on a dump of the same format",
            )
        for layer, kv_head in sorted(policy.rules):
            if layer in heads and kv_head >= heads[layer]:
                raise InputError(
                    f"policy {name} names kv head {kv_head} of layer {layer}, which has {heads[layer]} in the dump",
                    hint=hint,
                )
        for task in tasks:
            place = (task.layer.index, task.kv_head)
            if place not in policy.rules:
                raise InputError(
                    f"policy {name} has no rule for layer {place[0]}, kv head {place[1]} of the dump", hint=hint
                )
