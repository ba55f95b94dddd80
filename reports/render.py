"""From a campaign folder to its report: report.html, report.md, verdict.json and figures/.

Everything comes from the folder's own files, and the same files give the same bytes. The page is assembled in memory
and written at the end, so that a file that cannot be read leaves no half report behind. Names, questions and error
texts come from outside: Jinja escapes them in HTML, `md` escapes them in Markdown, and the page's own policy forbids
every script but ours.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reports import ablation, beside, claims, compare, counted, decide, endurance, figures, micro, stats, summarise
from reports.compare import Comparison, Row, Side
from reports.schema import AA_SUFFIX, FLOOR_TARGETS, METRICS, VERDICT_SCHEMA_VERSION, Check, Scenario
from reports.store import Campaign, ReportError, dump_json, write_atomically
from reports.study import Study
from reports.summarise import Facts
from reports.words import change, headline, interval, number, percent, sentence, shown, title

PARTS: Final = (
    "The answer",
    "Why you can trust this run",
    "Every metric, both engines",
    "Overhead per request and per event",
    "Latency against offered load",
    "The tail",
    "CPU, and the capacity it implies",
    "Garbage collection",
    "One round, on one clock",
    "Memory",
    "Resilience",
    "Ablation: one switch at a time",
    "Decision",
    "Claims ledger",
    "Method, environment, raw files",
)
"""The fifteen parts, always all of them, always in this order; one that was not measured says why."""


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What `build_report` made."""

    verdict: dict[str, Any]
    html: Path
    md: Path
    json: Path
    headlines: tuple[str, ...]
    """One verdict sentence per scenario, one per long run."""
    valid_runs: int
    """0: no run of the campaign was valid."""


def build_report(campaign_dir: Path) -> ReportResult:
    """Rebuild the report of a campaign from its files. ReportError if they cannot be read or must not be mixed."""
    study = Study.load(campaign_dir)
    campaign, facts, comparison = study.campaign, study.facts, study.comparison
    judged = claims.ledger(campaign, comparison)
    advice = decide.recommend(campaign, comparison)
    drawn = study.drawn
    verdict = verdict_of(campaign, comparison, judged, advice)
    endured = endurance.of_campaign(campaign, facts)
    if endured:
        verdict["endurance"] = [one.as_json() for one in endured]
    work = counted.load(campaign.path, comparison.baseline)
    if work is not None:
        verdict["counted"] = work.as_json()
    page = _Page(campaign, comparison, facts, judged, advice, drawn)
    html, md = page.html(), page.markdown()
    _write(campaign_dir, drawn, {"verdict.json": dump_json(verdict), "report.md": md, "report.html": html})
    return ReportResult(
        verdict=verdict,
        html=campaign_dir / "report.html",
        md=campaign_dir / "report.md",
        json=campaign_dir / "verdict.json",
        headlines=(
            *(f"{case['id']}: {case['say']}" for case in page.cases if case["scenario"].tags != ["soak"]),
            *(f"{one.facts.record.scenario}, {one.facts.record.target}: {one.say()}" for one in endured),
        ),
        valid_runs=sum(len(runs) for runs in comparison.valid.values()),
    )


def judged_anew(campaign_dir: Path) -> dict[str, Any]:
    """The verdict of a campaign from its runs, without a page. ReportError if they cannot be read."""
    study = Study.load(campaign_dir)
    judged = claims.ledger(study.campaign, study.comparison)
    return verdict_of(study.campaign, study.comparison, judged, study.recommendation())


def _write(folder: Path, drawn: Mapping[str, figures.Drawn], files: Mapping[str, bytes]) -> None:
    pictures = folder / "figures"
    try:
        pictures.mkdir(exist_ok=True)
    except OSError as exc:
        raise ReportError(f"{pictures}: cannot be made ({exc.strerror or exc})") from exc
    for name, figure in drawn.items():
        for kind in ("svg", "png"):
            if isinstance(figure, figures.Figure):
                data = figure.svg.encode() if kind == "svg" else figure.png
                write_atomically(pictures / f"{name}.{kind}", data)
            else:
                (pictures / f"{name}.{kind}").unlink(missing_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data)


