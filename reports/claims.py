"""The claims ledger: what has been said about the engines, each with a rule written before measuring.

A claim is a sentence, where it was said, a rule with its metric and threshold, and a function that applies the rule to
a campaign. The answer is `holds`, `does-not-hold` or `not-testable`; the last says what would have to be measured. A
threshold is met when the whole 95 % interval over rounds is on its side, missed when all of it is on the other, and
undecided between; a claim about several scenarios holds when it holds in each. Claims find their scenarios by tag
(schema.SCENARIO_TAGS) and their targets by engine and switch, never by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from reports.compare import Comparison
from reports.schema import METRICS, Scenario, Target
from reports.stats import enough, estimate
from reports.store import Campaign
from reports.summarise import Facts, resilience
from reports.words import interval, percent, share

Floats: TypeAlias = npt.NDArray[np.float64]
ClaimWord = Literal["holds", "does-not-hold", "not-testable"]
Reader: TypeAlias = "Callable[[Facts], float | None]"


_HARDLY: Final = 0.95
"""A ratio above it is less than 5 % gained, the margin of latency verdicts."""

_NOTHING_TO_REDUCE: Final = 0.001
"""Share of time in pauses of the collector below which none of it is felt."""

_NONE: Final = (np.empty(0), np.empty(0))

_UNDER_WAY: Final = 3
"""Requests that may already be on their way to an endpoint when its breaker opens."""


class _Untestable(Exception):
    """This campaign cannot answer; the text says what would."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: the numbers in words, the word, and the runs that say so."""

    measured: str
    verdict: ClaimWord
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A published sentence and the rule that tests it."""

    id: str
    sentence: str
    source: str
    rule: str
    judge: Callable[[Evidence], Finding]


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with its finding."""

    claim: Claim
    finding: Finding


_OBJECT_POOLS: Final = {"pools.buffers", "pools.contexts", "pools.errors"}


@dataclass(frozen=True, slots=True)
class Span:
    """An estimate over rounds with its 95 % interval."""

    mean: float
    low: float
    high: float


