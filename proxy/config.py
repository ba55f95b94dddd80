"""The config file of `serve`: every key, every default, and the sentences for what is wrong with one.

The seed's own YAML blocks are valid as they stand. Durations are written like `300s` or `50ms` and become float
seconds; sizes like `64KiB` become bytes. 0 is "no limit" for limits and timeouts; only as `shutdown_timeout`
it is no time at all. `null` is the engine's own default.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from proxy.config_go import called_here
from proxy.core.balancing import BALANCERS
from proxy.core.endpoint import EndpointSpec, parse_url
from proxy.core.headers import CREDENTIALS, HOP_BY_HOP, RESTATED

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_DURATION_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)
_SIZE_TEXT = re.compile(r"\s*(\d*\.)?\d+\s*[A-Za-z]*\s*")  # pydantic overlooks what follows: `1,000` would be 1
_SIZE_UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_LONGEST = 7 * 24 * 3600.0  # a longer wait than a week is a typing error
_LARGEST = 2**40
_LARGEST_FILE = 2**20
_DEEPEST = 16
_MOST_VALUES = 100_000
_MOST_SENTENCES = 20


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
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        raise ValueError(f"a duration needs a unit: write {value}s or {value}ms")
    raise ValueError("not a duration; write it like 300s, 50ms, 5m or 1h")


def parse_size(value: object) -> int:
    """Bytes of `64KiB`, `1.5MiB` or a plain number of bytes. Raises ValueError."""
    try:
        readable = not isinstance(value, bool) and (not isinstance(value, str) or _SIZE_TEXT.fullmatch(value))
        size = _SIZE.validate_python(value if readable else None)
    except ValidationError:
        raise ValueError("not a size; write it like 64KiB, 100MiB or a number of bytes") from None
    if size > _LARGEST:
        raise ValueError("more than 1 TiB; write 0 for no limit")
    return int(size)


def show_duration(seconds: float) -> str | int:
    """How a config writes it: `300s`, `50ms`, 0. `parse_duration` reads back exactly this value."""
    if not seconds:
        return 0
    if seconds < 1 and (ms := round(seconds * 1000)) and parse_duration(f"{ms}ms") == seconds:
        return f"{ms}ms"
    return f"{Decimal(repr(seconds)).normalize():f}s"


def show_size(size: int) -> str | int:
    """How a config writes it: `64KiB`, `100MiB`, or bytes."""
    for unit, bytes_each in _SIZE_UNITS.items():
        if size and size % bytes_each == 0:
            return f"{size // bytes_each}{unit}"
    return size


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be longer than 0; switch checks off with enabled: false")
    return value


def _health_path(value: str) -> str:
    if not value.startswith("/") or not value.isprintable() or " " in value or not value.isascii():
        raise ValueError("a path starts with / and holds no blanks")
    return value


def _hash_header(value: str) -> str:
    name = value.lower()
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError("not the name of a header field; write it like x-session-id")
    if name in HOP_BY_HOP | RESTATED or name == "content-length":
        raise ValueError("this field is not passed on as it came, so it is no session; use one like x-session-id")
    return name


def _ca_file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError("not a file that can be read")
    return value


Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(show_duration, when_used="json")]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(show_size, when_used="json")]
Count = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]
AtLeastOne = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Port = Annotated[int, Field(ge=0, le=65535, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Wait = Annotated[Duration, AfterValidator(_positive)]
HealthPath = Annotated[str, AfterValidator(_health_path)]
HashHeader = Annotated[str, AfterValidator(_hash_header)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        """`key:` with nothing after it means the default, for a value as for a section."""
        if value is None:
            return {}
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if v is not None or k not in cls.model_fields}
        return value


class ServerConfig(_Section):
    """The side that clients connect to. `max_connections` and `max_in_flight` are limits of each worker."""

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
    count_5xx: Flag = True  # 500, 502, 503 and 504


class RetryConfig(_Section):
    """How much one request may cost: endpoints it is sent to, and the time after which no further try begins.

    nginx has `proxy_next_upstream_tries` and `_timeout`, caddy `lb_retries` and `lb_try_duration`.
    """

    max_attempts: Count = 3
    max_time: Duration = 30.0


class FlushConfig(_Section):
    """When Olla passes on what it read."""

    policy: Literal["adaptive", "every-read"] = "adaptive"
    interval: Duration | None = None  # without effect: nothing waits so long. Accepted, as files may have it
    small: Size = 1024


class PoolsConfig(_Section):
    """Olla's pools, each switchable alone."""

    per_endpoint: Flag = True
    # Off, because it costs more than it buys: with it, on uvloop, a request takes 65,418 instructions instead of 60,056
    # and an event 13,602 instead of 8,180, with 20 allocations more (valgrind and memray: `gate`, L1). The loop's own
    # `bytes` are one call a read; a lent buffer is two and a copy.
    buffers: Flag = False
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
    max_conns_per_host: Count | None = None
    idle_conn_timeout: Duration = 90.0
    pool_wait_timeout: Duration = 5.0
    hash_header: HashHeader = "x-session-id"  # whose value is the session, for `consistent-hash`
    circuit_breaker: BreakerConfig = BreakerConfig()
    flush: FlushConfig = FlushConfig()
    pools: PoolsConfig = PoolsConfig()
    retry: RetryConfig = RetryConfig()
    max_replay_body: Size = 2**20
    retry_non_idempotent: Flag = False
    strip_credentials: Flag = False

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

    def connection_limit(self, engine: str) -> int:
        """Connections at once to one endpoint, 0 without limit: the seed's 50 for Olla, unless the file says so."""
        if self.max_conns_per_host is not None:
            return self.max_conns_per_host
        return 0 if engine == "sherpa" else 50