# ----------------------------------------------------------------------------------------------------- verdict.json
def verdict_of(
    campaign: Campaign, comparison: Comparison, judged: Sequence[claims.Judged], advice: decide.Recommendation
) -> dict[str, Any]:
    """verdict.json as reports/verdict.schema.json describes it."""
    return {
        "schema": VERDICT_SCHEMA_VERSION,
        "campaign": campaign.header.id,
        "rows": [_row_json(row) for row in comparison.rows],
        "claims": [
            {
                "claim": one.claim.id,
                "sentence": one.claim.sentence,
                "source": one.claim.source,
                "rule": one.claim.rule,
                "measured": one.finding.measured,
                "verdict": one.finding.verdict,
                "evidence": list(one.finding.evidence),
            }
            for one in judged
        ],
        "recommendation": {
            "engine": advice.engine,
            "because": list(advice.because),
            "worse": list(advice.worse),
            "unless": list(advice.unless),
        },
        "scenarios": {name: _scenario_json(scenario) for name, scenario in campaign.header.scenarios.items()},
        "faults": [
            {
                "scenario": scenario,
                "target": target,
                "word": one.word,
                "rounds": one.rounds,
                "failed": one.failed,
                "overloaded": one.overloaded,
                "wrong_replies": one.wrong_replies,
                "why": one.why,
            }
            for (scenario, target), one in comparison.blames.items()
        ],
        "validity": [
            {
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
            for run in campaign.runs
            for check in run.record.validity
        ],
    }


_LOAD: Final = {"kind", "loop", "rate_rps", "duration_s", "events_per_request", "response_bytes", "connections",
                "endpoints", "ballast", "faults"}  # fmt: skip


def _scenario_json(scenario: Scenario) -> dict[str, Any]:
    """The load of a scenario: what `choose` has to know of it."""
    return scenario.model_dump(mode="json", include=_LOAD, exclude_none=True, exclude_defaults=False)


def _row_json(row: Row) -> dict[str, Any]:
    def side(one: Side) -> dict[str, Any]:
        return {"target": one.target, "value": _finite(one.value), "ci": None if one.ci is None else list(one.ci)}

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
        "runs": claims.patterns(row.runs),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# --------------------------------------------------------------------------------------------------------- the page
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#$~!])")


def md(text: object) -> str:
    """Text from outside as Markdown that shows exactly that text, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


_EFFECT = re.compile(r"\S+(?: \S+)? \(95 % CI [^)]*\)")


def _phrase(text: str) -> Markup:
    """A sentence as HTML whose effect and interval stay on one line."""
    parts, last = [], 0
    for found in _EFFECT.finditer(text):
        parts += [Markup.escape(text[last : found.start()]), Markup('<span class="nb">{}</span>').format(found.group())]
        last = found.end()
    return Markup("").join([*parts, Markup.escape(text[last:])])


_CODE = re.compile(r"`([^`]*)`")


def _ticks(text: object) -> Markup:
    """Text whose `code` is set as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(Markup.escape(text))))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": md, "title_": title, "phrase": _phrase, "ticks": _ticks}
    return environment


