"""What a config comes to: every value with its origin, the keys an engine ignores, what endpoints will be asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from proxy.config import Config, LoadedConfig, flatten, show_duration, show_size
from proxy.core.endpoint import EndpointSpec
from proxy.core.health import HEALTH_PATHS, paths_to_try

Unused = Mapping[str, Iterable[str]]
"""By engine that runs: what it does not use, each a key, a section, or `endpoints[].key`."""


def unused(loaded: LoadedConfig, by_engine: Unused) -> list[str]:
    """The written keys that no engine uses."""
    return [key for key in loaded.origins if all(_matches(key, patterns) for patterns in by_engine.values())]


def asked(config: Config) -> list[str]:
    """For each endpoint what it will be asked: how a client's path is forwarded, and where its health is checked."""
    return [f"{spec.name}: {_forwarded(spec)}; {_checked(spec)}" for spec in config.endpoint_specs()]


def _forwarded(spec: EndpointSpec) -> str:
    target = "/v1/models"
    return f"{target} is asked at {spec.scheme}://{spec.authority}{spec.prefix_for(target)}{target}"


def _checked(spec: EndpointSpec) -> str:
    if not spec.health_enabled:
        return "its health is not checked"
    paths = paths_to_try(spec.health_path, None)
    return f"its health at {', else '.join(spec.prefix_for(path) + path for path in paths)}"


def printed(loaded: LoadedConfig, by_engine: Unused) -> str:
    """Every value as YAML that `serve` accepts, each line with its origin; a null says what it stands for."""
    data = loaded.config.model_dump(mode="json")
    notes = {}
    for key, value in flatten(data):
        words = [loaded.origins.get(key, "default")]
        if value is None:
            words.append(_stands_for(loaded.config, key))
        if engines := [engine for engine, patterns in by_engine.items() if _matches(key, patterns)]:
            words.append(f"not used by {' and '.join(engines)}")
        notes[key] = "; ".join(words)
    return "\n".join(_lines(data, notes)) + "\n"


def _matches(key: str, patterns: Iterable[str]) -> bool:
    plain = re.sub(r"\[\d+\]", "[]", key)
    return any(plain == pattern or plain.startswith(pattern + ".") for pattern in patterns)


def _lines(data: Mapping[str, Any], notes: Mapping[str, str], prefix: str = "", indent: str = "") -> Iterator[str]:
    for name, value in data.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _lines(value, notes, key, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield f"{indent}{name}:"
            for i, element in enumerate(value):
                first, *rest = _lines(element, notes, f"{key}[{i}]", indent + "    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from rest
        else:
            yield f"{indent}{name}: {_scalar(value)}  # {_one_line(notes[key])}"


def _scalar(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _one_line(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode() if text.isprintable() else ascii(text)


def _stands_for(config: Config, key: str) -> str:
    proxy, engine = config.proxy, config.proxy.engine
    match re.sub(r"endpoints\[\d+\]\.", "endpoint.", key).split("."):
        case ["proxy", "response_header_timeout" | "idle_timeout"]:
            return f"proxy.timeout, {show_duration(proxy.timeout)}"
        case ["proxy", "max_duration"]:
            return "no limit"
        case ["proxy", "buffer_size"]:
            return f"{engine}'s own, {show_size(proxy.read_buffer(engine))}"
        case ["proxy", "max_conns_per_host"]:
            return f"{engine}'s own, {proxy.connection_limit(engine)}"
        case ["proxy", "flush", "interval"]:
            return "without effect"
        case ["runtime", "gc", "freeze_after_start"]:
            return f"{engine}'s own, {str(config.runtime.gc.freezes(engine)).lower()}"
        case ["runtime", "gc", "thresholds"]:
            return "the interpreter's own"
        case ["canary", "engine"]:
            return "no canary"
        case ["health", "path"] | ["endpoint", "health", "path"] if config.health.path is None:
            return f"found by asking {', '.join(HEALTH_PATHS)}"
        case ["endpoint", "health", name]:
            return f"health.{name}, {_scalar(config.health.model_dump(mode='json')[name])}"
        case ["endpoint", "max_conns_per_host"]:
            return f"proxy.max_conns_per_host, {proxy.connection_limit(engine)}"
        case ["endpoint", "max_idle_conns"]:
            return f"proxy.max_idle_conns, {proxy.max_idle_conns}"
        case ["endpoint", "tls", "ca_file"]:
            return "the system's certificates"
        case _:
            return "none"
