"""The config file of `serve`: every key, every default, and the sentences for what is wrong with one.

The seed's own YAML blocks are valid as they stand. Durations are written like `300s` or `50ms` and become float
seconds; sizes like `64KiB` become bytes. 0 is "no limit" for limits and timeouts; `null` is the engine's own default.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from proxy.core.balancing import BALANCERS
from proxy.core.endpoint import EndpointSpec, parse_url

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_DURATION_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)\s*(B|KB|MB|GB|KiB|MiB|GiB)?")
_SIZE_UNITS = {None: 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_LONGEST = 7 * 24 * 3600.0  # a longer wait than a week is a typing error
_LARGEST = 2**40


class ConfigError(Exception):
    """A config that cannot be used: one sentence each for what is wrong, where, and what to do."""


def parse_duration(value: object) -> float:
    """Seconds of `300s`, `50ms`, `1.5m`, `1h` or 0. Raises ValueError."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(match[1]) * _DURATION_UNITS[match[2]]
        if seconds <= _LONGEST:
            return seconds
        raise ValueError("longer than a week; write 0 for no limit")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"a duration needs a unit: write {value}s or {value}ms")
    raise ValueError("not a duration; write it like 300s, 50ms, 5m or 1h")


def parse_size(value: object) -> int:
    """Bytes of `64KiB`, `100MiB` or a plain number of bytes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = int(match[1]) * _SIZE_UNITS[match[2]]
    else:
        raise ValueError("not a size; write it like 64KiB, 100MiB or a number of bytes")
    if size > _LARGEST:
        raise ValueError("more than 1 TiB; write 0 for no limit")
    return size


Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Count = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]
AtLeastOne = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Port = Annotated[int, Field(ge=0, le=65535, strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerConfig(_Section):
    """The side that clients connect to."""

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Field(ge=1, le=256, strict=True)] = 1
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    header_timeout: Duration = 10.0
    body_timeout: Duration = 30.0
    write_timeout: Duration = 60.0
    keep_alive_timeout: Duration = 75.0
    shutdown_timeout: Duration = 30.0
    max_body_size: Size = 100 * 2**20
    max_header_size: Size = 64 * 2**10
    max_headers: Count = 100
    max_target_size: Size = 8 * 2**10
    max_field_size: Size = 16 * 2**10
    max_connections: Count = 20_000
    max_in_flight: Count = 0
    access_log: Flag = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class AdminConfig(_Section):
    """The listener for operators; loopback unless the file says otherwise."""

    host: str = "127.0.0.1"
    port: Port = 8081


class BreakerConfig(_Section):
    """Olla's circuit breakers."""

    enabled: Flag = True
    failure_threshold: AtLeastOne = 5
    timeout: Duration = 30.0
    half_open_requests: AtLeastOne = 3
    count_5xx: Flag = False


class FlushConfig(_Section):
    """When Olla passes on what it read."""

    policy: Literal["adaptive", "every-read"] = "adaptive"
    interval: Duration = 0.05
    small: Size = 1024


class PoolsConfig(_Section):
    """Olla's pools, each switchable alone."""

    per_endpoint: Flag = True
    buffers: Flag = True
    contexts: Flag = True
    errors: Flag = True
    prewarm: Count = 0


