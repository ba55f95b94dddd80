"""A ladder: latency against load, from a tenth of each target's own capacity to beyond it. Pure.

A rung is a scenario of its own, measured with one target alone: the rate is a share of what that target was found to
carry (`calibrate`). It ends where driver and mocks end, which is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from loadgen.workload import load
from loadgen.workload.load import BENCH_SHARE, Loads
from loadgen.workload.scenario import Open, Scenario, catalogue
from reports.ladder import GROUP
from reports.schema import Strict

_REQUESTS: Final = "chat-small"  # whose requests are sent
_LEAST: Final = 400  # in a rung: p95 needs 200


class LadderPlan(Strict):
    """`ladder` of a profile in campaigns.yaml. `shares`: of each target's own capacity; `seconds`: of a rung, more
    where these hold less than 400 requests."""

    shares: tuple[Annotated[float, Field(gt=0, le=1.5)], ...]
    rounds: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(gt=0)]


def rungs(ladder: LadderPlan, targets: Sequence[str], loads: Loads) -> tuple[list[Scenario], list[str]]:
    """The scenarios, and a sentence for each ladder that ends early. Targets nobody calibrated have none."""
    like = catalogue()[_REQUESTS]
    most = BENCH_SHARE * loads.bench.get("requests", 0.0)
    found: list[Scenario] = []
    said: list[str] = []
    for target in targets:
        capacity = loads.capacities.get(target, {}).get("requests")
        if capacity is None:
            continue
        within = [share for share in sorted(ladder.shares) if share * capacity <= most]
        found += [_rung(like, target, share, capacity, ladder.seconds) for share in within]
        if len(within) < len(ladder.shares):
            reach = f"at {within[-1]:.0%} of" if within else "below its first rung, a share of"
            said.append(
                f"The ladder of {target} ends {reach} the {capacity:,.0f} requests/s it carries: "
                f"{most:,.0f} are half of what driver and mocks carry"
            )
    return found, said


def _rung(like: Scenario, target: str, share: float, capacity: float, seconds: float) -> Scenario:
    return like.model_copy(
        update={
            "id": f"{GROUP}-{target}-{share * 100:.0f}",
            "question": f"How long does a small request take at {share:.0%} of what {target} carries?",
            "answer": "End to end p50 and p95, or that the target does not carry this load.",
            "arrivals": Open(kind="poisson", rate=load.rounded(share * capacity)),
            "duration_s": max(seconds, _LEAST / (share * capacity)),
            "warmup_s": 0.5,
            "only": (target,),
            "tags": ("instant", "sweep-rate"),
            "group": GROUP,
            "primary": ("added_p50_us",),
            "slo": {},
            "campaigns": {},
        }
    )
