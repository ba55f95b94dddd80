"""Targets that are not in the catalogue, from what was typed: NAME=WHAT.

NAME=http(s)://HOST:PORT[/PREFIX][,pid=N]  runs already; nothing of it is started, pinned or stopped
NAME=FILE.yaml                       our `serve` with this config; endpoints and ports are replaced by ours
NAME=COMMAND with {port} {backends}  started for each run and pinned as ours are:
                                     `mine=./proxy --listen {port} --upstream {backends}`
NAME=TARGET                          an entry of the catalogue under another name (the gate only)

and, after `--variant`, NAME=ENGINE,KEY=VALUE[,KEY=VALUE]: an engine of the catalogue with config keys changed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import yaml

from loadgen.errors import BadInput, UsageRefusal
from loadgen.targets.catalogue import catalogue
from loadgen.targets.direct import Given
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Target

_OURS = ("endpoints", "server.host", "server.port", "admin")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")
"""Names become folders and columns; `@` is the A/A arm's."""
_BEFORE_KEY = re.compile(r",(?=[a-z][a-z0-9_.]*=)")
"""The commas between settings; those of a list (`[700,10,10]`) are part of a value."""
_ITS_OWN = {"PYTHONSAFEPATH": ""}  # ours is set for our own packages; a program of the user imports its neighbours
_FORMS = "NAME=URL, NAME=URL,pid=NUMBER, NAME=FILE.yaml or NAME=COMMAND with {port}"


def parse(text: str, option: str = "--target") -> Target:
    """What was typed after `option`. Raises UsageRefusal or BadInput."""
    name, equals, what = text.partition("=")
    if not equals or not what.strip():
        raise UsageRefusal(f"{option} {shown(text)}: write {_FORMS}")
    if not _NAME.fullmatch(name):
        raise UsageRefusal(
            f"{option} {shown(text)}: {name!r} is no name: letters, digits, '.', '_' and '-', at most 41, no other sign"
        )
    if "://" in what.split("{", 1)[0].split(" ", 1)[0]:
        return _running(name, what, f"{option} {name}")
    if Path(what).suffix in (".yaml", ".yml") and "{port}" not in what:
        return _served(name, Path(what), f"{option} {name}")
    return _started(name, what, f"{option} {name}")


def variant(text: str) -> ProcessTarget:
    """What was typed after `--variant`: `plain=olla,proxy.pools.buffers=false`. Raises UsageRefusal."""
    name, _, what = text.partition("=")
    parent, *changes = _BEFORE_KEY.split(what)
    if not _NAME.fullmatch(name) or not changes:
        raise UsageRefusal(f"--variant {text}: write NAME=ENGINE,KEY=VALUE, e.g. quiet=olla,runtime.recorders=false")
    ours = catalogue().get(parent)
    if not isinstance(ours, ProcessTarget) or not ours.is_engine:
        engines = [known for known, one in catalogue().items() if one.is_engine and one.describe().kind == "engine"]
        raise UsageRefusal(f"--variant {name}: {parent!r} is no engine of ours; known are {', '.join(engines)}")
    settings: dict[str, Any] = {}
    for change in changes:
        key, _, value = change.partition("=")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise UsageRefusal(f"--variant {name}: {key}: {value!r} is not YAML") from exc
    label = f"{parent} with {', '.join(changes)}"
    made = replace(ours, name=name, kind="variant", label=label, settings={**ours.settings, **settings})
    return made.as_variant_of(parent, settings)


def all_of(texts: Sequence[str], option: str = "--target", variants: Sequence[str] = ()) -> list[Target]:
    """Several, whose names differ from each other and from the catalogue's. Raises UsageRefusal or BadInput."""
    found: dict[str, Target] = {}
    for target in [*(parse(text, option) for text in texts), *map(variant, variants)]:
        if target.name in found:
            raise UsageRefusal(f"{option}: two targets are called {target.name}; each needs a name of its own")
        if target.name in catalogue():
            raise UsageRefusal(f"{option}: {target.name} is a target of ours already; choose another name")
        found[target.name] = target
    return list(found.values())


def shown(text: str) -> str:
    """What was typed, without what may be a password: for messages and for the command that is kept."""
    return re.sub(r"(?<=://)[^/\s@]*@", "***@", re.sub(r"([?&][^=\s&,]+=)[^&\s,]+", r"\1***", text))


def _running(name: str, what: str, where: str) -> Given:
    url, *options = what.split(",")
    pid: int | None = None
    for one in options:
        key, _, value = one.partition("=")
        if key.strip() != "pid" or not value.strip().isdecimal():
            raise UsageRefusal(f"{where}: {one!r} is not known; write NAME=URL or NAME=URL,pid=NUMBER")
        pid = int(value)
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise UsageRefusal(f"{where}: {shown(url)!r} must look like http://HOST:PORT or https://HOST:PORT/PREFIX")
    if parts.username is not None or parts.password is not None:
        raise UsageRefusal(f"{where}: the URL holds a user or a password; give it with --header and a variable")
    if parts.query or parts.fragment:
        raise UsageRefusal(f"{where}: {shown(url)!r}: a URL with '?' or '#' has no place for the paths of requests")
    if pid is not None and not psutil.pid_exists(pid):
        raise UsageRefusal(f"{where}: pid={pid}: there is no such process")
    return Given(name=name, url=url.rstrip("/"), pid=pid)


def _started(name: str, what: str, where: str) -> ProcessTarget:
    try:
        words = shlex.split(what)
    except ValueError as exc:
        raise UsageRefusal(f"{where}: {what!r}: {exc}") from exc
    if not any("{port}" in word for word in words):
        raise UsageRefusal(
            f"{where}: {what!r} is no URL, no .yaml file, and no command: "
            "a command says {port} where it is to listen and {backends} where it finds the mocks"
        )
    return ProcessTarget(name=name, kind="peer", label=what, command=tuple(words), env=_ITS_OWN, given=True)


def _served(name: str, path: Path, where: str) -> ProcessTarget:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInput(f"{where}: {path}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise BadInput(f"{where}: {path}: not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(config, dict):
        raise BadInput(f"{where}: {path}: not a config of `serve`")
    settings = dict(_flat(config))
    engine = settings.get("proxy.engine", "olla")
    ours = catalogue().get(engine) if isinstance(engine, str) else None
    if not isinstance(ours, ProcessTarget) or not ours.is_engine:
        raise BadInput(f"{where}: {path}: proxy.engine: {engine!r} is not an engine")
    return replace(ours, name=name, settings={**ours.settings, **settings}, label=str(path), given=True)


def _flat(config: dict[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
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