class ProxyConfig(_Section):
    """The engine."""

    engine: Literal["sherpa", "olla"] = "olla"
    load_balancer: str = "least-connections"
    timeout: Duration = 300.0
    connect_timeout: Duration = 5.0
    response_header_timeout: Duration | None = None
    idle_timeout: Duration | None = None
    max_duration: Duration | None = None
    buffer_size: Size | None = None
    max_idle_conns: Count = 100
    max_conns_per_host: Count = 50
    idle_conn_timeout: Duration = 90.0
    pool_wait_timeout: Duration = 5.0
    circuit_breaker: BreakerConfig = BreakerConfig()
    flush: FlushConfig = FlushConfig()
    pools: PoolsConfig = PoolsConfig()
    max_replay_body: Size = 2**20
    retry_non_idempotent: Flag = False
    strip_credentials: Flag = False
    server_timing: Flag = False

    @field_validator("load_balancer")
    @classmethod
    def _known_balancer(cls, value: str) -> str:
        if value not in BALANCERS:
            raise ValueError(f"not a balancer; known are {', '.join(BALANCERS)}")
        return value

    @field_validator("buffer_size")
    @classmethod
    def _sane_buffer(cls, value: int | None) -> int | None:
        if value is not None and not 1024 <= value <= 16 * 2**20:
            raise ValueError("a read buffer is between 1KiB and 16MiB")
        return value

    @property
    def head_wait(self) -> float:
        """Longest wait for a response's head in seconds, 0 without limit."""
        return self.timeout if self.response_header_timeout is None else self.response_header_timeout

    @property
    def idle_wait(self) -> float:
        """Longest silence between an upstream's bytes in seconds, 0 without limit."""
        return self.timeout if self.idle_timeout is None else self.idle_timeout

    def read_buffer(self, engine: str) -> int:
        """Bytes of one read from an upstream: the seed's 8 KiB for Sherpa, 64 KiB for Olla, unless the file says so."""
        if self.buffer_size is not None:
            return self.buffer_size
        return 8 * 2**10 if engine == "sherpa" else 64 * 2**10


class HealthConfig(_Section):
    """Active checks, for every endpoint that does not say otherwise."""

    enabled: Flag = True
    path: str = "/health"
    interval: Duration = 5.0
    timeout: Duration = 2.0
    unhealthy_after: AtLeastOne = 3
    healthy_after: AtLeastOne = 1

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or not value.isprintable() or " " in value or not value.isascii():
            raise ValueError("a path starts with / and holds no blanks")
        return value

    @field_validator("interval", "timeout")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("must be longer than 0; switch checks off with enabled: false")
        return value


class EndpointHealthConfig(_Section):
    """What an endpoint says otherwise."""

    enabled: Flag | None = None
    path: str | None = None
    interval: Duration | None = None
    timeout: Duration | None = None
    unhealthy_after: AtLeastOne | None = None
    healthy_after: AtLeastOne | None = None


class TlsConfig(_Section):
    """How an https endpoint is trusted."""

    verify: Flag = True
    ca_file: str | None = None


class EndpointConfig(_Section):
    """One LLM server. A path in its URL is a prefix of every forwarded path."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    url: str
    priority: Annotated[int, Field(ge=0, le=1_000_000, strict=True)] = 100
    max_conns_per_host: Count | None = None
    max_idle_conns: Count | None = None
    health: EndpointHealthConfig = EndpointHealthConfig()
    tls: TlsConfig = TlsConfig()

    @field_validator("url")
    @classmethod
    def _a_url(cls, value: str) -> str:
        parse_url(value)
        return value


class GcConfig(_Section):
    """The collector's settings, applied after start. `ballast`: objects kept alive, as a service's caches would be."""

    freeze_after_start: Flag | None = None
    thresholds: tuple[Count, Count, Count] | None = None
    ballast: Annotated[int, Field(ge=0, le=5_000_000, strict=True)] = 0


class RuntimeConfig(_Section):
    """The interpreter under the engine."""

    gc: GcConfig = GcConfig()
    recorders: Flag = True


class CanaryConfig(_Section):
    """The seed's gradual rollout: some of the workers run the other engine."""

    engine: Literal["sherpa", "olla"] | None = None
    workers: Count = 0


