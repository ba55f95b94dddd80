"""What a rule of the claims ledger is made of: the evidence of a campaign, figures with their intervals, thresholds.

A threshold is met when the whole 95 % interval over rounds is on its side, missed when all of it is on the other, and
undecided between. A rule about every scenario holds when it holds in each; it fails when one of them misses at 5 % over
the number of thresholds, so that many chances to miss by luck are no reason. A rule about most use cases asks for the
majority, and the members of a sweep count as one use case. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from reports import ladder
from reports.compare import Comparison
from reports.schema import METRICS, ScenarioRecord, TargetRecord
from reports.stats import LEVEL, Estimate, estimate
from reports.store import Campaign
from reports.summarise import Facts
from reports.words import interval, percent

Floats: TypeAlias = npt.NDArray[np.float64]
ClaimWord = Literal["holds", "does-not-hold", "not-testable"]
Reader: TypeAlias = "Callable[[Facts], float | None]"
Place: TypeAlias = tuple[str, str]
"""(scenario, target)."""


class Untestable(Exception):
    """This campaign cannot answer; the text says what would."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: the numbers in words, the word, and the runs that say so."""

    measured: str
    verdict: ClaimWord
    evidence: tuple[str, ...] = ()


_OBJECT_POOLS: Final = {"pools.buffers", "pools.contexts", "pools.errors"}


@dataclass(frozen=True, slots=True)
class Measured:
    """What rounds say of a figure: a mean with its interval, or one between two bounds (see `Facts.bounds`)."""

    lower: Estimate
    upper: Estimate
    log: bool = False
    """Whether the estimates are of logarithms of ratios."""

    @property
    def mean(self) -> float:
        """The middle."""
        return self._shown((self.lower.mean + self.upper.mean) / 2)

    @property
    def low(self) -> float:
        """The lower end at 95 %."""
        return self.at(LEVEL)[0]

    @property
    def high(self) -> float:
        """The upper end at 95 %."""
        return self.at(LEVEL)[1]

    def at(self, level: float) -> tuple[float, float]:
        """Both ends at `level`."""
        below, above = self.lower.half_width(level) or 0.0, self.upper.half_width(level) or 0.0
        return self._shown(self.lower.mean - below), self._shown(self.upper.mean + above)

    def _shown(self, value: float) -> float:
        return math.exp(min(max(value, -700.0), 700.0)) if self.log else value


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
        raise Untestable(f"{name} is not among the targets of this campaign")

    def variants(self, engine: str, switch: str) -> list[TargetRecord]:
        """Targets that are this engine with `switch` changed, and nothing else."""
        found = (t for t in self.campaign.header.targets if t.kind == "variant" and t.variant_of == engine)
        return [t for t in found if len(t.switches) == 1 and next(iter(t.switches)).endswith(switch)]

    def without_pools(self, engine: str) -> TargetRecord | None:
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
        """Scenarios at a fixed rate, without faults, that this target ran: what `typically` is about.

        A rung of a ladder is none of them: each is a share of the target's own capacity, and the last lie beyond it.
        """
        special = {"saturation", "cold-start", "slow-endpoint", "failing-endpoint"}
        return [
            name
            for name, scenario in self.campaign.header.scenarios.items()
            if scenario.loop == "open" and scenario.group != ladder.GROUP
            and not scenario.faults and not special & set(scenario.tags)
            and self.runs(name, target)
        ]  # fmt: skip

    def scenario(self, name: str) -> ScenarioRecord:
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

    def span(self, scenario: str, target: str, read: Reader) -> Measured | None:
        """Mean over rounds and its interval; None with fewer than two rounds."""
        return span_of(self.values(scenario, target, read))

    def pairs(self, over: tuple[str, str], under: tuple[str, str], read: Reader) -> list[tuple[float, float]]:
        """One number from both (scenario, target) in each round that has both."""
        top = {facts.record.round: read(facts) for facts in self.runs(*over)}
        bottom = {facts.record.round: read(facts) for facts in self.runs(*under)}
        both = [(top[n], bottom[n]) for n in sorted(top.keys() & bottom.keys())]
        return [(a, b) for a, b in both if a is not None and b is not None]

    def ratio(self, scenario: str, over: str, under: str, read: Reader) -> Measured | None:
        """Geometric mean over rounds of target `over` / `under`; None where it cannot be had."""
        return ratio_of(self.pairs((scenario, over), (scenario, under), read))

    def difference(self, scenario: str, target: str, minus: str, read: Reader) -> Measured | None:
        """Mean over rounds of `target` - `minus`; None where it cannot be had."""
        return span_of([a - b for a, b in self.pairs((scenario, target), (scenario, minus), read)])

    def names(self, *pairs: tuple[str, str]) -> tuple[str, ...]:
        """The run folders of (scenario, target) pairs, written short: `r01..r06-chat-olla`."""
        return tuple(name for scenario, target in pairs for name in shortened(self.runs(scenario, target)))


def span_of(values: Sequence[float] | Floats) -> Measured | None:
    """None with fewer than two rounds."""
    if len(values) < 2:
        return None
    found = estimate(values)
    return Measured(found, found)


