"""The first screen of a report: one table in the reader's units, and when to choose which engine. Pure.

The page, the terminal and the documents show the same `FirstScreen`. Its lines are found by what scenarios are (their
tags and loads), never by their names; a line that nothing measured is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from reports import choose, stats
from reports.compare import Row, visible_text
from reports.decide import NEGLIGIBLE_CORE
from reports.schema import AA_SUFFIX, ENGINES, FLOOR_TARGETS, ScenarioRecord
from reports.study import Study
from reports.summarise import Facts
from reports.verdict import verdict_of
from reports.words import change, digits, share, title

TOKENS_A_GPU: Final = 2500
"""Output tokens a second that one GPU generates: an assumption, for a medium model with many requests in a batch."""
CORES_A_GPU: Final = 50
"""Cores that cost as much as one GPU: an assumption, from list prices of clouds."""


@dataclass(frozen=True, slots=True)
class ShownValue:
    """A number with its 95 % interval, in the line's unit; `factor`: as a multiple of the baseline's, with interval."""

    value: float
    low: float | None = None
    high: float | None = None
    factor: tuple[float, float | None, float | None] | None = None
    word: str = ""
    """The verdict of the row behind it."""

    @property
    def text(self) -> str:
        """The number."""
        return digits(self.value)

    @property
    def range(self) -> str:
        """The interval: `0.21..0.33`, empty where there is none."""
        return "" if self.low is None or self.high is None else f"{digits(self.low)}..{digits(self.high)}"

    @property
    def times(self) -> str:
        """The factor with its interval: `×0.31 (0.25..0.37)`."""
        if self.factor is None:
            return ""
        mean, low, high = self.factor
        ends = "" if low is None or high is None else f" ({digits(low)}..{digits(high)})"
        return f"×{digits(mean)}{ends}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table."""

    label: str
    about: str
    scenario: str
    metric: str
    values: dict[str, ShownValue]
    """By target."""


@dataclass(frozen=True, slots=True)
class FirstScreen:
    """Everything the first screen says."""

    targets: tuple[str, ...]
    entries: tuple[Entry, ...]
    choose: tuple[tuple[str, str], ...]
    """(Choose Sherpa, if ...) and so on: at most three."""
    worse: tuple[str, ...]
    unknown: tuple[str, ...]
    headline: str
    note: str
    """How to read the table."""
    wrong: tuple[str, ...] = ()
    """Replies that any target changed: a proxy that does that is no measure for others."""


# -------------------------------------------------------------------------------------------------------- the table
@dataclass(frozen=True, slots=True)
class _Asked:
    """One line that may be filled: from which scenario, by which metric, in which unit."""

    label: str
    about: str
    metric: str
    find: Callable[[Study], str | None]
    scale: float = 1.0


def _small(study: Study) -> str | None:
    """The use case with small answers that are ready at once."""
    found = [
        name
        for name in study.cases
        if (one := study.campaign.scenario(name)).rate_rps and "instant" in one.tags and _ordinary(one)
        and one.kind == "request" and (one.response_bytes or 0) < 65536
    ]  # fmt: skip
    plain = [name for name in study.cases if (one := study.campaign.scenario(name)).kind == "request" and one.rate_rps
             and _ordinary(one)]  # fmt: skip
    return next(iter(found or plain), None)


def _streaming(study: Study) -> str | None:
    cases = ((name, study.campaign.scenario(name)) for name in study.cases)
    return next((name for name, one in cases if one.kind == "stream" and _ordinary(one) and one.rate_rps), None)


def _ordinary(scenario: ScenarioRecord) -> bool:
    return not scenario.faults and not {"cold-start", "saturation", "sweep-connections"}.intersection(scenario.tags)


def _tagged(tag: str) -> Callable[[Study], str | None]:
    return lambda study: next((name for name in study.scenarios if tag in study.campaign.scenario(name).tags), None)


