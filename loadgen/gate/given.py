"""The gate for proxies that are not ours: two binaries, two configs or two running proxies, from what was typed.

NAME=http://HOST:PORT[,pid=N]        a proxy that runs already, in front of backends it finds by itself
NAME=TARGET                          an entry of the catalogue, e.g. nginx
NAME=FILE.yaml                       our `serve` with this config; endpoints and ports are replaced by ours
NAME=COMMAND with {port} {backends}  started for each run: `mine=./proxy --listen {port} --upstream {backends}`
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from loadgen.errors import BadInput, UsageRefusal
from loadgen.gate.interleaved import Pair
from loadgen.targets.catalogue import catalogue
from loadgen.targets.direct import parse_given
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Target
from reports.gate import BASE, HEAD

_OURS = ("endpoints", "server.host", "server.port", "admin")


def pair_of(base: str, head: str) -> Pair:
    """The pair that `--target-base` and `--target-head` name. Raises UsageRefusal or BadInput."""
    (of_base, ours), (of_head, theirs) = _parse(base, "base"), _parse(head, "head")
    names = (of_base, of_head)
    return Pair(" and ".join(dict.fromkeys(names)), _named(ours, BASE), _named(theirs, HEAD))


def _parse(text: str, side: str) -> tuple[str, Target]:
    name, equals, what = text.partition("=")
    option = f"--target-{side} {text}"
    if not name or not equals or not what:
        raise UsageRefusal(f"{option}: write NAME=URL, NAME=TARGET, NAME=FILE.yaml or NAME=COMMAND with {{port}}")
    if what.startswith(("http://", "https://")):
        return name, parse_given(text)
    if what in catalogue():
        return name, catalogue()[what]
    if what.endswith((".yaml", ".yml")) and len(shlex.split(what)) == 1:
        return name, _served(Path(what), option)
    words = shlex.split(what)
    if not any("{port}" in word for word in words):
        raise UsageRefusal(
            f"{option}: {what!r} is no known target ({', '.join(catalogue())}), no .yaml file, and no command: "
            "a command says {port} where it is to listen and {backends} where it finds the mocks"
        )
    return name, ProcessTarget(name=name, kind="peer", label=what, command=tuple(words))


def _served(path: Path, option: str) -> ProcessTarget:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInput(f"{option}: {path}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise BadInput(f"{option}: {path}: not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(config, dict):
        raise BadInput(f"{option}: {path}: not a config of `serve`")
    settings = dict(_flat(config))
    engine = str(settings.get("proxy.engine", "olla"))
    ours = catalogue().get(engine)
    if not isinstance(ours, ProcessTarget):
        raise BadInput(f"{option}: {path}: proxy.engine: {engine!r} is not an engine")
    return replace(ours, settings={**ours.settings, **settings}, label=str(path))


def _flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values, without those that are ours to choose."""
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        dotted = f"{prefix}{key}"
        if dotted in _OURS:
            continue
        if isinstance(value, dict):
            found += _flat(value, f"{dotted}.")
        else:
            found.append((dotted, value))
    return found


def _named(target: Target, name: str) -> Target:
    """The same target under the name its runs carry."""
    return replace(target, name=name)  # type: ignore[type-var]  # every target is a dataclass with a name
