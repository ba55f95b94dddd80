"""A campaign with all that was found in it: what every part of the report reads, and what notebooks read as data
frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import pandas as pd

from reports import archive, compare, decide, places, summarise
from reports.claims import Judged, ledger
from reports.compare import Comparison
from reports.schema import AA_SUFFIX, METRICS
from reports.store import Campaign, load_campaign
from reports.summarise import Facts
from reports.words import sentence


@dataclass(frozen=True)
class Study:
    """A campaign, what was measured in each run, and every comparison with the baseline."""

    campaign: Campaign
    facts: tuple[Facts, ...]
    comparison: Comparison
    others: tuple[Study, ...] = ()
    """Other campaigns of the same profile: every row shows them as well."""

    @classmethod
    def load(cls, folder: str | PathLike[str], *others: str | PathLike[str]) -> Study:
        """Read, measure and compare the campaign in `folder`: its runs, or its archive where it is a published one.
        ReportError if its files cannot be used."""
        path = Path(folder)
        if (path / archive.FILE).exists():
            campaign, facts = archive.load(path)
        else:
            campaign = load_campaign(path)
            facts = tuple(summarise.measure_run(run, campaign.scenario(run.record.scenario)) for run in campaign.runs)
        return cls(campaign, facts, compare.compare(campaign, facts), tuple(map(cls.load, others)))

    # --------------------------------------------------------------------------------------- what the parts go through
    @property
    def all(self) -> tuple[Study, ...]:
        """This campaign and the others beside it."""
        return (self, *self.others)

    @cached_property
    def name(self) -> str:
        """The day and the time it began, `2026-11-25 13:01`, which tell campaigns of a profile apart."""
        return self.campaign.header.started[:16].replace("T", " ")

    @cached_property
    def baseline(self) -> str | None:
        """The target that all others are compared with."""
        return self.comparison.baseline

    @cached_property
    def main(self) -> str | None:
        """The target of the headline."""
        return self.comparison.main

    @cached_property
    def scenarios(self) -> tuple[str, ...]:
        """All scenarios, in the order of the campaign."""
        ran = [(f.record.scenario, f.record.target, f.record.round) for f in self.facts]
        return tuple(compare.scenario_order(self.campaign, ran))

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """The use cases among them."""
        return tuple(places.use_cases(self.campaign, self.scenarios))

    @cached_property
    def called(self) -> dict[str, str]:
        """Each scenario in people's words."""
        return places.names(self.campaign, self.scenarios)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The targets that ran, baseline first, without its second arm and without variants of an engine."""
        ran = {target for _, target in (*self.comparison.valid, *self.comparison.voided)}
        order = [self.baseline] if self.baseline else []
        order += compare.candidate_order(self.campaign, self.baseline or "", ran)
        variants = {target.name for target in self.campaign.header.targets if target.kind == "variant"}
        return tuple(name for name in order if name in ran - variants and not name.endswith(AA_SUFFIX))

    def runs_of(self, scenario: str, target: str) -> tuple[Facts, ...]:
        """The runs of a target in a scenario that the bench did not spoil."""
        return self.comparison.valid.get((scenario, target), ())

    def each(self) -> Iterator[tuple[Study, str, str, tuple[Facts, ...]]]:
        """Every scenario and target with valid runs, for each campaign: (campaign, scenario, target, runs)."""
        for scenario in self.scenarios:
            for target in self.targets:
                for one in self.all:
                    runs = one.runs_of(scenario, target)
                    if runs:
                        yield one, scenario, target, runs

    @cached_property
    def judged(self) -> tuple[Judged, ...]:
        """The claims ledger."""
        return ledger(self.campaign, self.comparison)

    @cached_property
    def advice(self) -> decide.Recommendation:
        """Which engine this campaign speaks for."""
        return decide.recommend(self.campaign, self.comparison)

    # ------------------------------------------------------------------------------------------------ as data frames
    def runs(self) -> pd.DataFrame:
        """One row a run: scenario, target, round, how it ended, then every metric (NaN where not measured)."""
        return pd.DataFrame(
            [
                {
                    "run": facts.record.run,
                    "scenario": facts.record.scenario,
                    "target": facts.record.target,
                    "round": facts.record.round,
                    "outcome": facts.record.ended,
                    "void": facts.record.void_reason or "" if facts.record.ended == "void" else "",
                    **{metric: facts.value(metric) for metric in METRICS},
                }
                for facts in self.facts
            ]
        )

    def verdicts(self) -> pd.DataFrame:
        """One row a verdict: values, ratio or difference, interval, word, and the sentence of the report."""
        return pd.DataFrame(
            [
                {
                    "scenario": row.scenario,
                    "metric": row.metric,
                    "candidate": row.candidate.target,
                    "primary": row.primary,
                    "baseline_value": row.baseline.value,
                    "candidate_value": row.candidate.value,
                    "basis": row.basis,
                    "ratio": row.ratio,
                    "ci_low": row.ci_low,
                    "ci_high": row.ci_high,
                    "rounds": row.rounds,
                    "verdict": row.verdict,
                    "sentence": sentence(row),
                }
                for row in self.comparison.rows
            ]
        )

    def pauses(self) -> pd.DataFrame:
        """Every garbage collection in a measured window: run, target, scenario, second, milliseconds, generation."""
        parts = [
            pd.DataFrame(
                {
                    "run": facts.record.run,
                    "scenario": facts.record.scenario,
                    "target": facts.record.target,
                    "at_s": facts.gc.at_s,
                    "ms": facts.gc.ms,
                    "generation": facts.gc.generation,
                }
            )
            for facts in self.facts
            if facts.gc is not None and facts.gc.ms.size
        ]
        columns = ["run", "scenario", "target", "at_s", "ms", "generation"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def validity(self) -> pd.DataFrame:
        """One row a check: run, scenario, target, round, check, value, limit, whether it passed, whom it blames."""
        columns = ["run", "scenario", "target", "round", "check", "value", "limit", "ok", "warn", "blame", "text"]
        return pd.DataFrame(
            [
                (run.name, run.record.scenario, run.record.target, run.record.round, check.check, check.value,
                 check.limit, check.ok, check.warn, check.blame, check.text or "")
                for run in self.campaign.runs
                for check in run.record.validity
            ],
            columns=columns,
        )  # fmt: skip

    def claims(self) -> pd.DataFrame:
        """The claims ledger: claim, sentence, verdict, what was measured, the rule."""
        return pd.DataFrame(
            [
                {
                    "claim": one.claim.id,
                    "sentence": one.claim.sentence,
                    "verdict": one.finding.verdict,
                    "measured": one.finding.measured,
                    "rule": one.claim.rule,
                }
                for one in self.judged
            ]
        )