def _most_streams(study: Study) -> str | None:
    swept = [
        (one.connections, name)
        for name in study.scenarios
        if "sweep-connections" in (one := study.campaign.scenario(name)).tags and one.connections
    ]
    return max(swept)[1] if swept else None


_ASKED: Final = (
    _Asked("Cores for 1,000 req/s", "CPU of the proxy's processes, small answers", "cpu_us_per_request", _small, 1e-3),
    _Asked("Requests/s per core", "right replies, closed loop", "capacity_rps_per_core", _tagged("saturation")),
    _Asked("Added to a request, median, ms", "time inside the proxy", "added_p50_us", _small, 1e-3),
    _Asked("Added to a request, p99, ms", "of all rounds' requests", "added_p99_us", _small, 1e-3),
    _Asked("Added to a token, median, ms", "from the backend's write to the client's read", "transit_event_p50_us",
           _streaming, 1e-3),
    _Asked("KiB per open stream", "growth over the idle process", "rss_kib_per_stream", _most_streams),
    _Asked(f"Cores beside a GPU ({TOKENS_A_GPU:,} tokens/s)", "CPU per streamed token times the GPU's rate",
           "cpu_us_per_event", _streaming, TOKENS_A_GPU * 1e-6),
)  # fmt: skip


def _columns(study: Study) -> tuple[str, ...]:
    ran = set(study.targets)
    order = [*ENGINES, study.baseline, study.main, "nginx", "direct"]
    return tuple(dict.fromkeys(name for name in order if name in ran))


def _from_rows(study: Study, asked: _Asked, targets: Sequence[str]) -> Entry | None:
    scenario = asked.find(study)
    if scenario is None or study.baseline is None:
        return None
    values: dict[str, ShownValue] = {}
    for target in targets:
        row = study.comparison.row(scenario, asked.metric, target)
        if row is None and target == study.baseline and study.main is not None:
            row = study.comparison.row(scenario, asked.metric, study.main)
            row = row or study.comparison.row(scenario, asked.metric, study.baseline + AA_SUFFIX)
            if row is not None and row.baseline.value is not None:
                values[target] = _value(row.baseline.value, row.baseline.ci, asked.scale)
        elif row is not None and row.candidate.value is not None:
            values[target] = _value(row.candidate.value, row.candidate.ci, asked.scale, row)
    if not values:
        return None
    return Entry(asked.label, asked.about, scenario, asked.metric, values)


def _value(value: float, ci: tuple[float, float] | None, scale: float, row: Row | None = None) -> ShownValue:
    low, high = (None, None) if ci is None else (ci[0] * scale, ci[1] * scale)
    factor = None
    if row is not None and row.basis == "ratio" and row.ratio is not None and row.candidate.target not in FLOOR_TARGETS:
        factor = (row.ratio, row.ci_low, row.ci_high)
    return ShownValue(value * scale, low, high, factor, "" if row is None else row.verdict)


def lost_share(facts: Facts) -> float | None:
    """Share of a run's requests that were not answered rightly, whatever the plan expected."""
    outcomes = facts.extras.get("outcomes") or {}
    total = sum(int(count) for count in outcomes.values())
    return 1 - int(outcomes.get("ok", 0)) / total if total else None


def _lost(study: Study, targets: Sequence[str]) -> Entry | None:
    """Requests lost of 1,000 while an endpoint fails."""
    faulty = [name for name in study.scenarios if study.campaign.scenario(name).faults]
    tagged = [name for name in faulty if "failing-endpoint" in study.campaign.scenario(name).tags]
    for scenario in tagged or faulty:
        values = {}
        for target in targets:
            shares = [share for facts in study.runs_of(scenario, target) if (share := lost_share(facts)) is not None]
            if shares:
                found = stats.estimate([share * 1000 for share in shares])
                ends = found.interval()
                low, high = (None, None) if ends is None else (max(ends.low, 0.0), min(ends.high, 1000.0))
                values[target] = ShownValue(found.mean, low, high)
        if values:
            return Entry("Lost of 1,000 requests in a fault", study.called[scenario], scenario, "goodput_rps", values)
    return None


