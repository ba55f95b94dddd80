"""JOB.json: everything one driver process needs to know, as frozen dataclasses. Standard library only.

The campaign writes a job, the driver reads it; neither imports the other's half. All paths in the file are relative to
the folder the file lies in, so that a run's folder can be moved.

A template's body may hold three marks that each row of the plan fills in:

- ``{{prompt}}``: a filler text of the row's ``prompt_bytes`` bytes (plain ASCII, safe inside a JSON string);
- ``{{max_tokens}}``: the row's ``output_tokens`` as a number;
- ``{{seed}}``: the row's ``request_seed`` as a number; a header's value may hold this one, too.

A body without marks is sent as it stands. A row that leaves a mark of its template open (``-1``) is a bad plan.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SCHEMA = 1

PROMPT_MARK = "{{prompt}}"
MAX_TOKENS_MARK = "{{max_tokens}}"
SEED_MARK = "{{seed}}"

# Set by the client itself on every request; a template that sets one of them would make a request that lies.
RESERVED_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "x-request-id"})


class JobError(ValueError):
    """A job or plan that cannot be run. The message names file, key and value and needs no traceback (exit code 65)."""


@dataclass(frozen=True, slots=True)
class Expect:
    """The reply a template must get. ``digest``: ``sha256=<hex>`` of the body with its clock digits zeroed, or None."""

    status: int = 200
    digest: str | None = None
    events: int | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of request. ``stream`` says that the reply is a stream of events whose times are kept one by one."""

    path: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    stream: bool = False
    expect: Expect = field(default_factory=Expect)