class Evidence:
    """What a campaign has to say, asked for by engine, tag and switch."""

    def __init__(self, campaign: Campaign, comparison: Comparison) -> None:
        self.campaign, self.comparison = campaign, comparison

    # ------------------------------------------------------------------------------------------- targets, scenarios
    def engine(self, name: str) -> str:
        """The target that is this engine unchanged."""
        for target in self.campaign.header.targets:
            if target.engine == name and target.kind == "engine":
                return target.name
        raise _Untestable(f"{name} is not among the targets of this campaign")

    def variants(self, engine: str, switch: str) -> list[Target]:
        """Targets that are this engine with `switch` changed, and nothing else."""
        found = (t for t in self.campaign.header.targets if t.kind == "variant" and t.variant_of == engine)
        return [t for t in found if len(t.switches) == 1 and next(iter(t.switches)).endswith(switch)]

    def without_pools(self, engine: str) -> Target | None:
        """The target that is this engine without object pools (most of them switched off), and nothing else changed."""
        found = [
            t
            for t in self.campaign.header.targets
            if t.kind == "variant" and t.variant_of == engine and t.switches
            if {key.removeprefix("proxy.") for key in t.switches} <= _OBJECT_POOLS and not any(t.switches.values())
        ]
        return max(found, key=lambda t: ("pools.contexts" in str(t.switches), len(t.switches)), default=None)

    def with_pools(self, engine: str) -> str:
        """The target that is this engine with the pools switched on that it has off by default; else itself."""
        found = self.variants(engine, "pools.buffers")
        return next((t.name for t in found if True in t.switches.values()), engine)

    def buffers(self, engine: str, size: int) -> tuple[str, str] | None:
        """(default size, `size`): two targets of this engine that differ in `buffer_size` only; None without them."""
        family = {engine} | {t.name for t in self.campaign.header.targets if t.variant_of == engine}
        for t in self.campaign.header.targets:
            alone = len(t.switches) == 1 and next(iter(t.switches)).endswith("buffer_size")
            if alone and t.variant_of in family and size in t.switches.values():
                return t.variant_of, t.name
        return None

    def tagged(self, tag: str) -> list[str]:
        """Scenarios with this tag that were run."""
        ran = {scenario for scenario, _ in self.comparison.valid}
        return [
            name for name, scenario in self.campaign.header.scenarios.items() if tag in scenario.tags and name in ran
        ]

    def ordinary(self, target: str) -> list[str]:
        """Scenarios at a fixed rate, without faults, that this target ran: what `typically` is about."""
        special = {"saturation", "cold-start", "slow-endpoint", "failing-endpoint"}
        return [
            name
            for name, scenario in self.campaign.header.scenarios.items()
            if scenario.loop == "open" and not scenario.faults and not special & set(scenario.tags)
            and self.runs(name, target)
        ]  # fmt: skip

    def scenario(self, name: str) -> Scenario:
        """The scenario called `name`."""
        return self.campaign.scenario(name)

    # ------------------------------------------------------------------------------------------------------ numbers
    def runs(self, scenario: str, target: str) -> tuple[Facts, ...]:
        """The valid runs of a target in a scenario; of an engine those of the rounds that the tables compare."""
        return self.comparison.counted(scenario, target)

    def values(self, scenario: str, target: str, read: Reader) -> Floats:
        """One number from each valid run that has it."""
        found = (read(facts) for facts in self.runs(scenario, target))
        return np.array([value for value in found if value is not None], dtype=np.float64)

    def span(self, scenario: str, target: str, read: Reader) -> Span | None:
        """Mean over rounds and its interval; None with fewer than two rounds."""
        values = self.values(scenario, target, read)
        if values.size < 2:
            return None
        return _span(values)

    def pairs(self, over: tuple[str, str], under: tuple[str, str], read: Reader) -> list[tuple[float, float]]:
        """One number from both (scenario, target) in each round that has both."""
        top = {facts.record.round: read(facts) for facts in self.runs(*over)}
        bottom = {facts.record.round: read(facts) for facts in self.runs(*under)}
        both = [(top[n], bottom[n]) for n in sorted(top.keys() & bottom.keys())]
        return [(a, b) for a, b in both if a is not None and b is not None]

    def ratio(self, scenario: str, over: str, under: str, read: Reader) -> Span | None:
        """Geometric mean over rounds of target `over` / `under`; None where it cannot be had."""
        return _ratio_span(self.pairs((scenario, over), (scenario, under), read))

    def difference(self, scenario: str, target: str, minus: str, read: Reader) -> Span | None:
        """Mean over rounds of `target` - `minus`; None where it cannot be had."""
        pairs = self.pairs((scenario, target), (scenario, minus), read)
        return None if len(pairs) < 2 else _span(np.array([a - b for a, b in pairs]))

    def names(self, *pairs: tuple[str, str]) -> tuple[str, ...]:
        """The run folders of (scenario, target) pairs, written short: `r01..r06-chat-olla`."""
        return tuple(name for scenario, target in pairs for name in shortened(self.runs(scenario, target)))


def _span(values: Floats) -> Span:
    found = estimate(values)
    half = found.half_width() or 0.0
    return Span(found.mean, found.mean - half, found.mean + half)


def _ratio_span(pairs: Sequence[tuple[float, float]]) -> Span | None:
    if len(pairs) < 2 or any(a <= 0 or b <= 0 for a, b in pairs):
        return None
    found = _span(np.log(np.array([a / b for a, b in pairs])))
    return Span(math.exp(found.mean), math.exp(found.low), math.exp(found.high))


def shortened(runs: Iterable[Facts]) -> list[str]:
    """The folders of runs, written short."""
    return patterns(facts.record.run for facts in runs)


def patterns(names: Iterable[str]) -> list[str]:
    """Run folders as one pattern for each scenario and target: `r01..r05,r07-chat-olla`."""
    found: dict[str, list[str]] = {}
    odd = []
    for name in names:
        part = re.fullmatch(r"(r\d+)-(.*)", name)
        if part is None:
            odd.append(name)
        else:
            found.setdefault(part.group(2), []).append(part.group(1))
    return [f"{_spans(rounds)}-{rest}" for rest, rounds in found.items()] + odd


def _spans(rounds: Sequence[str]) -> str:
    """`r01..r03,r05` from r01, r02, r03 and r05."""
    spans: list[list[str]] = []
    for name in rounds:
        if spans and int(name[1:]) == int(spans[-1][-1][1:]) + 1:
            spans[-1].append(name)
        else:
            spans.append([name])
    return ",".join(",".join(span) if len(span) < 3 else f"{span[0]}..{span[-1]}" for span in spans)


def _metric(name: str) -> Reader:
    if name not in METRICS:
        raise KeyError(name)
    return lambda facts: facts.value(name)


