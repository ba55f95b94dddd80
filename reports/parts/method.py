"""Part 8: how it was measured, with what, and where the raw files are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from reports import ablation, micro
from reports.page import Block, Cell, Column, Note, Part, Span, Table, TableRow, Text, code, missing
from reports.parts.rows import night, nights
from reports.parts.trust import tally
from reports.rules import patterns
from reports.schema import METRICS, ScenarioRecord
from reports.study import Study
from reports.words import PACED, interval, number, percent, share, title


def part(study: Study) -> Part:
    """Method and data."""
    blocks: list[Block] = []
    for one in study.all:
        suffix = f", {one.name}" if study.others else ""
        blocks.append(
            Text(
                "" if one is study else f"{tally(one)}.",  # this campaign's stands above the answer
                heading=f"Command{suffix}",
                literal=one.campaign.header.command or "not recorded",
            )
        )
    blocks += [
        Text(
            "The sample is a run: one fresh process of the target, measured after its warm-up. In each round "
            "every target of a scenario gets the same schedule, in an order that changes from round to round. Each "
            f"round gives one ratio to {title(study.baseline) if study.baseline else 'the baseline'}; the estimate is "
            "the mean of their logarithms, the interval Student's t. Collections, stalls and errors are compared as "
            "differences. p99 and p99.9 of requests, and p99 of event transit, are of all rounds together, with "
            "intervals from resampling whole rounds; p99 of the gap between events is each run's own. The primary "
            "metrics of a scenario share one false-alarm rate of 5 % (Holm). Wrong replies are errors; their times "
            "never count.",
            heading="Method",
        ),
        _scenarios(study),
    ]
    blocks += _ablation(study)
    blocks += _micro(study)
    if any(one.campaign.header.machine.get("python_optimisations") == "none" for one in study.all):
        blocks.append(
            Note(
                "Python was built without --enable-optimizations and without LTO. An optimised build may be faster, so "
                "the Python targets' CPU may be higher here than in production; that of nginx and others is not."
            )
        )
    if any(one.campaign.header.machine.get("tcp_congestion_control") == "bbr" for one in study.all):
        blocks.append(Note(PACED))
    blocks.append(_environment(study))
    blocks += _configurations(study)
    blocks.append(_runs(study) or missing("no run finished"))
    return Part("method", "Method and data", tuple(blocks))


def _scenarios(study: Study) -> Block:
    rows = []
    for name in study.scenarios:
        scenario = study.campaign.scenario(name)
        runs = [facts.record.run for (s, _), found in study.comparison.valid.items() if s == name for facts in found]
        rows.append(
            TableRow(
                (
                    Cell(code(name)),
                    Cell(study.called[name]),
                    Cell(scenario.question or "–"),
                    Cell(_load(scenario), hint=scenario.pinning),
                    Cell(", ".join(METRICS[metric].label for metric in scenario.primaries())),
                    Cell(f"{len(runs)}", float(len(runs)), ", ".join(patterns(runs))),
                )
            )
        )
    columns = (
        Column("Scenario"),
        Column("In words"),
        Column("Question"),
        Column("Load"),
        Column("Primary metrics"),
        Column("Valid runs", True),
    )
    return Table("scenarios", "What was asked of every target", columns, tuple(rows), folded=len(rows) > 24)


def _load(scenario: ScenarioRecord) -> str:
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


def _ablation(study: Study) -> list[Block]:
    """What each switch between the engines buys; in the campaigns that turned them."""
    rows = [
        TableRow(
            (
                Cell(study.called[step.scenario]),
                Cell(step.group),
                Cell(step.label),
                Cell(f"{number(step.before)} {METRICS[step.metric].shown_unit}", step.before),
                Cell(f"{number(step.after)} {METRICS[step.metric].shown_unit}", step.after),
                Cell(percent(step.change[0]), step.change[0], more=f"({interval(*step.change[1:])})"),
                Cell(step.sentence),
            )
        )
        for step in ablation.steps(study.campaign, study.comparison)
    ]
    if not rows:
        return []
    columns = (
        Column("Scenario"),
        Column("Group"),
        Column("Step"),
        Column("Without", True),
        Column("With", True),
        Column("Change (95 % CI)", True),
        Column("In words"),
    )
    caption = (
        "CPU with one switch against without it: on the way from engine to engine (path), where all others are off "
        "(alone), where it is the last one missing (last)"
    )
    return [Table("steps", caption, columns, tuple(rows), folded=len(rows) > 24)]


def _micro(study: Study) -> list[Block]:
    rows = [
        TableRow(tuple(Cell(str(one[key])) for key in ("name", "does", "median", "ci", "gc", "peak", "against")))
        for one in micro.rows(study.campaign.path)
    ]
    if not rows:
        return []
    columns = (
        Column("Benchmark"),
        Column("One iteration"),
        Column("Median", True),
        Column("95 % CI", True),
        Column("GC", True),
        Column("Peak", True),
        Column("Against"),
    )
    return [Table("micro", "Parts of the engines in memory, by pyperf", columns, tuple(rows), folded=True)]


def _environment(study: Study) -> Block:
    rows = []
    for one in study.all:
        header = one.campaign.header
        facts: dict[str, Any] = {
            **header.machine,
            **header.versions,
            "seed": header.seed,
            "attempt": header.attempt,
            "state": header.state,
            **{f"limit of {k}": v for k, v in header.limits.items()},
            **{f"trace: {k}": v for k, v in header.dropped.items()},
        }
        rows += [
            TableRow((Cell(str(key).replace("_", " ")), *night(study, one), Cell(_fact(key, value))))
            for key, value in facts.items()
        ]
    columns = (Column("What"), *nights(study), Column("Value"))
    return Table("environment", "Machine, versions, limits", columns, tuple(rows), folded=True)


def _fact(key: str, value: object) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_brief(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_brief, value))
    return "unknown" if value is None else _brief(value)


def _brief(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _configurations(study: Study) -> list[Block]:
    found = [target for target in study.campaign.header.targets if target.config]
    if not found:
        return []
    rows = tuple(TableRow((Cell(target.name), Cell(code(target.config or "")))) for target in found)
    return [
        Table("configurations", "Configuration of each target", (Column("Target"), Column("Config")), rows, folded=True)
    ]


def _state(ended: str, void: str, why: str) -> list[str | Span]:
    if void:
        return [Span("void", word="void"), f" {void}"]
    return [Span("valid", word="ok")] if ended == "ok" else [Span(ended, word="bad"), f" {why}"]


def _runs(study: Study) -> Block | None:
    """Every run with its folder, void ones with their reason."""
    void = {f.record.run: reason for found in study.comparison.voided.values() for f, reason in found}
    rows = []
    for run, facts in zip(study.campaign.runs, study.facts, strict=True):
        record, reason = run.record, void.get(run.name, "")
        requests, busy = facts.extras.get("requests"), facts.extras.get("utilisation")
        state = _state(record.ended, reason, record.why or "")
        rows.append(
            TableRow(
                (
                    Cell(Span(run.name, href=f"runs/{quote(run.name)}/run.json") if run.path.is_dir() else run.name),
                    Cell(str(record.round), record.round),
                    Cell(str(record.order), record.order),
                    Cell(record.target),
                    Cell(record.scenario),
                    Cell(f"{requests:,}" if requests else "–", requests),
                    Cell(share(round(busy, 2)) if busy else "–", busy),
                    Cell(code((record.config_hash or "")[:12])),
                    Cell("kept" if facts.requests is not None else "archive" if facts.kept else "summary only"),
                    Cell(state),
                )
            )
        )
    if not rows:
        return None
    columns = (
        Column("Run"),
        Column("Round", True),
        Column("Order", True),
        Column("Target"),
        Column("Scenario"),
        Column("Requests", True),
        Column("Busy", True),
        Column("Config"),
        Column("Raw rows"),
        Column("State"),
    )
    return Table("runs", "Every run and its folder", columns, tuple(rows), folded=True)