def ratio_of(pairs: Sequence[tuple[float, float]]) -> Measured | None:
    """Of the first / the second of each pair; None where one is not above 0, or with fewer than two rounds."""
    if any(a <= 0 or b <= 0 for a, b in pairs):
        return None
    found = span_of([math.log(a / b) for a, b in pairs])
    return None if found is None else replace(found, log=True)


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


def metric_of(name: str) -> Reader:
    """Reads a metric."""
    if name not in METRICS:
        raise KeyError(name)
    return lambda facts: facts.value(name)


def extra_of(name: str) -> Reader:
    """Reads a number beside the metrics."""

    def read(facts: Facts) -> float | None:
        value = facts.extras.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    return read


# ------------------------------------------------------------------------------------------------ rules, as data
@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold, and on which side of it a claim is met."""

    at: float
    above: bool = False

    def word(self, span: Measured, level: float = LEVEL) -> ClaimWord:
        """Met where all of the 95 % interval is on the right side, missed where all of that at `level` is not."""
        low, high = span.at(LEVEL)
        if (low >= self.at) if self.above else (high <= self.at):
            return "holds"
        low, high = span.at(level)
        missed = high < self.at if self.above else low > self.at
        return "does-not-hold" if missed else "not-testable"

    def gap(self, span: Measured) -> float:
        """How far the middle lies on the wrong side, as a multiple of the limit."""
        off = (self.at - span.mean) if self.above else (span.mean - self.at)
        return off / abs(self.at) if self.at else off


@dataclass(frozen=True, slots=True)
class Bound:
    """One figure of one scenario against its limit."""

    span: Measured
    limit: Limit


@dataclass(frozen=True, slots=True)
class Rule:
    """A threshold or several in each of some scenarios."""

    scenarios: Callable[[Evidence], Sequence[str]]
    measure: Callable[[Evidence, str], tuple[Sequence[Bound], Sequence[Place]] | None]
    """The parts of one scenario and the runs they come from; None where it cannot be had."""
    say: Callable[[str, Sequence[Bound]], str]
    needs: str
    across: Literal["every", "most", "best"] = "every"

    def __call__(self, evidence: Evidence) -> Finding:
        """Apply it."""
        found = {name: one for name in self.scenarios(evidence) if (one := self.measure(evidence, name)) is not None}
        if not found:
            raise Untestable(self.needs)
        level = LEVEL / sum(len(parts) for parts, _ in found.values()) if self.across == "every" else LEVEL
        words = {
            name: strictest([part.limit.word(part.span, level) for part in parts]) for name, (parts, _) in found.items()
        }
        worst = max(found, key=lambda name: (_RANK[words[name]], max(p.limit.gap(p.span) for p in found[name][0])))
        shown = list(found)
        if self.across == "best":
            best = min(found, key=lambda name: found[name][0][0].limit.gap(found[name][0][0].span))
            shown, verdict = [best], words[best]
        elif self.across == "most":
            verdict = _most(evidence, words)
        else:
            verdict = strictest(list(words.values()))
        said = "; ".join(self.say(name, found[name][0]) for name in (shown if len(shown) <= 3 else [worst]))
        if len(shown) > 3:
            held = sum(word == "holds" for word in words.values())
            said = f"holds in {held} of {len(found)} scenarios, the least favourable {said}"
        used = [place for name in shown for place in found[name][1]]
        runs = evidence.names(*dict.fromkeys(used))
        if self.across == "most" and verdict == "not-testable":
            said += "; it neither holds nor fails in most use cases: more rounds would tell"
            return Finding(said, verdict, runs)
        return finding(said, verdict, runs)


Judge: TypeAlias = Callable[[Evidence], Finding]

_RANK: Final[dict[ClaimWord, int]] = {"holds": 0, "not-testable": 1, "does-not-hold": 2}


def strictest(words: Sequence[ClaimWord]) -> ClaimWord:
    """One failure decides; otherwise one doubt does."""
    return max(words, key=lambda word: _RANK[word])


def _most(evidence: Evidence, words: dict[str, ClaimWord]) -> ClaimWord:
    """The word of more than half of the use cases; the members of a sweep are one, and agree or say nothing."""
    cases: dict[str, set[ClaimWord]] = {}
    for name, word in words.items():
        cases.setdefault(evidence.scenario(name).group or name, set()).add(word)
    said = [next(iter(found)) if len(found) == 1 else "not-testable" for found in cases.values()]
    for word in ("holds", "does-not-hold"):
        if 2 * said.count(word) > len(said):
            return word
    return "not-testable"


def finding(words: str, verdict: ClaimWord, runs: tuple[str, ...]) -> Finding:
    """A finding that says what is missing where it could not be told."""
    if verdict == "not-testable":
        words += "; the interval crosses the threshold: more rounds would tell"
    return Finding(words, verdict, runs)


def change_of(span: Measured) -> str:
    """A ratio as change, with its interval."""
    return f"{percent(span.mean - 1)} (95 % CI {interval(span.low - 1, span.high - 1)})"
