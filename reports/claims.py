"""The claims ledger: what has been said about the engines, each with a rule written before measuring.

A claim is a sentence, where it was said, and a rule: what it tests in words, and the same as data (`reports.rules`).
The answer is `holds`, `does-not-hold` or `not-testable`; the last says what would have to be measured. Claims find
their scenarios by tag (schema.SCENARIO_TAGS) and their targets by engine and switch, never by name.

Where a rule was changed the claim says when and why, keeps the old rule, and shows what that says of the same data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from reports.compare import TOLERATED, Comparison
from reports.rules import (
    Bound,
    ClaimWord,
    Evidence,
    Finding,
    Judge,
    Limit,
    Measured,
    Place,
    Reader,
    Rule,
    Untestable,
    change_of,
    extra_of,
    finding,
    metric_of,
    patterns,
    ratio_of,
    shortened,
    span_of,
    strictest,
)  # fmt: skip
from reports.schema import ScenarioRecord
from reports.stats import enough, estimate
from reports.store import Campaign
from reports.summarise import Facts, resilience
from reports.words import interval, percent, share

__all__ = ["CLAIMS", "Claim", "Evidence", "Finding", "Judged", "ledger", "patterns", "shortened"]

_HARDLY: Final = 0.95
"""A ratio above it is less than 5 % gained, the margin of latency verdicts."""

_NOTHING_TO_REDUCE: Final = 0.001
"""Share of time in pauses of the collector below which none of it is felt."""

_UNDER_WAY: Final = 3
"""Requests that may already be on their way to an endpoint when its breaker opens."""

_CHANGED: Final = "2026-11-30"
"""When the rules that say so were changed: after two campaigns, and before any later one was measured."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A published sentence and the rule that tests it."""

    id: str
    sentence: str
    source: str
    tests: str
    """What the rule tests, in words."""
    judge: Judge
    changed: str = ""
    """Why the rule was changed on _CHANGED; empty if it was not."""
    before: Judge | None = None
    """The rule until then."""

    @property
    def rule(self) -> str:
        """What the rule tests, and when and why it was changed."""
        return f"{self.tests}. Changed {_CHANGED}: {self.changed}" if self.changed else self.tests


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with its finding."""

    claim: Claim
    finding: Finding


def _of_engine(engine: str) -> Callable[[Evidence], Sequence[str]]:
    return lambda evidence: evidence.ordinary(evidence.engine(engine))


def _tagged(tag: str) -> Callable[[Evidence], Sequence[str]]:
    return lambda evidence: evidence.tagged(tag)


def _one(
    engine: str, read: Reader, limit: Limit
) -> Callable[[Evidence, str], tuple[Sequence[Bound], Sequence[Place]] | None]:
    """One figure of an engine against one limit."""

    def measure(evidence: Evidence, name: str) -> tuple[Sequence[Bound], Sequence[Place]] | None:
        target = evidence.engine(engine)
        span = evidence.span(name, target, read)
        return None if span is None else ([Bound(span, limit)], [(name, target)])

    return measure


_CLOCKS: Final = "needs two rounds or more of a scenario at a fixed rate with mock and client clocks"


def _share_words(what: str) -> Callable[[str, Sequence[Bound]], str]:
    return lambda name, parts: f"{name}: {share(parts[0].span.mean)} {what}"


_SHERPA_UNDER_1MS: Final = Rule(
    _of_engine("sherpa"),
    _one("sherpa", metric_of("added_p50_us"), Limit(1000)),
    lambda name, parts: (
        f"{name}: added p50 {parts[0].span.mean:,.0f} µs (95 % CI {parts[0].span.low:,.0f}..{parts[0].span.high:,.0f})"
    ),
    _CLOCKS,
    "most",
)
_OLLA_UNDER_1MS: Final = Rule(
    _of_engine("olla"),
    _one("olla", extra_of("added_under_1ms"), Limit(0.9, above=True)),
    _share_words("of requests under 1 ms"),
    _CLOCKS,
    "most",
)


def _on_cpu(facts: Facts) -> float | None:
    cpu, wall = facts.value("cpu_us_per_request"), extra_of("wall_mean_ms")(facts)
    return None if cpu is None or not wall else cpu / 1000 / wall


_MOSTLY_IO: Final = Rule(
    _of_engine("sherpa"),
    _one("sherpa", _on_cpu, Limit(0.5)),
    _share_words("of a request's wall time on the CPU"),
    "needs CPU samples and request rows in two rounds or more",
)


def _rate(engine: str, floor: float) -> Rule:
    """The rate at saturation in the engine's best scenario: one that reaches it proves the claim. What a core could
    have done is bounded by the rate divided by its busy share."""

    def measure(evidence: Evidence, name: str) -> tuple[Sequence[Bound], Sequence[Place]] | None:
        target = evidence.engine(engine)
        bounds = [
            (rate, rate / min(busy, 1.0))
            for facts in evidence.runs(name, target)
            if (rate := facts.value("goodput_rps")) is not None and (busy := facts.busy or 1.0) > 0
        ]
        if len(bounds) < 2:
            return None
        span = Measured(estimate([low for low, _ in bounds]), estimate([high for _, high in bounds]))
        return [Bound(span, Limit(floor, above=True))], [(name, target)]

    def say(name: str, parts: Sequence[Bound]) -> str:
        span = parts[0].span
        return f"{name}: {span.lower.mean:,.0f} req/s (95 % CI of the capacity {span.low:,.0f}..{span.high:,.0f})"

    needs = "needs a closed-loop scenario tagged `saturation` (`--profile standard` or above)"
    return Rule(_tagged("saturation"), measure, say, needs, "best")


def _higher_and_stable(evidence: Evidence, name: str) -> tuple[Sequence[Bound], Sequence[Place]] | None:
    olla, sherpa = evidence.engine("olla"), evidence.engine("sherpa")
    idle = evidence.ratio(name, olla, sherpa, metric_of("rss_idle_mib"))
    growth = evidence.span(name, olla, extra_of("rss_growth"))
    if idle is None or growth is None:
        return None
    return [Bound(idle, Limit(1, above=True)), Bound(growth, Limit(0.10))], [(name, olla), (name, sherpa)]


_OLLA_MEMORY: Final = Rule(
    _of_engine("olla"),
    _higher_and_stable,
    lambda name, parts: (
        f"{name}: idle {percent(parts[0].span.mean - 1)} against sherpa, "
        f"growth under load {percent(parts[1].span.mean)}"
    ),
    "needs memory samples before and during load for both engines in two rounds or more",
)


_HEALTHY: Final = "healthy_ttft_p99_ms"
_FIRST_SECOND: Final = "first_second_p99_ms"


def _healthy_p99(scenario: ScenarioRecord) -> Reader:
    """p99 of time to first byte at the endpoints that the fault scenario leaves healthy."""
    faulty = {one.endpoint for one in scenario.faults}

    def read(facts: Facts) -> float | None:
        if facts.requests is None:
            return extra_of(_HEALTHY)(facts)
        healthy = ~np.isin(facts.requests.endpoint.astype(str), list(faulty))
        values = facts.requests.ttft_ms[healthy & ~np.isnan(facts.requests.ttft_ms)]
        return float(np.percentile(values, 99)) if enough(values.size, 99) else None

    return read


def _isolation(evidence: Evidence, name: str) -> tuple[Sequence[Bound], Sequence[Place]] | None:
    olla, twin = evidence.engine("olla"), evidence.scenario(name).healthy
    span = ratio_of(evidence.pairs((name, olla), (twin, olla), _healthy_p99(evidence.scenario(name)))) if twin else None
    return None if span is None else ([Bound(span, Limit(1.10))], [(name, olla), (twin, olla)])


_ISOLATION: Final = Rule(
    _tagged("slow-endpoint"),
    _isolation,
    lambda name, parts: f"{name}: healthy endpoints' p99 {change_of(parts[0].span)}",
    "needs a scenario tagged `slow-endpoint` with its `faults`, and its twin without them named as `healthy`, "
    "with 1,000 requests or more to the healthy endpoints in each run",
)


def _mib_per_second(facts: Facts) -> float | None:
    cpu = facts.value("cpu_us_per_mib")
    return None if not cpu else 1e6 / cpu


def _buffer_sizes(evidence: Evidence, name: str) -> tuple[Sequence[Bound], Sequence[Place]] | None:
    usual, other = evidence.buffers(evidence.engine("olla"), 8192) or ("", "")
    span = evidence.ratio(name, usual, other, _mib_per_second)
    return None if span is None else ([Bound(span, Limit(1.03, above=True))], [(name, usual), (name, other)])


_BUFFERS: Final = Rule(
    _tagged("large-response"),
    _buffer_sizes,
    lambda name, parts: f"{name}: MiB per CPU second at 64 against 8 KiB {change_of(parts[0].span)}",
    "needs two variants of olla that differ in `proxy.buffer_size: 8192` only, in a scenario tagged "
    "`large-response`, two rounds or more",
)


def _variant(evidence: Evidence, switch: str, value: str = "") -> str:
    """A variant of olla with one switch changed (to `value`); empty without one."""
    found = evidence.variants(evidence.engine("olla"), switch)
    return next((t.name for t in found if not value or value in map(str, t.switches.values())), "")


def _flushes(evidence: Evidence, name: str) -> tuple[Sequence[Bound], Sequence[Place]] | None:
    olla, other = evidence.engine("olla"), _variant(evidence, "flush.policy", "every-read")
    later = evidence.difference(name, olla, other, metric_of("transit_event_p99_us"))
    writes = evidence.ratio(name, olla, other, extra_of("writes_per_mib"))
    writes = writes or evidence.ratio(name, olla, other, extra_of("reads_per_mib"))
    if later is None or writes is None:
        return None
    return [Bound(later, Limit(1000)), Bound(writes, Limit(0.99))], [(name, olla), (name, other)]


_FLUSHING: Final = Rule(
    _of_engine("olla"),
    _flushes,
    lambda name, parts: (
        f"{name}: event transit p99 {parts[0].span.mean / 1000:+.2f} ms against every-read, "
        f"writes per MiB (else reads at the client) {percent(parts[1].span.mean - 1)}"
    ),
    "needs event rows of olla and of its variant with `proxy.flush.policy: every-read` in a streaming scenario, "
    "two rounds or more",
)


def _buffer_holds_back(evidence: Evidence, name: str) -> tuple[Sequence[Bound], Sequence[Place]] | None:
    olla = evidence.engine("olla")
    buffered = evidence.with_pools(olla)
    span = None if buffered == olla else evidence.span(name, buffered, metric_of("added_p50_us"))
    return None if span is None else ([Bound(span, Limit(75_000, above=True))], [(name, buffered)])


_FIRST_TOKEN: Final = Rule(
    lambda evidence: evidence.ordinary(evidence.with_pools(evidence.engine("olla"))),
    _buffer_holds_back,
    lambda name, parts: f"{name}: first bytes {parts[0].span.mean / 1000:.2f} ms later with 64 KiB buffers",
    "needs two rounds or more of olla with pooled 64 KiB buffers (`pools.buffers: true`) at a fixed rate",
)


# ----------------------------------------------------------------------------------------- rules that are no threshold
def _points(evidence: Evidence, metric: str) -> tuple[list[int], list[list[float]], list[Place]]:
    """(connections in order, by round the metric at each, places) of the `sweep-connections` scenarios of Sherpa."""
    target = evidence.engine("sherpa")
    known = [
        (connections, name)
        for name in evidence.tagged("sweep-connections")
        if (connections := evidence.scenario(name).connections) is not None
        and evidence.values(name, target, metric_of(metric)).size
    ]
    if len({connections for connections, _ in known}) < 3:
        raise Untestable(
            "needs three scenarios tagged `sweep-connections` with different `connections` (`--profile full`)"
        )
    known.sort()
    runs = [
        {f.record.round: v for f in evidence.runs(name, target) if (v := f.value(metric)) is not None}
        for _, name in known
    ]
    both = sorted(set.intersection(*(set(one) for one in runs)))
    return [c for c, _ in known], [[one[n] for one in runs] for n in both], [(name, target) for _, name in known]


def _memory_linear(evidence: Evidence) -> Finding:
    x, rounds, places = _points(evidence, "rss_peak_mib")
    if len(rounds) < 2:
        raise Untestable("needs two rounds or more of every scenario tagged `sweep-connections`")
    y = np.array(rounds)
    rise = y[:, -1] - y[:, 0]
    if not (rise > 0).any():
        return Finding("memory rises with connections in no round", "holds", evidence.names(*places))
    if not (rise > 0).all():
        said = f"memory rises with connections in {int((rise > 0).sum())} of {rise.size} rounds"
        return Finding(said, "not-testable", evidence.names(*places))
    line = y[:, :1] + rise[:, None] * (np.array(x) - x[0]) / (x[-1] - x[0])
    off = (y - line)[:, 1:-1] / rise[:, None]  # by round, at each number in the middle
    spans = [span for column in off.T if (span := span_of(column)) is not None]
    # Within 10 % on both sides: the farther end decides.
    words = [strictest([Limit(0.10).word(s), Limit(-0.10, above=True).word(s)]) for s in spans]
    worst = max(spans, key=lambda one: abs(one.mean))
    per = float(rise.mean()) * 1024 / (x[-1] - x[0])
    said = (
        f"{per:.1f} KiB per connection over {x[0]}..{x[-1]} connections, at most {share(abs(worst.mean))} of the rise "
        f"off the line between (95 % CI {interval(worst.low, worst.high)})"
    )
    return finding(said, strictest(words), evidence.names(*places))


def _memory_linear_before(evidence: Evidence) -> Finding:
    x, rounds, places = _points(evidence, "rss_peak_mib")
    at, y = np.array(x), np.array(rounds).mean(axis=0)
    slope, intercept = np.polyfit(at, y, 1)
    rise = abs(slope) * (at[-1] - at[0])
    residual = float(np.abs(y - (slope * at + intercept)).max() / rise) if rise else 0.0
    return Finding(f"largest residual {share(residual)} of the rise", _word(residual < 0.10), evidence.names(*places))


def _word(condition: bool) -> ClaimWord:
    return "holds" if condition else "does-not-hold"


def _gc_reduced(evidence: Evidence) -> Finding:
    scenarios = evidence.tagged("gc-load")
    if not scenarios:
        raise Untestable("needs a scenario tagged `gc-load`: equal high load, equal GC settings, a declared ballast")
    olla = evidence.engine("olla")
    off = evidence.without_pools(olla)
    pairs = [] if off is None else [("pooling alone", evidence.with_pools(olla), off.name)]
    pairs += [
        ("engine against engine, not pooling alone", olla, target.name)
        for target in evidence.campaign.header.targets
        if target.kind == "engine" and target.engine == "sherpa"
    ]
    said: list[str] = []
    verdicts: list[list[ClaimWord]] = []
    used: list[Place] = []
    for what, ours, against in pairs:
        words, judged = _pauses(evidence, scenarios, ours, against)
        if words:
            said.append(f"{what} ({ours} against {against}): {words}")
            verdicts.append(judged)
            used += [(name, target) for name in scenarios for target in (ours, against)]
    if not any(verdicts):
        raise Untestable(
            "no collection happened in either target, or no recorder ran; needs a higher load or a larger ballast"
        )
    # Pooling is judged by itself where it was measured; where nothing is collected with or without, it reduces nothing.
    return finding("; ".join(said), strictest(verdicts[0] or ["does-not-hold"]), evidence.names(*dict.fromkeys(used)))


def _pauses(evidence: Evidence, scenarios: Sequence[str], ours: str, theirs: str) -> tuple[str, list[ClaimWord]]:
    """What one target's pauses are against another's, in words, and a verdict a scenario; neither if not recorded."""
    parts: list[str] = []
    verdicts: list[ClaimWord] = []
    for name in scenarios:
        said = []
        for metric in ("gc_count", "gc_total_ms", "gc_max_ms"):
            pairs = evidence.pairs((name, ours), (name, theirs), metric_of(metric))
            span = ratio_of(pairs) if len(pairs) > 1 else None
            if span is not None:
                said.append(f"{metric} {change_of(span)}")
            elif any(a or b for a, b in pairs):
                means = np.array(pairs).mean(axis=0)
                said.append(f"{metric} {means[0]:.3g} against {means[1]:.3g}")
        verdict = _reduced(evidence.pairs((name, ours), (name, theirs), metric_of("gc_total_ms")))
        share_off = evidence.span(name, theirs, _gc_share)
        if said and verdict is not None and share_off is not None and share_off.high < _NOTHING_TO_REDUCE:
            said.append(f"{theirs} spends {share(share_off.mean)} of its time in pauses: there is nothing to reduce")
            verdict = "does-not-hold"
        if verdict is not None:
            verdicts.append(verdict)
        if said:
            parts.append(f"{name}: " + ", ".join(said))
        elif all(evidence.values(name, target, metric_of("gc_count")).size for target in (ours, theirs)):
            parts.append(f"{name}: no collection in either")
    return ", ".join(parts), verdicts


def _reduced(pairs: Sequence[tuple[float, float]]) -> ClaimWord | None:
    """Whether one total is at most 0.4 of the other. A round without a pause has no ratio; the difference tells."""
    ratio = ratio_of(pairs)
    if ratio is not None:
        return Limit(0.4).word(ratio)
    span = span_of([a - 0.4 * b for a, b in pairs])
    return Limit(0.0).word(span) if span is not None and any(b for _, b in pairs) else None


def _gc_share(facts: Facts) -> float | None:
    total = facts.value("gc_total_ms")
    return None if total is None or not facts.window_s else total / 1000 / facts.window_s


def _breaker_timeout(scenario: ScenarioRecord) -> float:
    """Seconds an open breaker stays open in this scenario."""
    text = str(scenario.settings.get("proxy.circuit_breaker.timeout", "30s"))
    number = re.fullmatch(r"([\d.]+)(ms|s|m)?", text)
    if number is None:
        return 30.0
    return float(number.group(1)) * {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}[number.group(2)]


_FAST: Final = (
    "needs a scenario tagged `failing-endpoint` with its `faults`, the fault lasting longer than the breaker's "
    "timeout, request rows in two rounds or more, and a request that was lost"
)


def _openings(evidence: Evidence) -> Iterable[tuple[str, float, list[float], list[float], int]]:
    """Of each failing scenario: its name, the breaker's timeout, losses before they paused and how long they paused in
    the runs where they did, and the number of runs."""
    olla = evidence.engine("olla")
    for name in evidence.tagged("failing-endpoint"):
        scenario = evidence.scenario(name)
        timeout = _breaker_timeout(scenario)
        if (
            not scenario.faults
            or (scenario.faults[0].to_s or scenario.duration_s) - scenario.faults[0].from_s < timeout
        ):
            continue
        seen = [one for f in evidence.runs(name, olla) if (one := resilience(f, scenario, timeout / 2)) is not None]
        if any(one.lost for one in seen):
            opened = [float(one.before_pause) for one in seen if one.before_pause is not None]
            lasted = [one.paused_s for one in seen if one.paused_s is not None]
            yield name, timeout, opened, lasted, len(seen)


def _fails_fast(evidence: Evidence) -> Finding:
    said: list[str] = []
    verdicts: list[ClaimWord] = []
    used: list[Place] = []
    for name, timeout, opened, lasted, runs in _openings(evidence):
        used.append((name, evidence.engine("olla")))
        never = runs - len(opened)
        before, pause = span_of(opened), span_of(lasted)
        if never > TOLERATED * runs or before is None or pause is None:
            said.append(f"{name}: losses did not pause in {never} of {runs} runs")
            verdicts.append("does-not-hold" if never else "not-testable")
            continue
        said.append(
            f"{name}: losses stop after {before.mean:.1f} (95 % CI {before.low:.1f}..{before.high:.1f}) and for "
            f"{pause.mean:.1f} s ({pause.low:.1f}..{pause.high:.1f}; breaker set to {timeout:g} s)"
        )
        # The claim counts failures; requests already under way when the fifth fails are lost as well.
        verdicts += [Limit(5 + _UNDER_WAY).word(before), Limit(0.9 * timeout, above=True).word(pause)]
    if not said:
        raise Untestable(_FAST)
    return finding("; ".join(said), strictest(verdicts), evidence.names(*used))


def _fails_fast_before(evidence: Evidence) -> Finding:
    words = [
        _word(len(opened) == runs and max(opened) <= 5 + _UNDER_WAY and min(lasted) >= 0.9 * timeout)
        for _, timeout, opened, lasted, runs in _openings(evidence)
    ]
    if not words:
        raise Untestable(_FAST)
    return Finding("", strictest(words))


def _first_second(facts: Facts) -> float | None:
    if facts.requests is None:
        return extra_of(_FIRST_SECOND)(facts)
    early = facts.requests.sent_to_end_ms[facts.requests.at_s < 1.0]
    # A single second seldom holds the 1,000 requests of an honest p99: the rounds carry the interval instead.
    return float(np.percentile(early, 99)) if early.size >= 100 else None


def _prewarm(evidence: Evidence) -> Finding:
    olla, other = evidence.engine("olla"), _variant(evidence, "pools.prewarm")
    said: list[str] = []
    verdicts: list[ClaimWord] = []
    used: list[Place] = []
    for name in evidence.tagged("cold-start"):
        span = evidence.ratio(name, other, olla, _first_second)
        if span is not None:
            said.append(f"{name}: first-second p99 with prewarm {change_of(span)}")
            verdicts.append("holds" if span.high < 1 else "does-not-hold" if span.low > _HARDLY else "not-testable")
            used += [(name, other), (name, olla)]
    if not said:
        raise Untestable(
            "needs a variant of olla with `proxy.pools.prewarm` in a scenario tagged `cold-start` with 100 requests or "
            "more in its first second"
        )
    return finding("; ".join(said), strictest(verdicts), evidence.names(*used))


def extras_of(campaign: Campaign, facts: Sequence[Facts]) -> dict[str, dict[str, float]]:
    """What rules read from single requests, by run: an archive keeps it, as it has no single requests."""
    read: dict[str, list[tuple[str, Reader]]] = {}
    for name, scenario in campaign.header.scenarios.items():
        if scenario.faults and scenario.healthy:
            for place in (name, scenario.healthy):
                read.setdefault(place, []).append((_HEALTHY, _healthy_p99(scenario)))
        if "cold-start" in scenario.tags:
            read.setdefault(name, []).append((_FIRST_SECOND, _first_second))
    return {
        one.record.run: {
            key: value for key, reader in read.get(one.record.scenario, ()) if (value := reader(one)) is not None
        }
        for one in facts
    }


def _by_endpoints(evidence: Evidence) -> tuple[list[tuple[int, Measured]], list[Place]]:
    olla, sherpa = evidence.engine("olla"), evidence.engine("sherpa")
    found, used = [], []
    for name in evidence.tagged("sweep-endpoints"):
        scenario = evidence.scenario(name)
        span = evidence.ratio(name, olla, sherpa, metric_of(scenario.cpu_metric()))
        if span is not None and scenario.endpoints is not None:
            found.append((scenario.endpoints, span))
            used += [(name, olla), (name, sherpa)]
    if not (any(n < 10 for n, _ in found) and any(n >= 10 for n, _ in found)):
        raise Untestable("needs scenarios tagged `sweep-endpoints` below and above 10 endpoints, e.g. 2, 10 and 50")
    return sorted(found, key=lambda one: one[0]), used


def _ten_endpoints(evidence: Evidence) -> Finding:
    found, used = _by_endpoints(evidence)
    said = "; ".join(f"{n} endpoints: olla's CPU {change_of(span)}" for n, span in found)
    cheaper = [Limit(0.97).word(span) for _, span in found]
    words = [Limit(0.97, above=n < 10).word(span) for n, span in found]
    if all(word == "holds" for word in cheaper):
        said += "; olla costs less at every number of endpoints: no break-even at 10"
    return finding(said, strictest(words), evidence.names(*used))


def _ten_endpoints_before(evidence: Evidence) -> Finding:
    found, _ = _by_endpoints(evidence)
    won = [(n, span.high < 0.97) for n, span in found]
    return Finding("", _word(all(yes for n, yes in won if n >= 10) and not any(yes for n, yes in won if n < 10)))


_PUBLISHED_RATES: Final = {"sherpa": 1000.0, "olla": 10_000.0}


def _rates(evidence: Evidence) -> tuple[str, dict[str, Measured], list[Place]]:
    """The first scenario at saturation with both engines, their rates there, and the places."""
    for name in evidence.tagged("saturation"):
        places = {engine: (name, evidence.engine(engine)) for engine in _PUBLISHED_RATES}
        spans = {engine: evidence.span(*place, metric_of("goodput_rps")) for engine, place in places.items()}
        known = {engine: span for engine, span in spans.items() if span is not None}
        if len(known) == len(places):
            return name, known, list(places.values())
    raise Untestable("needs a scenario tagged `saturation` with both engines, two rounds or more")


def _ten_times(evidence: Evidence) -> Finding:
    name, spans, places = _rates(evidence)
    said = ", ".join(f"{e} {s.mean:,.0f} req/s (95 % CI {s.low:,.0f}..{s.high:,.0f})" for e, s in spans.items())
    words = [
        limit.word(span)
        for engine, span in spans.items()
        for limit in (Limit(_PUBLISHED_RATES[engine] / 2, above=True), Limit(_PUBLISHED_RATES[engine] * 2))
    ]
    return finding(f"{name}: {said}", strictest(words), evidence.names(*places))


def _ten_times_before(evidence: Evidence) -> Finding:
    _, spans, _ = _rates(evidence)
    return Finding(
        "", _word(all(_PUBLISHED_RATES[e] / 2 <= s.mean <= _PUBLISHED_RATES[e] * 2 for e, s in spans.items()))
    )


def _cost_ratio(evidence: Evidence, name: str) -> tuple[Sequence[Bound], Sequence[Place]] | None:
    olla, sherpa = evidence.engine("olla"), evidence.engine("sherpa")
    span = evidence.ratio(name, olla, sherpa, metric_of("cpu_us_per_request"))
    if span is None or evidence.scenario(name).kind != "request":
        return None
    near = [Bound(span, Limit(0.85 * 0.9, above=True)), Bound(span, Limit(0.85 * 1.1))]
    return near, [(name, sherpa), (name, olla)]


def _cost_words(name: str, parts: Sequence[Bound]) -> str:
    span = parts[0].span
    return f"{name}: CPU per request, olla / sherpa, {span.mean:.2f} (95 % CI {span.low:.2f}..{span.high:.2f})"


_COST: Final = Rule(
    _of_engine("olla"),
    _cost_ratio,
    _cost_words,
    "needs a non-streaming scenario at a fixed rate with both engines, two rounds or more",
    "most",
)


def _cost_before(evidence: Evidence) -> Finding:
    for name in evidence.ordinary(evidence.engine("olla")):
        found = _cost_ratio(evidence, name)
        if found is not None:
            span = found[0][0].span
            return Finding(name, _word(span.high >= 0.85 * 0.9 and span.low <= 0.85 * 1.1))
    raise Untestable(_COST.needs)


_GUIDE: Final = "engine guide of the original Olla"
_PUBLISHED: Final = "published elsewhere for the original Olla"
_TYPICAL: Final = "the sentence speaks of the typical case, and the rule asked for every scenario"
_WHOLE: Final = "it compared a point value where all rules promise whole intervals"

CLAIMS: Final[tuple[Claim, ...]] = (
    Claim(
        "C1", "Sherpa typically adds less than 1 ms", f"{_GUIDE}, Sherpa: Performance Characteristics",
        "added_p50_us of sherpa: 95 % interval below 1,000 µs in most use cases at a fixed rate without faults",
        _SHERPA_UNDER_1MS, _TYPICAL, replace(_SHERPA_UNDER_1MS, across="every"),
    ),
    Claim(
        "C2", "Sherpa handles 5,000-10,000 req/s comfortably", f"{_GUIDE}, Sherpa: Performance Characteristics",
        "goodput_rps of sherpa at saturation: 95 % interval above 5,000 in its best scenario; does not hold where the "
        "rate over the busy share, which bounds a core, is below it",
        _rate("sherpa", 5_000),
    ),
    Claim(
        "C3", "Sherpa's memory is stable and grows linearly with connections",
        f"{_GUIDE}, Sherpa: Performance Characteristics",
        "rss_peak_mib over three or more `connections`: between the fewest and the most, the 95 % interval of what "
        "lies off the straight line through both is within 10 % of the rise",
        _memory_linear, _WHOLE, _memory_linear_before,
    ),
    Claim(
        "C4", "Sherpa: most time is spent in I/O", f"{_GUIDE}, Sherpa: Performance Characteristics",
        "CPU per request / mean wall time of a request: 95 % interval below 50 % in every scenario at a fixed rate",
        _MOSTLY_IO,
    ),
    Claim(
        "C5", "Olla adds less than a millisecond in most cases", f"{_GUIDE}, Olla: Performance Characteristics",
        "share of requests with added time under 1 ms: interval at 90 % or above in most use cases at a fixed rate",
        _OLLA_UNDER_1MS, _TYPICAL, replace(_OLLA_UNDER_1MS, across="every"),
    ),
    Claim(
        "C6", "Olla handles 20,000-50,000 req/s", f"{_GUIDE}, Olla: Performance Characteristics",
        "goodput_rps of olla at saturation: 95 % interval above 20,000 in its best scenario; does not hold where the "
        "rate over the busy share, which bounds a core, is below it",
        _rate("olla", 20_000),
    ),
    Claim(
        "C7", "Olla's memory: higher baseline, stable under load", f"{_GUIDE}, Olla: Performance Characteristics",
        "rss_idle_mib of olla above sherpa's, and RSS of the window's second half less than 10 % above its first half",
        _OLLA_MEMORY,
    ),
    Claim(
        "C8", "Pooling reduces GC pauses by 60-80 % under high load", f"{_GUIDE}, Olla: Object Pooling",
        "gc_total_ms at equal load and GC settings, pools on / off (else olla / sherpa): 95 % interval at 0.4 or "
        "below; does not hold where pauses take under 0.1 % of the time without pools",
        _gc_reduced,
    ),
    Claim(
        "C9", "Per-endpoint pools keep a slow endpoint from affecting fast ones", f"{_GUIDE}, Olla: Connection Pooling",
        "p99 of time to first byte at healthy endpoints, one slow / none slow: 95 % interval at 1.10 or below",
        _ISOLATION,
    ),
    Claim(
        "C10", "After 5 failures an endpoint is open for 30 s; requests fail fast, cascades are prevented",
        f"{_GUIDE}, Olla: Circuit Breakers",
        "with a resetting endpoint: 95 % interval of the requests lost before losses pause at 8 or below (5, and those "
        "under way), and of the pause at 90 % of the breaker's timeout or above",
        _fails_fast, _WHOLE, _fails_fast_before,
    ),
    Claim(
        "C11", "64 KB against 8 KB buffers: more throughput for large responses", f"{_GUIDE}, Quick Comparison",
        "MiB per CPU second of olla with 64 / 8 KiB buffers on large responses: 95 % interval above 1.03",
        _BUFFERS,
    ),
    Claim(
        "C12", "Adaptive flushing keeps tokens prompt while cutting flushes", f"{_GUIDE}, Olla: Optimised Streaming",
        "event transit p99 at most 1 ms above every-read, and 1 % fewer writes per MiB or less, in every stream",
        _FLUSHING,
    ),
    Claim(
        "C13", "Pre-warmed pools help predictable traffic", f"{_GUIDE}, Performance Tuning",
        "p99 of the first second after a cold start, with / without prewarm: 95 % interval below 1; does not hold "
        "where all of it is above 0.95, a gain nobody would notice",
        _prewarm,
    ),
    Claim(
        "C14", "Choose Sherpa below 10 endpoints and moderate traffic, Olla above", f"{_GUIDE}, When to Use",
        "CPU per unit, olla / sherpa: 95 % interval below 0.97 from 10 endpoints on, and above it under 10",
        _ten_endpoints, _WHOLE, _ten_endpoints_before,
    ),
    Claim(
        "P1", "First token by buffer size: 2 KB about 5 ms, 64 KB about 150 ms", _PUBLISHED,
        "added_p50_us of olla with pooled 64 KiB buffers at least half of 150 ms in every scenario at a fixed rate",
        _FIRST_TOKEN, "it measured olla as it is, which has no 64 KiB buffers any more",
    ),
    Claim(
        "P2", "About 1,000 req/s (Sherpa) against about 10,000 req/s (Olla)", _PUBLISHED,
        "goodput_rps at saturation: both 95 % intervals within a factor of two of both figures",
        _ten_times, _WHOLE, _ten_times_before,
    ),
    Claim(
        "P3", "115.6 (Sherpa) against 98.5 (Olla) microseconds per request", _PUBLISHED,
        "95 % interval of CPU per request, olla / sherpa, within 10 % of 0.85 in most use cases of plain replies",
        _COST, "it took the scenario that comes first by name, and an interval that only reached the figure",
        _cost_before,
    ),
)  # fmt: skip


def ledger(campaign: Campaign, comparison: Comparison) -> tuple[Judged, ...]:
    """Every claim with what this campaign says of it, and what its old rule says of the same data."""
    evidence = Evidence(campaign, comparison)
    judged = []
    for claim in CLAIMS:
        try:
            found = claim.judge(evidence)
        except Untestable as exc:
            judged.append(Judged(claim, Finding(str(exc), "not-testable")))
            continue
        if claim.before is not None:
            try:
                old = claim.before(evidence).verdict
            except Untestable:
                old = "not-testable"
            found = replace(found, measured=f"{found.measured} (the rule before {_CHANGED} says: {old})")
        judged.append(Judged(claim, found))
    return tuple(judged)
