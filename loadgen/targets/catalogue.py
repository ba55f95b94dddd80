"""The targets there are, by name, from catalogue.yaml."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from loadgen.errors import UsageRefusal
from loadgen.targets.direct import Direct
from loadgen.targets.process import ProcessTarget, Program
from loadgen.targets.target import Target


@functools.cache
def catalogue() -> Mapping[str, Target]:
    """All known targets by name, in the order of catalogue.yaml, `direct` first."""
    data: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("catalogue.yaml").read_text("utf-8"))
    found: dict[str, Target] = {"direct": Direct()}
    for name, entry in data.items():
        found[name] = _entry(name, entry, data)
    return found


def choose(names: list[str], given: Sequence[Target]) -> list[Target]:
    """The targets called `names`, which may name `given` ones too; given ones that nobody named come last.

    Raises UsageRefusal for a name nobody knows, with the nearest known one.
    """
    known: dict[str, Target] = {**catalogue(), **{target.name: target for target in given}}
    chosen: list[Target] = []
    for name in [*names, *(target.name for target in given if target.name not in names)]:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageRefusal(f"--targets: {name!r} is not known{hint} Known are: {', '.join(known)}")
        if known[name] not in chosen:
            chosen.append(known[name])
    return chosen


def _entry(name: str, entry: Mapping[str, Any], everything: Mapping[str, Mapping[str, Any]]) -> ProcessTarget:
    parent = entry.get("variant_of")
    if parent is not None:
        original = everything[parent]
        settings = {**original.get("settings", {}), **entry["settings"]}
        while original.get("variant_of") is not None:  # of a variant: all that its own parents change, too
            original = everything[original["variant_of"]]
            settings = {**original.get("settings", {}), **settings}
        return _entry(
            name, {**original, "kind": "variant", **entry, "variant_of": None, "settings": settings}, everything
        ).as_variant_of(parent, entry["settings"])
    values = dict(entry)
    values.pop("variant_of", None)
    program = values.pop("program", None)
    if program is not None:
        program = Program(**{**program, "version": tuple(program.get("version", ()))})
    return ProcessTarget(name=name, program=program, **{**values, "command": tuple(values["command"])})
