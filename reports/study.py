"""A campaign for people who explore: facts and verdicts as data frames, figures on demand. What the notebooks use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import pandas as pd

from reports import claims, compare, decide, figures, summarise
from reports.compare import Comparison
from reports.schema import METRICS
from reports.store import Campaign, load_campaign
from reports.summarise import Facts
from reports.words import sentence


@dataclass(frozen=True)
class Study:
    """A campaign, what was measured in each run, and every comparison with the baseline."""

    campaign: Campaign
    facts: tuple[Facts, ...]
    comparison: Comparison

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Study:
        """Read, measure and compare the campaign in `folder`. ReportError if its files cannot be used."""
        campaign = load_campaign(Path(folder))
        facts = tuple(summarise.measure_run(run, campaign.scenario(run.record.scenario)) for run in campaign.runs)
        return cls(campaign, facts, compare.compare(campaign, facts))

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
                for one in claims.ledger(self.campaign, self.comparison)
            ]
        )

    def recommendation(self) -> decide.Recommendation:
        """Which engine this campaign speaks for."""
        return decide.recommend(self.campaign, self.comparison)

    @cached_property
    def drawn(self) -> dict[str, figures.Drawn]:
        """Every figure of the report by name; one that could not be drawn says why."""
        return figures.Gallery(self.campaign, self.comparison).all()

    def figure(self, name: str) -> figures.Figure:
        """One figure by name, shown by notebooks as it is. KeyError with the reason if it could not be drawn."""
        drawn = self.drawn[name]
        if isinstance(drawn, figures.NotDrawn):
            raise KeyError(f"{name}: {drawn.reason}")
        return drawn