@dataclass(frozen=True, slots=True)
class Closed:
    """Closed loop: ``users`` send their next request ``think_ms`` after the last reply, for ``duration_s`` seconds.

    The first ``warmup_s`` seconds are part of ``duration_s`` and their rows are marked ``warmup``. Each user walks the
    templates in turn, starting from its own number. ``request_seeds`` > 0 gives requests the seeds ``0..n-1`` in turn.
    """

    users: int
    duration_s: float
    think_ms: float = 0.0
    warmup_s: float = 0.0
    prompt_bytes: int = -1
    output_tokens: int = -1
    request_seeds: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a user-behaviour shape (Locust's LoadTestShape): until ``until_s`` keep ``users`` users running."""

    until_s: float
    users: int
    spawn_rate: float = 100.0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Client disconnects: this ``share`` of the requests closes its connection after ``after_events`` events.

    0 events: right after the request was written, before any answer. Which requests do it follows from the job's seed.
    """

    share: float
    after_events: int = 1


@dataclass(frozen=True, slots=True)
class SlowRead:
    """Slow clients: this ``share`` of the requests reads at most ``bytes_per_s``, ``read_bytes`` at a time.

    The receive buffer is kept small (``receive_buffer`` bytes asked of the kernel), so that the sender feels it.
    """

    share: float = 1.0
    bytes_per_s: int = 65536
    read_bytes: int = 4096
    receive_buffer: int = 16384


@dataclass(frozen=True, slots=True)
class Job:
    """What a driver does. Exactly one of ``plan`` (open loop) and ``closed`` is given; ``shape`` goes with ``closed``.

    - ``out``: folder of the shards; made if missing.
    - ``timeout_s``: from taking up a request (a connection is looked for) to its last byte; 0 is none.
    - ``connections``: most connections open at a time, 0 for no limit; a request due while all are busy waits, and its
      lag shows it.
    - ``keepalive``: false opens a connection for each request and asks the server to close it.
    - ``expected_events``: the backend is a mock of this project: replies must carry ``X-Mock-Digest`` and
      ``X-Mock-Events``, and agree with them. False for servers that know nothing of them (status, framing and pinned
      digests are still checked).
    - ``record_events``: false keeps no row per event (counts, checks and digests stay).
    - ``drain_s``: how long after the last request was due replies are still waited for before they count as timeouts;
      null is ``timeout_s``.
    - ``quiet_s``: the rows are written so long after the beginning at the earliest, because until then other drivers on
      the same core may be sending.
    """

    scenario: str
    base_url: str
    out: Path
    requests: tuple[Template, ...]
    seed: int = 0
    plan: Path | None = None
    closed: Closed | None = None
    shape: tuple[Stage, ...] = ()
    timeout_s: float = 60.0
    drain_s: float | None = None
    quiet_s: float = 0.0
    connections: int = 0
    keepalive: bool = True
    cancel: Cancel | None = None
    slow_read: SlowRead | None = None
    expected_events: bool = True
    record_events: bool = True
    tokens: bool = False
    """Streams are a real server's, in OpenAI's form: events with content are counted, and [DONE] must end them."""
    ca: str | None = None
    """For https: a file of certificates to trust instead of the system's."""
    schema: int = SCHEMA

    @property
    def host_port(self) -> tuple[str, int]:
        """Host and port of ``base_url``."""
        parts = urlsplit(self.base_url)
        return parts.hostname or "", parts.port or (443 if self.secure else 80)

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.base_url.startswith("https://")

    @property
    def path_prefix(self) -> str:
        """The path in ``base_url`` without its trailing slash; put before each template's path."""
        return urlsplit(self.base_url).path.rstrip("/")


def with_headers(job: Job, text: str | None) -> Job:
    """The job with further headers on every request, from a JSON object. They are in no file: see targets/keys.py."""
    if not text:
        return job
    more = json.loads(text)
    return replace(job, requests=tuple(replace(one, headers={**one.headers, **more}) for one in job.requests))


def save_job(job: Job, path: Path) -> None:
    """Writes `job` as JSON. Paths are written relative to the file's folder where they lie below it."""
    text = json.dumps(_as_json(job, path.parent), indent=1)
    parse_job(json.loads(text), path.parent, str(path))  # never write what could not be read
    path.write_text(text + "\n", encoding="utf-8")


def load_job(path: Path) -> Job:
    """Reads and checks a job file. Raises JobError with one sentence that names the file, the key and the value."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise JobError(f"{path}: cannot be read: {exc}") from exc
    try:
        data = json.loads(text)
    except json.JSONDecodeError as exc:
        raise JobError(f"{path}: is not JSON: {exc}") from exc
    return parse_job(data, path.parent, str(path))


def parse_job(data: Any, folder: Path, source: str) -> Job:
    """Builds a Job from the parsed JSON `data`; relative paths are taken from `folder`, errors name `source`."""
    top = _Table(data, source, "")
    schema = top.integer("schema", SCHEMA, least=1)
    if schema != SCHEMA:
        raise JobError(f"{source}: schema {schema} is not known to this driver, which reads {SCHEMA}")
    plan = top.text_or_none("plan")
    cancel = top.table("cancel")
    slow_read = top.table("slow_read")
    closed = top.table("closed")
    job = Job(
        schema=schema,
        scenario=top.text("scenario"),
        base_url=_base_url(top.text("base_url"), source),
        out=folder / top.text("out"),
        seed=top.integer("seed", 0),
        requests=tuple(_template(row) for row in top.tables("requests")),
        plan=None if plan is None else folder / plan,
        closed=None if closed is None else _closed(closed),
        shape=tuple(_stage(row) for row in top.tables("shape", optional=True)),
        timeout_s=top.number("timeout_s", 60.0, least=0.0),
        drain_s=top.number_or_none("drain_s", least=0.0),
        quiet_s=top.number("quiet_s", 0.0, least=0.0),
        connections=top.integer("connections", 0, least=0),
        keepalive=top.boolean("keepalive", True),
        cancel=None if cancel is None else _cancel(cancel),
        slow_read=None if slow_read is None else _slow_read(slow_read),
        expected_events=top.boolean("expected_events", True),
        record_events=top.boolean("record_events", True),
        tokens=top.boolean("tokens", False),
        ca=top.text_or_none("ca"),
    )
    top.finish()
    if not job.requests:
        raise JobError(f"{source}: requests: at least one template is needed")
    if (job.plan is None) == (job.closed is None):
        raise JobError(f"{source}: give either `plan` (open loop) or `closed` (closed loop), not both and not neither")
    if job.shape and job.closed is None:
        raise JobError(f"{source}: shape: goes with `closed`, not with `plan`")
    if any(late.until_s <= early.until_s for early, late in pairwise(job.shape)):
        raise JobError(f"{source}: shape: the `until_s` of the stages must grow")
    if job.closed is not None:
        check_marks(job, job.closed.prompt_bytes, job.closed.output_tokens, job.closed.request_seeds - 1, source)
    return job


def check_marks(
    job: Job, prompt_bytes: int, output_tokens: int, request_seed: int, where: str, only: int | None = None
) -> None:
    """Raises JobError if a template (or template number `only`) has a mark for which the value is -1."""
    for number, template in enumerate(job.requests):
        if only is not None and number != only:
            continue
        for mark, value, name in (
            (PROMPT_MARK, prompt_bytes, "prompt_bytes"),
            (MAX_TOKENS_MARK, output_tokens, "output_tokens"),
            (SEED_MARK, request_seed, "request_seed"),
        ):
            in_header = mark == SEED_MARK and any(mark in value for value in template.headers.values())
            if (in_header or mark in template.body) and value < 0:
                raise JobError(f"{where}: requests[{number}] has the mark {mark}, but {name} is not given")


def _as_json(job: Job, folder: Path) -> dict[str, Any]:
    data = asdict(job)
    for key in ("out", "plan"):
        path = data[key]
        if path is not None:
            absolute = path.resolve()
            root = folder.resolve()
            data[key] = str(absolute.relative_to(root) if absolute.is_relative_to(root) else absolute)
    return data


def _base_url(url: str, source: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise JobError(f"{source}: base_url: {url!r} is not a URL: {exc}") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise JobError(f"{source}: base_url: {url!r} must look like http://host:port[/prefix], or https")
    return url


def _template(row: _Table) -> Template:
    method = row.text("method", "POST")
    path = row.text("path")
    headers = row.strings("headers")
    expect = row.table("expect")
    if not (method.isascii() and method.isalpha() and method.isupper()):
        raise JobError(f"{row.where('method')}: {method!r} is not an HTTP method")
    if not path.startswith("/") or not path.isascii() or any(c <= " " or c == "\x7f" for c in path):
        raise JobError(f"{row.where('path')}: {path!r} must start with / and hold no blanks")
    for name, value in headers.items():
        if name.lower() in RESERVED_HEADERS:
            raise JobError(f"{row.where('headers')}: {name} is set by the driver itself")
        if (
            not name.isascii()
            or any(c in "\r\n\0: " for c in name)
            or not name
            or not value.isascii()
            or any(c in "\r\n\0" for c in value)
        ):
            raise JobError(f"{row.where('headers')}: {name!r}: {value!r} is not a header")
    template = Template(
        method=method,
        path=path,
        headers=headers,
        body=row.text("body", ""),
        stream=row.boolean("stream", False),
        expect=Expect() if expect is None else _expect(expect),
    )
    row.finish()
    return template


def _expect(row: _Table) -> Expect:
    digest = row.text_or_none("digest")
    if digest is not None and not _is_digest(digest):
        raise JobError(f"{row.where('digest')}: {digest!r} must be sha256= and 64 hexadecimal digits")
    expect = Expect(
        status=row.integer("status", 200, least=200, most=599),
        digest=digest,
        events=row.integer_or_none("events", least=0),
    )
    row.finish()
    return expect


def _is_digest(text: str) -> bool:
    kind, _, digits = text.partition("=")
    return kind == "sha256" and len(digits) == 64 and all(c in "0123456789abcdef" for c in digits)


def _closed(row: _Table) -> Closed:
    closed = Closed(
        users=row.integer("users", least=1),
        duration_s=row.number("duration_s", least=0.001),
        think_ms=row.number("think_ms", 0.0, least=0.0),
        warmup_s=row.number("warmup_s", 0.0, least=0.0),
        prompt_bytes=row.integer("prompt_bytes", -1, least=-1),
        output_tokens=row.integer("output_tokens", -1, least=-1),
        request_seeds=row.integer("request_seeds", 0, least=0),
    )
    row.finish()
    return closed


def _stage(row: _Table) -> Stage:
    stage = Stage(
        until_s=row.number("until_s", least=0.001),
        users=row.integer("users", least=0),
        spawn_rate=row.number("spawn_rate", 100.0, least=0.001),
    )
    row.finish()
    return stage


def _cancel(row: _Table) -> Cancel:
    cancel = Cancel(
        share=row.number("share", least=0.0, most=1.0), after_events=row.integer("after_events", 1, least=0)
    )
    row.finish()
    return cancel


def _slow_read(row: _Table) -> SlowRead:
    slow = SlowRead(
        share=row.number("share", 1.0, least=0.0, most=1.0),
        bytes_per_s=row.integer("bytes_per_s", 65536, least=1),
        read_bytes=row.integer("read_bytes", 4096, least=1),
        receive_buffer=row.integer("receive_buffer", 16384, least=1024),
    )
    row.finish()
    return slow


_NEEDED: Any = object()


class _Table:
    """One JSON object being read: typed access by key, errors that name the place, and a check that nothing is left."""

    def __init__(self, data: Any, source: str, place: str) -> None:
        if not isinstance(data, dict):
            raise JobError(f"{source}: {place or 'the file'} must be a JSON object, not {type(data).__name__}")
        self._data = data
        self._source = source
        self._place = place
        self._seen: set[str] = set()

    def where(self, key: str) -> str:
        return f"{self._source}: {self._place}.{key}" if self._place else f"{self._source}: {key}"

    def _get(self, key: str, default: Any) -> Any:
        self._seen.add(key)
        value = self._data.get(key, default)
        if value is _NEEDED:
            raise JobError(f"{self.where(key)}: is missing")
        return value

    def finish(self) -> None:
        unknown = sorted(set(self._data) - self._seen)
        if unknown:
            known = ", ".join(sorted(self._seen))
            raise JobError(f"{self.where(unknown[0])}: is not a known key; known here: {known}")

    def text(self, key: str, default: str = _NEEDED) -> str:
        value = self._get(key, default)
        if not isinstance(value, str) or (default is _NEEDED and not value):
            raise JobError(f"{self.where(key)}: must be a text, not {value!r}")
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self._get(key, None) is None else self.text(key)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise JobError(f"{self.where(key)}: must be true or false, not {value!r}")
        return value

    def number(self, key: str, default: float = _NEEDED, *, least: float = -math.inf, most: float = math.inf) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise JobError(f"{self.where(key)}: must be a number, not {value!r}")
        if not least <= value <= most:
            raise JobError(f"{self.where(key)}: {value!r} must be {_span(least, most)}")
        return float(value)

    def number_or_none(self, key: str, *, least: float = -math.inf) -> float | None:
        return None if self._get(key, None) is None else self.number(key, least=least)

    def integer(self, key: str, default: int = _NEEDED, *, least: float = -math.inf, most: float = math.inf) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise JobError(f"{self.where(key)}: must be a whole number, not {value!r}")
        if not least <= value <= most:
            raise JobError(f"{self.where(key)}: {value!r} must be {_span(least, most)}")
        return value

    def integer_or_none(self, key: str, *, least: float = -math.inf) -> int | None:
        return None if self._get(key, None) is None else self.integer(key, least=least)

    def strings(self, key: str) -> dict[str, str]:
        value = self._get(key, {})
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise JobError(f"{self.where(key)}: must be an object of texts, not {value!r}")
        return dict(value)

    def table(self, key: str) -> _Table | None:
        value = self._get(key, None)
        return None if value is None else _Table(value, self._source, f"{self._place}.{key}" if self._place else key)

    def tables(self, key: str, *, optional: bool = False) -> list[_Table]:
        rows = self._get(key, [] if optional else _NEEDED)
        if not isinstance(rows, list):
            raise JobError(f"{self.where(key)}: must be a list, not {rows!r}")
        return [_Table(row, self._source, f"{key}[{number}]") for number, row in enumerate(rows)]


def _span(least: float, most: float) -> str:
    if math.isinf(most):
        return f"{least:g} or more"
    return f"between {least:g} and {most:g}"