# ---------------------------------------------------------------------------------------------------- the sentences
def first_screen(study: Study) -> FirstScreen:
    """The first screen of a campaign."""
    targets = _columns(study)
    found = [entry for asked in _ASKED if (entry := _from_rows(study, asked, targets)) is not None]
    lost = _lost(study, targets)
    if lost is not None:
        found.insert(max(len(found) - 1, 0), lost)
    return FirstScreen(
        targets=targets,
        entries=tuple(found),
        choose=_when(study, {entry.metric: entry for entry in found}),
        worse=study.advice.worse[:6] or (_NOTHING,) * (study.advice.engine is not None),
        unknown=_unknown(study),
        headline=_headline(study),
        note=_note(study, found),
        wrong=tuple(f"{name}: {one.say}." for (name, _), one in study.comparison.blames.items() if one.wrong_replies),
    )


_NOTHING: Final = "Nothing that was measured of latency, CPU, rates and memory."
"""What gets worse with the recommended engine, where nothing does: an empty list could have been forgotten."""


def _note(study: Study, entries: Sequence[Entry]) -> str:
    said = f"a..b is the 95 % interval; × is the factor to {title(study.baseline or '')}."
    if any(entry.metric == "cpu_us_per_event" for entry in entries):
        said += f" Assumed: a GPU makes {TOKENS_A_GPU:,} tokens/s and costs as much as {CORES_A_GPU} cores."
    return said


def _headline(study: Study) -> str:
    engine = study.advice.engine
    if engine is not None:
        return (
            f"{title(engine)} wins where it matters" if not study.advice.worse else f"{title(engine)} wins, at a price"
        )
    if study.main is None:
        return "Nothing was compared"
    if not any(row.primary and row.rounds > 1 for row in study.comparison.rows):
        return "Too little was measured to choose"
    return "Neither engine wins everywhere" if study.advice.because else "No engine can be recommended"


def _when(study: Study, entries: dict[str, Entry]) -> tuple[tuple[str, str], ...]:
    """When to take which engine. Only what a decided row says; nothing where the engines were not compared."""
    if set(ENGINES) - set(study.targets) or study.baseline not in ENGINES:
        return ()
    if study.advice.engine is None:
        return (("No recommendation", "; ".join(study.advice.because[:2]) or "no primary metric decides"),)
    return (
        ("Choose Sherpa if", _sherpa(entries)),
        ("Choose Olla if", _olla(study, entries)),
        ("Neither matters if", _neither(study, entries)),
    )


def _pair(entries: dict[str, Entry], metric: str) -> tuple[float, float] | None:
    entry = entries.get(metric)
    if entry is None or not all(name in entry.values for name in ENGINES):
        return None
    return entry.values["sherpa"].value, entry.values["olla"].value


def _sherpa(entries: dict[str, Entry]) -> str:
    simple = "you want code that is easier to read and change, and"
    capacity = _pair(entries, "capacity_rps_per_core")
    if capacity is not None:
        comfort = f"{share(choose.COMFORT)} of the {digits(capacity[0])} req/s"
        return f"{simple} each core gets less than {comfort} that Sherpa carries."
    cores = _pair(entries, "cpu_us_per_request")
    if cores is not None:
        return f"{simple} {digits(cores[0])} cores for each 1,000 req/s are affordable."
    return f"{simple} the differences above do not matter to you."


