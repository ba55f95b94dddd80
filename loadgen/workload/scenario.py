"""Scenarios: what is asked of every target, with the reply it must give. Data in `scenarios/`, in YAML.

A scenario states its question and what would count as an answer, a mock profile, the requests with the replies they
must get, when they are sent, and which campaign profiles measure it. Nothing in it names a target: all get the same.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import random
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from loadgen.errors import BadInput, UsageRefusal
from loadgen.workload import conversation
from loadgen.workload.job import (
    MAX_TOKENS_MARK,
    PROMPT_MARK,
    SEED_MARK,
    Cancel,
    Closed,
    Expect,
    SlowRead,
    Stage,
    Template,
)
from reports import schema
from reports.schema import Strict

MESSAGES_MARK = "{{messages}}"

FOLDER = Path(__file__).with_name("scenarios")

_DRAIN_S = 5.0

PINS = "pins.json"
"""The replies that each scenario expects, made by `proxy-engines scenarios pin`: `{id: [{digest, events}]}`."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Mock(Strict):
    """The backends, named mock-0, mock-1 ... Profiles and faults are those of `proxy-engines mock`."""

    profile: str | dict[str, Any] = "instant"
    """The name of a ready-made profile, or one in full."""
    endpoints: Annotated[int, Field(ge=1, le=64)] = 1
    profiles: dict[str, str | dict[str, Any]] = Field(default_factory=dict)
    """Of single endpoints, by name, instead of `profile`."""
    faults: tuple[dict[str, Any], ...] = ()
    """Set when load begins, so that their clocks count from then."""

    @model_validator(mode="after")
    def _known_endpoints(self) -> Mock:
        known = {f"mock-{number}" for number in range(self.endpoints)}
        for name in [*self.profiles, *(fault["endpoint"] for fault in self.faults if "endpoint" in fault)]:
            if name not in known:
                raise ValueError(f"there is no endpoint {name!r} among {self.endpoints}")
        return self


class Reply(Strict):
    """What must come back. `digest` is pinned for the mock's default seed; null where every request differs."""

    status: int = 200
    digest: Annotated[str, Field(pattern=r"^sha256=[0-9a-f]{64}$")] | None = None
    events: Annotated[int, Field(ge=0)] | None = None


class Request(Strict):
    """One kind of request. `body` is sent as JSON; a text is sent as it stands and may hold the driver's marks.

    `copies` > 1 makes that many variants whose heads differ in names, values and lengths, as those of unrelated clients
    do: a proxy that remembers heads gains nothing by it.
    """

    method: str = "POST"
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = Field(default_factory=dict)
    body: dict[str, Any] | str = ""
    stream: bool = False
    weight: Positive = 1.0
    copies: Annotated[int, Field(ge=1, le=4096)] = 1
    check: bool = True
    """Whether one is asked for and checked before load; false where the scenario's fault would spoil it."""
    expect: Reply = Reply()

    def text(self) -> str:
        """The body as it is sent, marks included."""
        return self.body if isinstance(self.body, str) else json.dumps(self.body, separators=(",", ":"))

    @property
    def always_the_same(self) -> bool:
        """Whether every request of this kind gets the same reply, so that its digest can be pinned."""
        return MAX_TOKENS_MARK not in self.text() and SEED_MARK not in self.text()

    def template(self, copy: int = 0, *, pinned: bool = True) -> Template:
        """What the driver sends. `pinned` false: without what the scenario pins."""
        headers = {"Content-Type": "application/json", **self.headers} if self.text() else self.headers
        if self.copies > 1:
            headers = {**headers, **_variant(copy)}
        expect = Expect(self.expect.status)
        if pinned:
            expect = Expect(self.expect.status, self.expect.digest, self.expect.events)
        return Template(self.path, self.method, headers, self.text(), self.stream, expect)


