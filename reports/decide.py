"""From verdicts to a decision: which engine, because of what, what gets worse with it, unless what.

The rule is written down here and nowhere else. For each use case (`action`):

1. A target that is unreliable or overloaded there, where the other is not, loses.
2. So does one that answers fewer requests rightly (goodput or errors, where they are primary).
3. Otherwise the target with a `faster` primary and no `slower` one is to be used; where each has one, they are to be
   weighed. An effect by which the baseline differs from itself has no such word (see `compare`).

For a campaign (`recommend`), over its use cases: controls, rungs of a ladder and points of sweeps decide nothing.

1. An engine that changed a reply is out, if the other did not.
2. The engine that is to be used in some use case, where the other is in none, is recommended. Whatever is worse with
   it, primary or secondary, is listed beside the recommendation: use cases to be weighed decide nothing by themselves.
3. Where each is to be used somewhere, there is no general answer.
4. Where every primary is `equivalent`, the simpler engine (Sherpa) is recommended: a tie is no reason for complexity.
5. Where the campaign cannot tell, it says so and recommends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from reports import places
from reports.compare import Comparison, Row
from reports.schema import ENGINES
from reports.store import Campaign
from reports.words import headline, number, sentence, title

NEGLIGIBLE_CORE: Final = 0.05
"""A saving below this share of one core changes nobody's bill: under it, simplicity decides."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An engine or None, the reasons, what gets worse with it, and when the opposite is right."""

    engine: str | None
    because: tuple[str, ...]
    unless: tuple[str, ...]
    worse: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Action:
    """What to do for one use case: whom to use (None: it cannot be said), and that in a few words."""

    use: str | None
    say: str
    because: str = ""
    """The sentence of the strongest reason."""


_SERVICE: Final = ("goodput_rps", "error_ratio")
"""Metrics that say whether requests are answered at all."""


# ----------------------------------------------------------------------------------------------------- one use case
def action(rows: Sequence[Row], comparison: Comparison) -> Action:
    """What the rows of one scenario and candidate say to do."""
    if not rows:
        return Action(None, "Not measured")
    ours, theirs = rows[0].baseline.target, rows[0].candidate.target
    blamed = _by_blame(rows[0].scenario, ours, theirs, comparison)
    if blamed is not None:
        return blamed
    primaries = [row for row in rows if row.primary]
    won = [row for row in primaries if row.winner == theirs]
    lost = [row for row in primaries if row.winner == ours]
    rescued, broken = ([row for row in side if row.metric in _SERVICE] for side in (won, lost))
    if bool(broken) != bool(rescued):
        won, lost = ([], broken) if broken else (rescued, [])
    if won and not lost:
        return Action(theirs, f"Use {title(theirs)}", _strongest(won))
    if lost and not won:
        return Action(ours, f"Use {title(ours)}", _strongest(lost))
    if won and lost:
        said = f"Weigh: {title(theirs)} for {_labels(won)}, {title(ours)} for {_labels(lost)}"
        return Action(None, said, _strongest([*won, *lost]))
    words = {row.verdict for row in primaries if row.verdict != "not-measured"}  # a short campaign has no tail
    if words == {"equivalent"}:
        simpler = next((name for name in (ours, theirs) if name == "sherpa"), None)
        return Action(simpler, f"Use either; {title(simpler)} is simpler" if simpler else "Use either")
    if words <= {"void"}:
        return Action(None, "Measure again" if words else "Not measured")
    return Action(None, "No answer yet")


def _by_blame(scenario: str, ours: str, theirs: str, comparison: Comparison) -> Action | None:
    """What follows from what the targets did wrong in a scenario; None where that is within what is tolerated."""
    words = {name: word for name in (ours, theirs) if (word := comparison.blame(scenario, name)) is not None}
    if not words:
        return None
    why = "; ".join(comparison.blames[scenario, name].say for name in words)
    if len(words) == 2:
        return Action(None, "Use neither at this load", why)
    (bad, word), good = next(iter(words.items())), theirs if ours in words else ours
    return Action(good, f"Use {title(good)}: {title(bad)} is {word}", why)


def _labels(rows: Sequence[Row]) -> str:
    return " and ".join(row.spec.label for row in rows)


def _strongest(rows: Sequence[Row]) -> str:
    lead = headline([replace(row, primary=True) for row in rows])
    return "" if lead is None else sentence(lead)