class HealthConfig(_Section):
    """Active checks, for every endpoint that does not say otherwise."""

    enabled: Flag = True
    path: HealthPath | None = None
    interval: Wait = 5.0
    timeout: Wait = 2.0
    unhealthy_after: AtLeastOne = 3
    healthy_after: AtLeastOne = 1


class EndpointHealthConfig(_Section):
    """What an endpoint says otherwise."""

    enabled: Flag | None = None
    path: HealthPath | None = None
    interval: Wait | None = None
    timeout: Wait | None = None
    unhealthy_after: AtLeastOne | None = None
    healthy_after: AtLeastOne | None = None


class TlsConfig(_Section):
    """How an https endpoint is trusted."""

    verify: Flag = True
    ca_file: Annotated[str, AfterValidator(_ca_file)] | None = None


class EndpointConfig(_Section):
    """One LLM server. A path in its URL goes before every forwarded path that does not begin with it already."""

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

    def freezes(self, engine: str) -> bool:
        """Whether everything alive after start is moved out of the collector's sight: Olla's default, not Sherpa's."""
        return engine == "olla" if self.freeze_after_start is None else self.freeze_after_start


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
        field = self.proxy.hash_header
        if self.proxy.strip_credentials and field in CREDENTIALS:
            raise ValueError(f"proxy.hash_header: {field!r} is dropped by strip_credentials; use another")
        return self

    def as_written(self) -> str:
        """YAML from which `parse` makes an equal config."""
        text: str = yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)
        return text

    def digest(self) -> str:
        """SHA-256 over every value but the addresses: equal for proxies that differ only in where they are."""
        data = self.model_dump(mode="json")
        for section in ("server", "admin"):
            del data[section]["host"], data[section]["port"]
        for endpoint in data["endpoints"]:
            scheme, _, _, prefix = parse_url(endpoint["url"])
            endpoint["url"] = f"{scheme}://{prefix}"
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def endpoint_specs(self) -> list[EndpointSpec]:
        """The endpoints with every inherited value filled in."""
        return [self._spec(e) for e in self.endpoints]

    def _spec(self, e: EndpointConfig) -> EndpointSpec:
        scheme, host, port, prefix = parse_url(e.url)

        health = self.health.model_copy(update=e.health.model_dump(exclude_none=True))
        conns, idle = e.max_conns_per_host, e.max_idle_conns
        return EndpointSpec(
            name=e.name,
            scheme=scheme,
            host=host,
            port=port,
            prefix=prefix,
            priority=e.priority,
            max_conns=self.proxy.connection_limit(self.proxy.engine) if conns is None else conns,
            max_idle=self.proxy.max_idle_conns if idle is None else idle,
            health_enabled=health.enabled,
            health_path=health.path,
            health_interval=health.interval,
            health_timeout=health.timeout,
            unhealthy_after=health.unhealthy_after,
            healthy_after=health.healthy_after,
            tls_verify=e.tls.verify,
            tls_ca_file=e.tls.ca_file,
        )


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A config, and `origins`: for each key that is no default, the file's name or `command line`."""

    config: Config
    source: str
    origins: Mapping[str, str]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def again(self) -> LoadedConfig:
        """Read the same file once more, with the same command line. Raises ConfigError."""
        return load(self.source, self.overrides)


