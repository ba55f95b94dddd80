"""How much load a scenario gives: a share of what was measured, and never more than driver and mocks carry. Pure.

Work is counted in three kinds: small answers (`requests`), streamed events (`events`) and large bodies (`mib`). What a
target carries of each is measured before a campaign (`campaign.calibrate`); the rates, bodies and pauses of scenarios
that state a `share` follow from it. What was chosen is kept, so that it can be offered again, here or elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from loadgen.workload.scenario import Open, Request, Scenario
from reports.schema import Strict

Kind = Literal["requests", "events", "mib"]

UNITS: dict[Kind, str] = {"requests": "requests/s", "events": "events/s", "mib": "MiB/s"}
BENCH_SHARE = 0.5
"""Of what driver and mocks carry alone in closed loop. In open loop they need up to half as much CPU again for the same
work, as fewer requests share a wake-up, and beyond 85 % of their core a run is void."""
ROOM = 1.5
"""A target takes turns with others only where it carries so many times the load: a backlog would use their turns."""
_LARGE = 64 * 1024
_LEAST_RATE = 20.0  # a second, below which bodies shrink instead

Positive = Annotated[float, Field(gt=0)]


class Load(Strict):
    """What was chosen for one scenario. `body_bytes`: of large replies, where they had to shrink; `stretch`: pauses in
    streams are so many times as long; `why`: one sentence for people."""

    rate: Positive
    body_bytes: Annotated[int, Field(ge=1)] | None = None
    stretch: Annotated[float, Field(ge=1)] = 1.0
    why: str = ""


class Loads(Strict):
    """What was measured and chosen. Capacities are work a second, by target and kind: the least that each carries."""

    capacities: Mapping[str, Mapping[Kind, Positive]] = {}
    bench: Mapping[Kind, Positive] = {}
    scenarios: Mapping[str, Load] = {}

    def carries(self, target: str, one: Scenario) -> bool:
        """Whether the target has room for this load. Where nothing was measured: yes."""
        work, rate = work_of(one), one.rate_rps()
        capacity = self.capacities.get(target, {}).get(kind_of(one))
        return capacity is None or work is None or rate is None or capacity >= ROOM * rate * work


def kind_of(one: Scenario) -> Kind:
    """The work that its requests are counted in."""
    if one.kind == "stream":
        return "events"
    return "mib" if (body_bytes(one.requests[0]) or 0) >= _LARGE else "requests"


def work_of(one: Scenario) -> float | None:
    """The work in one of its requests; None where nothing says how much."""
    first = one.requests[0]
    match kind_of(one):
        case "events":
            return None if first.expect.events is None else float(first.expect.events)
        case "mib":
            return (body_bytes(first) or 0) / 2**20
        case "requests":
            return 1.0


def body_bytes(request: Request) -> int | None:
    """The size of its reply, where the request asks for one."""
    text = request.headers.get("X-Mock-Body-Bytes")
    return None if text is None else int(text)


def choose(one: Scenario, loads: Loads, slowest: str | None) -> Load | None:
    """The load of a scenario that states a share; None for others, and where it cannot be said. `slowest`: whose
    capacity is meant where the scenario names nobody."""
    due, work = one.arrivals, work_of(one)
    if not isinstance(due, Open) or due.share is None or due.rate is None or work is None:
        return None
    kind, whose = kind_of(one), due.of or slowest
    bench = loads.bench.get(kind)
    theirs = loads.capacities.get(whose, {}).get(kind) if whose is not None else None
    if bench is None and theirs is None:
        return None
    limits = {}
    if theirs is not None:
        limits[f"{due.share:.0%} of the {theirs:,.0f} {UNITS[kind]} that {whose} carries"] = due.share * theirs
    if bench is not None:
        limits[f"{BENCH_SHARE:.0%} of the {bench:,.0f} {UNITS[kind]} that driver and mocks carry"] = BENCH_SHARE * bench
    why = min(limits, key=limits.__getitem__)
    most = limits[why]
    if one.connections is not None:  # so many streams are the subject: they are paced slower, never more of them
        stretch = max(due.rate * work / most, 1.0)
        return Load(rate=due.rate / stretch, stretch=stretch, why=why if stretch > 1 else "as many streams as it names")
    if kind == "mib" and most / work < _LEAST_RATE:
        size = max(round(most / _LEAST_RATE * 2**20), _LARGE)
        return Load(rate=rounded(most / (size / 2**20)), body_bytes=size, why=why)
    return Load(rate=rounded(most / work), why=why)


def rounded(rate: float) -> float:
    """A rate of two digits: rates are for people, too. Rounded down, as it is a limit."""
    step = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return round(math.floor(rate / step * (1 + 1e-12)) * step, 6)


def fitted(one: Scenario, load: Load) -> Scenario:
    """The scenario with that load."""
    due = one.arrivals
    if not isinstance(due, Open):
        return one
    changes: dict[str, Any] = {"arrivals": due.model_copy(update={"rate": load.rate})}
    if load.body_bytes is not None:
        changes["requests"] = tuple(_smaller(request, load.body_bytes) for request in one.requests)
    if load.stretch > 1:
        changes |= {
            "mock": one.mock.model_copy(update={"profile": _slower(one.mock.profile, load.stretch)}),
            "warmup_s": one.warmup_s * load.stretch,
            "typical_reply_s": one.typical_reply_s * load.stretch,
            "slo": {name: limit * load.stretch for name, limit in one.slo.items()},
        }
    return one.model_copy(update=changes)


def _smaller(request: Request, size: int) -> Request:
    headers = {**request.headers, "X-Mock-Body-Bytes": str(size)}
    # Another reply than the pinned one; it is still held against what the mock says it sent.
    expect = request.expect.model_copy(update={"digest": None, "events": None})
    return request.model_copy(update={"headers": headers, "expect": expect})


def _slower(profile: str | dict[str, Any], stretch: float) -> str | dict[str, Any]:
    """A profile of constant pauses with longer ones; a ready-made one stays as it is."""
    if isinstance(profile, str):
        return profile
    found = dict(profile)
    for key in ("time_to_first_token", "token_gap"):
        pause = found.get(key)
        if isinstance(pause, dict) and str(pause.get("constant", "")).endswith("ms"):
            found[key] = {"constant": f"{float(pause['constant'].removesuffix('ms')) * stretch:.3f}ms"}
    return found