def _extra(name: str) -> Reader:
    def read(facts: Facts) -> float | None:
        value = facts.extras.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    return read


def _need(what: str) -> NoReturn:
    raise _Untestable(what)


def _word(condition: bool) -> ClaimWord:
    return "holds" if condition else "does-not-hold"


def _under(span: Span, limit: float) -> ClaimWord:
    """Whether the whole interval is at or below `limit`; not-testable where it crosses."""
    if span.low > limit:
        return "does-not-hold"
    return "holds" if span.high <= limit else "not-testable"


def _over(span: Span, limit: float) -> ClaimWord:
    """Whether the whole interval is at or above `limit`; not-testable where it crosses."""
    if span.high < limit:
        return "does-not-hold"
    return "holds" if span.low >= limit else "not-testable"


def _all(words: Sequence[ClaimWord]) -> ClaimWord:
    """One failure decides; otherwise one doubt does."""
    if "does-not-hold" in words:
        return "does-not-hold"
    return "not-testable" if "not-testable" in words else "holds"


def _found(words: str, verdict: ClaimWord, runs: tuple[str, ...]) -> Finding:
    if verdict == "not-testable":
        words += "; the interval crosses the threshold: more rounds would tell"
    return Finding(words, verdict, runs)


def _change(span: Span) -> str:
    return f"{percent(span.mean - 1)} (95 % CI {interval(span.low - 1, span.high - 1)})"


# ------------------------------------------------------------------------------------------------------- the rules
def _every(
    evidence: Evidence,
    target: str,
    read: Reader,
    rule: tuple[Callable[[Span, float], ClaimWord], float],
    say: Callable[[Span], str],
    missing: str,
) -> Finding:
    """One threshold in every ordinary scenario; of more than three the nearest to it speaks for all."""
    passes, limit = rule
    spans = {name: evidence.span(name, target, read) for name in evidence.ordinary(target)}
    known = {name: span for name, span in spans.items() if span is not None}
    if not known:
        _need(missing)
    verdict = _all([passes(span, limit) for span in known.values()])
    worst = (max if passes is _under else min)(known, key=lambda name: known[name].mean)
    shown = known if len(known) <= 3 else {worst: known[worst]}
    words = "; ".join(f"{name}: {say(span)}" for name, span in shown.items())
    if len(known) > len(shown):
        words = f"{len(known)} scenarios, the least favourable {words}"
    return _found(words, verdict, evidence.names(*((name, target) for name in known)))


def _typically_under_1ms(evidence: Evidence) -> Finding:
    return _every(
        evidence,
        evidence.engine("sherpa"),
        _metric("added_p50_us"),
        (_under, 1000),
        lambda span: f"added p50 {span.mean:,.0f} us (95 % CI {span.low:,.0f}..{span.high:,.0f})",
        "needs two rounds or more of a scenario at a fixed rate with mock and client clocks",
    )


def _mostly_under_1ms(evidence: Evidence) -> Finding:
    return _every(
        evidence,
        evidence.engine("olla"),
        _extra("added_under_1ms"),
        (_over, 0.9),
        lambda span: f"{share(span.mean)} of requests under 1 ms",
        "needs two rounds or more of a scenario at a fixed rate with mock and client clocks",
    )


def _rate(engine: str, floor: float) -> Callable[[Evidence], Finding]:
    def judge(evidence: Evidence) -> Finding:
        target = evidence.engine(engine)
        spans = {name: evidence.span(name, target, _metric("goodput_rps")) for name in evidence.tagged("saturation")}
        known = {name: span for name, span in spans.items() if span is not None}
        if not known:
            _need("needs a closed-loop scenario tagged `saturation` (`--profile standard` or above)")
        # The claim is about the engine's best case: one scenario that reaches the rate proves it.
        best = max(known, key=lambda name: known[name].mean)
        span = known[best]
        generator = evidence.runs(best, target)[0].record.generator
        workers = next(t.workers for t in evidence.campaign.header.targets if t.name == target)
        words = (
            f"{best}: {span.mean:,.0f} req/s (95 % CI {span.low:,.0f}..{span.high:,.0f}), "
            f"{workers} worker{'s' if workers > 1 else ''}, generator {generator}"
        )
        return _found(words, _over(span, floor), evidence.names((best, target)))

    return judge