class Open(Strict):
    """Requests are due at times computed beforehand, whatever the target does: the only load that shows a queue."""

    kind: Literal["constant", "poisson", "gamma", "steps", "ramp"]
    rate: Positive | None = None
    share: Annotated[float, Field(gt=0, le=1.2)] | None = None
    """`compare` offers this share of what a target carries (`of`, or the slower engine), not `rate`, which holds
    where nothing was calibrated. With `connections`: at most that; streams then pause longer."""
    of: str | None = None
    cv: Positive = 1.0
    """gamma: coefficient of variation of the gaps; 1 is Poisson, 3 is bursty."""
    rates: tuple[Positive, ...] = ()
    """steps: each for an equal part of the time, Poisson inside. ramp: from the first to the last."""

    @model_validator(mode="after")
    def _rates(self) -> Open:
        changing = self.kind in ("steps", "ramp")
        if changing and (len(self.rates) < 2 or self.rate is not None):
            raise ValueError(f"{self.kind} needs at least two `rates`, and no `rate`")
        if not changing and (self.rate is None or self.rates):
            raise ValueError(f"{self.kind} needs a `rate`, and no `rates`")
        if self.share is not None and changing:
            raise ValueError(f"{self.kind} has `rates` of its own and no `share`")
        if self.of is not None and self.share is None:
            raise ValueError("`of` says whose share is meant: there is no `share`")
        return self

    def over_time(self) -> tuple[float, ...]:
        """The rates one after the other; one of them unless they change."""
        return self.rates if self.rate is None else (self.rate,)

    def mean_rate(self) -> float:
        """Requests per second over the whole time."""
        rates = self.over_time()
        return (rates[0] + rates[-1]) / 2 if self.kind == "ramp" else sum(rates) / len(rates)

    def words(self) -> str:
        """For people: `poisson`, `gamma(3)`."""
        return f"gamma({self.cv:g})" if self.kind == "gamma" else self.kind


class Users(Strict):
    """Each user sends its next request after the last reply: the target sets the pace, and is at its limit."""

    kind: Literal["closed"]
    users: Annotated[int, Field(ge=1, le=20000)]
    think_ms: Annotated[float, Field(ge=0)] = 0.0
    stages: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Users who come and go: so many, each number for an equal part of the time, after a warm-up with the first number.
    `users` is the most there are. Locust's LoadTestShape plays it."""

    @model_validator(mode="after")
    def _never_more_than_users(self) -> Users:
        if self.stages and max(self.stages) != self.users:
            raise ValueError(f"users is the most there are at a time: the largest of `stages` is {max(self.stages)}")
        return self


class Fitted(Strict):
    """Arrivals and sizes drawn from figures of real traffic (`workload.fits.FITS`), at a rate of our choice."""

    kind: Literal["fitted"]
    fit: Literal["conv", "code"]
    rate: Positive
    max_in: Annotated[int, Field(ge=1)] | None = None
    max_out: Annotated[int, Field(ge=1)] | None = None


class Replay(Strict):
    """Arrivals and sizes from a trace file; made by `--trace`, never written in a scenario file."""

    kind: Literal["trace"]
    file: str
    time_scale: Positive = 1.0
    rows: Annotated[int, Field(ge=1)] | None = None
    max_in: Annotated[int, Field(ge=1)] | None = None
    max_out: Annotated[int, Field(ge=1)] | None = None
    duration_s: Positive | None = None
    """Requests due later, after scaling, are not played."""
    columns: str | None = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    bursts: Literal["auto", "keep", "spread"] = "auto"


class Sessions(Strict):
    """Conversations of several turns, each user one after the other; sent when due, whatever the target does.

    Fills `{{messages}}`, the turn's prompt, which begins with the whole prompt before, and `{{seed}}`, the number of
    the conversation, which a header may hold as well.
    """

    kind: Literal["sessions"]
    users: Annotated[int, Field(ge=1, le=20000)]
    turns: Annotated[int, Field(ge=2, le=100)]
    think_s: Positive
    """Seconds from one turn to the next, on average; half of it at least."""
    text_bytes: Annotated[int, Field(ge=1, le=65536)] = 200
    """Of each question and each reply in a prompt."""


Arrivals = Open | Users | Fitted | Replay | Sessions


class InCampaign(Strict):
    """What a campaign profile changes in a scenario."""

    duration_s: Positive | None = None
    warmup_s: Annotated[float, Field(ge=0)] | None = None
    variants: tuple[str, ...] | None = None
    """Engines with a switch changed that are measured in this scenario beside the profile's targets, and only there."""