class _Page:
    """The values that both templates show."""

    def __init__(
        self,
        campaign: Campaign,
        comparison: Comparison,
        facts: Sequence[Facts],
        judged: Sequence[claims.Judged],
        advice: decide.Recommendation,
        drawn: Mapping[str, figures.Drawn],
    ) -> None:
        self.campaign, self.comparison, self.facts = campaign, comparison, facts
        self.judged, self.advice, self.drawn = judged, advice, drawn
        self.baseline = comparison.baseline
        self.main = comparison.main
        self.scenarios = compare.scenario_order(
            campaign, [(f.record.scenario, f.record.target, f.record.round) for f in facts]
        )
        self.cases = [self._case(name) for name in figures.representatives(campaign, self.scenarios)]

    def html(self) -> bytes:
        """report.html."""
        environment = _environment()
        source = partial(Path(__file__).with_name("templates").joinpath)
        script, style = (source(name).read_text(encoding="utf-8") for name in ("sort.js", "style.css"))
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        template = environment.get_template("report.html.j2")
        values = self._context() | {
            "script": Markup(script),
            "style": Markup(style),
            "script_hash": f"sha256-{digest}",
            "plots": {
                name: self._plot(figure) for name, figure in self.drawn.items() if isinstance(figure, figures.Figure)
            },
        }
        return template.render(values).encode()

    def markdown(self) -> bytes:
        """report.md."""
        return _environment().get_template("report.md.j2").render(self._context()).encode()

    def _context(self) -> dict[str, Any]:
        header = self.campaign.header
        absent = {name: one.reason for name, one in self.drawn.items() if isinstance(one, figures.NotDrawn)}
        return {
            "campaign": self.campaign,
            "header": header,
            "parts": list(enumerate(PARTS, 1)),
            "baseline": self.baseline,
            "main": self.main,
            "advice": self.advice,
            "cases": self.cases,
            "won": self._won(),
            "started": _moment(header.started),
            "points": [name for name in self.scenarios if name not in {case["id"] for case in self.cases}],
            "tally": self._tally(),
            "environment": _environment_facts(header.machine) + _environment_facts(header.versions),
            "checks": self._checks(),
            "doubts": self._doubts(),
            "noise": self._noise(),
            "aa_words": self._aa_words(),
            "table": self._table(),
            "beside": self._beside_each_other(),
            "others": self._others(),
            "unmeasured": self._unmeasured(),
            "figures": {name: one for name, one in self.drawn.items() if isinstance(one, figures.Figure)},
            "absent": absent,
            "capacity": self._capacity(),
            "pauses": self._pauses(),
            "memory": self._memory(),
            "endurance": self._endurance(),
            "counted": counted.load(self.campaign.path, self.baseline),
            "endurance_blocks": endurance.BLOCKS,
            "endings": self._endings(),
            "steps": self._steps(),
            "micro": micro.rows(self.campaign.path),
            "judged": self.judged,
            "ledger_tally": self._ledger_tally(),
            "runs": self._runs(),
            "scenarios": [
                (name, scenario := self.campaign.scenario(name), _load_words(scenario), self._patterns(name))
                for name in self.scenarios
            ],
        }

    # ------------------------------------------------------------------------------------------------ 1: the answer
    def _rows(self, scenario: str, candidate: str | None) -> list[Row]:
        return [r for r in self.comparison.rows if r.scenario == scenario and r.candidate.target == candidate]

    def _case(self, name: str) -> dict[str, Any]:
        rows = self._rows(name, self.main)
        lead = headline(rows)
        primaries = [self._row_view(row) for row in rows if row.primary]
        scenario = self.campaign.scenario(name)
        reason = "no target was compared with another" if self.main is None else "no primary metric is known"
        return {
            "id": name,
            "scenario": scenario,
            "action": decide.action(rows, self.comparison),
            "say": f"Not measured: {reason}" if lead is None else sentence(lead),
            "word": "not-measured" if lead is None else lead.verdict,
            "primaries": primaries,
            "load": _load_words(scenario),
        }

    def _won(self) -> str:
        """How many use cases speak for whom, in a sentence; empty where nothing was compared."""
        if self.main is None or self.baseline is None or not self.cases:
            return ""
        uses = [case["action"].use for case in self.cases]
        theirs, ours = uses.count(self.main), uses.count(self.baseline)
        undecided = len(uses) - theirs - ours
        said = f"{title(self.main)} wins {theirs or 'none'} of {len(uses)} use case{'' if len(uses) == 1 else 's'}"
        said += f", {title(self.baseline)} {ours or 'none'}"
        said += f"; {undecided} not decided here." if undecided else "."
        wrong = [f"{name}: {one.say}." for (name, _), one in self.comparison.blames.items() if one.wrong_replies]
        return " ".join([said, *wrong])  # of whatever target: a proxy that changes replies is no measure for others

    def _row_view(self, row: Row) -> dict[str, Any]:
        effect = row.effect
        unit = row.spec.shown_unit
        aa = None if row.is_aa else self.comparison.row(row.scenario, row.metric, f"{self.baseline}{AA_SUFFIX}")
        change_text = ci_text = ""
        if effect is not None:
            change_text = percent(effect[0]) if row.basis == "ratio" else f"{_signed(effect[0])} {unit}".strip()
            ci_text = (
                interval(effect[1], effect[2])
                if row.basis == "ratio"
                else f"{_signed(effect[1])}..{_signed(effect[2])}"
            )
        return {
            "scenario": row.scenario,
            "metric": row.metric,
            "label": row.spec.label,
            "about": row.spec.about,
            "unit": unit,
            "baseline": _value_text(row.baseline, unit),
            "baseline_v": row.baseline.value,
            "candidate": _value_text(row.candidate, unit),
            "candidate_v": row.candidate.value,
            "target": row.candidate.target,
            "change": change_text,
            "change_v": None if effect is None else effect[0],
            "ci": ci_text,
            "width_v": None if effect is None else effect[2] - effect[1],
            "visible": "" if row.visible is None else compare.visible_text(row),
            "visible_v": row.visible,
            "noise": "" if aa is None else _noise_text(aa),
            "rounds": row.rounds,
            "runs": ", ".join(claims.patterns(row.runs)),
            "word": row.verdict,
            "shown": shown(row),
            "primary": row.primary,
            "reason": row.reason,
            "p": row.p,
            "say": sentence(row),
            "full": change(row),
            "glyph": _glyph(row, aa),
        }

    # --------------------------------------------------------------------------------------------------- 2: trust
    def _tally(self) -> dict[str, int]:
        runs = self.campaign.runs
        return {
            "runs": len(runs),
            "void": sum(len(found) for found in self.comparison.voided.values()),
            "unfinished": len(self.campaign.unfinished),
            "rounds": len({run.record.round for run in runs}),
            "planned": self.campaign.header.rounds_planned,
            "requests": sum(int(f.extras.get("requests") or 0) for f in self.facts),
        }

    def _checks(self) -> list[dict[str, Any]]:
        grouped: dict[str, list[Check]] = {}
        for run in self.campaign.runs:
            for check in run.record.validity:
                grouped.setdefault(check.check, []).append(check)
        found = []
        for name, checks in grouped.items():
            judged = [check for check in checks if check.value is not None or not check.ok]
            failed = sum(not check.ok for check in judged)
            warned = sum(check.warn and check.ok for check in judged)
            values = [check.value for check in judged if isinstance(check.value, float | int)]
            limits = [check.limit for check in judged if isinstance(check.limit, float | int)]
            unit = next((check.unit for check in checks if check.unit), "")
            if failed:
                word, say = "bad", f"{failed} failed"
            elif warned:
                word, say = "warn", f"{warned} warned"
            else:
                word, say = ("ok", "all passed") if judged else ("none", "does not apply here")
            found.append(
                {
                    "check": name,
                    "range": _range(values, unit),
                    "limit": _range(limits, unit),
                    "blame": checks[0].blame,
                    "passed": len(judged) - failed,
                    "total": len(judged),
                    "skipped": len(checks) - len(judged),
                    "word": word,
                    "say": say,
                }
            )
        return found

    def _doubts(self) -> list[str]:
        header, tally = self.campaign.header, self._tally()
        doubts = [f"{scenario}: {one.say}." for (scenario, _), one in self.comparison.blames.items()]
        if header.state != "complete":
            doubts.append(
                f"The campaign did not run to its end: {tally['runs']} runs of {tally['rounds']} rounds are here, "
                f"{tally['planned']} rounds were planned. Rounds that never ran are missing, not void."
            )
        if self.campaign.unfinished:
            names = ", ".join(self.campaign.unfinished[:4])
            more = "" if len(self.campaign.unfinished) <= 4 else f" and {len(self.campaign.unfinished) - 4} more"
            doubts.append(f"Unfinished runs, not measured: {names}{more}.")
        if header.rounds_planned < 6:
            doubts.append(
                f"Rounds planned: {header.rounds_planned}. Intervals from so few are wide, and an exact paired test "
                "cannot reach 5 % below 6."
            )
        if header.attempt > 1:
            doubts.append(f"This is attempt {header.attempt} of this command on this machine.")
        if not self._has_aa() and self.facts:
            doubts.append("The baseline did not run against itself: the noise floor of this machine is unknown.")
        ran = {f.record.target for f in self.facts}
        absent = [target.name for target in header.targets if target.name not in ran]
        if absent:
            doubts.append(f"Listed but never run: {', '.join(absent)}.")
        silent = [name for name in self.scenarios if not any(f.record.scenario == name for f in self.facts)]
        if silent and self.facts:
            doubts.append(f"Scenarios without a single run: {', '.join(silent)}.")
        doubts += self._void_words()
        return doubts + self._warnings()

    def _warnings(self) -> list[str]:
        """One sentence a check that warned without voiding: how often, how much, and against what."""
        warned: dict[str, list[Check]] = {}
        for run in self.campaign.runs:
            for check in run.record.validity:
                if check.warn:
                    warned.setdefault(check.check, []).append(check)
        said = []
        for name, checks in sorted(warned.items()):
            values = [check.value for check in checks if isinstance(check.value, float | int)]
            limits = [check.limit for check in checks if isinstance(check.limit, float | int)]
            seen = f": {_range(values, checks[0].unit)}, warned from {_range(limits, checks[0].unit)}" if values else ""
            said.append(f"{name} warned in {len(checks)} of {len(self.campaign.runs)} runs{seen}.")
        return said

    def _void_words(self) -> list[str]:
        """One sentence a scenario: how many of its runs are void, of whom, and why most of them."""
        said = []
        for name in self.scenarios:
            found = [(target, reason) for (s, target), runs in self.comparison.voided.items() if s == name
                     for _, reason in runs]  # fmt: skip
            if found:
                total = sum(f.record.scenario == name for f in self.facts)
                whose = ", ".join(dict.fromkeys(target for target, _ in found))
                reasons = sorted({re.sub(r" \(in [^)]*\)$", "", reason) for _, reason in found})
                more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
                said.append(f"{name}: {len(found)} of {total} runs are void ({whose}): {'; '.join(reasons[:2])}{more}.")
        return said

    def _has_aa(self) -> bool:
        return any(f.record.target.endswith(AA_SUFFIX) for f in self.facts)

    def _noise(self) -> list[dict[str, Any]]:
        """The baseline against itself beside the candidate's effect, in the primary metrics."""
        found = []
        for aa in self.comparison.rows:
            if not (aa.is_aa and aa.primary and aa.effect is not None):
                continue
            row = self.comparison.row(aa.scenario, aa.metric, self.main or "")
            found.append(
                {
                    "scenario": aa.scenario,
                    "label": aa.spec.label,
                    "noise": _noise_text(aa),
                    "effect": "–" if row is None else self._beside(row, aa),
                }
            )
        return found

    def _beside(self, row: Row, aa: Row) -> str:
        """The row's effect in the terms of the A/A row, so that the two can be compared by eye."""
        ours, theirs = row.baseline.value, row.candidate.value
        if aa.basis == "ratio" and ours and theirs is not None:
            return percent(theirs / ours - 1)
        if aa.basis == "difference" and ours is not None and theirs is not None:
            return f"{_signed(theirs - ours)} {row.spec.shown_unit}".strip()
        return "–"

    def _aa_words(self) -> str:
        judged = [r for r in self.comparison.rows if r.is_aa and r.p is not None]
        if not judged:
            ran = "ran against itself, but no round of it is valid" if self._has_aa() else "did not run against itself"
            return f"The baseline {ran}."
        differ = sum(row.p is not None and row.p <= stats.LEVEL for row in judged)
        primaries = sum(row.verdict in compare.DECIDED for row in judged)
        return (
            f"The baseline against itself: the 95 % intervals of {differ} of {len(judged)} rows show a difference "
            f"where there is none; about {len(judged) * stats.LEVEL:.0f} would by chance, if rows were independent. "
            f"{primaries} primary rows are called different."
        )

    # --------------------------------------------------------------------------------------------------- 3: table
    def _table(self) -> list[dict[str, Any]]:
        rows = [r for name in self.scenarios for r in self._rows(name, self.main) if r.verdict != "not-measured"]
        return [
            self._row_view(row) for row in sorted(rows, key=lambda r: (self.scenarios.index(r.scenario), not r.primary))
        ]

    def _beside_each_other(self) -> dict[str, Any]:
        """The columns and lines of the side-by-side table; empty where only the two engines and `direct` ran."""
        variants = {t.name for t in self.campaign.header.targets if t.kind == "variant"}
        targets = [name for name in self._targets() if name not in variants and name != "direct"]
        if set(targets) <= {self.baseline, self.main}:
            return {}
        found = [
            {
                "scenario": line.scenario,
                "label": line.metric.label,
                "unit": line.metric.shown_unit,
                "about": line.metric.about,
                "cells": [
                    {
                        "value": "–" if cell.value is None else number(cell.value),
                        "times": "" if cell.times is None else f"× {number(cell.times)}",
                        "value_v": cell.value,
                        "rounds": cell.rounds,
                    }
                    for cell in line.cells
                ],
            }
            for line in beside.lines(self.campaign, self.comparison, self.scenarios, targets)
        ]
        return {"targets": targets, "lines": found}

    def _others(self) -> list[dict[str, Any]]:
        return [
            self._row_view(row)
            for row in self.comparison.rows
            if row.candidate.target not in (self.main,) and not row.is_aa and row.verdict != "not-measured"
        ]

    def _unmeasured(self) -> list[dict[str, str]]:
        grouped: dict[tuple[str, str], list[str]] = {}
        for row in self.comparison.rows:
            if row.candidate.target == self.main and row.verdict == "not-measured":
                reason = re.sub(r" \(r\d+-[^)]*\)$", "", row.reason)
                grouped.setdefault((row.scenario, reason), []).append(row.spec.label)
        return [
            {"scenario": scenario, "reason": reason, "metrics": ", ".join(labels)}
            for (scenario, reason), labels in grouped.items()
        ]

    # ------------------------------------------------------------------------------------------------ 7 to 12: tables
    def _targets(self) -> list[str]:
        ran = {target for _, target in (*self.comparison.valid, *self.comparison.voided)}
        order = [self.baseline] if self.baseline else []
        order += compare.candidate_order(self.campaign, self.baseline or "", ran)
        return [name for name in order if name in ran and not name.endswith(AA_SUFFIX)]

    def _valid(self) -> Iterable[tuple[str, str, tuple[Facts, ...]]]:
        for scenario in self.scenarios:
            for target in self._targets():
                runs = self.comparison.valid.get((scenario, target), ())
                if runs:
                    yield scenario, target, runs

    def _capacity(self) -> list[dict[str, Any]]:
        found = []
        for scenario, target, runs in self._valid():
            bounds = [both for f in runs if (both := f.bounds("capacity_rps_per_core")) is not None]
            if bounds:
                low, high = (stats.estimate([both[side] for both in bounds]) for side in (0, 1))
                ends = low.interval(), high.interval()
                found.append(
                    {
                        "scenario": scenario,
                        "target": target,
                        "value": f"{number(low.mean)}..{number(high.mean)} req/s",
                        "ci": f"{number(ends[0].low)}..{number(ends[1].high)}" if ends[0] and ends[1] else "",
                        "busy": f"{np.mean([f.busy for f in runs if f.busy is not None]):.0%}",
                        "generator": runs[0].record.generator,
                        "rounds": len(bounds),
                        "runs": ", ".join(claims.shortened(runs)),
                    }
                )
        return found

    def _pauses(self) -> list[dict[str, Any]]:
        found = []
        for scenario, target, runs in self._valid():
            recorded = [f for f in runs if f.gc is not None]
            if not recorded or target in FLOOR_TARGETS:
                continue
            ms = np.concatenate([f.gc.ms for f in recorded if f.gc is not None])
            generation = np.concatenate([f.gc.generation for f in recorded if f.gc is not None])
            seconds = sum(f.window_s or 0.0 for f in recorded)
            joins = [f.join for f in recorded if f.join is not None]
            hit = sum(join.with_pause for join in joins)
            shared = [join.shared_us for join in joins if join.shared_us is not None]
            found.append(
                {
                    "scenario": scenario,
                    "target": target,
                    "generations": " / ".join(str(int((generation == g).sum())) for g in (0, 1, 2)),
                    "count": int(ms.size),
                    "total": f"{number(float(ms.sum()))} ms",
                    "median": f"{number(float(np.median(ms)))} ms" if ms.size else "–",
                    "p99": f"{number(float(np.percentile(ms, 99)))} ms" if stats.enough(ms.size, 99) else "–",
                    "max": f"{number(float(ms.max()))} ms" if ms.size else "–",
                    "share": f"{float(ms.sum()) / 1e3 / seconds:.3%}" if seconds else "–",
                    "hit": f"{hit:,} of {hit + sum(join.without for join in joins):,}",
                    "cost": f"{number(float(np.median(shared)))} µs" if shared else "–",
                    **_stalls(recorded),
                    "runs": ", ".join(claims.shortened(recorded)),
                }
            )
        return found

    def _memory(self) -> list[dict[str, Any]]:
        found = []
        for scenario, target, runs in self._valid():
            cells = {}
            for metric in ("rss_idle_mib", "rss_peak_mib", "rss_kib_per_stream"):
                values = self.comparison.values(scenario, metric, target)
                unit = METRICS[metric].shown_unit
                cells[metric] = f"{number(float(values.mean()))} {unit}" if values.size else "–"
            if any(text != "–" for text in cells.values()):
                growth = [g for f in runs if isinstance(g := f.extras.get("rss_growth"), float)]
                active = [a for f in runs if isinstance(a := f.extras.get("active_peak"), int)]
                found.append(
                    {
                        "scenario": scenario,
                        "target": target,
                        **cells,
                        "growth": percent(float(np.mean(growth))) if growth else "–",
                        "active": max(active) if active else "–",
                        "runs": ", ".join(claims.shortened(runs)),
                    }
                )
        return found

    def _endurance(self) -> list[dict[str, Any]]:
        """A row for each long run; none in a campaign without."""
        found = []
        for one in endurance.of_campaign(self.campaign, self.facts):
            slope, counts = one.slope, one.accounting
            found.append(
                {
                    "scenario": one.facts.record.scenario,
                    "target": one.facts.record.target,
                    "run": one.facts.record.run,
                    "void": one.facts.record.void_reason,
                    "minutes": f"{one.seconds / 60:.1f}",
                    "memory": one.memory.replace("-", " "),
                    "level": "–" if slope is None else f"{slope.level_mib:.1f}",
                    "slope": "–" if slope is None else f"{slope.per_hour:+.2f}",
                    "ci": "–" if slope is None else f"{slope.low:+.2f}..{slope.high:+.2f}",
                    "fds": " / ".join(
                        "–" if count is None else str(count) for count in (one.fds_before, one.fds_peak, one.fds_after)
                    ),
                    "back": endurance.WORDS[one.descriptors_back],
                    "accounting": ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()),
                    "accounted": endurance.WORDS[one.accounted],
                    "complaints": "–" if one.complaints is None else str(one.complaints),
                    "said": one.said,
                }
            )
        return found

    def _endings(self) -> list[dict[str, Any]]:
        found = []
        for scenario, target, runs in self._valid():
            if not self.campaign.scenario(scenario).faults:
                continue
            counts: dict[str, int] = {}
            for facts in runs:
                for name, count in (facts.extras.get("outcomes") or {}).items():
                    counts[name] = counts.get(name, 0) + int(count)
            seen = [summarise.resilience(f, self.campaign.scenario(scenario), _PAUSE_S) for f in runs]
            known = [one for one in seen if one is not None]
            found.append(
                {
                    "scenario": scenario,
                    "target": target,
                    "total": sum(counts.values()),
                    "outcomes": ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())),
                    "opened": "no loss at all"
                    if known and not any(one.lost for one in known)
                    else _worst([one.stopped_s for one in known if one.lost]),
                    "recovered": _worst([one.recovered_s for one in known]),
                    "runs": ", ".join(claims.shortened(runs)),
                }
            )
        return found

    def _steps(self) -> list[dict[str, str]]:
        """The ablation as a table: what each step buys, in words."""
        return [
            {
                "scenario": step.scenario,
                "group": step.group,
                "label": step.label,
                "under": step.under,
                "over": step.over,
                "before": f"{number(step.before)} {METRICS[step.metric].shown_unit}",
                "after": f"{number(step.after)} {METRICS[step.metric].shown_unit}",
                "change": f"{percent(step.change[0])} (95 % CI {interval(*step.change[1:])})",
                "say": step.sentence,
            }
            for step in ablation.steps(self.campaign, self.comparison)
        ]

    def _ledger_tally(self) -> dict[str, int]:
        words = [one.finding.verdict for one in self.judged if one.claim.id.startswith("C")]
        return {word: words.count(word) for word in ("holds", "does-not-hold", "not-testable")} | {"total": len(words)}

    # ------------------------------------------------------------------------------------------------- 15: raw files
    def _runs(self) -> list[dict[str, Any]]:
        void = {f.record.run: reason for found in self.comparison.voided.values() for f, reason in found}
        return [
            {
                "name": run.name,
                "scenario": run.record.scenario,
                "target": run.record.target,
                "round": run.record.round,
                "order": run.record.order,
                "started": run.record.started,
                "requests": run_facts.extras.get("requests"),
                "busy": run_facts.extras.get("utilisation"),
                "config_hash": run.record.config_hash or "",
                "void": void.get(run.name, ""),
                "ended": run.record.ended,
                "fault": (run.record.why or "") if run.record.ended in ("failed", "overloaded") else "",
                "raw": run_facts.requests is not None,
            }
            for run, run_facts in zip(self.campaign.runs, self.facts, strict=True)
        ]

    def _patterns(self, scenario: str) -> list[str]:
        return [name for s, _, runs in self._valid() if s == scenario for name in claims.shortened(runs)]

    def _plot(self, figure: figures.Figure) -> Markup:
        """The SVG for use inside the page: ids of its own, theme colours, scaled by the page."""
        prefix = figure.name

        def own_ids(tag: re.Match[str]) -> str:
            text = re.sub(r'\bid="', f'id="{prefix}-', tag.group())
            text = re.sub(r'href="#', f'href="#{prefix}-', text)
            return text.replace("url(#", f"url(#{prefix}-")

        svg = re.sub(r"<style.*?</style>", "", figure.svg, flags=re.S)
        svg = re.sub(r"<[^>]*>", own_ids, svg)
        opening = re.search(r"<svg[^>]*>", svg)
        assert opening is not None
        width = re.search(r'width="([\d.]+)pt"', opening.group())
        points = float(width.group(1)) if width else 660.0
        bare = re.sub(r' (width|height)="[\d.]+pt"', "", opening.group())
        label = str(Markup.escape(f"{figure.title}. {figure.alt}"))
        framed = (
            bare[:-1]
            + f' role="img" aria-label="{label}" style="max-width:{points * 1.5:.0f}px;min-width:{figure.min_width}px">'
        )
        svg = framed + svg[opening.end() :]
        for colour, variable in (
            (figures.INK, "ink"),
            (figures.MUTED, "muted"),
            (figures.GRID, "grid"),
            (figures.PAPER, "paper"),
        ):
            svg = svg.replace(colour, f"var(--{variable})")
        return Markup(svg)