def _memory_linear(evidence: Evidence) -> Finding:
    target = evidence.engine("sherpa")
    points: dict[int, float] = {}
    used = []
    for name in evidence.tagged("sweep-connections"):
        connections, values = (
            evidence.scenario(name).connections,
            evidence.values(name, target, _metric("rss_peak_mib")),
        )
        if connections is not None and values.size:
            points[connections] = float(values.mean())
            used.append((name, target))
    if len(points) < 3:
        _need("needs three scenarios tagged `sweep-connections` with different `connections` (`--profile full`)")
    x, y = np.array(sorted(points)), np.array([points[c] for c in sorted(points)])
    slope, intercept = np.polyfit(x, y, 1)
    rise = abs(slope) * (x[-1] - x[0])
    residual = float(np.abs(y - (slope * x + intercept)).max() / rise) if rise else 0.0
    words = (
        f"{slope * 1024:.1f} KiB per connection over {x[0]}..{x[-1]} connections, "
        f"largest residual {share(residual)} of the rise"
    )
    return Finding(words, _word(residual < 0.10), evidence.names(*used))


def _mostly_io(evidence: Evidence) -> Finding:
    def on_cpu(facts: Facts) -> float | None:
        cpu, wall = facts.value("cpu_us_per_request"), _extra("wall_mean_ms")(facts)
        return None if cpu is None or not wall else cpu / 1000 / wall

    return _every(
        evidence,
        evidence.engine("sherpa"),
        on_cpu,
        (_under, 0.5),
        lambda span: f"{share(span.mean)} of a request's wall time on the CPU",
        "needs CPU samples and request rows in two rounds or more",
    )


def _memory_higher_and_stable(evidence: Evidence) -> Finding:
    olla, sherpa = evidence.engine("olla"), evidence.engine("sherpa")
    parts: list[str] = []
    verdicts: list[ClaimWord] = []
    used: list[tuple[str, str]] = []
    for name in evidence.ordinary(olla):
        idle = evidence.ratio(name, olla, sherpa, _metric("rss_idle_mib"))
        growth = evidence.span(name, olla, _extra("rss_growth"))
        if idle is None or growth is None:
            continue
        parts.append(f"{name}: idle {percent(idle.mean - 1)} against sherpa, growth under load {percent(growth.mean)}")
        verdicts += [_over(idle, 1), _under(growth, 0.10)]
        used += [(name, olla), (name, sherpa)]
    if not parts:
        _need("needs memory samples before and during load for both engines in two rounds or more")
    return _found("; ".join(parts), _all(verdicts), evidence.names(*used))


def _gc_reduced(evidence: Evidence) -> Finding:
    scenarios = evidence.tagged("gc-load")
    if not scenarios:
        _need("needs a scenario tagged `gc-load`: equal high load, equal GC settings, a declared ballast")
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
    used: list[tuple[str, str]] = []
    for what, ours, against in pairs:
        words, judged = _pauses(evidence, scenarios, ours, against)
        if words:
            said.append(f"{what} ({ours} against {against}): {words}")
            verdicts.append(judged)
            used += [(name, target) for name in scenarios for target in (ours, against)]
    if not any(verdicts):
        _need("no collection happened in either target, or no recorder ran; needs a higher load or a larger ballast")
    # Pooling is judged by itself where it was measured; where nothing is collected with or without, it reduces nothing.
    return _found("; ".join(said), _all(verdicts[0] or ["does-not-hold"]), evidence.names(*dict.fromkeys(used)))


def _pauses(evidence: Evidence, scenarios: Sequence[str], ours: str, theirs: str) -> tuple[str, list[ClaimWord]]:
    """What one target's pauses are against another's, in words, and a verdict a scenario; neither if not recorded."""
    parts: list[str] = []
    verdicts: list[ClaimWord] = []
    for name in scenarios:
        said: list[str] = []
        verdict: ClaimWord | None = None
        for metric in ("gc_count", "gc_total_ms", "gc_max_ms"):
            pairs = evidence.pairs((name, ours), (name, theirs), _metric(metric))
            a, b = np.array(pairs, dtype=np.float64).T if pairs else _NONE
            span = evidence.ratio(name, ours, theirs, _metric(metric))
            if span is not None:
                said.append(f"{metric} {_change(span)}")
            elif a.any() or b.any():
                said.append(f"{metric} {a.mean():.3g} against {b.mean():.3g}")
            if metric == "gc_total_ms" and span is not None:
                verdict = _under(span, 0.4)
            elif metric == "gc_total_ms" and a.size > 1 and b.any():
                # A round without any pause has no ratio; whether 0.4 is kept can be told from the differences.
                verdict = _under(_span(a - 0.4 * b), 0.0)
        share_off = evidence.span(name, theirs, _gc_share)
        if said and verdict is not None and share_off is not None and share_off.high < _NOTHING_TO_REDUCE:
            said.append(f"{theirs} spends {share(share_off.mean)} of its time in pauses: there is nothing to reduce")
            verdict = "does-not-hold"
        if verdict is not None:
            verdicts.append(verdict)
        if said:
            parts.append(f"{name}: " + ", ".join(said))
        elif all(evidence.values(name, target, _metric("gc_count")).size for target in (ours, theirs)):
            parts.append(f"{name}: no collection in either")
    return ", ".join(parts), verdicts