class Scenario(Strict):
    """One workload and the question it answers."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]
    question: Annotated[str, Field(min_length=10)]
    answer: Annotated[str, Field(min_length=10)]
    """What would count as an answer."""
    kind: Literal["request", "stream"]
    seed: int = 1
    mock: Mock = Mock()
    requests: Annotated[tuple[Request, ...], Field(min_length=1)]
    arrivals: Annotated[Arrivals, Field(discriminator="kind")]
    generator: Literal["locust", "wrk"] = "locust"
    """`wrk`: closed loop at rates that our own driver cannot reach; throughput, CPU and memory only, no rows."""
    backend: Literal["mocks", "nginx"] = "mocks"
    """`nginx`: it gives the mock's reply to the first request to all of them, at rates that mocks do not reach; with
    wrk, for whole replies that are always the same."""
    duration_s: Positive
    """Measured time, after the warm-up."""
    warmup_s: Annotated[float, Field(ge=0)] = 1.0
    prompt_bytes: Annotated[int, Field(ge=1)] | None = None
    """Fills `{{prompt}}` with so many bytes."""
    output_tokens: Annotated[int, Field(ge=1)] | None = None
    """Fills `{{max_tokens}}`."""
    request_seeds: Annotated[int, Field(ge=0)] = 0
    """> 0: fills `{{seed}}` with 0..n-1 at random: replies differ, and are checked against the mock's own digest."""
    typical_reply_s: Annotated[float, Field(ge=0)] = 0.0
    """How long a reply usually takes, for the announced duration."""
    timeout_s: Positive = 30.0
    keepalive: bool = True
    steady: bool = True
    """Latency is expected to stay the same from beginning to end; false where load or backends change on purpose."""
    cancel: Cancel | None = None
    slow_read: SlowRead | None = None
    slo: dict[Literal["ttft_ms", "tpot_ms", "e2e_ms"], Positive] = Field(default_factory=dict)
    primary: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    group: str = ""
    healthy: str = ""
    expected_outcomes: tuple[str, ...] = ()
    connections: Annotated[int, Field(ge=1)] | None = None
    """Streams it holds open at a time, for the memory figures."""
    in_turns: bool = True
    """False: each target has this load to itself although it could take turns with the others (see `takes_turns`)."""
    only_engines: bool = False
    """Asked of our own engines only: rivals and floors have nothing to say to its question."""
    only: tuple[str, ...] = ()
    """Asked of these targets only, and once: there is nothing to compare."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Keys of our own engines' config (dotted) that this scenario is about, e.g. `runtime.gc.ballast`."""
    variants: tuple[str, ...] = ()
    """Those of the campaign that measures it (see InCampaign)."""
    campaigns: dict[str, InCampaign] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        unknown = set(self.primary) - set(schema.METRICS)
        if unknown:
            raise ValueError(f"primary: {sorted(unknown)[0]!r} is not a metric")
        unknown = set(self.tags) - set(schema.SCENARIO_TAGS)
        if unknown:
            raise ValueError(f"tags: {sorted(unknown)[0]!r} is not known; known are {', '.join(schema.SCENARIO_TAGS)}")
        if len(self.primary) > 3:
            raise ValueError("primary: at most three metrics can be declared beforehand")
        given = {
            PROMPT_MARK: self.prompt_bytes is not None or self.sizes_vary,
            MAX_TOKENS_MARK: self.output_tokens is not None or self.sizes_vary,
            SEED_MARK: self.request_seeds > 0 or self.sizes_vary or isinstance(self.arrivals, Sessions),
            MESSAGES_MARK: isinstance(self.arrivals, Sessions),
        }
        if isinstance(self.arrivals, Sessions) and not (
            len(self.requests) == 1 and self.requests[0].copies == 1 and MESSAGES_MARK in self.requests[0].text()
        ):
            raise ValueError("sessions: there must be one request, without copies, whose body holds {{messages}}")
        if self.generator == "wrk" and self.open_loop:
            raise ValueError("generator: wrk sends in closed loop only (arrivals: {kind: closed, users: N})")
        canned = self.generator == "wrk" and self.kind == "request" and len(self.requests) == 1
        if self.backend == "nginx" and not (canned and self.requests[0].always_the_same):
            raise ValueError("backend: nginx gives one whole reply to all requests, and goes with `generator: wrk`")
        for number, request in enumerate(self.requests):
            for mark, known in given.items():
                if mark in request.text() and not known:
                    raise ValueError(f"requests[{number}].body: holds {mark}, but nothing says what to fill in")
        return self

    @property
    def workers(self) -> int:
        """Worker processes of each of our engines in this scenario."""
        return int(self.settings.get("server.workers", 1))

    @property
    def saturates(self) -> bool:
        """Whether the target is meant to be at its limit: closed loop without pauses."""
        return isinstance(self.arrivals, Users) and "saturation" in self.tags

    @property
    def sizes_vary(self) -> bool:
        """Whether each request has a prompt, an output length and a seed of its own."""
        return isinstance(self.arrivals, Fitted | Replay)

    @property
    def open_loop(self) -> bool:
        """Whether requests are due at times of their own."""
        return not isinstance(self.arrivals, Users)

    @property
    def takes_turns(self) -> bool:
        """Whether targets can be alive at once and get this load in turns: arrivals at one rate that we choose, nothing
        that happens at a certain time, nothing that depends on how much is open at a time."""
        alone = self.connections is not None or {"cold-start", "soak"}.intersection(self.tags)
        changes = not self.steady or self.mock.faults
        one_rate = isinstance(self.arrivals, Open) and self.arrivals.rate is not None
        return self.in_turns and one_rate and not changes and not alone

    def swept(self) -> tuple[str, float] | None:
        """The sweep it is a point of and where it stands there; None if it is no point of a sweep."""
        for tag in self.tags:
            if tag.startswith("sweep-"):
                value = {
                    "sweep-rate": self.rate_rps(),
                    "sweep-connections": self.connections,
                    "sweep-body": _header_number(self.requests[0], "X-Mock-Body-Bytes"),
                    "sweep-events": self.requests[0].expect.events,
                    "sweep-endpoints": self.mock.endpoints,
                }[tag]
                return f"{tag} {self.group}", float(value or 0.0)
        return None

    def rate_rps(self) -> float | None:
        """Offered requests per second, None in closed loop and before a trace was read."""
        match self.arrivals:
            case Open():
                return self.arrivals.mean_rate()
            case Fitted():
                return self.arrivals.rate
            case Sessions():
                return self.arrivals.users / self.arrivals.think_s
        return None

    def total_s(self) -> float:
        """Warm-up and measured time."""
        return self.warmup_s + self.duration_s

    def drain_s(self) -> float:
        """How long the last replies are waited for. What an overloaded target still owes then is lost."""
        return self.timeout_s if self.sizes_vary else min(self.timeout_s, _DRAIN_S + 3 * self.typical_reply_s)

    def for_campaign(self, profile: str, duration_s: float | None = None) -> Scenario:
        """This scenario as `profile` wants it; `duration_s` (from `--duration`) wins over both."""
        changes = self.campaigns.get(profile, InCampaign()).model_dump(exclude_none=True)
        if duration_s is not None:
            changes["duration_s"] = duration_s
        return self.model_copy(update=changes)

    def templates(self, *, pinned: bool = True) -> tuple[Template, ...]:
        """The driver's request templates, copies included, in the order that `template_weights` counts them.

        `pinned` false: the target re-makes requests, so another reply than the pinned one is right.
        """
        if isinstance(self.arrivals, Sessions):
            (request,) = self.requests
            return tuple(self.template(request, pinned=pinned, turn=turn) for turn in range(self.arrivals.turns))
        return tuple(
            self.template(request, copy, pinned=pinned) for request in self.requests for copy in range(request.copies)
        )

    def template(self, request: Request, copy: int = 0, *, pinned: bool = True, turn: int = 0) -> Template:
        """One of `templates()`: of a request of this scenario, its copy, or its turn of a conversation."""
        one = request.template(copy, pinned=pinned)
        if isinstance(self.arrivals, Sessions):
            prompt = conversation.messages(turn, self.arrivals.text_bytes)
            return replace(one, body=one.body.replace(MESSAGES_MARK, prompt))
        return one

    def template_weights(self) -> list[float]:
        """How often each of `templates()` is sent, relative to the others."""
        return [request.weight / request.copies for request in self.requests for _ in range(request.copies)]

    def closed(self) -> Closed | None:
        """The driver's closed loop, None in open loop."""
        if not isinstance(self.arrivals, Users):
            return None
        return Closed(
            users=self.arrivals.users,
            duration_s=self.total_s(),
            think_ms=self.arrivals.think_ms,
            warmup_s=self.warmup_s,
            prompt_bytes=-1 if self.prompt_bytes is None else self.prompt_bytes,
            output_tokens=-1 if self.output_tokens is None else self.output_tokens,
            request_seeds=self.request_seeds,
        )

    def shape(self) -> tuple[Stage, ...]:
        """The driver's stages of users; empty if their number does not change."""
        if not isinstance(self.arrivals, Users) or not self.arrivals.stages:
            return ()
        each = self.duration_s / len(self.arrivals.stages)
        return tuple(
            Stage(self.warmup_s + (number + 1) * each, users) for number, users in enumerate(self.arrivals.stages)
        )

    def describe(self, pinning: str) -> schema.ScenarioRecord:
        """Its entry in campaign.json."""
        first = self.requests[0]
        stream_events = first.expect.events if first.stream else None
        return schema.ScenarioRecord(
            question=self.question,
            answer=self.answer,
            hash=self.hash(),
            kind=self.kind,
            loop="open" if self.open_loop else "closed",
            rate_rps=self.rate_rps(),
            duration_s=self.duration_s,
            warmup_s=self.warmup_s,
            arrivals=self.arrivals.words() if isinstance(self.arrivals, Open) else self.arrivals.kind,
            profile=self._profile_name(),
            slo={str(name): limit for name, limit in self.slo.items()},
            request_bytes=_request_bytes(first, self.prompt_bytes),
            response_bytes=_header_number(first, "X-Mock-Body-Bytes"),
            events_per_request=stream_events,
            connections=self.arrivals.users if isinstance(self.arrivals, Users) else self.connections,
            endpoints=self.mock.endpoints,
            ballast=self.settings.get("runtime.gc.ballast"),
            pinning=pinning,
            faults=self.faults(),
            group=self.group,
            healthy=self.healthy,
            settings=dict(self.settings),
            tags=list(self.tags),
            primary=list(self.primary),
            expected_outcomes=list(self.expected_outcomes),
        )

    def _profile_name(self) -> str:
        if self.backend == "nginx":
            return "nginx with one reply of the mock"
        return self.mock.profile if isinstance(self.mock.profile, str) else str(self.mock.profile.get("name", ""))

    def faults(self) -> list[schema.Fault]:
        """What the mocks do wrong, as the report shows it: seconds after the start of the measured window."""
        found = [schema.Fault(endpoint=name, kind="slow") for name in self.mock.profiles]
        for fault in self.mock.faults:
            begin = _seconds(fault.get("at", 0)) - self.warmup_s
            lasts = _seconds(fault.get("lasts", 0))
            kind = "flap" if fault.get("every") else _FAULT_WORDS.get(fault["fault"], fault["fault"])
            over = None if not lasts or fault.get("every") else begin + lasts
            found.append(schema.Fault(endpoint=fault.get("endpoint", "all"), kind=kind, from_s=begin, to_s=over))
        return found

    def hash(self) -> str:
        """Of everything in it, so that a resumed campaign can see that its scenario changed."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


_FAULT_WORDS = {"hang-head": "hang", "hang-stream": "hang", "drip": "slow"}
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def _variant(copy: int) -> dict[str, str]:
    """The fields of one of many unrelated clients: always the same for the same number."""
    draw = random.Random(copy)

    def word() -> str:
        return "".join(draw.choices(string.ascii_lowercase, k=draw.randint(8, 24)))

    return {"User-Agent": f"{word()}/1.0", "Authorization": f"Bearer sk-{word()}", f"X-{word()}": word()}


def _seconds(text: str | int) -> float:
    """Seconds of a mock's duration: `250ms`, `2s`, 0."""
    if isinstance(text, int):
        return float(text)
    digits = text.rstrip("musn")
    return float(digits) * _UNITS[text[len(digits) :].strip()]


