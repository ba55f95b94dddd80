"""verdict.json: what a campaign says, for programs. Pure.

Described by `reports/verdict.schema.json`. A row that a scenario cannot have (the gap between events of a plain reply,
a capacity without saturation) is not written. Of the checks only those that failed or warned are: each run's own
run.json has the others.
"""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any, Final

from reports import counted, endurance, ladder
from reports.claims import Judged
from reports.compare import Blame, Row, SideValue
from reports.rules import patterns
from reports.schema import VERDICT_SCHEMA_VERSION, Check, ScenarioRecord
from reports.store import Run
from reports.study import Study


def verdict_of(study: Study) -> dict[str, Any]:
    """verdict.json of a campaign."""
    campaign, comparison, advice = study.campaign, study.comparison, study.advice
    verdict = {
        "schema": VERDICT_SCHEMA_VERSION,
        "campaign": campaign.header.id,
        "rows": [_row_json(row) for row in comparison.rows if _written(row, study)],
        "claims": [_claim_json(one) for one in study.judged],
        "recommendation": {
            "engine": advice.engine,
            "because": list(advice.because),
            "worse": list(advice.worse),
            "unless": list(advice.unless),
        },
        "scenarios": {name: _scenario_json(scenario) for name, scenario in campaign.header.scenarios.items()},
        "faults": [_fault_json(scenario, one) for (scenario, _), one in comparison.blames.items()],
        "validity": [
            _check_json(run, check)
            for run in campaign.runs
            for check in run.record.validity
            if check.warn or not check.ok
        ],
    }
    endured = endurance.of_campaign(campaign, study.facts)
    if endured:
        verdict["endurance"] = [one.as_json() for one in endured]
    work = counted.load(campaign.path, comparison.baseline)
    if work is not None:
        verdict["counted"] = work.as_json()
    return verdict


def _claim_json(one: Judged) -> dict[str, Any]:
    return {
        "claim": one.claim.id,
        "sentence": one.claim.sentence,
        "source": one.claim.source,
        "rule": one.claim.rule,
        "measured": one.finding.measured,
        "verdict": one.finding.verdict,
        "evidence": list(one.finding.evidence),
    }


def _fault_json(scenario: str, one: Blame) -> dict[str, Any]:
    return {
        "scenario": scenario,
        "target": one.target,
        "word": one.word,
        "rounds": one.rounds,
        "failed": one.failed,
        "overloaded": one.overloaded,
        "wrong_replies": one.wrong_replies,
        "why": one.why,
    }


def _check_json(run: Run, check: Check) -> dict[str, Any]:
    return {
        "check": check.check,
        "value": check.value,
        "limit": check.limit,
        "ok": check.ok,
        "blame": check.blame,
        "warn": check.warn,
        "run": run.name,
        "target": run.record.target,
        "scenario": run.record.scenario,
        "round": run.record.round,
    }


def dump(verdict: dict[str, Any]) -> bytes:
    """verdict.json as it is written: an element of a list a line, so that it is short and two can be compared."""

    def value(one: object) -> str:
        packed = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if isinstance(one, list) and one:
            return "[\n" + ",\n".join(map(packed, one)) + "\n]"
        return packed(one)

    return ("{" + ",\n".join(f"{json.dumps(key)}: {value(one)}" for key, one in verdict.items()) + "}\n").encode()


def _written(row: Row, study: Study) -> bool:
    """Whether the row says something that a program may want: every primary row; of the main candidate also secondary
    results, and why a metric that the scenario has is missing; and the tails on the first screen."""
    if not row.rounds and study.campaign.scenario(row.scenario).group == ladder.GROUP:
        return False  # each rung is measured with one target alone
    if not row.spec.applies(study.campaign.scenario(row.scenario)):
        return False
    if row.metric == "added_p99_us" and row.candidate.target in study.targets:
        return True
    return row.primary or row.candidate.target == study.main or row.metric == "capacity_rps_per_core"


_LOAD: Final = {"kind", "loop", "rate_rps", "duration_s", "events_per_request", "response_bytes", "connections",
                "endpoints", "ballast", "faults"}  # fmt: skip


def _scenario_json(scenario: ScenarioRecord) -> dict[str, Any]:
    """The load of a scenario: what `choose` has to know of it."""
    return scenario.model_dump(mode="json", include=_LOAD, exclude_none=True, exclude_defaults=False)


def _row_json(row: Row) -> dict[str, Any]:
    def side(one: SideValue) -> dict[str, Any]:
        return {
            "target": one.target,
            "value": _finite(one.value),
            "ci": None if one.ci is None else [_finite(end) for end in one.ci],
        }

    return {
        "scenario": row.scenario,
        "metric": row.metric,
        "unit": row.spec.unit,
        "baseline": side(row.baseline),
        "candidate": side(row.candidate),
        "ratio": _finite(row.ratio),
        "ci_low": _finite(row.ci_low),
        "ci_high": _finite(row.ci_high),
        "rounds": row.rounds,
        "basis": row.basis,
        "verdict": row.verdict,
        "reason": row.reason,
        "primary": row.primary,
        "difference": _finite(row.difference),
        "level": row.level,
        "p": _finite(row.p),
        "p_adjusted": _finite(row.p_adjusted),
        "adjusted_level": _finite(row.adjusted_level),
        "blamed": list(row.blamed),
        "smallest_visible": _finite(row.visible),
        "runs": patterns(row.runs),
    }


def _finite(value: float | None) -> float | None:
    """Six digits: more is noise, and the file half as long again."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