def _gc_share(facts: Facts) -> float | None:
    total = facts.value("gc_total_ms")
    return None if total is None or not facts.window_s else total / 1000 / facts.window_s


def _healthy_p99(evidence: Evidence, fault: str) -> Reader:
    """p99 of time to first byte at the endpoints that the fault scenario leaves healthy."""
    faulty = {one.endpoint for one in evidence.scenario(fault).faults}

    def read(facts: Facts) -> float | None:
        if facts.requests is None:
            return _extra("healthy_ttft_p99_ms")(facts)
        healthy = ~np.isin(facts.requests.endpoint.astype(str), list(faulty))
        values = facts.requests.ttft_ms[healthy & ~np.isnan(facts.requests.ttft_ms)]
        return float(np.percentile(values, 99)) if enough(values.size, 99) else None

    return read


def _isolation(evidence: Evidence) -> Finding:
    olla = evidence.engine("olla")
    parts: list[str] = []
    verdicts: list[ClaimWord] = []
    used: list[tuple[str, str]] = []
    for name in evidence.tagged("slow-endpoint"):
        twin = evidence.scenario(name).healthy
        pairs = evidence.pairs((name, olla), (twin, olla), _healthy_p99(evidence, name)) if twin else []
        span = _ratio_span(pairs)
        if span is not None:
            parts.append(f"{name}: healthy endpoints' p99 {_change(span)}")
            verdicts.append(_under(span, 1.10))
            used += [(name, olla), (twin, olla)]
    if not parts:
        _need(
            "needs a scenario tagged `slow-endpoint` with its `faults`, and its twin without them named as `healthy`, "
            "with 1,000 requests or more to the healthy endpoints in each run"
        )
    return _found("; ".join(parts), _all(verdicts), evidence.names(*used))


def _breaker_timeout(scenario: Scenario) -> float:
    """Seconds an open breaker stays open in this scenario."""
    text = str(scenario.settings.get("proxy.circuit_breaker.timeout", "30s"))
    number = re.fullmatch(r"([\d.]+)(ms|s|m)?", text)
    if number is None:
        return 30.0
    return float(number.group(1)) * {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}[number.group(2)]


def _fails_fast(evidence: Evidence) -> Finding:
    olla = evidence.engine("olla")
    parts: list[str] = []
    verdicts: list[ClaimWord] = []
    used: list[tuple[str, str]] = []
    for name in evidence.tagged("failing-endpoint"):
        scenario = evidence.scenario(name)
        timeout = _breaker_timeout(scenario)
        fault_s = (scenario.faults[0].to_s or scenario.duration_s) - scenario.faults[0].from_s if scenario.faults else 0
        if fault_s < timeout:
            continue
        seen = [resilience(facts, scenario, timeout / 2) for facts in evidence.runs(name, olla)]
        known = [one for one in seen if one is not None]
        if not known or not any(one.lost for one in known):
            continue
        used.append((name, olla))
        opened = [one.before_pause for one in known if one.before_pause is not None]
        lasted = [one.paused_s for one in known if one.paused_s is not None]
        lost = max(one.lost for one in known)
        if len(opened) < len(known):
            parts.append(
                f"{name}: losses did not pause in {len(known) - len(opened)} of {len(known)} runs, {lost} lost"
            )
            verdicts.append("does-not-hold")
            continue
        parts.append(
            f"{name}: losses stop after {max(opened)} at most and for {min(lasted):.1f} s at least "
            f"(breaker set to {timeout:g} s), {lost} requests lost at most"
        )
        # The claim counts failures; requests already under way when the fifth fails are lost as well.
        verdicts.append(_word(max(opened) <= 5 + _UNDER_WAY and min(lasted) >= 0.9 * timeout))
    if not parts:
        _need(
            "needs a scenario tagged `failing-endpoint` with its `faults`, the fault lasting longer than the breaker's "
            "timeout, request rows, and a request that was lost"
        )
    return _found("; ".join(parts), _all(verdicts), evidence.names(*used))