def merge_reload(old: Config, new: Config, fixed_keys: Iterable[str]) -> tuple[Config, list[str]]:
    """`new` as a proxy that runs with `old` can take it, and a sentence for each value under `fixed_keys` it cannot."""
    fixed_keys = tuple(fixed_keys)
    before, after = (dict(flatten(config.model_dump(mode="json"))) for config in (old, new))
    refused = [
        f"{key}: {_shown(after[key])} needs a restart; until then it stays {_shown(value)}"
        for key, value in before.items()
        if value != after.get(key) and any(key == fixed or key.startswith(fixed + ".") for fixed in fixed_keys)
    ]
    for key in fixed_keys:
        new = _with_value_of(old, new, key.split("."))
    return new, refused


ModelT = TypeVar("ModelT", bound=BaseModel)


def _with_value_of(old: ModelT, new: ModelT, path: list[str]) -> ModelT:
    """`new` with one value, however deep, as it is in `old`."""
    name, *rest = path
    value, other = getattr(old, name), getattr(new, name)
    return new.model_copy(update={name: _with_value_of(value, other, rest) if rest else value})


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Read and check a config file. `overrides`: dotted keys to values from the command line. Raises ConfigError."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as exc:
        what = "is not UTF-8 text" if isinstance(exc, UnicodeError) else f"cannot be read: {_strerror(exc)}"
        raise ConfigError(f"{path}: {what}") from exc
    if len(data) > _LARGEST_FILE:
        raise ConfigError(f"{path}: is larger than 1 MiB; this cannot be a config")
    return parse(text, source=str(path), overrides=overrides)


