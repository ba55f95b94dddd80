"""`--sweep`: one scenario at several loads. Each point is a scenario of its own."""

from __future__ import annotations

import math

from loadgen.errors import UsageRefusal
from loadgen.workload.scenario import Arrivals, Fitted, Open, Scenario, Users

_MOST = {"rate": 100_000.0, "users": 20_000.0}
_POINTS = range(2, 21)
_EXAMPLES = "rate=50,100,200 (requests a second) or users=1,4,16 (each sends when its last reply is here)"


def points(one: Scenario, text: str) -> list[Scenario]:
    """The scenario at each point, from the smallest on. Raises UsageRefusal.

    `text`: `rate=N,N,...`, open loop at fixed rates, or `users=N,N,...`, closed loop.
    """
    key, values = _read(text)
    tags = [tag for tag in one.tags if not tag.startswith("sweep-")]
    return [
        one.model_copy(
            update={
                "id": f"{one.id}-{key}-{value:.6g}",
                "question": f"{one.question} ({key} {value:.6g})",
                "arrivals": _at_rate(one, value) if key == "rate" else Users(kind="closed", users=int(value)),
                "generator": "locust",  # wrk writes no rows, so a sweep by it would show no latency
                "backend": "mocks",
                "tags": (*tags, "sweep-rate") if key == "rate" else tuple(tags),
                "group": f"{key} of {one.id}",
                "campaigns": {},
            }
        )
        for value in values
    ]


def _read(text: str) -> tuple[str, list[float]]:
    key, _, listed = text.partition("=")
    if key not in _MOST:
        raise UsageRefusal(f"--sweep {text}: write {_EXAMPLES}")
    try:
        values = sorted({float(each) for each in listed.split(",")})
    except ValueError:
        raise UsageRefusal(f"--sweep {text}: {listed!r} is no list of numbers; write {_EXAMPLES}") from None
    if len(values) not in _POINTS:
        raise UsageRefusal(f"--sweep {text}: give {_POINTS[0]} to {_POINTS[-1]} different numbers")
    for value in values:
        if not (math.isfinite(value) and 0 < value <= _MOST[key]) or (key == "users" and value != int(value)):
            kind = "whole number" if key == "users" else "number"
            raise UsageRefusal(f"--sweep {text}: {value:g} is no {kind} above 0, at most {_MOST[key]:,.0f}")
    return key, values


def _at_rate(one: Scenario, rate: float) -> Arrivals:
    match one.arrivals:
        case Open(rate=float()) | Fitted():
            fixed = {"rate": rate, "share": None, "of": None} if isinstance(one.arrivals, Open) else {"rate": rate}
            return one.arrivals.model_copy(update=fixed)
        case Users():
            return Open(kind="poisson", rate=rate)
    raise UsageRefusal(f"--sweep rate: {one.id} has no single rate to change")