def _buffers(evidence: Evidence) -> Finding:
    olla = evidence.engine("olla")
    pair = evidence.buffers(olla, 8192)
    if pair is None:
        _need(
            "needs two variants of olla that differ in `proxy.buffer_size: 8192` only, in a scenario tagged "
            "`large-response`"
        )
    usual, other = pair

    def mib_per_second(facts: Facts) -> float | None:
        cpu = facts.value("cpu_us_per_mib")
        return None if not cpu else 1e6 / cpu

    parts: list[str] = []
    verdicts: list[ClaimWord] = []
    used: list[tuple[str, str]] = []
    for name in evidence.tagged("large-response"):
        span = evidence.ratio(name, usual, other, mib_per_second)
        if span is not None:
            parts.append(f"{name}: MiB per CPU second at 64 against 8 KiB {_change(span)}")
            verdicts.append(_over(span, 1.03))
            used += [(name, usual), (name, other)]
    if not parts:
        _need("needs a scenario tagged `large-response` run with both buffer sizes, two rounds or more")
    return _found("; ".join(parts), _all(verdicts), evidence.names(*used))


def _flushing(evidence: Evidence) -> Finding:
    olla = evidence.engine("olla")
    every = [t for t in evidence.variants(olla, "flush.policy") if "every-read" in map(str, t.switches.values())]
    if not every:
        _need("needs a variant of olla with `proxy.flush.policy: every-read` in a streaming scenario")
    other = every[0].name
    parts: list[str] = []
    verdicts: list[ClaimWord] = []
    used: list[tuple[str, str]] = []
    for name in evidence.ordinary(olla):
        later = evidence.difference(name, olla, other, _metric("transit_event_p99_us"))
        writes = evidence.ratio(name, olla, other, _extra("writes_per_mib"))
        counted = "writes"
        if writes is None:
            writes, counted = evidence.ratio(name, olla, other, _extra("reads_per_mib")), "reads at the client"
        if later is None or writes is None:
            continue
        parts.append(
            f"{name}: event transit p99 {later.mean / 1000:+.2f} ms against every-read, "
            f"{counted} per MiB {percent(writes.mean - 1)}"
        )
        verdicts += [_under(later, 1000), _under(writes, 0.99)]
        used += [(name, olla), (name, other)]
    if not parts:
        _need("needs event rows of both flush policies in a streaming scenario, two rounds or more")
    return _found("; ".join(parts), _all(verdicts), evidence.names(*used))


def _prewarm(evidence: Evidence) -> Finding:
    olla = evidence.engine("olla")
    warmed = evidence.variants(olla, "pools.prewarm")
    if not warmed:
        _need("needs a variant of olla with `proxy.pools.prewarm` in a scenario tagged `cold-start`")
    other = warmed[0].name

    def first_second(facts: Facts) -> float | None:
        if facts.requests is None:
            return _extra("first_second_p99_ms")(facts)
        early = facts.requests.sent_to_end_ms[facts.requests.at_s < 1.0]
        # A single second seldom holds the 1,000 requests of an honest p99: the rounds carry the interval instead.
        return float(np.percentile(early, 99)) if early.size >= 100 else None

    parts: list[str] = []
    verdicts: list[ClaimWord] = []
    used: list[tuple[str, str]] = []
    for name in evidence.tagged("cold-start"):
        span = evidence.ratio(name, other, olla, first_second)
        if span is not None:
            parts.append(f"{name}: first-second p99 with prewarm {_change(span)}")
            helps, hardly = span.high < 1, span.low > _HARDLY
            verdicts.append("holds" if helps else "does-not-hold" if hardly else "not-testable")
            used += [(name, other), (name, olla)]
    if not parts:
        _need("needs a scenario tagged `cold-start` with 100 requests or more in its first second")
    return _found("; ".join(parts), _all(verdicts), evidence.names(*used))