def parse(text: str, source: str = "config", overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Check a config given as text; `source` is its name in messages. Raises ConfigError."""
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: not valid YAML: {exc.problem or exc}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{source}: is nested deeper than any config") from exc
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, KeyError) as exc:  # `!!timestamp x`, `!!bool x`
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(exc).split())}") from exc
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: a config is a mapping of sections like `proxy:` and `endpoints:`")
    _check_extent(source, data)
    _check_filled(source, data)
    origins = {key: source for key, value in flatten(data) if value is not None}
    for key, value in (overrides or {}).items():
        if _override(data, key.split("."), value):
            origins[key] = "command line"
    try:
        config = Config.model_validate(data)
    except ValidationError as exc:
        raise ConfigError("\n".join(_sentences(source, exc))) from exc
    return LoadedConfig(config, source, origins, dict(overrides or {}))


def _override(data: dict[str, Any], path: list[str], value: object) -> bool:
    """Put a value from the command line in place; False where the file has something else than a section."""
    *sections, last = path
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            return False
    data[last] = value
    return True


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key written twice is an error: the second would silently win."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *name` takes over another section's keys
            continue
        key = loader.construct_object(key_node)
        if not isinstance(key, (str, int, float, bool, type(None))):
            raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"{key!r} is written twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _check_extent(source: str, data: object) -> None:
    """Refuse what aliases can blow up: a value that contains itself, or one that is a million times in itself."""
    places = [(data, 0)]
    seen = 0
    while places:
        value, depth = places.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_VALUES:
            raise ConfigError(f"{source}: is nested deeper, or holds more values, than any config")
        if isinstance(value, Mapping):
            places.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list):
            places.extend((inner, depth + 1) for inner in value)


def _check_filled(source: str, data: Any) -> None:
    """Refuse `${NAME}` in any value: a template that was never filled in."""
    sentences = [
        f"{source}: {key if key.isprintable() else ascii(key)}: {_shown(value)} holds an unfilled ${{...}}; variables "
        "are not replaced here: write the value, or make the file from a template (envsubst)"
        for key, value in flatten(data)
        if isinstance(value, str) and _PLACEHOLDER.search(value)
    ]
    if sentences:
        raise ConfigError("\n".join(sentences[:_MOST_SENTENCES]))


_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")


def flatten(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted key, like `endpoints[0].tls.verify`; a list of plain values is one value."""
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(data, list) and data and isinstance(data[0], Mapping):
        for i, value in enumerate(data):
            yield from flatten(value, f"{prefix}[{i}]")
    else:
        yield prefix, data


def _sentences(source: str, exc: ValidationError) -> Iterator[str]:
    errors = exc.errors()
    # pydantic reports a list with a wrong element as too short as well; only the element is named.
    places = {error["loc"][:1] for error in errors if len(error["loc"]) > 1}
    errors = [e for e in errors if not (e["type"] == "too_short" and e["loc"] in places)]
    for error in errors[:_MOST_SENTENCES]:
        key = "".join(map(_step, error["loc"])).lstrip(".")
        yield f"{source}: {key}: {_problem(error)}" if key else f"{source}: {_problem(error)}"
    if len(errors) > _MOST_SENTENCES:
        yield f"{source}: ... and {len(errors) - _MOST_SENTENCES} more"


def _step(part: int | str) -> str:
    """One step of a dotted key; what is no plain word is quoted, so that a key cannot break the line."""
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if re.fullmatch(r"[\w-]+", part) else f".{part!r}"


def _problem(error: ErrorDetails) -> str:
    value, context = _shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key{_nearest(error['loc'])}"
        case "missing":
            return "is missing"
        case "value_error":
            sentence = str(context["error"])
            if not error["loc"]:
                return sentence
            return f"{value} is {sentence if sentence.startswith('not ') else f'refused: {sentence}'}"
        case "model_type" | "model_attributes_type":
            keys = ", ".join(_keys_at(error["loc"])[:3])
            return f"{value} is not a section; write its keys ({keys} ...) indented below it"
        case "tuple_type" | "list_type":
            return f"{value} is not a list"
        case "bool_type":
            return f"{value} is not true or false"
        case "int_type":
            return f"{value} is not a whole number"
        case "string_type":
            return f"{value} is not text; put it in quotes"
        case "literal_error":
            return f"{value} is not {context['expected']}"
        case "greater_than_equal":
            return f"{value} is less than {context['ge']}"
        case "less_than_equal":
            return f"{value} is more than {context['le']}"
        case "string_pattern_mismatch":
            return f"{value} is not a name; use letters, digits and . _ -, at most 63, a letter or digit first"
        case "too_short":
            return "at least one is needed"
        case "too_long":
            return f"more than {context['max_length']} are too many"
        case "invalid_key":
            return f"{value} is not a key; keys are words"
        case _:
            return f"{value}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _shown(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    text = _USERINFO.sub("//***@", repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


_USERINFO = re.compile(r"//[^/@\s]*@")


def _strerror(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


def _model_at(loc: tuple[int | str, ...]) -> Any:
    """The model, or another annotation, that stands at a place in Config."""
    model: Any = Config
    for part in loc:
        if isinstance(part, int):
            continue
        found = getattr(model, "model_fields", {}).get(part)
        model = EndpointConfig if part == "endpoints" else getattr(found, "annotation", None)
    return model


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    return list(getattr(_model_at(loc), "model_fields", {}))


def _nearest(loc: tuple[int | str, ...]) -> str:
    if here := called_here(loc):
        return f"; {here}"
    known, key = _keys_at(loc[:-1]), str(loc[-1])
    if close := difflib.get_close_matches(key, known, n=1):
        return f"; did you mean {close[0]}?"
    if elsewhere := [section for section in Config.model_fields if key in _keys_at((section,))]:
        return f"; it belongs to {' or '.join(elsewhere)}"
    return f"; known here are {', '.join(known)}"