# ------------------------------------------------------------------------------------------------------------ pieces
def _moment(started: str) -> str:
    """`25 November 2026, 13:01 UTC`; the text itself where it is no time."""
    try:
        when = datetime.fromisoformat(started)
    except ValueError:
        return started
    when = when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


_PAUSE_S: Final = 1.0
"""Losses that stop for this long have stopped: something avoids the endpoint."""


def _stalls(recorded: Sequence[Facts]) -> dict[str, str]:
    """The loop stalls of these runs: how many by cause, the longest, and how many requests had one inside."""
    stalls = [f.stalls for f in recorded if f.stalls is not None]
    causes = Counter(str(cause) for one in stalls for cause in one.cause)
    longest = max((float(one.ms.max()) for one in stalls if one.ms.size), default=None)
    joins = [f.stall_join for f in recorded if f.stall_join is not None]
    hit = sum(join.with_pause for join in joins)
    return {
        "stalls": ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items())) or "none",
        "stall_max": "–" if longest is None else f"{number(longest)} ms",
        "stalled": f"{hit} of {hit + sum(join.without for join in joins)}",
    }


def _worst(values: Sequence[float | None]) -> str:
    """The slowest of some times; said so if it never happened in some run."""
    known = [value for value in values if value is not None]
    if not known:
        return "never" if values else "no rows"
    return f"{number(max(known))} s" + ("" if len(known) == len(values) else f" ({len(values) - len(known)} never)")