def _ten_endpoints(evidence: Evidence) -> Finding:
    olla, sherpa = evidence.engine("olla"), evidence.engine("sherpa")
    better: dict[int, bool] = {}
    parts, used = [], []
    for name in evidence.tagged("sweep-endpoints"):
        scenario = evidence.scenario(name)
        span = evidence.ratio(name, olla, sherpa, _metric(scenario.cpu_metric()))
        if span is not None and scenario.endpoints is not None:
            better[scenario.endpoints] = span.high < 0.97
            parts.append(f"{scenario.endpoints} endpoints: olla's CPU {percent(span.mean - 1)}")
            used += [(name, olla), (name, sherpa)]
    if not (any(n < 10 for n in better) and any(n >= 10 for n in better)):
        _need("needs scenarios tagged `sweep-endpoints` below and above 10 endpoints, e.g. 2, 10 and 50")
    few, many = ([won for n, won in better.items() if (n >= 10) is above] for above in (False, True))
    words = "; ".join(parts)
    if all(few):
        words += "; olla costs less at every number of endpoints: no break-even at 10"
    return Finding(words, _word(all(many) and not any(few)), evidence.names(*used))


def _buffer_delays_first_token(evidence: Evidence) -> Finding:
    return _every(
        evidence,
        evidence.engine("olla"),
        _metric("added_p50_us"),
        (_over, 75_000),
        lambda span: f"first bytes {span.mean / 1000:.2f} ms later with 64 KiB buffers",
        "needs two rounds or more of olla with its 64 KiB buffers at a fixed rate",
    )


def _ten_times(evidence: Evidence) -> Finding:
    olla, sherpa = evidence.engine("olla"), evidence.engine("sherpa")
    for name in evidence.tagged("saturation"):
        spans = [evidence.span(name, target, _metric("goodput_rps")) for target in (sherpa, olla)]
        if all(spans):
            found = [span for span in spans if span is not None]
            near = all(
                published / 2 <= span.mean <= published * 2
                for span, published in zip(found, (1000, 10_000), strict=True)
            )
            words = f"{name}: sherpa {found[0].mean:,.0f} req/s, olla {found[1].mean:,.0f} req/s"
            return Finding(words, _word(near), evidence.names((name, sherpa), (name, olla)))
    _need("needs a scenario tagged `saturation` with both engines, two rounds or more")


def _cost_per_request(evidence: Evidence) -> Finding:
    olla, sherpa = evidence.engine("olla"), evidence.engine("sherpa")
    for name in evidence.ordinary(olla):
        ratio = evidence.ratio(name, olla, sherpa, _metric("cpu_us_per_request"))
        if ratio is not None and evidence.scenario(name).kind == "request":
            costs = (evidence.values(name, target, _metric("cpu_us_per_request")) for target in (sherpa, olla))
            ours, theirs = (math.exp(np.log(values).mean()) for values in costs)
            words = (
                f"{name}: sherpa {ours:.1f} us, olla {theirs:.1f} us of CPU per request, "
                f"ratio {ratio.mean:.2f} (95 % CI {ratio.low:.2f}..{ratio.high:.2f}) against 0.85 published"
            )
            near = ratio.high >= 0.85 * 0.9 and ratio.low <= 0.85 * 1.1
            return Finding(words, _word(near), evidence.names((name, sherpa), (name, olla)))
    _need("needs a non-streaming scenario at a fixed rate with both engines, two rounds or more")


_SEED: Final = "the product's engine guide"
_PUBLISHED: Final = "published elsewhere for the product"