class Config(_Section):
    """The whole file. Only `endpoints` must be written."""

    server: ServerConfig = ServerConfig()
    admin: AdminConfig = AdminConfig()
    proxy: ProxyConfig = ProxyConfig()
    health: HealthConfig = HealthConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    canary: CanaryConfig = CanaryConfig()
    endpoints: Annotated[tuple[EndpointConfig, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        names = [e.name for e in self.endpoints]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ValueError(f"endpoints: two are called {sorted(doubled)[0]!r}; names must differ")
        if self.canary.workers and self.canary.engine is None:
            raise ValueError("canary.workers: says how many, but canary.engine does not say which engine")
        if self.canary.engine and self.canary.workers > self.server.workers:
            raise ValueError(f"canary.workers: {self.canary.workers} of {self.server.workers} server.workers")
        return self

    def endpoint_specs(self) -> list[EndpointSpec]:
        """The endpoints with every inherited value filled in."""
        return [self._spec(e) for e in self.endpoints]

    def _spec(self, e: EndpointConfig) -> EndpointSpec:
        scheme, host, port, prefix = parse_url(e.url)

        def own(value: Any, inherited: Any) -> Any:
            return inherited if value is None else value

        return EndpointSpec(
            name=e.name,
            scheme=scheme,
            host=host,
            port=port,
            prefix=prefix,
            priority=e.priority,
            max_conns=own(e.max_conns_per_host, self.proxy.max_conns_per_host),
            max_idle=own(e.max_idle_conns, self.proxy.max_idle_conns),
            health_enabled=own(e.health.enabled, self.health.enabled),
            health_path=own(e.health.path, self.health.path),
            health_interval=own(e.health.interval, self.health.interval),
            health_timeout=own(e.health.timeout, self.health.timeout),
            unhealthy_after=own(e.health.unhealthy_after, self.health.unhealthy_after),
            healthy_after=own(e.health.healthy_after, self.health.healthy_after),
            tls_verify=e.tls.verify,
            tls_ca_file=e.tls.ca_file,
        )


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A config and where each of its values came from: `default`, the file's name, or `command line`."""

    config: Config
    source: str
    origins: Mapping[str, str]

    def explain(self) -> Iterator[tuple[str, Any, str]]:
        """Every effective value as (dotted key, value, origin)."""
        for key, value in _flatten(self.config.model_dump(mode="json")):
            yield key, value, self.origins.get(key, "default")


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Read and check a config file. `overrides`: dotted keys to values from the command line. Raises ConfigError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text") from exc
    return parse(text, source=str(path), overrides=overrides)


def parse(text: str, source: str = "config", overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Check a config given as text; `source` is its name in messages. Raises ConfigError."""
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: not valid YAML: {exc.problem or exc}") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{source}: not valid YAML: {exc}") from exc
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: a config is a mapping of sections like `proxy:` and `endpoints:`")
    # `proxy:` with nothing under it means the defaults, as it would for any single key.
    data = {key: value for key, value in data.items() if value is not None}
    origins = {key: source for key, _ in _flatten(data)}
    for key, value in (overrides or {}).items():
        *sections, last = key.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{source}: {section}: is a section, not a value")
        place[last] = value
        origins[key] = "command line"
    try:
        config = Config.model_validate(data)
    except ValidationError as exc:
        raise ConfigError("\n".join(_sentences(source, exc))) from exc
    return LoadedConfig(config, source, origins)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key written twice is an error: the second would silently win."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, (str, int, float, bool, type(None))):
            raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"{key!r} is written twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _flatten(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(data, list) and data and isinstance(data[0], Mapping):
        for i, value in enumerate(data):
            yield from _flatten(value, f"{prefix}[{i}]")
    else:
        yield prefix, data


def _sentences(source: str, exc: ValidationError) -> Iterator[str]:
    for error in exc.errors():
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
        value = error["input"]
        match error["type"]:
            case "extra_forbidden":
                yield f"{source}: {key}: unknown key{_nearest(error['loc'])}"
            case "missing":
                yield f"{source}: {key}: is missing"
            case "value_error" if not key:
                yield f"{source}: {error['ctx']['error']}"
            case "value_error":
                yield f"{source}: {key}: {_shown(value)} is {_article(str(error['ctx']['error']))}"
            case _:
                yield f"{source}: {key}: {_shown(value)}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _article(sentence: str) -> str:
    return sentence if sentence.startswith(("not ", "longer", "more ")) else f"refused: {sentence}"


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(loc: tuple[int | str, ...]) -> str:
    model: Any = Config
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        model = EndpointConfig if part == "endpoints" else getattr(field, "annotation", None)
    known = list(getattr(model, "model_fields", {}))
    close = difflib.get_close_matches(str(loc[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here are {', '.join(known)}"
