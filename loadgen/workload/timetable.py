"""From a scenario and a seed to the driver's open-loop plan: when each request is due and what it asks for. Pure."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loadgen.workload import arrivals, conversation, fits, trace
from loadgen.workload.plan import Plan, make_plan
from loadgen.workload.scenario import Fitted, Open, Replay, Scenario, Sessions, Users

SLICE_S = 0.1
"""How long a target of several that are alive at once has the load to itself. Short against what a neighbour on the
host does to the machine's speed, which lasts for seconds; long against a reply, and against cold caches."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Which of several targets that are alive at once is meant: number `place` (from 0) of `of`."""

    place: int
    of: int


ALONE = Turn(0, 1)


def seed_for(seed: int, scenario: str, round_number: int) -> int:
    """The seed of one scenario in one round: the same for every target, another one in the next round."""
    return zlib.crc32(f"{seed}/{scenario}/{round_number}".encode())


def make(scenario: Scenario, seed: int, turn: Turn = ALONE) -> Plan | None:
    """The plan of `scenario`; None in closed loop. Raises Missing or BadInput if its trace cannot be used.

    With a `turn` among several the plan is for as long a load as one of them gets, spread over the whole time.
    """
    if turn.of == 1:
        return _alone(scenario, seed)
    share = {"duration_s": scenario.duration_s / turn.of, "warmup_s": scenario.warmup_s / turn.of}
    made = _alone(scenario.model_copy(update=share), seed)
    return None if made is None else in_turns(made, scenario.total_s(), scenario.warmup_s, turn)


def in_turns(plan: Plan, total_s: float, warmup_s: float, turn: Turn) -> Plan:
    """A plan of `total_s / turn.of` seconds, cut into slices of about SLICE_S that are dealt over `total_s`.

    All of them are given the same requests at the same distances. The order goes forth and back and starts one place
    further every second time (A B C, C B A, B C A, A C B ...), so that a drift of the machine and the distances between
    slices fall on all alike. No two have a slice at the same time.
    """
    total_ns = round(total_s * 1e9)
    slices = max(round(total_s / turn.of / SLICE_S), 1)
    # Edges as whole numbers, the first slice from 0: rounding would let slices overlap by a nanosecond.
    edges = np.arange(slices * turn.of + 1, dtype=np.int64) * total_ns // (slices * turn.of)
    own = np.arange(slices + 1, dtype=np.int64) * total_ns // (slices * turn.of)
    number = np.clip(np.searchsorted(own, plan.offset_ns, side="right") - 1, 0, slices - 1)
    forth = (turn.place - number // 2) % turn.of
    place = np.where(number % 2 == 0, forth, turn.of - 1 - forth)
    at = number * turn.of + place
    offset_ns = np.minimum(edges[at] + plan.offset_ns - own[number], edges[at + 1] - 1)
    return replace(plan, offset_ns=offset_ns, warmup=offset_ns < round(warmup_s * 1e9))


def _alone(scenario: Scenario, seed: int) -> Plan | None:
    match scenario.arrivals:
        case Users():
            return None
        case Replay():
            return replayed(scenario.arrivals).plan(seed=seed, warmup_s=scenario.warmup_s)
        case Fitted(fit=name, rate=rate, max_in=max_in, max_out=max_out):
            made = fits.generate(
                fits.FITS[name],
                duration_s=scenario.total_s(),
                seed=seed,
                rate_rps=rate,
                max_in=max_in,
                max_out=max_out,
            )
            return made.plan(seed=seed, warmup_s=scenario.warmup_s)
        case Sessions(users=users, turns=turns, think_s=think_s):
            offset_ns, turn, number = conversation.turns(
                users=users, turns=turns, think_s=think_s, total_s=scenario.total_s(), seed=seed
            )
            return make_plan(offset_ns, template=turn, request_seed=number, warmup_s=scenario.warmup_s)
        case Open():
            return _open(scenario, scenario.arrivals, seed)


def _open(scenario: Scenario, due: Open, seed: int) -> Plan:
    offset_ns = arrivals.arrivals(_segments(due, scenario.warmup_s, scenario.duration_s), cv=_cv(due), seed=seed)
    n = len(offset_ns)
    rng = np.random.default_rng([seed, 0x706C616E])
    weights = np.asarray(scenario.template_weights())
    seeds = rng.integers(0, scenario.request_seeds, n) if scenario.request_seeds else -1
    return make_plan(
        offset_ns,
        template=rng.choice(len(weights), n, p=weights / weights.sum()).astype(np.int32),
        prompt_bytes=-1 if scenario.prompt_bytes is None else scenario.prompt_bytes,
        output_tokens=-1 if scenario.output_tokens is None else scenario.output_tokens,
        request_seed=seeds,
        warmup_s=scenario.warmup_s,
    )


def _cv(due: Open) -> float:
    return {"constant": 0.0, "gamma": due.cv}.get(due.kind, 1.0)


def _segments(due: Open, warmup_s: float, duration_s: float) -> list[arrivals.Segment]:
    """The rate over time: steps and ramps begin after a warm-up at their first rate."""
    rates = due.over_time()
    warmup = [arrivals.Segment(warmup_s, rates[0], rates[0])] if warmup_s else []
    if due.kind == "ramp":
        return [*warmup, arrivals.Segment(duration_s, rates[0], rates[-1])]
    each = duration_s / len(rates)
    return warmup + [arrivals.Segment(each, rate, rate) for rate in rates]


@functools.lru_cache(maxsize=4)
def replayed(wanted: Replay) -> trace.Trace:
    """The trace that a replay reads. Raises Missing or BadInput."""
    return trace.read_trace(
        Path(wanted.file),
        time_scale=wanted.time_scale,
        rows=wanted.rows,
        max_in=wanted.max_in,
        max_out=wanted.max_out,
        duration_s=wanted.duration_s,
        columns=wanted.columns,
        time_unit=wanted.time_unit,
        bursts=wanted.bursts,
    )