CLAIMS: Final[tuple[Claim, ...]] = (
    Claim(
        "C1", "Sherpa typically adds less than 1 ms", f"{_SEED}, Sherpa: Performance Characteristics",
        "added_p50_us of sherpa: 95 % interval below 1,000 us in every scenario at a fixed rate without faults",
        _typically_under_1ms,
    ),
    Claim(
        "C2", "Sherpa handles 5,000-10,000 req/s comfortably", f"{_SEED}, Sherpa: Performance Characteristics",
        "goodput_rps of sherpa at saturation: 95 % interval above 5,000 in its best scenario",
        _rate("sherpa", 5_000),
    ),
    Claim(
        "C3", "Sherpa's memory is stable and grows linearly with connections",
        f"{_SEED}, Sherpa: Performance Characteristics",
        "rss_peak_mib over three or more `connections`: largest residual of a straight line under 10 % of its rise",
        _memory_linear,
    ),
    Claim(
        "C4", "Sherpa: most time is spent in I/O", f"{_SEED}, Sherpa: Performance Characteristics",
        "CPU per request / mean wall time of a request: 95 % interval below 50 % in every scenario at a fixed rate",
        _mostly_io,
    ),
    Claim(
        "C5", "Olla adds less than a millisecond in most cases", f"{_SEED}, Olla: Performance Characteristics",
        "share of requests with added time under 1 ms: interval at 90 % or above in every scenario at a fixed rate",
        _mostly_under_1ms,
    ),
    Claim(
        "C6", "Olla handles 20,000-50,000 req/s", f"{_SEED}, Olla: Performance Characteristics",
        "goodput_rps of olla at saturation: 95 % interval above 20,000 in its best scenario",
        _rate("olla", 20_000),
    ),
    Claim(
        "C7", "Olla's memory: higher baseline, stable under load", f"{_SEED}, Olla: Performance Characteristics",
        "rss_idle_mib of olla above sherpa's, and RSS of the window's second half less than 10 % above its first half",
        _memory_higher_and_stable,
    ),
    Claim(
        "C8", "Pooling reduces GC pauses by 60-80 % under high load", f"{_SEED}, Olla: Object Pooling",
        "gc_total_ms at equal load and GC settings, pools on / off (else olla / sherpa): 95 % interval at 0.4 or "
        "below; does not hold where pauses take under 0.1 % of the time without pools",
        _gc_reduced,
    ),
    Claim(
        "C9", "Per-endpoint pools keep a slow endpoint from affecting fast ones", f"{_SEED}, Olla: Connection Pooling",
        "p99 of time to first byte at healthy endpoints, one slow / none slow: 95 % interval at 1.10 or below",
        _isolation,
    ),
    Claim(
        "C10", "After 5 failures an endpoint is open for 30 s; requests fail fast, cascades are prevented",
        f"{_SEED}, Olla: Circuit Breakers",
        "with a resetting endpoint: at most 8 requests lost (5, and those under way) before losses pause for 90 % or "
        "more of the breaker's timeout, in every run",
        _fails_fast,
    ),
    Claim(
        "C11", "64 KB against 8 KB buffers: more throughput for large responses", f"{_SEED}, Quick Comparison",
        "MiB per CPU second of olla with 64 / 8 KiB buffers on large responses: 95 % interval above 1.03",
        _buffers,
    ),
    Claim(
        "C12", "Adaptive flushing keeps tokens prompt while cutting flushes", f"{_SEED}, Olla: Optimised Streaming",
        "event transit p99 at most 1 ms above every-read, and 1 % fewer writes per MiB or less, in every stream",
        _flushing,
    ),
    Claim(
        "C13", "Pre-warmed pools help predictable traffic", f"{_SEED}, Performance Tuning",
        "p99 of the first second after a cold start, with / without prewarm: 95 % interval below 1; does not hold "
        "where all of it is above 0.95, a gain nobody would notice",
        _prewarm,
    ),
    Claim(
        "C14", "Choose Sherpa below 10 endpoints and moderate traffic, Olla above", f"{_SEED}, When to Use",
        "CPU per unit, olla / sherpa: below 0.97 from 10 endpoints on and not below it under 10",
        _ten_endpoints,
    ),
    Claim(
        "P1", "First token by buffer size: 2 KB about 5 ms, 64 KB about 150 ms", _PUBLISHED,
        "added_p50_us of olla with 64 KiB buffers at least half of 150 ms in every scenario at a fixed rate",
        _buffer_delays_first_token,
    ),
    Claim(
        "P2", "About 1,000 req/s (Sherpa) against about 10,000 req/s (Olla)", _PUBLISHED,
        "goodput_rps at saturation within a factor of two of both figures",
        _ten_times,
    ),
    Claim(
        "P3", "115.6 (Sherpa) against 98.5 (Olla) microseconds per request", _PUBLISHED,
        "the 95 % interval of CPU per request, olla / sherpa, reaches within 10 % of 0.85",
        _cost_per_request,
    ),
)  # fmt: skip


def ledger(campaign: Campaign, comparison: Comparison) -> tuple[Judged, ...]:
    """Every claim with what this campaign says of it."""
    evidence = Evidence(campaign, comparison)
    judged = []
    for claim in CLAIMS:
        try:
            judged.append(Judged(claim, claim.judge(evidence)))
        except _Untestable as exc:
            judged.append(Judged(claim, Finding(str(exc), "not-testable")))
    return tuple(judged)