def _request_bytes(request: Request, prompt_bytes: int | None) -> int | None:
    if MAX_TOKENS_MARK in request.text() or SEED_MARK in request.text():
        return None
    if PROMPT_MARK not in request.text():
        return len(request.text().encode())
    return None if prompt_bytes is None else len(request.text().encode()) - len(PROMPT_MARK) + prompt_bytes


def _header_number(request: Request, name: str) -> int | None:
    value = request.headers.get(name)
    return None if value is None else int(value)


@functools.cache
def catalogue() -> Mapping[str, Scenario]:
    """Every scenario of `scenarios/` by id, in the order of their names, with numbers in names as numbers."""
    found = {}
    for path in sorted(FOLDER.glob("*.yaml"), key=lambda path: _natural(path.stem)):
        for scenario in load(path):
            if scenario.id != path.stem and not scenario.id.startswith(f"{path.stem}-"):
                raise BadInput(f"{path}: id: {scenario.id!r} must be the file's name")
            found[scenario.id] = scenario
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> list[tuple[int, str]]:
    """`streams-500` before `streams-1000`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def load(path: Path) -> list[Scenario]:
    """The scenarios of a file, with the replies pinned beside it. Raises BadInput with file, key and value.

    One, or the points of its `sweep` too: each a scenario `FILE-POINT` that takes every key from the file but for its
    own and those under `each`; `{point}` in question and answer is its name. A file without an `id` is points only.
    """
    data = _read(path)
    if isinstance(data, dict) and "like" in data:
        data = _like(path, data)
    points = data.pop("sweep", None) if isinstance(data, dict) else None
    if points is None:
        return [_validated(path, data)]
    if not isinstance(points, dict) or not all(isinstance(own, dict) for own in points.values()):
        raise BadInput(f"{path}: sweep: must be points and the keys of each, e.g. 100: {{connections: 100}}")
    found = [_validated(path, data)] if "id" in data else []
    each = points.pop("each", {})
    for point, own in points.items():
        made = {**data, "campaigns": {}, **each, **own, "id": f"{path.stem}-{point}"}
        for key in ("question", "answer"):
            made[key] = str(made.get(key, "")).replace("{point}", str(point))
        found.append(_validated(path, made))
    return found


def _validated(path: Path, data: Any) -> Scenario:
    try:
        return _pinned(Scenario.model_validate(data), path.with_name(PINS))
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path}: {key}: {first['msg']} (it is {first['input']!r})"[:600]) from exc


def _pinned(scenario: Scenario, pins: Path) -> Scenario:
    """The scenario with what `pins` says its requests are answered with; a request's own `expect` wins."""
    try:
        known = json.loads(pins.read_text(encoding="utf-8")).get(scenario.id)
    except FileNotFoundError:
        return scenario
    except (OSError, ValueError) as exc:
        raise BadInput(f"{pins}: cannot be read: {exc}; make it anew with proxy-engines scenarios pin") from exc
    if known is None or len(known) != len(scenario.requests):
        return scenario
    requests = [
        request
        if pin is None or request.expect.digest is not None
        else request.model_copy(update={"expect": request.expect.model_copy(update=pin)})
        for request, pin in zip(scenario.requests, known, strict=True)
    ]
    return scenario.model_copy(update={"requests": tuple(requests)})


