"""The gate for proxies that are not ours: two of them by name, or one command run in both revisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loadgen.errors import UsageRefusal
from loadgen.gate.checkouts import Checkout
from loadgen.gate.interleaved import Pair
from loadgen.targets import given
from loadgen.targets.catalogue import catalogue
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Target
from reports.gate import BASE, HEAD


def pair_of(base: str, head: str) -> Pair:
    """The pair that `--target-base` and `--target-head` name. Raises UsageRefusal or BadInput."""
    of_base, of_head = _parse(base, "base"), _parse(head, "head")
    names = (base.partition("=")[0], head.partition("=")[0])
    return Pair(" and ".join(dict.fromkeys(names)), _named(of_base, BASE), _named(of_head, HEAD))


def command_of(text: str) -> ProcessTarget:
    """The command that `--target` names, to be run in the folder of each revision. Raises UsageRefusal."""
    target = given.parse(text)
    if not isinstance(target, ProcessTarget) or target.is_engine:
        raise UsageRefusal(
            f"--target {given.shown(text)}: the gate runs a command in the folder of each revision: NAME=COMMAND with "
            "{port} and {backends}. Two proxies that run already: --target-base and --target-head"
        )
    return target


def revisions_of(target: ProcessTarget, checkouts: Mapping[str, Checkout]) -> Pair:
    """The same command in the folders of base and head."""
    base, head = (
        replace(target, name=name, label=f"{target.label} of {checkouts[name].side.name}", cwd=checkouts[name].path)
        for name in (BASE, HEAD)
    )
    return Pair(target.name, base, head)


def _parse(text: str, side: str) -> Target:
    name, _, what = text.partition("=")
    if name and what in catalogue():
        return catalogue()[what]
    return given.parse(text, f"--target-{side}")


def _named(target: Target, name: str) -> Target:
    """The same target under the name its runs carry."""
    return replace(target, name=name)  # type: ignore[type-var]  # every target is a dataclass with a name