def _olla(study: Study, entries: dict[str, Entry]) -> str:
    """What Olla is shown to be better in, by the verdicts."""
    said = []
    for metric, what in (
        ("capacity_rps_per_core", "you need more requests from a core ({})"),
        ("cpu_us_per_request", "you pay for CPU ({} for each request)"),
        ("added_p50_us", "tenths of a millisecond count ({} of the time added)"),
        ("cpu_us_per_event", "you stream many tokens ({} of the CPU for each)"),
        ("rss_kib_per_stream", "you hold thousands of streams open ({} of the memory)"),
    ):
        # The scenario in the table where there is one; closed loops have no line there, and their verdicts stand too.
        entry = entries.get(metric)
        places = study.scenarios if entry is None else (entry.scenario,)
        rows = (study.comparison.row(place, metric, study.main or "") for place in places)
        won = (each for each in rows if each is not None and each.winner == "olla" and each.ratio)
        row = next((each for each in won if entry is not None or each.primary), None)
        if row is not None and row.ratio:
            said.append(what.format(f"×{digits(row.ratio if study.main == 'olla' else 1 / row.ratio)}"))
    lost = entries.get("goodput_rps")
    if lost is not None and all(name in lost.values for name in ENGINES):
        ours, theirs = lost.values["sherpa"], lost.values["olla"]
        if theirs.high is not None and ours.low is not None and theirs.high < ours.low:
            said.append(f"endpoints may fail ({theirs.text} instead of {ours.text} of 1,000 requests lost)")
    if not said:
        return "you need circuit breakers or pools for each endpoint: no figure here speaks for it."
    return _either(said)


def _neither(study: Study, entries: dict[str, Entry]) -> str:
    said = []
    cores = _pair(entries, "cpu_us_per_event")
    if cores is not None:
        bill = abs(cores[0] - cores[1]) / CORES_A_GPU
        said.append(
            f"GPUs are your bill (the engines differ by {digits(abs(cores[0] - cores[1]))} cores a GPU, "
            f"{digits(100 * bill)} % of its price)"
        )
    added = _pair(entries, "added_p50_us")
    if added is not None:
        said.append(
            f"your models take 200 ms to a first token (the medians differ by {digits(abs(added[0] - added[1]))} ms)"
        )
    # CPU per request rises as the load falls, so this is the answer of `choose` and not a division.
    rate = choose.break_even(points, 0.0) if (points := choose.points_of(verdict_of(study))) else None
    if rate is not None:
        said.append(
            f"you serve fewer than {_round(rate):,.0f} small requests/s (Olla then saves less than "
            f"{share(NEGLIGIBLE_CORE)} of a core)"
        )
    return _either(said) if said else "your load is far below the loads of this campaign."


def _either(said: Sequence[str]) -> str:
    """`a, b, or c.`"""
    return (", or ".join([", ".join(said[:-1]), said[-1]]) if len(said) > 1 else said[0]) + "."


def _round(value: float) -> float:
    """Two honest digits."""
    return float(f"{value:.2g}") if math.isfinite(value) else value


def _unknown(study: Study) -> tuple[str, ...]:
    """What the campaign could not tell, by scenario: primary metrics without a verdict."""
    said = []
    for scenario in study.cases:
        found: dict[str, list[str]] = {}
        for row in study.comparison.rows:
            mine = row.scenario == scenario and row.primary and row.candidate.target == study.main
            if mine and row.verdict in _OPEN:
                found.setdefault(_why(row), []).append(row.spec.label)
        said += [f"{', '.join(labels)} of {study.called[scenario]}: {why}" for why, labels in found.items()]
    return tuple(said)


_OPEN: Final = {
    "too-noisy": "too noisy", "void": "the bench spoilt too many rounds", "not-measured": "not measured",
    "overloaded": "overloaded", "unreliable": "unreliable",
}  # fmt: skip


def _why(row: Row) -> str:
    """Why a row has no verdict."""
    if row.withheld:
        return f"no verdict on {change(row)}: {row.reason}"
    noisy = row.verdict == "too-noisy" and row.visible is not None
    why = f"only effects beyond {visible_text(row)} would show" if noisy else row.reason
    return _OPEN[row.verdict] + (f" ({why})" if why else "")


# ------------------------------------------------------------------------------------------------ as lines of text
def cells(screen: FirstScreen, entry: Entry) -> list[tuple[str, str, str]]:
    """The cells of one line as text: value, factor, interval; the last two may be empty."""
    found = (entry.values.get(target) for target in screen.targets)
    return [("–", "", "") if value is None else (value.text, value.times.split(" ")[0], value.range) for value in found]