def _like(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """`like: ID` takes every key that is not written from there, except the sweep and which campaigns measure it."""
    original = path.with_name(f"{data['like']}.yaml")
    if not original.exists():
        raise BadInput(f"{path}: like: there is no scenario {data['like']!r} beside it")
    inherited = _read(original)
    if "like" in inherited:
        inherited = _like(original, inherited)
    for key in ("id", "sweep"):
        inherited.pop(key, None)
    own = {key: value for key, value in data.items() if key != "like"}
    return {**inherited, "campaigns": {}, **own}


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path}: cannot be read: {exc}") from exc
    except yaml.YAMLError as exc:
        raise BadInput(f"{path}: is not YAML: {' '.join(str(exc).split())}") from exc


def choose(names: Iterable[str]) -> list[Scenario]:
    """The scenarios called `names`; a name that is a path of a .yaml file is read from there.

    Raises UsageRefusal for a name nobody knows, with the nearest known one.
    """
    known = catalogue()
    chosen: list[Scenario] = []
    for name in names:
        if name.endswith((".yaml", ".yml")):
            chosen.extend(load(Path(name)))
        elif name in known:
            chosen.append(known[name])
        else:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise UsageRefusal(f"--scenarios: {name!r} is not known{hint} Known are: {', '.join(known)}")
    return chosen


def in_profile(profile: str) -> list[Scenario]:
    """The scenarios that the campaign profile measures."""
    return [scenario for scenario in catalogue().values() if profile in scenario.campaigns]