# ------------------------------------------------------------------------------------------------------- a campaign
def recommend(campaign: Campaign, comparison: Comparison) -> Recommendation:
    """The engine this campaign speaks for, by the rule above."""
    names = {str(t.engine): t.name for t in campaign.header.targets if t.kind == "engine" and t.engine}
    if not all(engine in names for engine in ENGINES):
        missing = " and ".join(engine for engine in ENGINES if engine not in names)
        return Recommendation(None, (f"the campaign did not compare both engines: {missing} is missing",), ())
    if comparison.baseline not in names.values():
        said = f"the baseline is {comparison.baseline}; engines are recommended against each other only"
        return Recommendation(None, (said,), ("compare again with --baseline sherpa",))
    baseline = "sherpa" if comparison.baseline == names["sherpa"] else "olla"
    other = "olla" if baseline == "sherpa" else "sherpa"
    changed = _changed(comparison, names)
    if changed:
        right = [engine for engine in ENGINES if engine not in changed]
        return Recommendation(right[0] if right else None, tuple(said for said in changed.values()), ())
    rows = [row for row in comparison.rows if row.candidate.target == names[other]]
    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    called, wanted = places.names(campaign, scenarios), places.use_cases(campaign, scenarios)
    cases = {name: [row for row in rows if row.scenario == name] for name in wanted}
    acts = {name: action(mine, comparison) for name, mine in cases.items()}
    won = {name: act for name, act in acts.items() if act.use == names[other] and act.because}
    lost = {name: act for name, act in acts.items() if act.use == names[baseline] and act.because}
    if won and lost:
        because = [f"each engine wins something: {called[name]}: {act.because}" for name, act in (won | lost).items()]
        advice = ("your workload is like one of the scenarios above: take its winner",)
        return Recommendation(None, tuple(because), advice)
    if won or lost:
        engine, reasons = (other, won) if won else (baseline, lost)
        because = [f"{called[name]}: {act.because}" for name, act in reasons.items()]
        worse = _worse(rows, names[engine], called)
        return Recommendation(engine, tuple(because), _unless(campaign, comparison, engine), worse)
    acts = {called[name]: act for name, act in acts.items()}
    return _undecided([row for row in rows if row.primary and row.scenario in cases], acts)


def _undecided(primaries: Sequence[Row], acts: Mapping[str, Action]) -> Recommendation:
    """What is said where no use case has a winner."""
    weighed = [f"each engine wins something: {name}: {act.say}" for name, act in acts.items() if act.because]
    if weighed:
        return Recommendation(None, tuple(weighed), ("you know which of these matters more to you",))
    primaries = [row for row in primaries if row.verdict != "not-measured"]
    if primaries and all(row.verdict == "equivalent" for row in primaries):
        tie = ("every primary metric is equivalent, and Sherpa is the simpler engine",)
        return Recommendation("sherpa", tie, ("you need circuit breakers or per-endpoint pools",))
    void = [row for row in primaries if row.verdict == "void"]
    if void and len(void) == len(primaries):
        quiet = ("repeat on a quieter machine, or with fewer other programs running",)
        return Recommendation(None, ("too few runs are valid to compare the engines", void[0].reason), quiet)
    return Recommendation(
        None, ("no primary metric of this campaign decides between the engines",), ("repeat with more rounds",)
    )


def _changed(comparison: Comparison, names: dict[str, str]) -> dict[str, str]:
    """Engine -> where it changed a reply."""
    found: dict[str, str] = {}
    for engine, name in names.items():
        said = [f"{scenario}: {blame.say}" for (scenario, target), blame in comparison.blames.items()
                if target.split("@")[0] == name and blame.wrong_replies]  # fmt: skip
        if said:
            found[engine] = "; ".join(said)
    return found


def _worse(rows: Sequence[Row], engine: str, called: Mapping[str, str]) -> tuple[str, ...]:
    """What is worse with this engine: each primary row, then the largest secondary one of each metric."""
    against = [row for row in rows if row.winner not in (None, engine)]
    said = [f"{called[row.scenario]}: {sentence(row)}" for row in against if row.primary]
    secondary: dict[str, list[Row]] = {}
    for row in against:
        if not row.primary and row.spec.family in ("latency", "memory", "throughput", "cpu"):
            secondary.setdefault(row.metric, []).append(row)
    for found in secondary.values():
        largest = max(found, key=lambda row: abs((row.effect or (0.0,))[0]))
        others = "" if len(found) == 1 else f" (and in {len(found) - 1} more scenario{'s' if len(found) > 2 else ''})"
        said.append(f"{called[largest.scenario]}{others}: {sentence(largest)}")
    return tuple(said)


def _unless(campaign: Campaign, comparison: Comparison, engine: str) -> tuple[str, ...]:
    if engine != "olla":
        return ()
    said = [load] if (load := _measured_load(campaign, comparison)) is not None else []
    said.append("simple code is worth more to you than what is measured here: Sherpa is the simpler engine")
    return tuple(said)


def _measured_load(campaign: Campaign, comparison: Comparison) -> str | None:
    """What both engines use at the highest measured rate that one core of Sherpa carries; below it nothing is made up:
    CPU per request is not constant."""
    engines = {t.engine: t.name for t in campaign.header.targets if t.kind == "engine"}
    found: list[tuple[float, str, float, float]] = []
    for name, scenario in campaign.header.scenarios.items():
        runs = [comparison.valid.get((name, engines.get(engine, "")), ()) for engine in ENGINES]
        known = [[facts.busy for facts in side if facts.busy is not None] for side in runs]
        blamed = any(comparison.blame(name, engines.get(engine, "")) for engine in ENGINES)
        if scenario.rate_rps is not None and all(known) and not blamed:
            ours, theirs = (sum(side) / len(side) for side in known)
            if theirs < ours <= 1:
                found.append((scenario.rate_rps, name, ours, theirs))
    if not found:
        return None
    rate, name, ours, theirs = max(found)
    small = ours - theirs < NEGLIGIBLE_CORE
    return (
        f"your load stays near or under that of {name} ({number(rate)} req/s), where Sherpa uses "
        f"{ours * 100:.1f} % of one core and Olla {theirs * 100:.1f} %: "
        f"{'the difference is small' if small else 'one core carries either'}"
    )