def _environment_facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys and values of machine or versions as people read them."""
    facts = []
    for key, value in values.items():
        if key.endswith("_bytes") and isinstance(value, int):
            facts.append((key.removesuffix("_bytes").replace("_", " "), f"{value / 2**30:.1f} GiB"))
        elif isinstance(value, Mapping):
            facts.append((key.replace("_", " "), ", ".join(f"{k} {_brief(v)}" for k, v in value.items())))
        elif isinstance(value, list | tuple):
            facts.append((key.replace("_", " "), ", ".join(map(_brief, value))))
        else:
            facts.append((key.replace("_", " "), _brief(value) if value is not None else "unknown"))
    return facts


def _brief(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def _range(values: Sequence[float], unit: str) -> str:
    """`1.00..10.3 ms`, or one number where they are all the same."""
    if not values:
        return "–"
    ends = list(dict.fromkeys((number(min(values)), number(max(values)))))
    return f"{'..'.join(ends)} {unit}".strip()


def _value_text(side: Side, unit: str) -> str:
    return "–" if side.value is None else f"{number(side.value)} {unit}".strip()


def _noise_text(aa: Row) -> str:
    effect = aa.effect
    if effect is None:
        return ""
    if aa.basis == "ratio":
        return f"{interval(effect[1], effect[2])} %"
    return f"{_signed(effect[1])}..{_signed(effect[2])} {aa.spec.shown_unit}".strip()


def _load_words(scenario: Scenario) -> str:
    parts = [scenario.kind, f"{scenario.loop} loop"]
    if scenario.rate_rps:
        parts.append(f"{number(scenario.rate_rps)} req/s")
    if scenario.arrivals:
        parts.append(scenario.arrivals)
    if scenario.profile:
        parts.append(f"backend {scenario.profile}")
    if scenario.duration_s:
        parts.append(f"{scenario.duration_s:g} s")
    return " · ".join(parts)


def _glyph(row: Row, aa: Row | None) -> Markup:
    """A small forest plot of one row: ratio on a logarithmic axis from a tenth to tenfold, 1 in the middle."""
    if row.basis != "ratio" or row.ratio is None or row.ci_low is None or row.ci_high is None:
        return Markup("")

    def x(ratio: float) -> float:
        return 62 + 58 * max(-1.0, min(1.0, math.log10(max(ratio, 1e-9))))

    noise = ""
    if aa is not None and aa.basis == "ratio" and aa.ci_low and aa.ci_high:
        left, right = x(aa.ci_low), x(aa.ci_high)
        noise = f'<rect class="noise" x="{left:.1f}" y="2" width="{max(right - left, 1):.1f}" height="12"/>'
    hollow = " hollow" if row.verdict == "void" else ""
    return Markup(
        f'<svg class="glyph tone-{row.verdict}" viewBox="0 0 124 16" aria-hidden="true">{noise}'
        f'<line class="zero" x1="62" x2="62" y1="0" y2="16"/>'
        f'<line class="ci" x1="{x(row.ci_low):.1f}" x2="{x(row.ci_high):.1f}" y1="8" y2="8"/>'
        f'<circle class="dot{hollow}" cx="{x(row.ratio):.1f}" cy="8" r="4.2"/></svg>'
    )
